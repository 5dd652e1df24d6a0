r"""Importance sampling of the latent variables of rows, with more work where the weights cannot be trusted.

Draws come from the guide :math:`q(z \mid x_o)` with a tenth of the prior in it, so that no weight is larger than ten
likelihoods. Rows whose weights have a Pareto shape above :math:`\min(0.7, 1 - 1 / \log_{10} T)`, more than T draws can
bear, get as many draws again, from a normal with the moments of the weighted draws so far, widened, and so on up to
eight times as many. With :math:`T_j` of :math:`T` draws from proposal :math:`r_j`, each draw has the weight that
it has under their mixture,

.. math:: w = \frac{p(x_o, z)}{\sum_j \frac{T_j}{T} \, r_j(z)} .

References:
    | Weighted average importance sampling and defensive mixture distributions (Hesterberg, 1995)
    | Adaptive Multiple Importance Sampling (Cornuet et al., 2012)
    | https://arxiv.org/abs/0907.1254
    | Pareto Smoothed Importance Sampling (Vehtari et al., 2024)
    | https://arxiv.org/abs/1507.02646
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen.inference.likelihood.weights import effective_sample_size, psis, psis_khat

__all__ = ["LatentDraws", "importance_draws"]

PRIOR_SHARE = 0.1  # the prior's share of the first proposals
DOUBLINGS = 3  # of the number of draws, at most
COVARIANCE_FACTOR = 2.0  # by which a proposal is wider than the covariance of weighted draws


class LatentDraws(NamedTuple):
    """Weighted draws of the latent variables of n rows.

    Attributes:
        rows: Which rows, int64 with shape :math:`(n)`.
        z: The draws, with shape :math:`(L, n, K)`.
        log_weight: Their log-weights, with shape :math:`(L, n)`.
    """

    rows: Tensor
    z: Tensor
    log_weight: Tensor


def importance_draws(
    guide: Any, prior: Any, log_joint: Callable[[Tensor, Tensor], Tensor], noise: Callable[..., Tensor], particles: int
) -> Iterator[LatentDraws]:
    r"""Draws the latent variables of N rows, more of them where they are needed.

    Arguments:
        guide: The normal distribution :math:`q(z \mid x_o)`, with batch shape :math:`(N)`.
        prior: The distribution :math:`p(z)`, with event shape :math:`(K)`.
        log_joint: Computes :math:`\log p(x_o, z)`, with shape :math:`(L, n)`, from draws and the indices of their rows.
        noise: Gives standard normal numbers of rows, with shape :math:`(L, n, K)`, from the indices of rows, the number
            of the first and the number after the last.
        particles: The number L of draws of each row to begin with.

    Returns:
        Each row once, with others that have as many draws.
    """
    few = math.ceil(PRIOR_SHARE * particles) if particles > 1 else 0
    everything = torch.arange(len(guide.loc), device=guide.loc.device)
    e = noise(everything, 0, particles).expand(-1, len(everything), -1)
    z = torch.cat([e[:few], _shifted(guide.loc, guide.scale_tril, e[few:])])
    counts = [few, particles - few] if few else [particles]

    def look(rows: Tensor, z: Tensor, log_p: Tensor, proposals: list[Any], counts: list[int]) -> Iterator[LatentDraws]:
        total = len(z)
        parts = [r.log_prob(z) + math.log(c / total) for r, c in zip(proposals, counts, strict=True)]
        log_weight = log_p - torch.stack(parts).logsumexp(0)
        bad = psis_khat(log_weight) > (min(0.7, 1 - 1 / math.log10(total)) if total > 10 else math.inf)
        if total >= particles * 2**DOUBLINGS or not bad.any():
            yield LatentDraws(rows, z, log_weight)
            return
        if not bad.all():
            yield LatentDraws(rows[~bad], z[:, ~bad], log_weight[:, ~bad])
        for part in bad.nonzero().squeeze(1).split(math.ceil(len(rows) / 2)):  # twice the draws, half the rows
            mine, loc, tril = (
                rows[part],
                *_moments(z[:, part], log_weight[:, part], guide.covariance_matrix[rows[part]]),
            )
            more = _shifted(loc, tril, noise(mine, total, 2 * total))
            before = [r if r is prior else _normal(r.loc[part], r.scale_tril[part]) for r in proposals]
            yield from look(
                mine,
                torch.cat([z[:, part], more]),
                torch.cat([log_p[:, part], log_joint(more, mine)]),
                [*before, _normal(loc, tril)],
                [*counts, total],
            )

    yield from look(everything, z, log_joint(z, everything), [prior, guide] if few else [guide], counts)


def _moments(z: Tensor, log_weight: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and factor of the covariance of draws of each row, shrunk to the guide's where few of them count."""
    log_weight = psis(log_weight)
    weight = log_weight.softmax(0)  # (L, n)
    loc = (weight.unsqueeze(-1) * z).sum(0)
    centred = z - loc
    spread = torch.einsum("ln,lni,lnj->nij", weight, centred, centred)
    count = effective_sample_size(log_weight)
    share = (count / (count + 2 * z.shape[-1]))[:, None, None]
    factor: Tensor = torch.linalg.cholesky(COVARIANCE_FACTOR * (share * spread + (1 - share) * covariance))
    return loc, factor


def _normal(loc: Tensor, tril: Tensor) -> Any:
    return torch.distributions.MultivariateNormal(loc, scale_tril=tril, validate_args=False)


def _shifted(loc: Tensor, tril: Tensor, noise: Tensor) -> Tensor:
    return loc + torch.einsum("nij,lnj->lni", tril, noise.expand(-1, len(loc), -1))
