r"""The copula for mixed columns: a latent row, normal but for heavy tails, behind every row of the table.

.. math::
    z_n \sim \mathcal{N}(\mu, \Sigma / w_n), \qquad
    w_n \sim \operatorname{Gamma}\big(\tfrac{\nu}{2}, \tfrac{\nu}{2}\big), \qquad x_{nd} = g_d(z_n)

with one latent variable for a column whose values have an order, and one less than there are levels for a nominal one:

* real: :math:`x = T^{-1}(z)`, with a smooth increasing curve :math:`T` learnt from the observed entries;
* binary, ordinal: :math:`x \le k` where :math:`z \le T(k + 1/2)`, thresholds at the distribution function of the
  observed entries (cumulative probit);
* count: :math:`x \le k` where :math:`z \le T(\log(k + 1/2))`, so that tails are log-normal;
* nominal: :math:`x = \operatorname{argmax}(0, z_1, \ldots, z_{L-1})` (multinomial probit).

The curves are estimates, and so far this is any copula with these marginals. But mean and variance of each latent
variable are free, with a posterior, as all correlations: what is missing at random may differ from what was observed,
and the marginals move and stretch accordingly. :math:`(\mu, \Sigma)` have the prior of :class:`TableGaussian`, the
degrees of freedom :math:`\nu` that of :class:`TableStudent`: this is a t-copula, and Gaussian for great ones. For
binary and nominal columns nothing depends on the scale of the latent variable; the prior keeps it in place, and to let
it move is the parameter expansion that makes the sampler mix.

**Learning** is Gibbs sampling. Weights are drawn given the latent variables of what is seen, latent variables behind
missing entries jointly given the others in the row; those behind observed levels one column after another, from normals
truncated to what the level allows; then :math:`(\mu, \Sigma)` given all of them. Where a column is real, its latent
variable is known: :math:`z = T(x)`.

**The density** of a row given its weight integrates over the latent variables of its levels. With the Cholesky factor
:math:`C` of the covariance :math:`\Sigma / w` of what is seen, real columns first, :math:`z_j = \mu_j + C_{j,<j} e_{<j}
+ C_{jj} e_j` and

.. math::
    p(x_o) = p(x_{\text{real}}) \int_{[0, 1]^q} \prod_j P(x_j \mid e_{<j}(u)) \, du , \qquad
    e_j = \Phi^{-1}_{[a_j, b_j]}(u_j) ,

each factor the probability of an interval :math:`[a_j, b_j]` and :math:`e_j` the quantile of the normal truncated to
it. So :math:`w_n` and the uniform :math:`u_n` are the local latent variables of this program, and importance sampling
from the prior of :math:`u_n` is the simulator of Geweke, Hajivassiliou and Keane.

**New rows**: :math:`e(u)` starts some sweeps of Gibbs sampling over the row's own levels and weight; given these all is
Gaussian.

References:
    | Extending the rank likelihood for semiparametric copula estimation (Hoff, 2007)
    | https://doi.org/10.1214/07-AOAS107
    | The t Copula and Related Copulas (Demarta & McNeil, 2005)
    | https://doi.org/10.1111/j.1751-5823.2005.tb00254.x
    | Bayesian Analysis of Binary and Polychotomous Response Data (Albert & Chib, 1993)
    | https://doi.org/10.1080/01621459.1993.10476321
    | A Bayesian analysis of the multinomial probit model using marginal data augmentation (Imai & van Dyk, 2005)
    | https://doi.org/10.1016/j.jeconom.2004.02.002
    | Simulation estimation of multivariate normal rectangle probabilities (Hajivassiliou et al., 1996)
    | https://doi.org/10.1016/0304-4076(94)01716-6
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen._random import seeded, uniforms
from pyro_gen.data.column import Column
from pyro_gen.likelihoods import observe
from pyro_gen.models.tabular.conditional import (
    condition,
    condition_rest,
    draw_given,
    draw_missing,
    seen_factor,
)
from pyro_gen.models.tabular.gibbs import Schedule, gibbs
from pyro_gen.models.tabular.heavy import (
    HeavyNormal,
    degrees,
    distance,
    move_log_df,
    sample_log_df,
    seen_distance,
    weight_given,
    weight_quantile,
)
from pyro_gen.models.tabular.normal import draw_normal, kept_normal, moments, sample_normal
from pyro_gen.models.tabular.table import KeptProgram, LearningProgress
from pyro_gen.models.tabular.truncated import log_interval, truncated_normal
from pyro_gen.models.tabular.warp import Warp, fit_real, fit_whole

__all__ = ["TableCopula"]

CHAINS, SCHEDULE = 2, Schedule(burn_in=80, kept=32, thin=4)
MOST_ROWS = 4000  # of a longer table as many are drawn to learn from
SWEEPS = 6  # of Gibbs sampling over the levels seen in a new row
WEIGH = 2  # after so many of them the weight is drawn anew
GOLDEN = 0.6180339887498949  # multiples of it, without whole parts, fill [0, 1] evenly


class TableCopula(KeptProgram):
    r"""Creates a copula for the rows of a table, with a posterior over its parameters.

    Arguments:
        columns: The columns: real, count, binary, nominal or ordinal.

    Attributes:
        columns: The D columns.

    Raises:
        ValueError: A column is of another kind.

    Example:
        >>> from pyro_gen.data.column import Column
        >>> _ = torch.manual_seed(0)
        >>> z = torch.randn(300, 1, dtype=torch.float64) + 0.3 * torch.randn(300, 2, dtype=torch.float64)
        >>> x = torch.stack([z[:, 0].exp(), (z[:, 1] > 0).double()], 1)
        >>> program = TableCopula([Column("income", "real"), Column("owner", "binary", levels=("no", "yes"))]).learn(x)
        >>> rows = torch.tensor([[0.2, torch.nan], [5.0, torch.nan]], dtype=torch.float64)
        >>> program.cell_mean(rows)[:, 1].tolist()
        [0.0, 1.0]
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"real", "count", "binary", "nominal", "ordinal"})

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        kinds = [c.kind for c in self.columns]
        self._real = [d for d, kind in enumerate(kinds) if kind == "real"]
        self._whole = [d for d, kind in enumerate(kinds) if kind in ("count", "binary", "ordinal")]
        self._nominal = [d for d, kind in enumerate(kinds) if kind == "nominal"]
        self._blocks: list[range] = []  # the latent variables of each nominal column
        size = len(self._real) + len(self._whole)
        for d in self._nominal:
            self._blocks.append(range(size, size + len(self.columns[d].levels) - 1))
            size += len(self.columns[d].levels) - 1
        self._size, self._levels = size, size - len(self._real)
        top = [math.inf if kinds[d] == "count" else len(self.columns[d].levels) - 1.0 for d in self._whole]
        self.register_buffer("_top", torch.tensor(top, dtype=torch.float64))
        knots = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(len(self._real) + len(self._whole), -1)
        self.register_buffer("_knots", torch.stack([knots, knots]))  # of the curves, (2, columns, K)
        self.keep(HeavyNormal.sites([HeavyNormal.centre(torch.ones(1, size, dtype=torch.float64))]))

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""The joint density of rows with shape :math:`(N, D)` and parameters; returns the rows completed."""
        loc, factor = sample_normal(x, self._size)
        half = degrees(sample_log_df(x)).unsqueeze(-1).expand(len(x)) / 2
        with self.plate(x):
            w = pyro.sample("weight", dist.Gamma(half, half))  # (N,)
            rows = _CopulaRows(self, loc, torch.cholesky_inverse(factor), w, self._local(x))
            return observe("x", rows, x)

    def guide(self, x: Tensor, *context: Any) -> None:
        """Deals out one of the kept draws of the posterior; draws weights given real columns, and levels uniformly."""
        parameters = self.deal(x)
        loc, covariance = moments(parameters)
        squares, count = self._distance(self.prepared(x), loc, covariance, lambda x, m, s: condition(x, m, s)[0])
        with self.plate(x):
            pyro.sample("weight", dist.Gamma(*weight_given(degrees(parameters["log_df"]), squares, count)))
            self._local(x)

    def _local(self, x: Tensor) -> Tensor:
        """Which quantiles the latent variables of levels are of what their levels allow, (N, q)."""
        zeros = x.new_zeros(len(x), self._levels)
        return pyro.sample("u", dist.Uniform(zeros, zeros + 1).to_event(1)) if self._levels else zeros

    def learn(
        self, x: Tensor, *, seed: int = 0, progress: LearningProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Learns the curves, then the posterior by Gibbs sampling, see :meth:`TableProgram.learn`."""
        with seeded(seed), torch.no_grad():
            if len(x) > MOST_ROWS:
                x = x[torch.randperm(len(x))[:MOST_ROWS].to(x.device)]
            self._learn_curves(x)
            rows = self.prepared(x)
            ones = torch.ones(CHAINS, self._size).to(x)
            u = torch.rand(CHAINS, len(x), self._levels).to(x)
            z = self._sequence(rows, u, 0 * ones[0], torch.diag_embed(ones[0]))[1].expand(CHAINS, -1, -1)

            def sweep(state: HeavyNormal) -> HeavyNormal:
                nonlocal z  # not kept: it is as long as the table
                z, state = self._sweep(rows, z, state)
                return state

            kept = gibbs(sweep, HeavyNormal.centre(ones), SCHEDULE, progress, deadline)
        self.keep(HeavyNormal.sites(kept))
        return self

    # ------------------------------------------------------------------------------------------------------------------
    # What a table says of its latent variables

    def _learn_curves(self, x: Tensor) -> None:
        curves = [fit_real(x[:, d][~torch.isnan(x[:, d])]) for d in self._real]
        for d in self._whole:
            column = self.columns[d]
            curve = fit_whole(x[:, d][~torch.isnan(x[:, d])], len(column.levels) if column.discrete else None)
            curves.append(curve if column.discrete else Warp(curve.x.log(), curve.z))
        if curves:
            self.register_buffer("_knots", torch.stack(Warp.join(curves)))

    def _curves(self) -> tuple[Warp, Warp]:
        """The curves of real columns, and those of whole numbers."""
        knots, split = self.get_buffer("_knots"), len(self._real)
        return Warp(*knots[:, :split]), Warp(*knots[:, split:])

    def prepared(self, x: Tensor) -> "_Rows":
        real, log_slope = self._curves()[0](x[:, self._real])
        lower, upper = self._thresholds(x[:, self._whole])
        codes = x[:, self._nominal]
        seen = [~torch.isnan(real), ~torch.isnan(x[:, self._whole])]
        seen += [~torch.isnan(codes[:, m : m + 1]).expand(-1, len(block)) for m, block in enumerate(self._blocks)]
        return _Rows(real, log_slope.nan_to_num(), lower, upper, codes, torch.cat(seen, 1))

    def _thresholds(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """The interval of the latent variable of whole numbers (*, W); the whole line where nothing was seen."""
        curve, top = self._curves()[1], self.get_buffer("_top")
        edges = (torch.where(top < torch.inf, edge, edge.clamp(min=0.5).log()) for edge in (k - 0.5, k + 0.5))
        lower, upper = (curve(edge)[0] for edge in edges)
        return torch.where(k > 0, lower, -torch.inf), torch.where(k < top, upper, torch.inf)

    def _interval(self, rows: "_Rows", w: int, z: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What the level behind latent variable w of those of levels allows it, given the others."""
        if w < len(self._whole):
            return rows.lower[:, w], rows.upper[:, w]
        split = len(self._real)
        j = split + w
        m, block = next((m, block) for m, block in enumerate(self._blocks) if j in block)
        best = torch.zeros_like(rows.codes[:, m])
        for i in block:
            if i != j:
                best = torch.maximum(best, z[i - split])
        own = rows.codes[:, m] == j - block.start + 1
        other = ~torch.isnan(rows.codes[:, m]) & ~own
        return torch.where(own, best, -torch.inf), torch.where(other, best, torch.inf)

    def _values(self, z: Tensor) -> Tensor:
        """The rows (*, D) of latent ones (*, Q)."""
        out = z.new_empty(*z.shape[:-1], len(self.columns))
        real, whole = self._curves()
        split = len(self._real)
        out[..., self._real] = real.inverse(z[..., :split])
        k, top = whole.inverse(z[..., split : split + len(self._whole)]), self.get_buffer("_top")
        k = (torch.where(top < torch.inf, k, k.exp()) - 0.5).ceil().clamp(min=0)
        out[..., self._whole] = torch.minimum(k, top)
        for d, block in zip(self._nominal, self._blocks, strict=True):
            utility = z[..., block.start : block.stop]
            out[..., d] = torch.cat([torch.zeros_like(utility[..., :1]), utility], -1).argmax(-1).to(z)
        return out

    # ------------------------------------------------------------------------------------------------------------------
    # Latent variables behind levels

    def _sequence(self, rows: "_Rows", u: Tensor, loc: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """One after another given those before it: the log-density (N) of rows, and z (N, Q), NaN where unseen.

        ``factor`` is that of what is seen, with ones on the diagonal for the rest.
        """
        split = len(self._real)
        known = rows.seen[:, :split]
        residual = (rows.real - loc[:split]).nan_to_num().unsqueeze(-1)
        e = torch.linalg.solve_triangular(factor[..., :split, :split], residual, upper=False).squeeze(-1)
        scale = factor.diagonal(dim1=-2, dim2=-1)
        density = rows.log_slope - (e.square() + math.log(2 * math.pi)) / 2 - scale[..., :split].log()
        log_prob, z = self._draw_levels(rows, u, loc[split:], factor[..., split:, :], e)
        real = rows.real.expand(*z.shape[:-1], split)
        return torch.where(known, density, 0.0).sum(-1) + log_prob, torch.cat([real, z], -1)

    def _draw_levels(self, rows: "_Rows", u: Tensor, loc: Tensor, factor: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """The latent variables of levels one after another: the log-probability of levels (*), and z (*, q).

        ``loc`` and ``factor`` are theirs alone, ``e`` the noise of those before.
        """
        before = e.shape[-1]
        # A level not drawn yet leaves the utilities before it free, and is above all of them once it is their turn.
        z = list(rows.lower.unbind(-1))
        for m, block in enumerate(self._blocks):
            z += [torch.where(rows.codes[:, m] == k + 1, torch.inf, -torch.inf).to(u) for k in range(len(block))]
        seen = rows.seen[:, len(self._real) :]
        log_prob = u.new_zeros(())
        for w in range(self._levels):
            scale = factor[..., w, before + w]
            mean = loc[..., w] + (factor[..., w, : before + w] * e).sum(-1)
            lower, upper = ((edge - mean) / scale for edge in self._interval(rows, w, z))
            log_prob = log_prob + log_interval(lower, upper)
            drawn = torch.where(seen[:, w], truncated_normal(u[..., w], lower, upper), 0.0)
            z[w] = torch.where(seen[:, w], mean + scale * drawn, torch.nan)
            e = torch.cat([e.expand(*drawn.shape, before + w), drawn.unsqueeze(-1)], -1)
        return log_prob, torch.stack(torch.broadcast_tensors(*z), -1) if z else e[..., before:]

    def _distance(
        self, rows: "_Rows", loc: Tensor, covariance: Tensor, mean: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Squared distances (N) of the real columns seen, and how many they are; ``mean`` completes them."""
        split = len(self._real)
        if not split:
            return torch.zeros_like(rows.real.sum(1)), rows.seen[:, :0].sum(1)
        loc, covariance = loc[..., :split], covariance[..., :split, :split]
        return seen_distance(rows.real, mean(rows.real, loc, covariance), loc, covariance)

    def _move(self, rows: "_Rows", residual: Tensor, loc: Tensor, precision: Tensor, w: Tensor, u: Tensor) -> Tensor:
        """Redraws the latent variables behind observed levels, each given all others: z - loc, (*, N, Q).

        The real columns may be left out everywhere, where the rest is given them. The precision is that of weight 1.
        """
        residual = residual.clone()
        before = residual.shape[-1] - self._levels
        nominal = self._levels - sum(map(len, self._blocks))
        for level in range(self._levels):
            j = before + level
            scale = precision[..., j, j].rsqrt()
            mean = loc[..., j] + residual[..., j] - scale.square() * (precision[..., j, :] * residual).sum(-1)
            scale = scale * w.rsqrt()
            z = (loc + residual)[..., before:].unbind(-1) if level >= nominal else ()
            lower, upper = ((edge - mean) / scale for edge in self._interval(rows, level, z))
            drawn = mean + scale * truncated_normal(u[..., level], lower, upper, branch=True) - loc[..., j]
            residual[..., j] = torch.where(rows.seen[:, len(self._real) + level], drawn, residual[..., j])
        return residual

    def _sweep(self, rows: "_Rows", z: Tensor, state: HeavyNormal) -> tuple[Tensor, HeavyNormal]:
        """Draws weights and latent rows (C, N, Q), then parameters."""
        normal, log_df = state
        count = rows.seen.sum(1)
        given = zip(z, normal.loc, normal.covariance(), strict=True)
        known = [(torch.where(rows.seen, own, torch.nan), m, s) for own, m, s in given]
        mean = torch.stack([draw_missing(*own, torch.zeros_like(z[0])) for own in known])
        squares = distance(mean, normal.loc, normal.precision)
        log_df = move_log_df(log_df, squares, count)
        shape, rate = weight_given(degrees(log_df).unsqueeze(-1), squares, count)
        w = torch._standard_gamma(shape) / rate  # (C, N)
        noise = torch.randn_like(z) * w.rsqrt().unsqueeze(-1)
        z = torch.stack([draw_missing(*own, e) for own, e in zip(known, noise, strict=True)])
        if self._levels:
            m = normal.loc.unsqueeze(1)
            u = torch.rand_like(z[..., len(self._real) :])
            z = m + self._move(rows, z - m, m, normal.precision.unsqueeze(1), w, u)
        return z, HeavyNormal(draw_normal(z, normal, w), log_df)

    # ------------------------------------------------------------------------------------------------------------------
    # Rows given a draw of the posterior

    @property
    def randomness(self) -> int:
        return (SWEEPS + 1) * self._levels + self._weighings + self._size

    @property
    def _weighings(self) -> int:
        return 1 + SWEEPS // WEIGH if self._levels else 1

    def numbers_per_row(self) -> int:
        return self._size**2

    def drawn(self, rows: "_Rows", s: int, u: Tensor) -> Tensor:
        z, loc, covariance, w = self._known(rows, s, u[:, : -self._size])
        noise = torch.special.ndtri(u[:, -self._size :]) * w.rsqrt().unsqueeze(-1)
        return self._values(draw_missing(z, loc, covariance, noise))

    def _known(self, rows: "_Rows", s: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A draw of the latent variables behind what was seen (N, Q), NaN elsewhere; mean, covariance and weights."""
        loc, covariance = kept_normal(self.kept, s)
        df = degrees(self.kept("log_df")[s])
        squares, count = self._distance(
            rows, loc, covariance, lambda x, m, s: draw_missing(x, m, s, torch.zeros_like(x))
        )
        u, weigh = u.split([u.shape[1] - self._weighings, self._weighings], 1)
        w = weight_quantile(weigh[:, 0], df, squares, count)
        if not self._levels:
            return rows.real, loc, covariance, w
        # Given the real columns seen, only the latent variables of levels are left.
        mean, precision = condition_rest(rows.real, loc, covariance)
        seen = rows.seen[:, len(self._real) :]
        inner = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        factor = seen_factor(torch.where(seen, 0.0, torch.nan).to(loc), inner)[1]
        first = self._draw_levels(rows, u, mean, factor * w.rsqrt()[:, None, None], mean[:, :0])[1]
        residual = (first - mean).nan_to_num()
        precision = torch.cholesky_inverse(factor)
        for i in range(1, SWEEPS + 1):
            residual = self._move(rows, residual, mean, precision, w, u[:, i * self._levels :])
            if i % WEIGH == 0:
                more = ((residual.unsqueeze(-2) @ precision).squeeze(-2) * residual).sum(-1)
                w = weight_quantile(weigh[:, i // WEIGH], df, squares + more, count + seen.sum(1))
        return torch.cat([rows.real, torch.where(seen, mean + residual, torch.nan)], 1), loc, covariance, w

    def given(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """For some draws: means and scales (N, Q) of latent variables, log-probabilities (N, L) of nominal levels."""
        rows = self.prepared(x)
        for i, s in enumerate(self.dealt()):
            u = uniforms(torch.zeros(1, dtype=torch.int64, device=x.device), self.randomness - self._size, stream=i)
            u[:, -1] = (i + 1) * GOLDEN % 1
            z, loc, covariance, w = self._known(rows, s, u.expand(len(x), -1))
            mean, variance = condition(z, loc, covariance)
            variance = variance / w.unsqueeze(-1)
            levels = []
            for block in self._blocks:
                missing = torch.isnan(z[:, block.start])
                chosen = slice(block.start, block.stop)
                _, factor, seen = seen_factor(z[missing], covariance)
                gain = torch.linalg.solve_triangular(factor, seen[..., chosen], upper=False)
                left = (covariance[chosen, chosen] - gain.mT @ gain) / w[missing, None, None]
                found = _log_argmax(mean[missing, chosen], left, i)
                levels.append(x.new_full((len(x), len(block) + 1), torch.nan).masked_scatter(missing[:, None], found))
            yield mean, variance.clamp(min=1e-12).sqrt(), levels

    def scored(self, rows: "_Rows", mean: Tensor, scale: Tensor, levels: list[Tensor]) -> Tensor:
        """Log-densities of the values of rows, (N, D)."""
        out = mean.new_empty(len(mean), len(self.columns))
        split, end = len(self._real), len(self._real) + len(self._whole)
        residual = (rows.real - mean[:, :split]) / scale[:, :split]
        density = rows.log_slope - (residual.square() + math.log(2 * math.pi)) / 2 - scale[:, :split].log()
        out[:, self._real] = density
        mean, scale = mean[:, split:end], scale[:, split:end]
        out[:, self._whole] = log_interval((rows.lower - mean) / scale, (rows.upper - mean) / scale)
        for m, d in enumerate(self._nominal):
            out[:, d] = levels[m].gather(1, rows.codes[:, m : m + 1].nan_to_num().long()).squeeze(1)
        return out

    def expected(self, mean: Tensor, scale: Tensor, levels: list[Tensor]) -> list[Tensor]:
        """By column the expectation (N, 1), or the probabilities of the levels (N, L)."""
        real, whole = self._curves()
        split = len(self._real)
        nodes, weights = (torch.from_numpy(v).to(mean) for v in np.polynomial.hermite_e.hermegauss(15))
        z = mean[:, :split] + scale[:, :split] * nodes[:, None, None]
        expected = (real.inverse(z) * (weights / weights.sum())[:, None, None]).sum(0)
        out = dict(zip(self._real, expected.unsqueeze(-1).unbind(1), strict=True))
        even = torch.special.ndtri((torch.arange(64).to(mean) + 0.5) / 64)
        for w, d in enumerate(self._whole):
            loc, spread = mean[:, split + w, None], scale[:, split + w, None]
            curve = Warp(whole.x[w : w + 1], whole.z[w : w + 1])
            if self.columns[d].discrete:
                edges = curve(torch.arange(len(self.columns[d].levels) - 1).to(mean)[:, None] + 0.5)[0].squeeze(1)
                edges = torch.cat([edges.new_tensor([-torch.inf]), edges, edges.new_tensor([torch.inf])])
                out[d] = log_interval((edges[:-1] - loc) / spread, (edges[1:] - loc) / spread).exp()
            else:
                k = curve.inverse((loc + spread * even).unsqueeze(-1)).squeeze(-1).exp()
                out[d] = (k - 0.5).ceil().clamp(min=0).mean(1, keepdim=True)
        out |= {d: found.exp() for d, found in zip(self._nominal, levels, strict=True)}
        return [out[d] for d in range(len(self.columns))]


class _Rows(NamedTuple):
    """What is seen of N rows.

    Attributes:
        real: The latent variables of real columns, (N, R), NaN where missing.
        log_slope: The logarithms of the slopes of their curves, zero where missing.
        lower: Where the latent variables of counts, binary and ordinal columns begin, (N, W).
        upper: Where they end.
        codes: The levels of nominal columns, (N, M), NaN where missing.
        seen: Which latent variables have seen entries, (N, Q).
    """

    real: Tensor
    log_slope: Tensor
    lower: Tensor
    upper: Tensor
    codes: Tensor
    seen: Tensor


class _CopulaRows(dist.TorchDistribution):
    """Rows of which some entries are seen, given their weights w and the quantiles u of the latent variables behind
    their levels.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(
        self, program: TableCopula, loc: Tensor, covariance: Tensor, w: Tensor, u: Tensor, seen: Tensor | bool = True
    ) -> None:
        self.program, self.loc, self.covariance, self.w, self.u, self.seen = program, loc, covariance, w, u, seen
        super().__init__(u.shape[:-1], torch.Size([len(program.columns)]), validate_args=False)

    def _split(self, value: Tensor) -> tuple[_Rows, Tensor]:
        rows = self.program.prepared(torch.where(torch.as_tensor(self.seen), value, torch.nan))
        factor = seen_factor(torch.where(rows.seen, 0.0, torch.nan).to(value), self.covariance)[1]
        return rows, factor * self.w.rsqrt()[..., None, None]

    def log_prob(self, value: Tensor) -> Tensor:
        rows, factor = self._split(value)
        return self.program._sequence(rows, self.u, self.loc, factor)[0]

    def marginalise(self, value: Tensor) -> tuple["_CopulaRows", Tensor, Callable[[], Tensor]]:
        """Rows of which NaN is not seen, see :func:`pyro_gen.observe`."""
        scored = _CopulaRows(self.program, self.loc, self.covariance, self.w, self.u, ~torch.isnan(value))

        def draw() -> Tensor:
            rows, factor = scored._split(value)
            z = self.program._sequence(rows, self.u, self.loc, factor)[1]
            noise = torch.randn_like(z) * self.w.rsqrt().unsqueeze(-1)
            return self.program._values(draw_given(z, self.loc, self.covariance, noise))

        return scored, value.nan_to_num(), draw


def _log_argmax(mean: Tensor, covariance: Tensor, stream: int) -> Tensor:
    """The log-probabilities (N, L) that 0 or one of L - 1 normal variables is the greatest.

    Of each level: that all others stay below it, a rectangle, by the simulator of Geweke, Hajivassiliou and Keane.
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
        e = torch.cat([e, truncated_normal(u[:, i], torch.full_like(upper, -torch.inf), upper).unsqueeze(-1)], -1)
    return log_prob.logsumexp(-1).log_softmax(-1)
