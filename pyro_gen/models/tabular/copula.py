r"""The copula for mixed columns: a latent row, normal but for heavy tails, behind every row of the table.

.. math::
    z_n \sim \mathcal{N}(\mu, \Sigma / w_n), \qquad
    w_n \sim \operatorname{Gamma}\big(\tfrac{\nu}{2}, \tfrac{\nu}{2}\big), \qquad x_{nd} = g_d(z_n)

with one latent variable for a column whose values have an order, and one less than there are levels for a nominal one:

* real: :math:`x = T^{-1}(z)`, with a smooth increasing curve :math:`T` learnt from the observed entries, which jumps
  where many of them are equal;
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

**The density** of a row given its weight has a factor for its real columns, and the probability of a rectangle for the
latent variables of its levels. With the Cholesky factor :math:`C` of :math:`\Sigma_{oo} / w` and :math:`z = \mu + C e`
each interval of :math:`z_j` given those before it is one :math:`[a_j, b_j]` of :math:`e_j`, and

.. math::
    p(x_o \mid w) = p(z_{\text{real}} \mid w) \prod_{d \text{ real}} T_d'(x_d)
    \int_{[0, 1]^q} \prod_j \big(\Phi(b_j) - \Phi(a_j)\big) \, du , \qquad e_j = \Phi^{-1}_{[a_j, b_j]}(u_j) ,

the quantile of the normal truncated to it (Geweke, Hajivassiliou & Keane). So :math:`w_n` and uniform :math:`u_n` are
this program's local latent variables.

**The posterior** is sampled by Gibbs steps, after the curves. One sweep, with :math:`P = \Sigma^{-1}` and :math:`o_n`
of the latent variables of row n having seen entries, at the squared distance :math:`\delta_n = (z_{n,o} - \mu_o)^\top
\Sigma_{oo}^{-1} (z_{n,o} - \mu_o)`:

1. :math:`\nu` and :math:`w_n \sim \operatorname{Gamma}\big(\tfrac{\nu + o_n}{2}, \tfrac{\nu + \delta_n}{2}\big)` as in
   :class:`TableStudent`;
2. what is behind missing entries, :math:`z_{n,m} \sim \mathcal{N}\big(\mu_m + \Sigma_{mo} \Sigma_{oo}^{-1}
   (z_{n,o} - \mu_o), \; (\Sigma_{mm} - \Sigma_{mo} \Sigma_{oo}^{-1} \Sigma_{om}) / w_n\big)` ;
3. what is behind seen levels one by one, from a normal truncated to what the level allows,

   .. math::
       z_j \mid z_{-j} \sim \mathcal{N}\big(\mu_j - \textstyle\sum_{i \ne j} P_{ji} (z_i - \mu_i) / P_{jj}, \;
       1 / (w P_{jj})\big) ;

4. :math:`\log \kappa` by random-walk Metropolis, then, given complete latent rows of Q variables,

   .. math::
       s_j &\sim \operatorname{Gamma}\big(1 + \tfrac{Q + 1 + \kappa}{2}, \; 1 + \tfrac{\kappa}{2} P_{jj}\big) ; \\
       P &\sim \mathcal{W}\big(Q + 1 + \kappa + N, \;
       (\kappa \operatorname{diag}(s) + \textstyle\sum_n w_n (z_n - \mu)(z_n - \mu)^\top)^{-1}\big) ; \\
       \mu &\sim \mathcal{N}\big(V P \textstyle\sum_n w_n z_n, \; V\big), \quad
       V = \big(\textstyle\sum_n w_n P + I / 9\big)^{-1} .

**A new row** given the parameters: the levels one after another by the quantiles above, six sweeps of step 3 with the
weight drawn anew after every second, then step 2, and :math:`x = g(z)`.

References:
    | Extending the rank likelihood for semiparametric copula estimation (Hoff, 2007)
    | https://doi.org/10.1214/07-AOAS107
    | The t Copula and Related Copulas (Demarta & McNeil, 2005)
    | https://doi.org/10.1111/j.1751-5823.2005.tb00254.x
    | A Bayesian analysis of the multinomial probit model using marginal data augmentation (Imai & van Dyk, 2005)
    | https://doi.org/10.1016/j.jeconom.2004.02.002
    | Simulation estimation of multivariate normal rectangle probabilities (Hajivassiliou et al., 1996)
    | https://doi.org/10.1016/0304-4076(94)01716-6
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._random import seeded, uniforms
from pyro_gen.data.column import Column
from pyro_gen.distributions.gaussian import condition, draw_missing
from pyro_gen.distributions.monotone_spline import MonotoneSpline
from pyro_gen.distributions.rectangle import log_argmax_given
from pyro_gen.inference.mcmc.blocked_gibbs import FitProgress, Schedule, blocked_gibbs, is_small
from pyro_gen.models.tabular.parts import copula_sampler as copula_gibbs
from pyro_gen.models.tabular.parts.copula_marginals import CopulaEvidence, Marginals
from pyro_gen.models.tabular.parts.copula_sampler import CopulaRows
from pyro_gen.models.tabular.parts.marginal_transforms import SplineWithAtom
from pyro_gen.models.tabular.parts.normal_posterior import (
    StudentTParameters,
    degrees,
    may_have_heavy_tails,
    moments,
    normal_of_draw,
    sample_log_df,
    sample_normal_parameters,
    weight_conditional,
)
from pyro_gen.models.tabular.parts.table_program import PosteriorDrawsProgram, rows_to_fit, table_model
from pyro_gen.observation import observe

__all__ = ["TableCopula"]

SCHEDULE = Schedule(burn_in=80, draws=32, thin=4)
GOLDEN_RATIO = 0.6180339887498949  # multiples of it, without whole parts, fill [0, 1] evenly


@table_model("Gaussian and t copula of mixed columns", paper="Hoff (2007)")
class TableCopula(PosteriorDrawsProgram):
    r"""Creates a copula for the rows of a table, with a posterior over its parameters.

    Arguments:
        columns: The columns: real, count, binary, nominal or ordinal.

    Attributes:
        columns: The D columns.
        layout: Where which of them are, and the Q latent variables, q of which are behind levels.

    Raises:
        ValueError: A column is of another kind.

    Example:
        >>> from pyro_gen.data.column import Column
        >>> _ = torch.manual_seed(0)
        >>> z = torch.randn(300, 1, dtype=torch.float64) + 0.3 * torch.randn(300, 2, dtype=torch.float64)
        >>> x = torch.stack([z[:, 0].exp(), (z[:, 1] > 0).double()], 1)
        >>> columns = [Column("income", "real"), Column("owner", "binary", levels=("no", "yes"))]
        >>> program = TableCopula(columns).fit_posterior(x)
        >>> rows = torch.tensor([[0.2, torch.nan], [5.0, torch.nan]], dtype=torch.float64)
        >>> program.cell_mean(rows)[:, 1].tolist()
        [0.0, 1.0]
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"real", "count", "binary", "nominal", "ordinal"})
    ATOMS: ClassVar[bool] = True

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        return columns <= 500  # the cube of it is what a step costs: hours for a few thousand

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        marginals = Marginals.start(self.columns)
        self.layout = marginals.layout
        self.register_buffer("_top", marginals.top)
        self._keep_curves(marginals)
        self.store_draws(
            StudentTParameters.sites([StudentTParameters.centre(torch.ones(1, self.layout.size, dtype=torch.float64))])
        )

    @property
    def marginals(self) -> Marginals:
        """The curves, as learnt."""
        real, mixed, whole = (MonotoneSpline(*self.get_buffer(f"_{kind}_knots")) for kind in ("real", "mixed", "whole"))
        atoms = SplineWithAtom(mixed, self.get_buffer("_atoms"))
        return Marginals(self.layout, real, atoms, whole, self.get_buffer("_top"))

    def _keep_curves(self, marginals: Marginals) -> None:
        self.register_buffer("_atoms", marginals.mixed.edges)
        curves = {"real": marginals.real, "mixed": marginals.mixed.spline, "whole": marginals.whole}
        for kind, curve in curves.items():
            self.register_buffer(f"_{kind}_knots", torch.stack(curve))  # (2, D, K)

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of rows with shape :math:`(N, D)` and parameters; returns the rows completed."""
        loc, factor = sample_normal_parameters(x, self.layout.size)  # mu, (Q,), and Sigma^-1 = F F', (Q, Q)
        half = degrees(sample_log_df(x)).unsqueeze(-1).expand(len(x)) / 2
        with self.plate(x):
            w = pyro.sample("weight", dist.Gamma(half, half))  # (N,)
            rows = CopulaRows(self.marginals, loc, torch.cholesky_inverse(factor), w, self._quantiles(x))
            return observe("x", rows, x)

    def guide(self, x: Tensor) -> None:
        """Picks a posterior draw; draws weights given real columns, and levels uniformly."""
        parameters = self.sample_posterior_draw(x)
        loc, covariance = moments(parameters)
        rows = self.prepare_rows(x)
        squares, count = copula_gibbs.real_distance(rows, loc, covariance, lambda *own: condition(*own)[0])
        with self.plate(x):
            pyro.sample("weight", dist.Gamma(*weight_conditional(degrees(parameters["log_df"]), squares, count)))
            self._quantiles(x)

    def _quantiles(self, x: Tensor) -> Tensor:
        """Which quantiles the latent variables of levels are of what their levels allow, (N, q)."""
        zeros = x.new_zeros(len(x), self.layout.levels)
        return pyro.sample("u", dist.Uniform(zeros, zeros + 1).to_event(1)) if self.layout.levels else zeros

    def fit_posterior(
        self, x: Tensor, *, seed: int = 0, progress: FitProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Fits the curves, then samples the posterior by Gibbs sampling, see :meth:`TableProgram.fit_posterior`."""
        with seeded(seed), torch.no_grad():
            x = rows_to_fit(x)
            self._keep_curves(self.marginals.fit(x, deadline))
            rows = self.prepare_rows(x)
            chains = 4 if is_small(x) else 2
            z = copula_gibbs.start(rows, chains)  # (C, N, Q)

            def sweep(state: StudentTParameters) -> StudentTParameters:
                nonlocal z  # not stored: it is as long as the table
                z, state = copula_gibbs.sweep(rows, z, state)
                return state

            heavy = may_have_heavy_tails(x[:, self.layout.real])
            first = StudentTParameters.centre(torch.ones(chains, self.layout.size).to(x), heavy)
            states = blocked_gibbs(sweep, first, SCHEDULE, progress, deadline)
        self.store_draws(StudentTParameters.sites(states))
        return self

    # Entries given a draw of the parameters

    @property
    def uniforms_per_row(self) -> int:
        return sum(copula_gibbs.numbers(self.layout.levels)) + self.layout.size

    def numbers_per_row(self) -> int:
        return self.layout.size**2

    def prepare_rows(self, x: Tensor) -> CopulaEvidence:
        return self.marginals.rows(x)

    def _latent(self, rows: CopulaEvidence, s: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A draw of the latent variables behind what was seen (N, Q), NaN elsewhere; mean, covariance and weights."""
        loc, covariance = normal_of_draw(self.posterior_draws, s)
        z, w = copula_gibbs.draw_latent(rows, loc, covariance, degrees(self.posterior_draws("log_df")[s]), u)
        return z, loc, covariance, w

    def complete_rows(self, rows: CopulaEvidence, s: int, u: Tensor) -> Tensor:
        z, loc, covariance, w = self._latent(rows, s, u[:, : -self.layout.size])
        noise = torch.special.ndtri(u[:, -self.layout.size :]) * w.rsqrt().unsqueeze(-1)
        return self.marginals.values(draw_missing(z, loc, covariance, noise))

    def conditionals(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """For posterior draws: means and scales (N, Q) of latent variables, log-probabilities (N, L) of levels."""
        rows, split = self.prepare_rows(x), len(self.layout.real)
        blocks = [slice(split + block.start, split + block.stop) for block in self.layout.blocks]
        row = torch.zeros(1, dtype=torch.int64, device=x.device)
        for s in range(self.num_posterior_draws):
            u = uniforms(row, self.uniforms_per_row - self.layout.size, stream=s)  # the same for all rows
            u[:, -1] = (s + 1) * GOLDEN_RATIO % 1
            z, loc, covariance, w = self._latent(rows, s, u.expand(len(x), -1))
            mean, variance = condition(z, loc, covariance)
            scale = (variance / w.unsqueeze(-1)).clamp(min=1e-12).sqrt()
            yield mean, scale, [log_argmax_given(z, mean, covariance, w, block, stream=s) for block in blocks]

    def score_conditional(self, rows: CopulaEvidence, mean: Tensor, scale: Tensor, levels: list[Tensor]) -> Tensor:
        out = mean.new_empty(len(mean), len(self.columns))
        out[:, self.layout.real + self.layout.mixed + self.layout.whole] = self.marginals.log_prob(rows, mean, scale)
        codes = rows.levels.codes.nan_to_num().long()
        for m, d in enumerate(self.layout.nominal):
            out[:, d] = levels[m].gather(1, codes[:, m : m + 1]).squeeze(1)
        return out

    def expect_conditional(self, mean: Tensor, scale: Tensor, levels: list[Tensor]) -> list[Tensor]:
        found = [*self.marginals.expected(mean, scale), *(v.exp() for v in levels)]
        return [found[self.layout.order.index(d)] for d in range(len(found))]
