r"""The multivariate Student-t with a posterior over its parameters: the normal for tables with rows that are far off.

.. math::
    x_n \mid w_n \sim \mathcal{N}(\mu, \Sigma / w_n), \qquad
    w_n \sim \operatorname{Gamma}\big(\tfrac{\nu}{2}, \tfrac{\nu}{2}\big), \qquad
    \nu = 2 + e^\eta, \quad \eta \sim \mathcal{N}(\log 10, 1.5^2) ,

with the priors of :class:`TableGaussian` on :math:`\mu, \Sigma`: strength :math:`\kappa`, variances :math:`s`. A few
rows with great entries inflate the covariance of a normal, and all its intervals; here they get small weights
:math:`w_n`. Regressions of missing entries on seen ones stay linear, and how long their intervals are depends on how
far off the row is that they are in:

.. math::
    x_{nd} \mid x_{n,o} \sim t_{\nu + o}\big(m_{nd}, \; \tfrac{\nu + \delta_n}{\nu + o} v_{nd}\big) ,

where :math:`m, v` are the moments that the normal has, and :math:`\delta_n` is the squared distance of what is seen.

**The posterior** is sampled by Gibbs steps. Of row n, :math:`o_n` entries are seen, at the squared distance
:math:`\delta_n = (x_{n,o} - \mu_o)^\top \Sigma_{oo}^{-1} (x_{n,o} - \mu_o)`. One sweep:

1. :math:`\eta` by random-walk Metropolis, the weights integrated out, on

   .. math::
       p(\eta) \prod_n \frac{\Gamma(\tfrac{\nu + o_n}{2})}{\Gamma(\tfrac{\nu}{2})} \, \nu^{-o_n / 2}
       \big(1 + \tfrac{\delta_n}{\nu}\big)^{-(\nu + o_n) / 2} ;

2. :math:`w_n \sim \operatorname{Gamma}\big(\tfrac{\nu + o_n}{2}, \tfrac{\nu + \delta_n}{2}\big)` ;
3. the missing entries, :math:`x_{n,m} \sim \mathcal{N}\big(\mu_m + \Sigma_{mo} \Sigma_{oo}^{-1} (x_{n,o} - \mu_o), \;
   (\Sigma_{mm} - \Sigma_{mo} \Sigma_{oo}^{-1} \Sigma_{om}) / w_n\big)` ;
4. :math:`\log \kappa` by random-walk Metropolis, then, with :math:`P = \Sigma^{-1}`,

   .. math::
       s_d &\sim \operatorname{Gamma}\big(1 + \tfrac{D + 1 + \kappa}{2}, \; 1 + \tfrac{\kappa}{2} P_{dd}\big) ; \\
       P &\sim \mathcal{W}\big(D + 1 + \kappa + N, \;
       (\kappa \operatorname{diag}(s) + \textstyle\sum_n w_n (x_n - \mu)(x_n - \mu)^\top)^{-1}\big) ; \\
       \mu &\sim \mathcal{N}\big(V P \textstyle\sum_n w_n x_n, \; V\big), \quad
       V = \big(\textstyle\sum_n w_n P + I / 9\big)^{-1} .

The weights of the guide have their exact distribution, that of step 2. Where half of a column is all but one value, the
rows that have it would take all weight, and the column lose its variance: there tails stay normal.

References:
    | Robust Statistical Modeling Using the t Distribution (Lange, Little & Taylor, 1989)
    | https://doi.org/10.1080/01621459.1989.10478852
    | Analysis of Incomplete Multivariate Data (Schafer, 1997), chapter 5
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._internals import standard_gamma
from pyro_gen._random import seeded
from pyro_gen.data.column import Column
from pyro_gen.distributions.gaussian import condition, mean_and_deviation
from pyro_gen.inference.mcmc.blocked_gibbs import FitProgress, Schedule, blocked_gibbs
from pyro_gen.models.tabular.parts.normal_posterior import (
    StudentTParameters,
    degrees,
    distance,
    draw_normal_parameters,
    may_have_heavy_tails,
    metropolis_log_df,
    moments,
    sample_log_df,
    sample_normal_parameters,
    seen_distance,
    weight_conditional,
    weight_quantile,
)
from pyro_gen.models.tabular.parts.table_program import PosteriorDrawsProgram, table_model
from pyro_gen.observation import observe

__all__ = ["TableStudent"]

CHAINS, SCHEDULE = 2, Schedule(burn_in=60, draws=25, thin=3)


@table_model("multivariate Student-t", paper="Lange, Little & Taylor (1989)")
class TableStudent(PosteriorDrawsProgram):
    r"""Creates a multivariate Student-t for the rows of a table, with a posterior over its parameters.

    Arguments:
        columns: The columns, all real.

    Attributes:
        columns: The D columns.

    Raises:
        ValueError: A column is not real.

    Example:
        >>> from pyro_gen.data.column import Column
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(200, 1, dtype=torch.float64) + 0.3 * torch.randn(200, 2, dtype=torch.float64)
        >>> x[:5] = torch.tensor([20.0, -20.0])  # rows that are not like the others
        >>> program = TableStudent([Column("a", "real"), Column("b", "real")]).fit_posterior(x)
        >>> mean = program.cell_mean(torch.tensor([[1.0, torch.nan]], dtype=torch.float64))
        >>> bool((mean[0, 1] - 0.9).abs() < 0.15)
        True
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"real"})

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.store_draws(
            StudentTParameters.sites([StudentTParameters.centre(torch.ones(1, len(columns), dtype=torch.float64))])
        )

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        return columns <= 200  # the cube of it is what a row costs

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of rows with shape :math:`(N, D)` and parameters; returns the rows completed."""
        loc, factor = sample_normal_parameters(x, x.shape[-1])  # mu, (D,), and P = F F', (D, D)
        half = degrees(sample_log_df(x)).unsqueeze(-1).expand(len(x)) / 2
        with self.plate(x):
            w = pyro.sample("weight", dist.Gamma(half, half))  # (N,)
            precision = w[..., None, None] * (factor @ factor.mT)
            return observe("x", dist.MultivariateNormal(loc, precision_matrix=precision), x)

    def guide(self, x: Tensor) -> None:
        """Picks a posterior draw, and draws weights from their conditional distribution."""
        parameters = self.sample_posterior_draw(x)
        loc, covariance = moments(parameters)
        squares, count = seen_distance(x, condition(x, loc, covariance)[0], loc, covariance)
        with self.plate(x):
            pyro.sample("weight", dist.Gamma(*weight_conditional(degrees(parameters["log_df"]), squares, count)))

    def fit_posterior(
        self, x: Tensor, *, seed: int = 0, progress: FitProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Samples the posterior by Gibbs sampling, see :meth:`TableProgram.fit_posterior`."""
        with seeded(seed), torch.no_grad():
            start = StudentTParameters.centre(torch.ones(CHAINS, x.shape[1]).to(x), may_have_heavy_tails(x))
            states = blocked_gibbs(lambda state: self._sweep(x, state), start, SCHEDULE, progress, deadline)
        self.store_draws(StudentTParameters.sites(states))
        return self

    def _sweep(self, x: Tensor, state: StudentTParameters) -> StudentTParameters:
        """The next state of all chains."""
        normal, log_df = state
        covariance, count = normal.covariance(), (~torch.isnan(x)).sum(1)
        noise = torch.randn(len(log_df), *x.shape, dtype=x.dtype, device=x.device)
        given = zip(normal.loc, covariance, noise, strict=True)
        parts = [mean_and_deviation(x, *own) for own in given]
        mean, deviation = (torch.stack(part) for part in zip(*parts, strict=True))  # (C, N, D)
        squares = distance(mean, normal.loc, normal.precision)
        log_df = metropolis_log_df(log_df, squares, count)
        shape, rate = weight_conditional(degrees(log_df).unsqueeze(-1), squares, count)
        w = standard_gamma(shape) / rate  # (C, N)
        rows = mean + deviation * w.rsqrt().unsqueeze(-1)
        return StudentTParameters(draw_normal_parameters(rows, normal, w), log_df)

    # Entries given a draw of the parameters

    @property
    def uniforms_per_row(self) -> int:
        return 1 + len(self.columns)

    def numbers_per_row(self) -> int:
        return len(self.columns) ** 2

    def _of(self, s: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (D), covariance (D, D) and degrees of freedom of the s-th posterior draw."""
        return *moments({name: self.posterior_draws(name)[s] for name in self._sites}), degrees(
            self.posterior_draws("log_df")[s]
        )

    def complete_rows(self, rows: Tensor, s: int, u: Tensor) -> Tensor:
        loc, covariance, df = self._of(s)
        mean, deviation = mean_and_deviation(rows, loc, covariance, torch.special.ndtri(u[:, 1:]))
        w = weight_quantile(u[:, 0], df, *seen_distance(rows, mean, loc, covariance))
        return mean + deviation * w.rsqrt().unsqueeze(-1)

    def conditionals(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for s in range(self.num_posterior_draws):
            loc, covariance, df = self._of(s)
            mean, variance = condition(x, loc, covariance)
            shape, rate = weight_conditional(df, *seen_distance(x, mean, loc, covariance))
            yield mean, (variance * (rate / shape).unsqueeze(-1)).sqrt(), 2 * shape.unsqueeze(-1)

    def score_conditional(self, values: Tensor, mean: Tensor, scale: Tensor, df: Tensor) -> Tensor:
        log_prob: Tensor = dist.StudentT(df, mean, scale.clamp(min=1e-12)).log_prob(values.nan_to_num())
        return log_prob

    def expect_conditional(self, mean: Tensor, scale: Tensor, df: Tensor) -> Sequence[Tensor]:
        return mean.unsqueeze(-1).unbind(1)
