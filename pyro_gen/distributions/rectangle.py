r"""Normal latent variables behind levels, of which is known between which numbers they lie.

A level allows its latent variable an interval: one between two thresholds where levels have an order; for a nominal
column, whose level is :math:`\operatorname{argmax}(0, z_1, \ldots, z_{L-1})`, from the greatest of the others upwards
if it is the level, and up to the greatest if it is not. A column with an atom allows an interval there, and one number
elsewhere.

**One after another.** With :math:`z = m + C e`, :math:`C` lower triangular, each interval of :math:`z_j` given those
before it is one :math:`[a_j, b_j]` of :math:`e_j`, and

.. math::
    P(\text{levels}) = \int_{[0, 1]^q} \prod_j \big(\Phi(b_j) - \Phi(a_j)\big) \, du , \qquad
    e_j = \Phi^{-1}_{[a_j, b_j]}(u_j) ,

the quantile of the normal truncated to it. With uniform :math:`u` this is the simulator of Geweke, Hajivassiliou and
Keane.

**Gibbs moves** redraw each one given all the others, from the truncated normal. With the precision :math:`P / w`

.. math::
    z_j \mid z_{-j} \sim \mathcal{N}\big(m_j - \textstyle\sum_{i \ne j} P_{ji} (z_i - m_i) / P_{jj}, \;
    1 / (w P_{jj})\big) .

References:
    | Simulation estimation of multivariate normal rectangle probabilities (Hajivassiliou et al., 1996)
    | https://doi.org/10.1016/0304-4076(94)01716-6
    | Bayesian Analysis of Binary and Polychotomous Response Data (Albert & Chib, 1993)
    | https://doi.org/10.1080/01621459.1993.10476321
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen._random import uniforms
from pyro_gen.distributions.gaussian import seen_factor
from pyro_gen.distributions.truncated_normal import log_mass, truncated_normal

__all__ = ["Region", "gibbs_rectangle", "log_argmax", "log_argmax_given", "rectangle"]


class Region(NamedTuple):
    """What the levels of N rows say of q latent variables: those of A + W numbers, then of M nominal columns.

    Attributes:
        lower: Where the latent variables of numbers begin, with shape :math:`(N, A + W)`.
        upper: Where they end, with the same shape: equal where a number is known, infinite where nothing was seen.
        codes: The levels of nominal columns, with shape :math:`(N, M)`, NaN where missing.
        blocks: The latent variables of each nominal column, among the q.
        seen: Which latent variables have seen entries, with shape :math:`(N, q)`.
    """

    lower: Tensor
    upper: Tensor
    codes: Tensor
    blocks: Sequence[range]
    seen: Tensor

    def interval(self, j: int, z: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Between which numbers latent variable j lies, given the others: both (N)."""
        if j < self.lower.shape[1]:
            return self.lower[:, j], self.upper[:, j]
        m, block = next((m, block) for m, block in enumerate(self.blocks) if j in block)
        codes = self.codes[:, m]
        best = torch.zeros_like(codes)
        for i in block:
            if i != j:
                best = torch.maximum(best, z[i])
        own = codes == j - block.start + 1
        other = ~torch.isnan(codes) & ~own
        return torch.where(own, best, -torch.inf), torch.where(other, best, torch.inf)


