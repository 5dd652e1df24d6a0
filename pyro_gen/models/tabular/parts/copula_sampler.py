r"""The copula given its parameters: the density of rows, and Gibbs sampling.

A sweep over the parameters draws the degrees of freedom and the weights :math:`w_n` given the latent variables of what
is seen, the others integrated out; then those behind missing entries jointly, those behind seen levels one by one, see
:mod:`pyro_gen.distributions.rectangle`; and :math:`\mu, \Sigma` given complete latent rows, see
:mod:`pyro_gen.models.tabular.parts.normal_posterior`.

Of a new row the parameters are known. Given its real columns only latent variables behind levels are left, with

.. math::
    z_l \mid z_r \sim \mathcal{N}\big(\mu_l + \Sigma_{lr} \Sigma_{rr}^{-1} (z_r - \mu_r), \;
    (\Sigma_{ll} - \Sigma_{lr} \Sigma_{rr}^{-1} \Sigma_{rl}) / w\big) :

drawn one after another, then some sweeps, and now and then the weight, by its distance at the time. Uniform numbers
come from outside, so that a row has the same draw in any batch.

**The density** of rows given their weights integrates the latent variables of levels out.

With the Cholesky factor :math:`C` of the covariance :math:`\Sigma / w` of what is seen, real columns first,
:math:`z_j = \mu_j + C_{j,<j} e_{<j} + C_{jj} e_j` and

.. math::
    p(x_o) = p(x_{\text{real}}) \int_{[0, 1]^q} \prod_j P(x_j \mid e_{<j}(u)) \, du , \qquad
    e_j = \Phi^{-1}_{[a_j, b_j]}(u_j) ,

each factor the probability of an interval :math:`[a_j, b_j]` and :math:`e_j` the quantile of the normal truncated to
it. Importance sampling from the prior of the uniform :math:`u` is the simulator of Geweke, Hajivassiliou and Keane.

References:
    | Simulation estimation of multivariate normal rectangle probabilities (Hajivassiliou et al., 1996)
    | https://doi.org/10.1016/0304-4076(94)01716-6
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen._internals import standard_gamma
from pyro_gen.distributions.gaussian import condition_rest, draw_given, draw_missing, mean_and_deviation, seen_factor
from pyro_gen.distributions.rectangle import gibbs_rectangle, rectangle
from pyro_gen.models.tabular.parts.copula_marginals import CopulaEvidence, Marginals
from pyro_gen.models.tabular.parts.normal_posterior import (
    StudentTParameters,
    degrees,
    distance,
    draw_normal_parameters,
    metropolis_log_df,
    seen_distance,
    weight_conditional,
    weight_quantile,
)

__all__ = ["CopulaRows", "draw_latent", "numbers", "real_distance", "start", "sweep"]

SWEEPS_PER_ROW = 6  # of Gibbs sampling over the levels seen in a new row
SWEEPS_PER_WEIGHT = 2  # after so many of them the weight is drawn anew


def start(rows: CopulaEvidence, chains: int) -> Tensor:
    """Latent rows with which chains begin, (C, N, Q), NaN where nothing was seen: independent, and right for levels."""
    size = rows.levels.seen.shape[1]
    u = torch.rand(chains, len(rows.real), size).to(rows.real)
    eye = torch.eye(size).to(rows.real)
    z = rectangle(rows.levels, u, rows.real.new_zeros(size), eye, rows.real[:, :0])[1]
    return torch.cat([rows.real.expand(chains, -1, -1), z.expand(chains, -1, -1)], -1)


def sweep(rows: CopulaEvidence, z: Tensor, state: StudentTParameters) -> tuple[Tensor, StudentTParameters]:
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
    log_df = metropolis_log_df(log_df, squares, count)
    shape, rate = weight_conditional(degrees(log_df).unsqueeze(-1), squares, count)
    w = standard_gamma(shape) / rate  # (C, N)
    z = mean + deviation * w.rsqrt().unsqueeze(-1)
    size = rows.levels.seen.shape[1]
    if size:
        m = normal.loc.unsqueeze(1)
        u = torch.rand_like(z[..., -size:])
        z = m + gibbs_rectangle(rows.levels, z - m, m, normal.precision.unsqueeze(1), w, u)
    return z, StudentTParameters(draw_normal_parameters(z, normal, w), log_df)


def real_distance(
    rows: CopulaEvidence, loc: Tensor, covariance: Tensor, mean: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Squared distances (N) of the real columns seen, and how many they are; ``mean`` completes them."""
    split = rows.real.shape[1]
    if not split:
        return torch.zeros_like(rows.real.sum(1)), rows.seen[:, :0].sum(1)
    loc, covariance = loc[..., :split], covariance[..., :split, :split]
    return seen_distance(rows.real, mean(rows.real, loc, covariance), loc, covariance)


