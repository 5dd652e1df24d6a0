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

and :math:`\log \kappa` by steps of random-walk Metropolis.

In the model the Wishart distribution is written out by Bartlett's decomposition, so that other samplers can walk in it:
:math:`P = F F^\top` with the lower factor :math:`F = (\kappa \operatorname{diag}(s))^{-1/2} A`, where
:math:`A_{dd}^2 \sim \chi^2(\nu - d + 1)` and :math:`A_{de} \sim \mathcal{N}(0, 1)` below the diagonal.

References:
    | The Calculation of Posterior Distributions by Data Augmentation (Tanner & Wong, 1987)
    | Analysis of Incomplete Multivariate Data (Schafer, 1997), chapter 5
"""

import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import vec_to_tril_matrix

from pyro_gen._random import normals, seeded
from pyro_gen.data.schema import Column
from pyro_gen.likelihoods import observe
from pyro_gen.models.tabular.conditional import condition, draw_given
from pyro_gen.models.tabular.table import LearningProgress, TableProgram

__all__ = ["TableGaussian"]

LOC_SCALE = 3.0  # prior standard deviation of the mean, of standardised columns
STRENGTH_SCALE = 2.0  # of the logarithm of kappa
ROUNDING = 1e-3  # as if entries were rounded so: columns that determine each other would have no density
WEAK = 20  # columns for each row that the prior is worth, in the middle of what it allows
CHAINS, BURN_IN, KEPT, THIN = 2, 50, 25, 3


class TableGaussian(TableProgram):
    r"""Creates a multivariate normal for the rows of a table, with a posterior over its parameters.

    Arguments:
        columns: The columns, all real.

    Attributes:
        columns: The D columns.

    Raises:
        ValueError: A column is not real.

    Example:
        >>> from pyro_gen.data.schema import Column
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(200, 1, dtype=torch.float64) + 0.3 * torch.randn(200, 2, dtype=torch.float64)
        >>> x[::3, 1] = torch.nan
        >>> program = TableGaussian([Column("a", "real"), Column("b", "real")]).learn(x)
        >>> mean = program.cell_mean(torch.tensor([[1.0, torch.nan]], dtype=torch.float64))
        >>> bool((mean[0, 1] - 0.9).abs() < 0.15)
        True
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"real"})

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        features = len(self.columns)
        ones = torch.ones(1, features, dtype=torch.float64)
        log_strength = torch.full((1,), math.log(features / WEAK), dtype=torch.float64)
        self._keep(log_strength, ones, torch.diag_embed(ones), 0 * ones)

    def _keep(self, log_strength: Tensor, variances: Tensor, precision: Tensor, loc: Tensor) -> None:
        """Keeps draws of parameters of shapes (S), (S, D), (S, D, D), (S, D)."""
        scale = (log_strength.exp().unsqueeze(-1) * variances).sqrt().unsqueeze(-1)
        lower = scale * torch.linalg.cholesky(precision)
        row, column = torch.tril_indices(lower.shape[1], lower.shape[2], -1)
        chi2 = lower.diagonal(dim1=-2, dim2=-1).square()
        below = lower[:, row, column]
        self.keep({"log_strength": log_strength, "variances": variances, "chi2": chi2, "below": below, "loc": loc})

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        return columns <= 200  # the cube of it is what a row costs

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""The joint density of rows with shape :math:`(N, D)` and parameters; returns the rows completed."""
        features = x.shape[-1]
        ones = x.new_ones(features)
        log_strength = pyro.sample("log_strength", dist.Normal(math.log(features / WEAK) * ones[0], STRENGTH_SCALE))
        variances = pyro.sample("variances", dist.Gamma(ones, ones).to_event(1))  # s, (D,)
        df = features + 1 + log_strength.exp().unsqueeze(-1) - torch.arange(features).to(x)
        chi2 = pyro.sample("chi2", dist.Gamma(df / 2, 0.5).to_event(1))  # (D,)
        zeros = x.new_zeros(features * (features - 1) // 2)
        below = pyro.sample("below", dist.Normal(zeros, 1.0).to_event(1))
        loc = pyro.sample("loc", dist.Normal(0 * ones, LOC_SCALE).to_event(1))  # mu, (D,)
        factor = _factor(log_strength, variances, chi2, below)  # F, (D, D)
        with self.plate(x):
            return observe("x", dist.MultivariateNormal(loc, precision_matrix=factor @ factor.mT), x)

    def learn(
        self, x: Tensor, *, seed: int = 0, progress: LearningProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Learns the posterior by data augmentation, see :meth:`TableProgram.learn`."""
        total = BURN_IN + KEPT * THIN
        kept: list[tuple[Tensor, ...]] = []
        with seeded(seed), torch.no_grad():
            state = _start(x)
            for i in range(total):
                state = _sweep(x, *state)
                if i >= BURN_IN and (i - BURN_IN) % THIN == THIN - 1:
                    kept.append(state)
                if progress is not None:
                    progress((i + 1) / total, "data augmentation")
                if deadline is not None and time.monotonic() > deadline and kept:
                    break
        self._keep(*(torch.cat(values) for values in zip(*kept, strict=True)))
        return self

    def _dealt_parameters(self, draws: Sequence[int]) -> Any:
        for s in draws:
            factor = _factor(*(self.kept(name)[s] for name in ("log_strength", "variances", "chi2", "below")))
            yield self.kept("loc")[s], torch.cholesky_inverse(factor)

    def complete(self, x: Tensor, draws: int, *, seeds: Tensor) -> Tensor:
        """Draws missing entries given others in their row, see :meth:`TableProgram.complete`."""
        found = [
            draw_given(x, loc, covariance, normals(seeds, x.shape[1], stream=s))
            for s, (loc, covariance) in enumerate(self._dealt_parameters(self.dealt(draws)))
        ]
        return torch.stack(found)

    def cell_log_prob(self, x: Tensor, values: Tensor) -> Tensor:
        """Scores entries one by one, see :meth:`TableProgram.cell_log_prob`."""
        found = []
        for loc, covariance in self._dealt_parameters(self.dealt(min(self.num_kept, 50))):
            mean, variance = condition(x, loc, covariance)
            found.append(-0.5 * ((values - mean).square() / variance + (2 * math.pi * variance).log()))
        return torch.stack(found).logsumexp(0) - math.log(len(found))

    def cell_mean(self, x: Tensor) -> Tensor:
        """The expectation of missing entries, see :meth:`TableProgram.cell_mean`."""
        found = [
            condition(x, *parameters)[0] for parameters in self._dealt_parameters(self.dealt(min(self.num_kept, 50)))
        ]
        return torch.where(torch.isnan(x), torch.stack(found).mean(0), x)


