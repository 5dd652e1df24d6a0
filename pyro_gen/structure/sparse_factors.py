r"""Sparse Bayesian factor analysis by Gibbs sampling: which columns each factor loads on, and by how much.

.. math::
    x_n &= \mu + W z_n + \varepsilon_n, \qquad z_n \sim \mathcal{N}(0, I_K), \qquad
    \varepsilon_{nd} \sim \mathcal{N}(0, \psi_d), \\
    w_{dk} &\sim \pi_k \, \mathcal{N}(0, \tau^2 \psi_d) + (1 - \pi_k) \, \delta_0, \qquad
    \pi_k \sim \operatorname{U}(0, 1),

the other priors as in :mod:`pyro_gen.structure.factor_evidence`. Zeros are what tells factors from their rotations;
sign and order stay free.

**Gibbs.** Given the rest, with :math:`M = I + W^\top \Psi^{-1} W` (over what was seen of a row),

.. math:: z_n \sim \mathcal{N}\big(M^{-1} W^\top \Psi^{-1} (x_n - \mu), \, M^{-1}\big) ,

and with :math:`f_n = (1, z_n)`, :math:`A_d = \sum f_n f_n^\top` and :math:`g_d = \sum x_{nd} f_n` over the rows that
show column d, residual moment :math:`\rho_{dk} = g_{dk} - \sum_{j \ne k} A_{dkj} w_{dj}`, and
:math:`c_{dk} = A_{dkk} + \tau^{-2}`,

.. math::
    \operatorname{logit} p(w_{dk} \ne 0) = \operatorname{logit} \pi_k - \tfrac12 \log(\tau^2 c_{dk})
    + \frac{\rho_{dk}^2}{2 c_{dk} \psi_d}, \qquad
    w_{dk} \mid w_{dk} \ne 0 \sim \mathcal{N}\Big(\frac{\rho_{dk}}{c_{dk}}, \frac{\psi_d}{c_{dk}}\Big) .

The scales are conjugate. **Rows that are complete** enter by their moments alone: with :math:`[1 \; X] = Q R`, the rows
of :math:`Q^\top Z` have the same law given those of R, and what of :math:`Z^\top Z` is orthogonal to Q is Wishart, of
N - D - 1 degrees of freedom and scale :math:`M^{-1}`. The cost of a sweep does not depend on their number.

References:
    | High-dimensional sparse factor modeling (Carvalho et al., 2008), https://doi.org/10.1198/016214508000000869
    | Sparse Bayesian factor analysis when the number of factors is unknown (Fruehwirth-Schnatter et al., 2023)
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen.structure.factor_evidence import NOISE_RATE, NOISE_SHAPE, SLAB_RATE, SLAB_SHAPE

__all__ = ["Draws", "Table", "compress", "expectation", "gibbs", "log_density", "varimax"]

EDGE = 1e-9  # what a share of loadings keeps from 0 and 1
VARIMAX_STEPS = 50


class Table(NamedTuple):
    """Rows as the sampler takes them: x (R, D), one (R,), seen (R, D), patterns (P, D), pattern (R,).

    Of N - D - 1 complete rows nothing but their number is left, ``rest``; ``counts`` and ``squares`` (D,) are of all.
    """

    x: Tensor
    one: Tensor
    seen: Tensor
    patterns: Tensor
    pattern: Tensor
    counts: Tensor
    squares: Tensor
    rest: int


class State(NamedTuple):
    """Of C chains: loadings and included (C, D, K), noise and mean (C, D), slab (C,), share (C, K)."""

    loadings: Tensor
    included: Tensor
    noise: Tensor
    mean: Tensor
    slab: Tensor
    share: Tensor


class Draws(NamedTuple):
    """Draws: loadings (*, D, K), exactly 0 where there is none; noise and mean (*, D)."""

    loadings: Tensor
    noise: Tensor
    mean: Tensor


def compress(x: Tensor) -> Table:
    """Makes a table of rows (N, D), float64, NaN where not seen; rows without a value are left out."""
    complete = x[~x.isnan().any(1)]
    holed = x[x.isnan().any(1) & ~x.isnan().all(1)]
    rest = len(complete) - x.shape[1] - 1
    ones = complete.new_ones(len(complete))
    if rest > x.shape[1]:
        r = torch.linalg.qr(torch.cat([ones.unsqueeze(1), complete], 1)).R
        ones, complete = r[:, 0], r[:, 1:]
    else:
        rest = 0
    rows = torch.cat([complete, holed])
    seen = (~rows.isnan()).to(x)
    patterns, pattern = torch.unique(seen, dim=0, return_inverse=True)
    one, filled = torch.cat([ones, x.new_ones(len(holed))]), rows.nan_to_num()
    return Table(filled, one, seen, patterns, pattern, seen.sum(0) + rest, filled.square().sum(0), rest)


def gibbs(table: Table, number: int, draws: int, burn_in: int, chains: int, thin: int) -> Draws:
    """Runs chains, each from loadings without zeros, rotated to simple structure; draws by the global generator.

    Zeros once there hold a rotation, so that chains from any other stay where they are for long; the rotation by
    varimax (Kaiser, 1958) is each chain's own, and chains differ where the data do not settle it.

    Arguments:
        table: The rows.
        number: The number K of factors.
        draws: Sweeps that are kept of each chain.
        burn_in: Sweeps before.
        chains: How many chains.
        thin: Of so many sweeps one is kept.

    Returns:
        The draws, with shapes (S, C, D, K), (S, C, D) and (S, C, D).
    """
    shape = (chains, table.x.shape[1])
    full = table.x.new_full((), 0.5)
    state = State(
        0.5 * torch.randn(*shape, number).to(table.x),
        full.new_ones(*shape, number),
        full.expand(shape),
        full.new_zeros(shape),
        full.new_ones(chains),
        full.expand(chains, number),
    )
    kept: list[State] = []
    for sweep in range(burn_in + draws * thin):
        if sweep == burn_in // 2:
            state = state._replace(loadings=state.loadings @ varimax(state.loadings))
        moments, projections = _factors(table, state)
        state = _loadings(state, moments, projections, sparse=sweep >= burn_in // 2)
        state = _scales(table, state, moments, projections)
        if sweep >= burn_in and (sweep - burn_in + 1) % thin == 0:
            kept.append(state)
    return Draws(*(torch.stack([getattr(s, name) for s in kept]) for name in Draws._fields))


def _factors(table: Table, state: State) -> tuple[Tensor, Tensor]:
    """Draws z, and returns the moments A (C, D, K + 1, K + 1) and g (C, D, K + 1)."""
    w, k = state.loadings, state.loadings.shape[-1]
    weighted = w / state.noise.unsqueeze(-1)  # Psi^-1 W
    outer = (w.unsqueeze(-1) * weighted.unsqueeze(-2)).flatten(2)
    precision = torch.eye(k).to(w) + (table.patterns @ outer).unflatten(-1, (k, k))  # (C, P, K, K)
    factor = torch.linalg.cholesky(precision)
    projected = ((table.x - table.one.unsqueeze(1) * state.mean.unsqueeze(1)) * table.seen) @ weighted  # (C, R, K)
    of_row = factor[:, table.pattern]
    half = torch.linalg.solve_triangular(of_row, projected.unsqueeze(-1), upper=False)
    z = torch.linalg.solve_triangular(of_row.mT, half + torch.randn_like(half), upper=True).squeeze(-1)
    f = torch.cat([table.one.expand(len(w), -1).unsqueeze(-1), z], -1)  # (C, R, K + 1)
    pairs = (f.unsqueeze(-1) * f.unsqueeze(-2)).flatten(2)
    moments = (table.seen.T @ pairs).unflatten(-1, (k + 1, k + 1))
    if table.rest and k:  # Bartlett's draw of a Wishart of scale I, with scale M^-1
        dof = (table.rest - torch.arange(k)).to(w).expand(len(w), k)
        lower = torch.randn(len(w), k, k).to(w).tril(-1) + torch.diag_embed((2 * _gamma(dof / 2)).sqrt())
        complete = int(table.patterns.all(1).nonzero())
        root = torch.linalg.solve_triangular(factor[:, complete].mT, lower, upper=True)
        moments[..., 1:, 1:] += (root @ root.mT).unsqueeze(1)
    return moments, table.x.T @ f


def varimax(loadings: Tensor) -> Tensor:
    """The rotations (*, K, K) after which squares of loadings (*, D, K) vary most within a column.

    Example:
        >>> w = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
        >>> back = w @ turn @ varimax(w @ turn)
        >>> bool(((back.abs() > 1e-3).sum(1) == 1).all())
        True
    """
    rotation = torch.eye(loadings.shape[-1]).to(loadings).expand(*loadings.shape[:-2], -1, -1)
    for _ in range(VARIMAX_STEPS):
        turned = loadings @ rotation
        target = turned * (turned.square() - turned.square().mean(-2, keepdim=True))
        u, _, v = torch.linalg.svd(loadings.mT @ target)
        rotation = u @ v
    return rotation


def _loadings(state: State, moments: Tensor, projections: Tensor, sparse: bool) -> State:
    """Draws the mean, then column by column which loadings there are, and these."""
    noise, included = state.noise, state.included.clone()
    w = torch.cat([state.mean.unsqueeze(-1), state.loadings], -1)
    for k in range(w.shape[-1]):
        own = moments[..., k, k]
        residual = projections[..., k] - (moments[..., k, :] * w).sum(-1) + own * w[..., k]  # rho
        slab = state.slab.unsqueeze(-1) if k else 1.0
        c = own + 1 / slab
        drawn = residual / c + (noise / c).sqrt() * torch.randn_like(noise)
        if k and sparse:
            odds = state.share[:, k - 1 : k].logit() - 0.5 * (slab * c).log() + residual.square() / (2 * c * noise)
            included[..., k - 1] = (torch.rand_like(odds) < odds.sigmoid()).to(w)
            drawn = drawn * included[..., k - 1]
        w[..., k] = drawn
    return state._replace(mean=w[..., 0], loadings=w[..., 1:], included=included)


def _scales(table: Table, state: State, moments: Tensor, projections: Tensor) -> State:
    """Draws the noise, the scale of loadings, and the share of them in each column."""
    w = torch.cat([state.mean.unsqueeze(-1), state.loadings], -1)
    fitted = (moments @ w.unsqueeze(-1)).squeeze(-1) - 2 * projections
    squares = table.squares + (w * fitted).sum(-1)  # of residuals, (C, D)
    penalty = state.loadings.square().sum(-1) / state.slab.unsqueeze(-1) + state.mean.square()
    shape = NOISE_SHAPE + (table.counts + state.included.sum(-1) + 1) / 2
    noise = (NOISE_RATE + (squares + penalty) / 2) / _gamma(shape)
    size = (state.loadings.square() / noise.unsqueeze(-1)).sum((1, 2))
    slab = (SLAB_RATE + size / 2) / _gamma(SLAB_SHAPE + state.included.sum((1, 2)) / 2)
    number = state.included.sum(1)
    on, off = _gamma(1 + number), _gamma(1 + w.shape[1] - number)
    return state._replace(noise=noise, slab=slab, share=(on / (on + off)).clamp(EDGE, 1 - EDGE))


def _gamma(shape: Tensor) -> Tensor:
    return torch.distributions.Gamma(shape, torch.ones_like(shape), validate_args=False).sample()


def expectation(x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """The posterior of z for each row under each draw: means (S, N, K) and covariances (S, N, K, K).

    Arguments:
        x: Rows with shape (N, D), NaN where not seen.
        draws: Draws with shapes (S, D, K), (S, D), (S, D).
    """
    seen = (~x.isnan()).to(x)
    w, k = draws.loadings, draws.loadings.shape[-1]
    weighted = w / draws.noise.unsqueeze(-1)
    outer = (w.unsqueeze(-1) * weighted.unsqueeze(-2)).flatten(2)
    covariance = torch.linalg.inv(torch.eye(k).to(w) + (seen @ outer).unflatten(-1, (k, k)))
    projected = ((x.nan_to_num() - draws.mean.unsqueeze(1)) * seen) @ weighted  # (S, N, K)
    return (covariance @ projected.unsqueeze(-1)).squeeze(-1), covariance


def log_density(x: Tensor, draws: Draws) -> Tensor:
    """The log-density of what is seen of rows (N, D) under draws of shapes (S, D, K), (S, D), (S, D): (S, N), nats."""
    seen = (~x.isnan()).to(x)
    mean, covariance = expectation(x, draws)
    residual = (x.nan_to_num() - draws.mean.unsqueeze(1)) * seen
    noise = draws.noise.unsqueeze(1)
    projected = (residual / noise) @ draws.loadings
    quadratic = (residual.square() / noise).sum(-1) - (projected * mean).sum(-1)
    log_det = (seen * noise.log()).sum(-1) - torch.linalg.slogdet(covariance).logabsdet
    log_p: Tensor = -0.5 * (seen.sum(-1) * math.log(2 * math.pi) + log_det + quadratic)
    return log_p