def rectangle(
    levels: Region, u: Tensor, loc: Tensor, factor: Tensor, e: Tensor, *, branch: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Draws the latent variables one after another, each given those before it.

    Arguments:
        levels: What was seen.
        u: Uniform numbers, with shape :math:`(*, N, q)`.
        loc: The means m, with shape :math:`(*, q)`.
        factor: The rows of C that are theirs, with shape :math:`(*, q, p + q)`; those of a latent variable of which
            nothing was seen are of the identity.
        e: The noise of p normal variables before them, with shape :math:`(*, p)`.
        branch: Whether it may branch, see :func:`.truncated_normal`: not under vmap.

    Returns:
        The log-probability of levels (a density where a number is known), an estimate for each u, with shape
        :math:`(*, N)` (a zero without levels), and the latent variables, with shape :math:`(*, N, q)`, NaN where
        nothing was seen.
    """
    before = e.shape[-1]
    # A level not drawn yet leaves the utilities before it free, and is above all of them once it is their turn.
    z = list(levels.lower.unbind(-1))
    for m, block in enumerate(levels.blocks):
        z += [torch.where(levels.codes[:, m] == k + 1, torch.inf, -torch.inf).to(u) for k in range(len(block))]
    log_prob = u.new_zeros(())
    for j, seen in enumerate(levels.seen.unbind(1)):
        scale = factor[..., j, before + j]
        mean = loc[..., j] + (factor[..., j, : before + j] * e).sum(-1)
        lower, upper = ((edge - mean) / scale for edge in levels.interval(j, z))
        log_prob = log_prob + log_mass(lower, upper, scale)
        drawn = torch.where(seen, truncated_normal(u[..., j], lower, upper, branch=branch), 0.0)
        z[j] = torch.where(seen, mean + scale * drawn, torch.nan)
        e = torch.cat([e.expand(*drawn.shape, before + j), drawn.unsqueeze(-1)], -1)
    return log_prob, torch.stack(torch.broadcast_tensors(*z), -1) if z else e[..., before:]


def gibbs_rectangle(levels: Region, residual: Tensor, loc: Tensor, precision: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Redraws the latent variables behind seen levels, each given all others: a sweep of Gibbs sampling.

    Arguments:
        levels: What was seen.
        residual: All latent variables less their means, with shape :math:`(*, N, Q)`; those of levels are the last q.
        loc: The means, with shape :math:`(*, N, Q)` or one that broadcasts to it.
        precision: The precision of rows of weight one, with shape :math:`(*, N, Q, Q)` or one that broadcasts to it.
        w: The weights of rows, with shape :math:`(*, N)`.
        u: Uniform numbers, with shape :math:`(*, N, q)`.

    Returns:
        The residuals, redrawn where levels were seen.
    """
    residual = residual.clone()
    before = residual.shape[-1] - levels.seen.shape[1]
    for j, seen in enumerate(levels.seen.unbind(1)):
        i = before + j
        scale = precision[..., i, i].rsqrt()
        mean = loc[..., i] + residual[..., i] - scale.square() * (precision[..., i, :] * residual).sum(-1)
        scale = scale * w.rsqrt()
        nominal = j >= levels.lower.shape[1]
        z = (loc + residual)[..., before:].unbind(-1) if nominal else ()
        lower, upper = ((edge - mean) / scale for edge in levels.interval(j, z))
        drawn = mean + scale * truncated_normal(u[..., j], lower, upper, branch=True) - loc[..., i]
        residual[..., i] = torch.where(seen, drawn, residual[..., i])
    return residual


def log_argmax_given(z: Tensor, mean: Tensor, covariance: Tensor, w: Tensor, block: slice, stream: int) -> Tensor:
    """The log-probabilities of the levels of a nominal column, given the other latent variables.

    Arguments:
        z: Latent variables, with shape :math:`(N, Q)`, NaN where nothing is known.
        mean: Their expectations, with shape :math:`(N, Q)`.
        covariance: The covariance of rows of weight one, with shape :math:`(Q, Q)`.
        w: The weights of rows, with shape :math:`(N)`.
        block: The latent variables of the column.
        stream: Which numbers to simulate with.

    Returns:
        With shape :math:`(N, L)`, NaN where the column was seen.
    """
    missing = torch.isnan(z[:, block.start])
    _, factor, seen = seen_factor(z[missing], covariance)
    gain = torch.linalg.solve_triangular(factor, seen[..., block], upper=False)
    left = (covariance[block, block] - gain.mT @ gain) / w[missing, None, None]
    found = log_argmax(mean[missing, block], left, stream)
    return z.new_full((len(z), found.shape[1]), torch.nan).masked_scatter(missing[:, None], found)


def log_argmax(mean: Tensor, covariance: Tensor, stream: int) -> Tensor:
    """The log-probabilities that 0 or one of L - 1 normal variables is the greatest.

    Of each level: that all others stay below it, a rectangle, by the simulator of Geweke, Hajivassiliou and Keane.

    Arguments:
        mean: With shape :math:`(N, L - 1)`.
        covariance: With shape :math:`(N, L - 1, L - 1)`.
        stream: Which numbers to simulate with.

    Returns:
        With shape :math:`(N, L)`.

    Example:
        >>> mean, covariance = torch.zeros(1, 1, dtype=torch.float64), torch.eye(1, dtype=torch.float64)[None]
        >>> log_argmax(mean, covariance, stream=0).exp().tolist()
        [[0.5, 0.5]]
    """
    size = mean.shape[1]
    if size == 1:
        t = mean / covariance[:, 0].sqrt()
        log_prob: Tensor = torch.special.log_ndtr(torch.cat([-t, t], 1))
        return log_prob
    eye = torch.eye(size).to(mean)
    ahead = eye.expand(size + 1, -1, -1).clone()  # (L, L - 1, L - 1): the others minus each level
    for k in range(size):
        ahead[k + 1, :, k] = -1
    mean = torch.einsum("kab,nb->nka", ahead, mean).unsqueeze(-2)  # (N, L, 1, L - 1)
    factor = torch.linalg.cholesky(ahead @ covariance.unsqueeze(1) @ ahead.mT).unsqueeze(2)
    points = max(2, min(16, 128 // size))
    u = uniforms(torch.arange(points, device=mean.device), size, stream=stream)
    log_prob = mean.new_zeros(())
    e = mean.new_zeros(*mean.shape[:2], points, 0)
    for i in range(size):
        upper = -(mean[..., i] + (factor[..., i, :i] * e).sum(-1)) / factor[..., i, i]
        log_prob = log_prob + torch.special.log_ndtr(upper)
        if i < size - 1:  # nothing follows the last
            drawn = truncated_normal(u[:, i], torch.full_like(upper, -torch.inf), upper, branch=True)
            e = torch.cat([e, drawn.unsqueeze(-1)], -1)
    return log_prob.logsumexp(-1).log_softmax(-1)
