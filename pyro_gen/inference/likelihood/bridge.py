r"""Bridge sampling: the evidence of a program from draws of its posterior.

Let :math:`\tilde p(z)` be the joint density of latent variables and data in unconstrained space, whose integral
:math:`Z` is the evidence, and :math:`q` a normalised proposal. For any function :math:`h`,
:math:`Z = \mathbb{E}_q[h \, \tilde p] / \mathbb{E}_{p}[h \, q]`. The function that makes the error smallest gives,
with :math:`l = \tilde p / q` at :math:`n_1` draws of the posterior (worth as many independent ones) and :math:`n_2` of
the proposal, and with :math:`s_i = n_i / (n_1 + n_2)`, Meng & Wong's estimate: the fixed point of

.. math::
    Z \gets \frac{\frac{1}{n_2} \sum_{q} l / (s_1 l + s_2 Z)}{\frac{1}{n_1} \sum_{p} 1 / (s_1 l + s_2 Z)} .

With :math:`c = \log (s_2 Z / s_1)` and the logistic function :math:`\sigma` it is the root of

.. math::
    g(c) = \frac{s_2}{n_2} \sum_{q} \sigma(\log l - c) - \frac{s_1}{n_1} \sum_{p} \sigma(c - \log l) ,

which falls in :math:`c`, so there is exactly one and bisection finds it: the iteration itself may oscillate.

Half of the posterior draws fit the proposal, a Gaussian with their mean and covariance, and the other half is
evaluated, since a draw that has shaped the proposal is not typical of it. (To let the halves change places and take the
mean of both estimates would be of less use than it seems: near a Gaussian both share the error
:math:`\delta_1 \cdot \delta_2` of the two fits.)

*Warp-III* moves the posterior closer to a Gaussian before: a draw is standardised and reflected at random,
:math:`u = \pm L^{-1} (z - m)`, so that the density is symmetric,
:math:`\tilde p_3(u) = \tfrac{1}{2} |L| \left[ \tilde p(m + L u) + \tilde p(m - L u) \right]`, with the same integral.
It takes out skewness at twice the evaluations.

**Error.** Numerator and denominator are means of independent and of autocorrelated terms, so with relative variances
:math:`v`, and the effective sample size of the terms of the denominator,

.. math::
    \mathrm{MCSE}^2(\log \hat Z) = \frac{v_q}{n_2} + \frac{v_p}{\mathrm{ESS}} .

That :math:`\hat Z` stands in the terms themselves changes it in the second order only. The terms lie between 0 and 1
(as values of :math:`\sigma`), so that a region that no draw has met can add no more than 3 over their sum to the
log-evidence, with 95 percent probability by the rule of three. Where that is not little, the Pareto shape of the terms
tells whether the draws have seen the largest of them, and with it whether the standard error is to be trusted.

The estimate is consistent and no bound: its error has no known direction. A mode that the chains have missed is missing
in the evidence too, which is then too small.

References:
    | Simulating ratios of normalizing constants via a simple identity (Meng & Wong, 1996)
    | https://www.jstor.org/stable/24306045
    | Warp bridge sampling (Meng & Schilling, 2002)
    | https://doi.org/10.1198/106186002457
    | bridgesampling: An R package for estimating normalizing constants (Gronau et al., 2020)
    | https://arxiv.org/abs/1710.08162
    | Bridge sampling diagnostics (Micaletto & Vehtari, 2025)
    | https://arxiv.org/abs/2508.14487
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen._random import fork, seeded
from pyro_gen.density import Density
from pyro_gen.inference.diagnose import effective_draws
from pyro_gen.inference.likelihood.paths import unit_of
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.likelihood.weights import psis_khat
from pyro_gen.inference.mcmc.driver import run

__all__ = ["bridge", "bridge_evidence"]

MIN_DRAWS = 8  # draws of a half, below which they show neither a variance nor a tail
TAIL_FREE_OVERLAP = 100.0  # a sum of terms from which their tail does not matter: at most 0.03 nats are unseen


def bridge_evidence(
    density: Density,
    *,
    chains: int = 32,
    warmup: int = 500,
    draws: int = 500,
    method: str = "hmc",
    proposal: str = "normal",
    seed: int = 0,
    **options: Any,
) -> LogLikelihood:
    r"""Runs Markov chains on a density and estimates its integral from their draws.

    Arguments:
        density: One joint target, of batch shape ().
        chains: The number of chains.
        warmup: Transitions of the warm-up.
        draws: Draws kept of each chain. An evidence needs more than a posterior mean, about ten times as many.
        method: The sampler, as in :func:`pyro_gen.inference.mcmc.run`.
        proposal: As in :func:`bridge`.
        seed: Seeds the chains and the draws of the proposal; the caller's generators are left alone.
        options: Passed to :func:`pyro_gen.inference.mcmc.run`.

    Returns:
        As :func:`bridge`.

    Raises:
        ValueError: As by :func:`bridge` and :func:`pyro_gen.inference.mcmc.run`.
    """
    _require(density, proposal)
    samples = run(density, method, chains=chains, warmup=warmup, draws=draws, seed=seed, **options)
    return bridge(density, samples.z, proposal=proposal, seed=seed)


def bridge(density: Density, z: Tensor, *, proposal: str = "normal", seed: int = 0) -> LogLikelihood:
    r"""Estimates the integral of a density, the evidence, from draws of its posterior.

    Arguments:
        density: One joint target, of batch shape ().
        z: Draws of its posterior in unconstrained space, with shape :math:`(S, C, D)` for S draws of each of C chains.
        proposal: ``"normal"``, or ``"warp3"`` for skewed posteriors at twice the evaluations.
        seed: Seeds the draws of the proposal; the caller's generators are left alone.

    Returns:
        One estimate of kind ``"estimate"``, a tensor of shape (1,), in nats: consistent, with an error in no known
        direction. Diagnostics: ``khat``, the Pareto shape of the terms that were averaged, the larger one of numerator
        and denominator (above 0.7 the standard error is too small and the estimate not to be trusted: use more draws,
        or ``proposal="warp3"``), 0 where ``overlap``, the sum of the terms, is 100 or more, so that their tail does not
        matter; ``ess``, effective draws of the posterior. The two have shape (2,), numerator first, as ``khats`` and
        ``overlaps``.

    Raises:
        ValueError: The density is no single joint target, the draws are too few for a Gaussian, or off its support.

    Example:
        >>> import torch
        >>> from pyro_gen.density import Density
        >>> target = Density.from_functions(lambda z: -z.square().sum(-1), dim=2)  # integrates to pi
        >>> with seeded(0):
        ...     z = torch.randn(500, 4, 2) * 0.5**0.5
        >>> result = bridge(target, z)
        >>> abs(result.value.item() - math.log(math.pi)) < 4 * result.standard_error.item()
        True
    """
    _require(density, proposal)
    if z.dim() != 3 or z.shape[-1] != density.dim:
        raise ValueError(
            f"bridge got draws of shape {tuple(z.shape)}: give (draws, chains, {density.dim}), unconstrained."
        )
    z = z.detach().to(density.device, density.dtype)
    # Chains are independent of one another, draws of one chain are not.
    fitted, evaluated = (z[:, ::2], z[:, 1::2]) if z.shape[1] > 1 else (z[: len(z) // 2], z[len(z) // 2 :])
    with seeded(fork(seed)), torch.no_grad():  # the same seed may have made the draws
        estimate = _estimate(density, fitted, evaluated, proposal)
    khats = torch.where(estimate.overlaps < TAIL_FREE_OVERLAP, estimate.khats, estimate.khats.clamp(max=0.0))
    seen, unit = unit_of(density)
    return LogLikelihood(
        torch.tensor([estimate.value]),
        torch.tensor([estimate.error]),
        "estimate",
        "bridge" if proposal == "normal" else "bridge-warp3",
        seen,
        diagnostics={
            "khat": khats.max(),
            "overlap": estimate.overlaps.min(),
            "ess": torch.tensor(estimate.ess),
            "khats": estimate.khats,
            "overlaps": estimate.overlaps,
        },
        unit=unit,
    )


def _require(density: Density, proposal: str) -> None:
    if proposal not in ("normal", "warp3"):
        raise ValueError(f'bridge(proposal={proposal!r}): choose "normal" or "warp3".')
    if density.batch_shape:
        raise ValueError(
            f"bridge got a density of batch shape {tuple(density.batch_shape)}, one target each: give a single joint "
            "one, density(..., per_datum=False)."
        )


class _Estimate(NamedTuple):
    """The estimate, and what is known of the terms of numerator and denominator."""

    value: float
    error: float
    ess: float
    khats: Tensor  # (2,)
    overlaps: Tensor  # (2,)


def _estimate(density: Density, fitted: Tensor, evaluated: Tensor, proposal: str) -> _Estimate:
    rows = fitted.reshape(-1, density.dim).double()
    draws, chains = evaluated.shape[:2]
    if min(len(rows), draws * chains) < max(MIN_DRAWS, 2 * density.dim):
        raise ValueError(
            f"bridge got {len(rows)} draws in a half, too few for a Gaussian in {density.dim} dimensions: give at "
            f"least {2 * max(MIN_DRAWS, 2 * density.dim)} in all, better ten times as many."
        )
    mean = rows.mean(0)
    factor, failed = torch.linalg.cholesky_ex(torch.cov(rows.T).reshape(density.dim, density.dim))
    if int(failed) or not bool(factor.isfinite().all()):
        raise ValueError("bridge got draws that are not finite or all lie in a subspace: their covariance is singular.")

    def log_ratio(u: Tensor) -> Tensor:
        """The log-ratio of p~ and q at standardised points, (n, D) -> (n,)."""
        sides = [u, -u] if proposal == "warp3" else [u]
        log_p = torch.stack([density.log_density((mean + s @ factor.mT).to(density.dtype)).double() for s in sides])
        log_p = log_p.nan_to_num(-math.inf, math.inf, -math.inf).logsumexp(0) - math.log(len(sides))
        log_q = -0.5 * u.square().sum(-1) - factor.diagonal().log().sum() - 0.5 * density.dim * math.log(2 * math.pi)
        ratio: Tensor = log_p - log_q
        return ratio

    standardised = torch.linalg.solve_triangular(
        factor, (evaluated.reshape(-1, density.dim).double() - mean).mT, upper=False
    ).mT
    at_posterior = log_ratio(standardised)
    at_proposal = log_ratio(torch.randn_like(standardised))
    if not bool(at_posterior.isfinite().all()):
        raise ValueError("bridge got draws off the support of the density: are they unconstrained draws of it?")
    if not bool((at_proposal > -math.inf).any()):
        raise ValueError("bridge: no draw of the proposal lies on the support of the density.")

    independent = effective_draws(at_posterior.reshape(draws, chains).T.cpu())
    n = len(standardised)
    s1, s2 = independent / (independent + n), n / (independent + n)
    c = _root(at_posterior, at_proposal, s1, s2)
    log_top = torch.nn.functional.logsigmoid(at_proposal - c)
    log_bottom = torch.nn.functional.logsigmoid(c - at_posterior)
    top, bottom = log_top.exp(), log_bottom.exp()
    ess = effective_draws(bottom.reshape(draws, chains).T.cpu())
    variance = top.var() / top.mean().square() / n + bottom.var() / bottom.mean().square() / ess
    return _Estimate(
        c + math.log(s1 / s2),
        float(variance.sqrt()),
        ess,
        torch.stack([psis_khat(t.unsqueeze(-1))[0] for t in (log_top, log_bottom)]).cpu(),
        torch.stack([n * top.mean(), ess * bottom.mean()]).cpu(),
    )


def _root(at_posterior: Tensor, at_proposal: Tensor, s1: float, s2: float) -> float:
    """The root c of g, see above, by bisection from the range of the log-ratios."""
    finite = torch.cat([at_posterior, at_proposal[at_proposal.isfinite()]])
    # The weights of the two sums, and that only one draw of the proposal may lie on the support, move it outwards.
    margin = abs(math.log(s2 / s1)) + math.log(2 * len(at_proposal))
    low, high = float(finite.min()) - margin, float(finite.max()) + margin
    for _ in range(200):
        c = 0.5 * (low + high)
        balance = s2 * torch.sigmoid(at_proposal - c).mean() - s1 * torch.sigmoid(c - at_posterior).mean()
        low, high = (c, high) if balance > 0 else (low, c)
    return 0.5 * (low + high)