def numbers(levels: int) -> tuple[int, int]:
    """How many uniform numbers :func:`draw_latent` takes for a row with q levels: for these, and for its weight."""
    return (SWEEPS_PER_ROW + 1) * levels, 1 + SWEEPS_PER_ROW // SWEEPS_PER_WEIGHT if levels else 1


def draw_latent(rows: CopulaEvidence, loc: Tensor, covariance: Tensor, df: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
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
    z = rectangle(rows.levels, u[:, :size], mean, factor * w.rsqrt()[:, None, None], mean[:, :0], branch=True)[1]
    residual = (z - mean).nan_to_num()
    precision = torch.cholesky_inverse(factor)
    for i in range(1, SWEEPS_PER_ROW + 1):
        residual = gibbs_rectangle(rows.levels, residual, mean, precision, w, u[:, i * size : (i + 1) * size])
        if i % SWEEPS_PER_WEIGHT == 0:
            more = ((residual.unsqueeze(-2) @ precision).squeeze(-2) * residual).sum(-1)
            w = weight_quantile(weigh[:, i // SWEEPS_PER_WEIGHT], df, squares + more, count + seen.sum(1))
    return torch.cat([rows.real, torch.where(seen, mean + residual, torch.nan)], 1), w


class CopulaRows(dist.TorchDistribution):
    r"""Creates the distribution of rows given u, of which some entries are seen.

    Arguments:
        marginals: The curves of the columns.
        loc: The mean :math:`\mu`, with shape :math:`(Q)`.
        covariance: :math:`\Sigma`, with shape :math:`(Q, Q)`.
        w: The weights of rows, with shape :math:`(N)`.
        u: The quantiles of the latent variables behind levels, with shape :math:`(N, q)`.
        seen: Which entries are seen, with shape :math:`(N, D)`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(
        self, marginals: Marginals, loc: Tensor, covariance: Tensor, w: Tensor, u: Tensor, seen: Tensor | bool = True
    ) -> None:
        self.marginals, self.loc, self.covariance, self.w, self.u, self.seen = marginals, loc, covariance, w, u, seen
        super().__init__(u.shape[:-1], torch.Size([len(marginals.layout.order)]), validate_args=False)

    def _in_turn(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Latent variables one after another given those before it: the log-density (N), and z (N, Q)."""
        rows = self.marginals.rows(torch.where(torch.as_tensor(self.seen), value, torch.nan))
        factor = seen_factor(torch.where(rows.seen, 0.0, torch.nan).to(value), self.covariance)[1]
        factor = factor * self.w.rsqrt()[..., None, None]  # C, with ones on the diagonal where nothing is seen
        split = len(self.marginals.layout.real)
        residual = (rows.real - self.loc[:split]).nan_to_num().unsqueeze(-1)
        e = torch.linalg.solve_triangular(factor[..., :split, :split], residual, upper=False).squeeze(-1)
        scale = factor.diagonal(dim1=-2, dim2=-1)[..., :split]
        density = rows.log_slope - (e.square() + math.log(2 * math.pi)) / 2 - scale.log()
        log_prob, z = rectangle(rows.levels, self.u, self.loc[split:], factor[..., split:, :], e)
        real = torch.where(rows.seen[:, :split], density, 0.0).sum(-1)
        return real + log_prob + rows.mixed_slope.sum(-1), torch.cat([rows.real.expand(*z.shape[:-1], split), z], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._in_turn(value)[0]

    def marginalise(self, value: Tensor) -> tuple["CopulaRows", Tensor, Callable[[], Tensor]]:
        """Rows of which NaN is not seen, see :func:`pyro_gen.observe`."""
        scored = CopulaRows(self.marginals, self.loc, self.covariance, self.w, self.u, ~torch.isnan(value))

        def draw() -> Tensor:
            z = scored._in_turn(value)[1]
            noise = torch.randn_like(z) * self.w.rsqrt().unsqueeze(-1)
            return self.marginals.values(draw_given(z, self.loc, self.covariance, noise))

        return scored, value.nan_to_num(), draw
