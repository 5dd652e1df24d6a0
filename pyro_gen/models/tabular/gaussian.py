r"""The multivariate normal with a posterior over mean and covariance: the imputer to beat on small tables.

.. math::
    x_n \sim \mathcal{N}(\mu, \Sigma), \qquad
    \mu \sim \mathcal{N}(0, 3^2 I), \qquad
    \Sigma^{-1} \sim \mathcal{W}\big(D + 1 + \kappa, \; (\kappa \operatorname{diag}(s))^{-1}\big), \qquad
    s_d \sim \operatorname{Gamma}(1, 1), \qquad
    \log \kappa \sim \mathcal{N}(\log \tfrac{D}{20}, 2^2) .

The covariance has the prior mean :math:`\operatorname{diag}(s)`: correlations shrink to zero as strongly as the table
says, since the strength :math:`\kappa` is learnt with everything else. With few rows this is what a plain maximum of
the likelihood lacks, and the draws of :math:`(\mu, \Sigma)` are what makes intervals as long as they should be.

Learning is data augmentation: the missing entries are drawn given the parameters,

.. math::
    x_m \mid x_o \sim \mathcal{N}\big(\mu_m + \Sigma_{mo} \Sigma_{oo}^{-1} (x_o - \mu_o), \;
    \Sigma_{mm} - \Sigma_{mo} \Sigma_{oo}^{-1} \Sigma_{om}\big) ,

then the parameters given the completed rows, with :math:`P = \Sigma^{-1}` and :math:`\nu = D + 1 + \kappa`,

.. math::
    \mu &\sim \mathcal{N}\big(V P \textstyle\sum_n x_n, \; V\big), \quad V = (N P + I / 9)^{-1} ; \qquad
    s_d \sim \operatorname{Gamma}\big(1 + \tfrac{\nu}{2}, \; 1 + \tfrac{\kappa}{2} P_{dd}\big) ; \\
    P &\sim \mathcal{W}\big(\nu + N, \;
    (\kappa \operatorname{diag}(s) + \textstyle\sum_n (x_n - \mu)(x_n - \mu)^\top)^{-1}\big) ;

and :math:`\log \kappa` by steps of random-walk Metropolis. Entries count as rounded to 0.001, so that columns that
determine each other have a density.

References:
    | The Calculation of Posterior Distributions by Data Augmentation (Tanner & Wong, 1987)
    | Analysis of Incomplete Multivariate Data (Schafer, 1997), chapter 5
"""

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.data.column import Column
from pyro_gen.distributions.gaussian import condition, draw_missing
from pyro_gen.inference.mcmc.blocked_gibbs import FitProgress, Schedule, blocked_gibbs
from pyro_gen.models.tabular.parts.normal_posterior import (
    COLUMNS_PER_PRIOR_ROW,
    NormalParameters,
    draw_normal_parameters,
    normal_of_draw,
    sample_normal_parameters,
)
from pyro_gen.models.tabular.parts.table_program import PosteriorDrawsProgram, table_model
from pyro_gen.observation import observe

__all__ = ["TableGaussian"]

CHAINS, SCHEDULE = 2, Schedule(burn_in=50, draws=25, thin=3)


@table_model("multivariate normal, parameters with a posterior", paper="Schafer (1997)")
class TableGaussian(PosteriorDrawsProgram):
    r"""Creates a multivariate normal for the rows of a table, with a posterior over its parameters.

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
        >>> x[::3, 1] = torch.nan
        >>> program = TableGaussian([Column("a", "real"), Column("b", "real")]).fit_posterior(x)
        >>> mean = program.cell_mean(torch.tensor([[1.0, torch.nan]], dtype=torch.float64))
        >>> bool((mean[0, 1] - 0.9).abs() < 0.15)
        True
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"real"})

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.store_draws(NormalParameters.centre(torch.ones(1, len(self.columns), dtype=torch.float64)).sites())

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        return False  # TableStudent is it, and more

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of rows with shape :math:`(N, D)` and parameters; returns the rows completed."""
        loc, factor = sample_normal_parameters(x, x.shape[-1])  # mu, (D,), and P = F F', (D, D)
        with self.plate(x):
            return observe("x", dist.MultivariateNormal(loc, precision_matrix=factor @ factor.mT), x)

    def fit_posterior(
        self, x: Tensor, *, seed: int = 0, progress: FitProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Samples the posterior by data augmentation, see :meth:`TableProgram.fit_posterior`."""

        def sweep(normal: NormalParameters) -> NormalParameters:
            given = zip(normal.loc, normal.covariance(), strict=True)
            complete = [draw_missing(x, loc, covariance, torch.randn_like(x)) for loc, covariance in given]
            return draw_normal_parameters(torch.stack(complete), normal)

        with seeded(seed), torch.no_grad():
            states = blocked_gibbs(sweep, _start(x), SCHEDULE, progress, deadline, "data augmentation")
        self.store_draws(NormalParameters.join(states).sites())
        return self

    # Entries given a draw of the parameters

    @property
    def uniforms_per_row(self) -> int:
        return len(self.columns)

    def numbers_per_row(self) -> int:
        return len(self.columns) ** 2

    def complete_rows(self, rows: Tensor, s: int, u: Tensor) -> Tensor:
        return draw_missing(rows, *normal_of_draw(self.posterior_draws, s), torch.special.ndtri(u))

    def conditionals(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for s in range(self.num_posterior_draws):
            yield condition(x, *normal_of_draw(self.posterior_draws, s))

    def score_conditional(self, values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return -0.5 * ((values - mean).square() / variance + (2 * math.pi * variance).log())

    def expect_conditional(self, mean: Tensor, variance: Tensor) -> Sequence[Tensor]:
        return mean.unsqueeze(-1).unbind(1)


def _start(x: Tensor) -> NormalParameters:
    """Parameters with which chains begin: those of independent columns, the strengths spread out."""
    features, loc = x.shape[1], x.nanmean(0).nan_to_num()  # of a column that rows drawn to learn from leave out, 0
    variance = (x - loc).square().nanmean(0).nan_to_num(1.0).clamp(min=1e-6)
    return NormalParameters(
        math.log(features / COLUMNS_PER_PRIOR_ROW) + torch.linspace(-2, 2, CHAINS).to(x),
        variance.expand(CHAINS, features),
        torch.diag_embed(1 / variance).expand(CHAINS, features, features),
        loc.expand(CHAINS, features),
    )
