r"""The evidence for a number of factors, by sequential Monte Carlo in the space of loadings.

.. math::
    x_n \sim \mathcal{N}(\mu, \, W W^\top + \Psi), \qquad w_{dk} \sim \mathcal{N}(0, \tau^2 \psi_d), \qquad
    \mu_d \sim \mathcal{N}(0, \psi_d), \qquad \psi_d \sim \operatorname{InvGamma}(\tfrac32, \tfrac12), \qquad
    \tau^2 \sim \operatorname{InvGamma}(1, 1),

on standardised columns, factors integrated out. No rotation of the factors changes this prior, so the evidence asks for
their number alone: under a prior of sparse loadings four factors may take the place of three, for more zeros. Rows that
show the same columns o enter by their number, mean and scatter: with :math:`n, m, S` of them,

.. math::
    \log p = -\tfrac{n}{2} \log |2 \pi \Sigma_{oo}|
    - \tfrac12 \operatorname{tr} \Sigma_{oo}^{-1} \big(S + n (m - \mu)_o (m - \mu)_o^\top\big), \qquad
    \Sigma^{-1} = \Psi^{-1} - \Psi^{-1} W M^{-1} W^\top \Psi^{-1} ,

:math:`M = I + W^\top \Psi^{-1} W`, :math:`|\Sigma| = |\Psi| |M|`. Bridges and Laplace's approximation fail here: where
there are more factors than the data have, the posterior is no Gaussian, along a surface that they do not determine.

References:
    | Order-invariant prior specification in Bayesian factor analysis (Leung & Drton, 2016)
    | Waste-free sequential Monte Carlo (Dau & Chopin, 2022)
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen.density import Density
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.likelihood.smc import smc

__all__ = [
    "NOISE_RATE",
    "NOISE_SHAPE",
    "SLAB_RATE",
    "SLAB_SHAPE",
    "factor_density",
    "factor_evidence",
    "pooled",
]

NOISE_SHAPE, NOISE_RATE = 1.5, 0.5
SLAB_SHAPE, SLAB_RATE = 1.0, 1.0
SETTINGS: dict[str, Any] = {"particles": 512, "islands": 4, "length": 8, "leapfrog": 8}


class _Pattern(NamedTuple):
    """Of rows that show the same columns: seen (P, D), how many rows (P,), mean (P, D) and scatter (P, D, D)."""

    seen: Tensor
    rows: Tensor
    mean: Tensor
    scatter: Tensor


def factor_evidence(x: Tensor, number: int, seed: int) -> LogLikelihood:
    """The log-evidence of a number of factors, in nats: exact for none, else with the error over independent islands.

    Arguments:
        x: Standardised rows, float64 with shape (N, D), NaN where not seen.
        number: The number K of factors.
        seed: Seeds the draws.
    """
    if number:
        return smc(factor_density(x, number), seed=seed, **SETTINGS).evidence
    n, total = (~x.isnan()).sum(0), x.nansum(0)  # each column by itself is normal with its conjugate prior
    shape = NOISE_SHAPE + n / 2
    rate = NOISE_RATE + (x.square().nansum(0) - total.square() / (n + 1)) / 2
    gain = torch.lgamma(shape) - math.lgamma(NOISE_SHAPE) + NOISE_SHAPE * math.log(NOISE_RATE) - shape * rate.log()
    value = (gain - n / 2 * math.log(2 * math.pi) - (n + 1.0).log() / 2).sum().reshape(1)
    return LogLikelihood(value, torch.zeros(1), "exact", "exact", float(n.sum()), unit="nats")


def pooled(one: LogLikelihood, other: LogLikelihood) -> LogLikelihood:
    """The evidence by the islands of two runs; an exact one stays as it is."""
    if one.kind == "exact":
        return one
    islands = torch.cat([e.diagnostics["islands"].flatten() for e in (one, other)])
    relative = (islands - islands.max()).exp()
    value = relative.mean().log() + islands.max()
    error = relative.std() / relative.mean() / len(islands) ** 0.5
    known = {"islands": islands.unsqueeze(1)}
    return replace(one, value=value.reshape(1), standard_error=error.reshape(1), lower=None, diagnostics=known)


def factor_density(x: Tensor, number: int) -> Density:
    """The joint density of rows, loadings, noise and mean, factors integrated out.

    Points have W / (tau sqrt(psi)), (D, K), then log psi and mu / sqrt(psi), each (D,), and log tau^2: what has a
    standard normal prior or none but a scale.

    Arguments:
        x: Rows, float64 with shape (N, D), NaN where not seen.
        number: The number K of factors.
    """
    data, features = _patterns(x), x.shape[1]
    identity = torch.eye(number).to(x)
    noise_law = torch.distributions.Gamma(x.new_tensor(NOISE_SHAPE), x.new_tensor(NOISE_RATE))
    slab_law = torch.distributions.Gamma(x.new_tensor(SLAB_SHAPE), x.new_tensor(SLAB_RATE))
    sizes = [features * number, features, features, 1]

    def log_prior(z: Tensor) -> Tensor:
        w, log_psi, mu, log_tau2 = z.split(sizes)
        normal = -0.5 * (w.square().sum() + mu.square().sum() + (len(w) + len(mu)) * math.log(2 * math.pi))
        scales = _log_inverse_gamma(noise_law, log_psi) + _log_inverse_gamma(slab_law, log_tau2)
        return torch.add(normal, scales)

    def log_likelihood(z: Tensor) -> Tensor:
        w, log_psi, mu, log_tau2 = z.split(sizes)
        scale = (0.5 * log_psi).exp()
        delta = (data.mean - mu * scale) * data.seen
        scatter = data.scatter + data.rows[:, None, None] * delta.unsqueeze(-1) * delta.unsqueeze(-2)
        quadratic = scatter.diagonal(dim1=-2, dim2=-1) @ (-log_psi).exp()  # (P,)
        log_det = data.seen @ log_psi
        if number:
            loadings = w.reshape(features, number) * scale.unsqueeze(-1) * (0.5 * log_tau2).exp()
            weighted = loadings * (-log_psi).exp().unsqueeze(-1)  # Psi^-1 W
            outer = (loadings.unsqueeze(-1) * weighted.unsqueeze(-2)).flatten(1)
            factor = torch.linalg.cholesky(identity + (data.seen @ outer).unflatten(-1, (number, number)))  # of M
            projected = weighted.T @ scatter @ weighted
            quadratic = quadratic - torch.cholesky_solve(projected, factor).diagonal(dim1=-2, dim2=-1).sum(-1)
            log_det = log_det + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        entries = data.seen.sum(-1) * math.log(2 * math.pi)
        return -0.5 * torch.sum(data.rows * (entries + log_det) + quadratic)

    def sample_prior(chains: int) -> Tensor:
        normal = torch.randn(chains, sum(sizes)).to(x)
        start = sizes[0]
        normal[:, start : start + features] = -noise_law.sample((chains, features)).log()
        normal[:, -1] = -slab_law.sample((chains,)).log()
        return normal

    return Density.from_functions(log_likelihood, sum(sizes), log_prior, sample_prior, dtype=x.dtype, device=x.device)


def _log_inverse_gamma(law: torch.distributions.Gamma, log_value: Tensor) -> Tensor:
    """The log-density of the logarithm of what has the inverse of such a law, summed."""
    shape, rate = law.concentration, law.rate
    return (shape * rate.log() - torch.lgamma(shape) - shape * log_value - rate * (-log_value).exp()).sum()


def _patterns(x: Tensor) -> _Pattern:
    x = x[~x.isnan().all(1)]
    seen, pattern = torch.unique((~x.isnan()).to(x), dim=0, return_inverse=True)
    count = torch.bincount(pattern, minlength=len(seen)).to(x)
    filled = x.nan_to_num()
    mean = torch.zeros_like(seen).index_add(0, pattern, filled) / count.unsqueeze(1)
    residual = filled - mean[pattern]
    outer = residual.unsqueeze(-1) * residual.unsqueeze(-2)
    return _Pattern(seen, count, mean, x.new_zeros(*seen.shape, x.shape[1]).index_add(0, pattern, outer))