def _factor(log_strength: Tensor, variances: Tensor, chi2: Tensor, below: Tensor) -> Tensor:
    """The lower factor of the precision, from shapes (*), (*, D), (*, D), (*, D (D - 1) / 2)."""
    lower = torch.diag_embed(chi2.sqrt()) + vec_to_tril_matrix(below, -1)
    scale = (log_strength.exp().unsqueeze(-1) * variances).rsqrt()
    return scale.unsqueeze(-1) * lower


# ----------------------------------------------------------------------------------------------------------------------
# Data augmentation, for C chains


def _start(x: Tensor) -> tuple[Tensor, ...]:
    """Parameters with which chains begin: those of independent columns, the strengths spread out."""
    features = x.shape[1]
    log_strength = math.log(features / WEAK) + torch.linspace(-2, 2, CHAINS).to(x)
    variance = (x - x.nanmean(0)).square().nanmean(0).clamp(min=1e-6)
    return (
        log_strength,
        variance.expand(CHAINS, features),
        torch.diag_embed(1 / variance).expand(CHAINS, features, features),
        x.nanmean(0).expand(CHAINS, features),
    )


def _sweep(x: Tensor, log_strength: Tensor, variances: Tensor, precision: Tensor, loc: Tensor) -> tuple[Tensor, ...]:
    """Draws missing entries, then parameters: (C), (C, D), (C, D, D), (C, D)."""
    rows, features = x.shape
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    complete = torch.stack(
        [draw_given(x, m, s, torch.randn_like(x)) for m, s in zip(loc, covariance, strict=True)]
    )  # (C, N, D)
    log_strength = _move_strength(log_strength, variances, precision)
    strength = log_strength.exp().unsqueeze(-1)
    shape = 1 + (features + 1 + strength) / 2
    rate = 1 + strength / 2 * precision.diagonal(dim1=-2, dim2=-1)
    variances = torch._standard_gamma(shape.expand_as(rate)) / rate
    centred = complete - loc.unsqueeze(1)
    spread = torch.diag_embed(strength * variances + rows * ROUNDING**2) + centred.mT @ centred
    precision = _wishart(features + 1 + strength.squeeze(-1) + rows, spread)
    factor = torch.linalg.cholesky(rows * precision + torch.eye(features).to(x) / LOC_SCALE**2)
    mean = torch.cholesky_solve(precision @ complete.sum(1).unsqueeze(-1), factor)
    noise = torch.linalg.solve_triangular(factor.mT, torch.randn_like(mean), upper=True)
    return log_strength, variances, precision, (mean + noise).squeeze(-1)


def _move_strength(log_strength: Tensor, variances: Tensor, precision: Tensor, steps: int = 5) -> Tensor:
    """Random-walk Metropolis steps of each chain's strength, given the rest."""
    features = variances.shape[-1]
    log_det = torch.linalg.cholesky(precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)  # half of it
    trace = (variances * precision.diagonal(dim1=-2, dim2=-1)).sum(-1)

    def log_prob(log_strength: Tensor) -> Tensor:
        strength = log_strength.exp()
        df = features + 1 + strength
        wishart: Tensor = (
            df / 2 * (features * (log_strength - math.log(2)) + variances.log().sum(-1))
            - torch.special.multigammaln(df / 2, features)
            + strength * log_det
            - strength * trace / 2
        )
        return wishart - ((log_strength - math.log(features / WEAK)) / STRENGTH_SCALE).square() / 2

    current = log_prob(log_strength)
    for _ in range(steps):
        proposed = log_strength + 0.5 * torch.randn_like(log_strength)
        value = log_prob(proposed)
        accepted = torch.rand_like(value).log() < value - current
        log_strength, current = torch.where(accepted, proposed, log_strength), torch.where(accepted, value, current)
    return log_strength


def _wishart(df: Tensor, inverse_scale: Tensor) -> Tensor:
    """Draws from Wishart distributions (C, D, D), by Bartlett's decomposition."""
    features = inverse_scale.shape[-1]
    scale = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(inverse_scale)))
    chi2 = 2 * torch._standard_gamma((df.unsqueeze(-1) - torch.arange(features).to(df)) / 2)
    bartlett = torch.randn_like(scale).tril(-1) + torch.diag_embed(chi2.sqrt())
    factor: Tensor = scale @ bartlett
    return factor @ factor.mT
