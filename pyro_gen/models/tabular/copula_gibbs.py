r"""Gibbs sampling for the copula: of its parameters, and of the latent variables of a new row.

A sweep over the parameters draws the degrees of freedom and the weights :math:`w_n` given the latent variables of what
is seen, the others integrated out, see :mod:`pyro_gen.models.tabular.heavy`; then those behind missing entries jointly,
those behind seen levels one by one, see :mod:`pyro_gen.models.tabular.levels`; and :math:`\mu, \Sigma` given complete
latent rows, see :mod:`pyro_gen.models.tabular.normal`.

Of a new row the parameters are known. Given its real columns only latent variables behind levels are left, with

.. math::
    z_l \mid z_r \sim \mathcal{N}\big(\mu_l + \Sigma_{lr} \Sigma_{rr}^{-1} (z_r - \mu_r), \;
    (\Sigma_{ll} - \Sigma_{lr} \Sigma_{rr}^{-1} \Sigma_{rl}) / w\big) :

drawn one after another, then some sweeps, and now and then the weight, by its distance at the time. Uniform numbers
come from outside, so that a row has the same draw in any batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_gen.distributions.gaussian import condition_rest, draw_missing, mean_and_deviation, seen_factor
from pyro_gen.models.tabular.heavy import (
    HeavyNormal,
    degrees,
    distance,
    move_log_df,
    seen_distance,
    weight_given,
    weight_quantile,
)
from pyro_gen.models.tabular.levels import draw_in_turn, redraw
from pyro_gen.models.tabular.marginals import Rows
from pyro_gen.models.tabular.normal import draw_normal

__all__ = ["draw_latent", "numbers", "real_distance", "start", "sweep"]

SWEEPS = 6  # of Gibbs sampling over the levels seen in a new row
WEIGH = 2  # after so many of them the weight is drawn anew


def start(rows: Rows, chains: int) -> Tensor:
    """Latent rows with which chains begin, (C, N, Q), NaN where nothing was seen: independent, and right for levels."""
    size = rows.levels.seen.shape[1]
    u = torch.rand(chains, len(rows.real), size).to(rows.real)
    eye = torch.eye(size).to(rows.real)
    z = draw_in_turn(rows.levels, u, rows.real.new_zeros(size), eye, rows.real[:, :0])[1]
    return torch.cat([rows.real.expand(chains, -1, -1), z.expand(chains, -1, -1)], -1)


def sweep(rows: Rows, z: Tensor, state: HeavyNormal) -> tuple[Tensor, HeavyNormal]:
    """Draws weights and latent rows, then parameters.

    Arguments:
        rows: What was seen.
        z: The latent rows of C chains, with shape :math:`(C, N, Q)`.
        state: The parameters as they were.

    Returns:
        Latent rows and parameters.
    """
    normal, log_df = state
    count = rows.seen.sum(1)
    given = zip(torch.where(rows.seen, z, torch.nan), normal.loc, normal.covariance(), torch.randn_like(z), strict=True)
    parts = [mean_and_deviation(*own) for own in given]
    mean, deviation = (torch.stack(part) for part in zip(*parts, strict=True))  # (C, N, Q)
    squares = distance(mean, normal.loc, normal.precision)
    log_df = move_log_df(log_df, squares, count)
    shape, rate = weight_given(degrees(log_df).unsqueeze(-1), squares, count)
    w = torch._standard_gamma(shape) / rate  # (C, N)
    z = mean + deviation * w.rsqrt().unsqueeze(-1)
    size = rows.levels.seen.shape[1]
    if size:
        m = normal.loc.unsqueeze(1)
        u = torch.rand_like(z[..., -size:])
        z = m + redraw(rows.levels, z - m, m, normal.precision.unsqueeze(1), w, u)
    return z, HeavyNormal(draw_normal(z, normal, w), log_df)


def real_distance(
    rows: Rows, loc: Tensor, covariance: Tensor, mean: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Squared distances (N) of the real columns seen, and how many they are; ``mean`` completes them."""
    split = rows.real.shape[1]
    if not split:
        return torch.zeros_like(rows.real.sum(1)), rows.seen[:, :0].sum(1)
    loc, covariance = loc[..., :split], covariance[..., :split, :split]
    return seen_distance(rows.real, mean(rows.real, loc, covariance), loc, covariance)


def numbers(levels: int) -> tuple[int, int]:
    """How many uniform numbers :func:`draw_latent` takes for a row with q levels: for these, and for its weight."""
    return (SWEEPS + 1) * levels, 1 + SWEEPS // WEIGH if levels else 1


def draw_latent(rows: Rows, loc: Tensor, covariance: Tensor, df: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Draws the latent variables behind what was seen of rows, and their weights.

    Arguments:
        rows: What was seen.
        loc: The mean :math:`\mu`, with shape :math:`(Q)`.
        covariance: :math:`\Sigma`, with shape :math:`(Q, Q)`.
        df: The degrees of freedom.
        u: Uniform numbers, as many for a row as :func:`numbers` says.

    Returns:
        Latent variables with shape :math:`(N, Q)`, NaN where nothing was seen, and weights with shape :math:`(N)`.
    """
    squares, count = real_distance(rows, loc, covariance, lambda x, m, s: draw_missing(x, m, s, torch.zeros_like(x)))
    seen = rows.levels.seen
    size = seen.shape[1]
    u, weigh = u.split(numbers(size), 1)
    w = weight_quantile(weigh[:, 0], df, squares, count)
    if not size:
        return rows.real, w
    mean, precision = condition_rest(rows.real, loc, covariance)
    inner = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    factor = seen_factor(torch.where(seen, 0.0, torch.nan).to(loc), inner)[1]
    z = draw_in_turn(rows.levels, u[:, :size], mean, factor * w.rsqrt()[:, None, None], mean[:, :0])[1]
    residual = (z - mean).nan_to_num()
    precision = torch.cholesky_inverse(factor)
    for i in range(1, SWEEPS + 1):
        residual = redraw(rows.levels, residual, mean, precision, w, u[:, i * size : (i + 1) * size])
        if i % WEIGH == 0:
            more = ((residual.unsqueeze(-2) @ precision).squeeze(-2) * residual).sum(-1)
            w = weight_quantile(weigh[:, i // WEIGH], df, squares + more, count + seen.sum(1))
    return torch.cat([rows.real, torch.where(seen, mean + residual, torch.nan)], 1), w
