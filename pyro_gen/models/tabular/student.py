r"""The multivariate Student-t with a posterior over its parameters: the normal for tables with rows that are far off.

.. math::
    x_n \mid w_n \sim \mathcal{N}(\mu, \Sigma / w_n), \qquad
    w_n \sim \operatorname{Gamma}\big(\tfrac{\nu}{2}, \tfrac{\nu}{2}\big), \qquad
    \nu = 2 + e^\eta, \quad \eta \sim \mathcal{N}(\log 10, 1.5^2) ,

with the priors of :mod:`pyro_gen.models.tabular.normal` on :math:`\mu, \Sigma`. A few rows with great entries inflate
the covariance of a normal, and all its intervals; here they get small weights :math:`w_n`. Regressions of missing
entries on seen ones stay linear, and how long their intervals are depends on how far off the row is that they are in:

.. math::
    x_{nd} \mid x_{n,o} \sim t_{\nu + o}\big(m_{nd}, \; \tfrac{\nu + \delta_n}{\nu + o} v_{nd}\big) ,

where :math:`m, v` are the moments that the normal has, and :math:`\delta_n` is the squared distance of what is seen.

Learning is Gibbs sampling: :math:`\eta` and the weights given what is seen, then the missing entries, then
:math:`\mu, \Sigma` by weighted moments. The guide's weights have their exact distribution.

References:
    | Robust Statistical Modeling Using the t Distribution (Lange, Little & Taylor, 1989)
    | https://doi.org/10.1080/01621459.1989.10478852
    | Analysis of Incomplete Multivariate Data (Schafer, 1997), chapter 5
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.data.column import Column
from pyro_gen.distributions.gaussian import condition, mean_and_deviation
from pyro_gen.models.tabular.gibbs import Schedule, gibbs
from pyro_gen.models.tabular.heavy import (
    HeavyNormal,
    degrees,
    distance,
    may_be_heavy,
    move_log_df,
    sample_log_df,
    seen_distance,
    weight_given,
    weight_quantile,
)
from pyro_gen.models.tabular.normal import draw_normal, moments, sample_normal
from pyro_gen.models.tabular.table import KeptProgram, LearningProgress, table_model
from pyro_gen.observation import observe

__all__ = ["TableStudent"]

CHAINS, SCHEDULE = 2, Schedule(burn_in=60, kept=25, thin=3)


@table_model("multivariate Student-t", paper="Lange, Little & Taylor (1989)")
class TableStudent(KeptProgram):
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
        >>> program = TableStudent([Column("a", "real"), Column("b", "real")]).learn(x)
        >>> mean = program.cell_mean(torch.tensor([[1.0, torch.nan]], dtype=torch.float64))
        >>> bool((mean[0, 1] - 0.9).abs() < 0.15)
        True
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"real"})

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.keep(HeavyNormal.sites([HeavyNormal.centre(torch.ones(1, len(columns), dtype=torch.float64))]))

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        return columns <= 200  # the cube of it is what a row costs

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""The joint density of rows with shape :math:`(N, D)` and parameters; returns the rows completed."""
        loc, factor = sample_normal(x, x.shape[-1])  # mu, (D,), and P = F F', (D, D)
        half = degrees(sample_log_df(x)).unsqueeze(-1).expand(len(x)) / 2
        with self.plate(x):
            w = pyro.sample("weight", dist.Gamma(half, half))  # (N,)
            precision = w[..., None, None] * (factor @ factor.mT)
            return observe("x", dist.MultivariateNormal(loc, precision_matrix=precision), x)

    def guide(self, x: Tensor, *context: Any) -> None:
        """Deals out one of the kept draws of the posterior, and draws weights from their conditional distribution."""
        parameters = self.deal(x)
        loc, covariance = moments(parameters)
        squares, count = seen_distance(x, condition(x, loc, covariance)[0], loc, covariance)
        with self.plate(x):
            pyro.sample("weight", dist.Gamma(*weight_given(degrees(parameters["log_df"]), squares, count)))

    def learn(
        self, x: Tensor, *, seed: int = 0, progress: LearningProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Learns the posterior by Gibbs sampling, see :meth:`TableProgram.learn`."""
        with seeded(seed), torch.no_grad():
            start = HeavyNormal.centre(torch.ones(CHAINS, x.shape[1]).to(x), may_be_heavy(x))
            kept = gibbs(lambda state: self._sweep(x, state), start, SCHEDULE, progress, deadline)
        self.keep(HeavyNormal.sites(kept))
        return self

    def _sweep(self, x: Tensor, state: HeavyNormal) -> HeavyNormal:
        """The next state of all chains."""
        normal, log_df = state
        covariance, count = normal.covariance(), (~torch.isnan(x)).sum(1)
        noise = torch.randn(len(log_df), *x.shape, dtype=x.dtype, device=x.device)
        given = zip(normal.loc, covariance, noise, strict=True)
        parts = [mean_and_deviation(x, *own) for own in given]
        mean, deviation = (torch.stack(part) for part in zip(*parts, strict=True))  # (C, N, D)
        squares = distance(mean, normal.loc, normal.precision)
        log_df = move_log_df(log_df, squares, count)
        shape, rate = weight_given(degrees(log_df).unsqueeze(-1), squares, count)
        w = torch._standard_gamma(shape) / rate  # (C, N)
        rows = mean + deviation * w.rsqrt().unsqueeze(-1)
        return HeavyNormal(draw_normal(rows, normal, w), log_df)

    # Entries given a draw of the parameters

    @property
    def randomness(self) -> int:
        return 1 + len(self.columns)

    def numbers_per_row(self) -> int:
        return len(self.columns) ** 2

    def _of(self, s: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (D), covariance (D, D) and degrees of freedom of the s-th kept draw."""
        return *moments({name: self.kept(name)[s] for name in self._sites}), degrees(self.kept("log_df")[s])

    def drawn(self, rows: Tensor, s: int, u: Tensor) -> Tensor:
        loc, covariance, df = self._of(s)
        mean, deviation = mean_and_deviation(rows, loc, covariance, torch.special.ndtri(u[:, 1:]))
        w = weight_quantile(u[:, 0], df, *seen_distance(rows, mean, loc, covariance))
        return mean + deviation * w.rsqrt().unsqueeze(-1)

    def given(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for s in range(self.num_kept):
            loc, covariance, df = self._of(s)
            mean, variance = condition(x, loc, covariance)
            shape, rate = weight_given(df, *seen_distance(x, mean, loc, covariance))
            yield mean, (variance * (rate / shape).unsqueeze(-1)).sqrt(), 2 * shape.unsqueeze(-1)

    def scored(self, values: Tensor, mean: Tensor, scale: Tensor, df: Tensor) -> Tensor:
        log_prob: Tensor = dist.StudentT(df, mean, scale.clamp(min=1e-12)).log_prob(values.nan_to_num())
        return log_prob

    def expected(self, mean: Tensor, scale: Tensor, df: Tensor) -> Sequence[Tensor]:
        return mean.unsqueeze(-1).unbind(1)
