r"""The posterior of a multivariate normal, or Student-t, given rows of a table: priors and Gibbs steps.

**The normal** has the prior

.. math::
    \mu \sim \mathcal{N}(0, 3^2 I), \qquad
    P = \Sigma^{-1} \sim \mathcal{W}\big(\nu, \; (\kappa \operatorname{diag}(s))^{-1}\big), \quad \nu = D + 1 + \kappa,
    \qquad s_d \sim \operatorname{Gamma}(1, 1), \qquad \log \kappa \sim \mathcal{N}(\log \tfrac{D}{20}, 2^2) .

The Wishart distribution is written out by Bartlett's decomposition, so that any sampler can walk in it:
:math:`P = F F^\top` with the lower factor :math:`F = (\kappa \operatorname{diag}(s))^{-1/2} A`, where
:math:`A_{dd}^2 \sim \chi^2(\nu - d + 1)` and :math:`A_{de} \sim \mathcal{N}(0, 1)` below the diagonal.

Given N complete rows the conditional distributions are

.. math::
    \mu &\sim \mathcal{N}\big(V P \textstyle\sum_n x_n, \; V\big), \quad V = (N P + I / 9)^{-1} ; \qquad
    s_d \sim \operatorname{Gamma}\big(1 + \tfrac{\nu}{2}, \; 1 + \tfrac{\kappa}{2} P_{dd}\big) ; \\
    P &\sim \mathcal{W}\big(\nu + N, \;
    (\kappa \operatorname{diag}(s) + \textstyle\sum_n (x_n - \mu)(x_n - \mu)^\top)^{-1}\big) ;

and :math:`\log \kappa` takes steps of random-walk Metropolis.

**Heavy tails**: each row has a scale of its own, so that rows far off weigh less.

.. math::
    x_n \mid w_n \sim \mathcal{N}(\mu, \Sigma / w_n), \qquad
    w_n \mid \nu \sim \operatorname{Gamma}\big(\tfrac{\nu}{2}, \tfrac{\nu}{2}\big), \qquad
    \nu = 2 + e^\eta, \quad \eta \sim \mathcal{N}(\log 10, 1.5^2) .

Without the weights a row is multivariate Student-t with :math:`\nu` degrees of freedom, whose variance is finite. Let a
row have o entries seen, at the squared distance :math:`\delta = (x_o - \mu_o)^\top \Sigma_{oo}^{-1} (x_o - \mu_o)`.
Then

.. math::
    w \mid x_o \sim \operatorname{Gamma}\big(\tfrac{\nu + o}{2}, \tfrac{\nu + \delta}{2}\big), \qquad
    p(x_o \mid \nu) \propto \frac{\Gamma(\tfrac{\nu + o}{2})}{\Gamma(\tfrac{\nu}{2})} \, \nu^{-o / 2}
    \big(1 + \tfrac{\delta}{\nu}\big)^{-(\nu + o) / 2} ,

by which the weights are drawn, and :math:`\eta` takes steps of random-walk Metropolis.

Where half of a column is all but one value, the rows that have it would take all weight, and the column lose its
variance: there tails stay normal.

References:
    | Robust Statistical Modeling Using the t Distribution (Lange, Little & Taylor, 1989)
    | https://doi.org/10.1080/01621459.1989.10478852
    | Robust imputation under a multivariate t model (Liu, 1995)
    | https://doi.org/10.1006/jmva.1995.1042
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from scipy.special import gammaincinv
from torch import Tensor
from torch.distributions.utils import vec_to_tril_matrix

from pyro_gen._internals import standard_gamma
from pyro_gen.distributions.wishart import Wishart
from pyro_gen.inference.mcmc.blocked_gibbs import join_chains

__all__ = [
    "NormalParameters",
    "StudentTParameters",
    "degrees",
    "distance",
    "draw_normal_parameters",
    "may_have_heavy_tails",
    "metropolis_log_df",
    "moments",
    "normal_of_draw",
    "sample_log_df",
    "sample_normal_parameters",
    "seen_distance",
    "weight_conditional",
    "weight_quantile",
]

LOC_SCALE = 3.0  # prior standard deviation of the mean, of standardised columns
STRENGTH_SCALE = 2.0  # of the logarithm of kappa
COLUMNS_PER_PRIOR_ROW = 20  # columns for each row that the prior is worth, in the middle of what it allows
ROUNDING_DEVIATION = 1e-3  # as if entries were rounded so: columns that determine each other would have no density
STRENGTH_STEPS = 5  # of Metropolis


class NormalParameters(NamedTuple):
    """Parameters of C normals.

    Attributes:
        log_strength: The logarithm of the strength of shrinkage, with shape :math:`(C)`.
        variances: The variances that covariances shrink to, with shape :math:`(C, D)`.
        precision: The inverse covariance, with shape :math:`(C, D, D)`.
        loc: The mean, with shape :math:`(C, D)`.
    """

    log_strength: Tensor
    variances: Tensor
    precision: Tensor
    loc: Tensor

    @staticmethod
    def join(states: "Sequence[NormalParameters]") -> "NormalParameters":
        """All draws of some chains, see :func:`pyro_gen.inference.mcmc.blocked_gibbs.join_chains`."""
        return NormalParameters(*(join_chains(values) for values in zip(*states, strict=True)))

    @staticmethod
    def centre(ones: Tensor) -> "NormalParameters":
        """Parameters in the middle of the prior, for ``ones`` with shape :math:`(C, D)`."""
        return NormalParameters(
            math.log(ones.shape[-1] / COLUMNS_PER_PRIOR_ROW) * ones[:, 0], ones, torch.diag_embed(ones), 0 * ones
        )

    def covariance(self) -> Tensor:
        """The covariances, with shape :math:`(C, D, D)`."""
        return torch.cholesky_inverse(torch.linalg.cholesky(self.precision))

    def sites(self) -> dict[str, Tensor]:
        """The same parameters as values of the sites of :func:`sample_normal_parameters`."""
        scale = (self.log_strength.exp().unsqueeze(-1) * self.variances).sqrt().unsqueeze(-1)
        lower = scale * torch.linalg.cholesky(self.precision)
        row, column = torch.tril_indices(lower.shape[1], lower.shape[2], -1)
        return {
            "log_strength": self.log_strength,
            "variances": self.variances,
            "chi2": lower.diagonal(dim1=-2, dim2=-1).square(),
            "below": lower[:, row, column],
            "loc": self.loc,
        }


def sample_normal_parameters(like: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Samples the parameters in a model.

    Arguments:
        like: A tensor of the dtype and on the device that they should have.
        size: The number D of columns.

    Returns:
        The mean, with shape :math:`(D)`, and the lower factor F of the precision, with shape :math:`(D, D)`.
    """
    ones = like.new_ones(size)
    log_strength = pyro.sample(
        "log_strength", dist.Normal(math.log(size / COLUMNS_PER_PRIOR_ROW) * ones[0], STRENGTH_SCALE)
    )
    variances = pyro.sample("variances", dist.Gamma(ones, ones).to_event(1))  # s, (D,)
    df = size + 1 + log_strength.exp().unsqueeze(-1) - torch.arange(size).to(like)
    chi2 = pyro.sample("chi2", dist.Gamma(df / 2, 0.5).to_event(1))  # (D,)
    zeros = like.new_zeros(size * (size - 1) // 2)
    below = pyro.sample("below", dist.Normal(zeros, 1.0).to_event(1))
    loc = pyro.sample("loc", dist.Normal(0 * ones, LOC_SCALE).to_event(1))  # mu, (D,)
    return loc, _factor(log_strength, variances, chi2, below)


def moments(sites: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance, (*, D) and (*, D, D), by values of the sites of :func:`sample_normal_parameters`."""
    factor = _factor(*(sites[name] for name in ("log_strength", "variances", "chi2", "below")))
    return sites["loc"], torch.cholesky_inverse(factor)


def normal_of_draw(posterior_draws: Callable[[str], Tensor], s: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance, of shapes (D) and (D, D), of the s-th of the draws that a program stores by site."""
    return moments({name: posterior_draws(name)[s] for name in ("log_strength", "variances", "chi2", "below", "loc")})


def _factor(log_strength: Tensor, variances: Tensor, chi2: Tensor, below: Tensor) -> Tensor:
    """The lower factor of the precision, from shapes (*), (*, D), (*, D), (*, D (D - 1) / 2)."""
    scale = (log_strength.exp().unsqueeze(-1) * variances).rsqrt()
    return scale.unsqueeze(-1) * (torch.diag_embed(chi2.sqrt()) + vec_to_tril_matrix(below, -1))


def draw_normal_parameters(x: Tensor, normal: NormalParameters, weights: Tensor | None = None) -> NormalParameters:
    r"""Draws the parameters given complete rows, one after another.

    Arguments:
        x: Rows of each chain, with shape :math:`(C, N, D)`.
        normal: The parameters as they were.
        weights: Where rows have covariances :math:`\Sigma / w_n`, these :math:`w_n`, with shape :math:`(C, N)`.
    """
    _, rows, size = x.shape
    weighted = x if weights is None else weights.unsqueeze(-1) * x
    total = rows if weights is None else weights.sum(-1)[:, None, None]
    _, variances, precision, loc = normal
    log_strength = _move_strength(normal)
    strength = log_strength.exp().unsqueeze(-1)
    shape = 1 + (size + 1 + strength) / 2
    rate = 1 + strength / 2 * precision.diagonal(dim1=-2, dim2=-1)
    variances = standard_gamma(shape.expand_as(rate)) / rate
    centred = x - loc.unsqueeze(1)
    weighed = centred if weights is None else weights.unsqueeze(-1) * centred
    spread = torch.diag_embed(strength * variances + rows * ROUNDING_DEVIATION**2) + centred.mT @ weighed
    precision = Wishart(size + 1 + strength.squeeze(-1) + rows, inverse_scale=spread, validate_args=False).rsample()
    factor = torch.linalg.cholesky(total * precision + torch.eye(size).to(x) / LOC_SCALE**2)
    mean = torch.cholesky_solve(precision @ weighted.sum(1).unsqueeze(-1), factor)
    noise = torch.linalg.solve_triangular(factor.mT, torch.randn_like(mean), upper=True)
    return NormalParameters(log_strength, variances, precision, (mean + noise).squeeze(-1))


def _move_strength(normal: NormalParameters) -> Tensor:
    """Random-walk Metropolis steps of each chain's strength, given the rest."""
    log_strength, variances, precision, _ = normal
    size = variances.shape[-1]
    log_det = torch.linalg.cholesky(precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)  # half of it
    trace = (variances * precision.diagonal(dim1=-2, dim2=-1)).sum(-1)

    def log_prob(log_strength: Tensor) -> Tensor:
        strength = log_strength.exp()
        df = size + 1 + strength
        wishart: Tensor = (
            df / 2 * (size * (log_strength - math.log(2)) + variances.log().sum(-1))
            - torch.special.multigammaln(df / 2, size)
            + strength * log_det
            - strength * trace / 2
        )
        return wishart - ((log_strength - math.log(size / COLUMNS_PER_PRIOR_ROW)) / STRENGTH_SCALE).square() / 2

    current = log_prob(log_strength)
    for _ in range(STRENGTH_STEPS):
        proposed = log_strength + 0.5 * torch.randn_like(log_strength)
        value = log_prob(proposed)
        accepted = torch.rand_like(value).log() < value - current
        log_strength, current = torch.where(accepted, proposed, log_strength), torch.where(accepted, value, current)
    return log_strength


LOG_DF_LOC, LOG_DF_SCALE = math.log(10.0), 1.5
LOG_DF_OF_NORMAL = (
    16.0  # a value of eta that makes weights one, to 5e-4; of much greater ones densities have no digits left
)
HALF_WIDTH_FLOOR = 0.02  # standard deviations: half of a normal column needs 1.35
LOG_DF_STEPS = 5  # of Metropolis


class StudentTParameters(NamedTuple):
    r"""Parameters of C normals with heavy tails.

    Attributes:
        normal: Means and covariances :math:`\mu, \Sigma`.
        log_df: The :math:`\eta`, with shape :math:`(C)`.
    """

    normal: NormalParameters
    log_df: Tensor

    @staticmethod
    def centre(ones: Tensor, heavy: bool = True) -> "StudentTParameters":
        """Parameters in the middle of the prior, for ``ones`` with shape :math:`(C, D)`; tails heavy, or normal."""
        return StudentTParameters(
            NormalParameters.centre(ones), (LOG_DF_LOC if heavy else LOG_DF_OF_NORMAL) * ones[:, 0]
        )

    @staticmethod
    def sites(states: "Sequence[StudentTParameters]") -> dict[str, Tensor]:
        """All of some parameters as values of the sites of the model."""
        return NormalParameters.join([k.normal for k in states]).sites() | {
            "log_df": join_chains([k.log_df for k in states])
        }


def degrees(log_df: Tensor) -> Tensor:
    r"""The degrees of freedom :math:`\nu = 2 + e^\eta`."""
    return 2 + log_df.exp()


def may_have_heavy_tails(x: Tensor) -> bool:
    r"""Whether no half of what is seen of a column of x, with shape :math:`(N, D)`, is all but one value."""
    for column in x.T:
        values = column[~torch.isnan(column)].sort().values
        half = len(values) // 2
        if half and float((values[half:] - values[: len(values) - half]).min()) <= HALF_WIDTH_FLOOR * float(
            values.std()
        ):
            return False
    return True


def sample_log_df(like: Tensor) -> Tensor:
    r"""Samples :math:`\eta` in a model, with the dtype and on the device of a tensor."""
    log_df: Tensor = pyro.sample("log_df", dist.Normal(LOG_DF_LOC * like.new_ones(()), LOG_DF_SCALE))
    return log_df


def distance(mean: Tensor, loc: Tensor, precision: Tensor) -> Tensor:
    r"""The squared distances :math:`\delta` of rows, which is the least that their missing entries allow.

    Arguments:
        mean: Rows completed by the expectations of what is missing, with shape :math:`(*, N, D)`.
        loc: The mean, with shape :math:`(*, D)`.
        precision: The inverse of :math:`\Sigma`, with shape :math:`(*, D, D)`.

    Returns:
        Distances with shape :math:`(*, N)`.
    """
    centred = mean - loc.unsqueeze(-2)
    return ((centred @ precision) * centred).sum(-1)


def seen_distance(x: Tensor, mean: Tensor, loc: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (N) of what is seen of rows x (N, D), completed in ``mean``, and how many are seen (N)."""
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    return distance(mean, loc, precision), (~torch.isnan(x)).sum(-1)


def weight_conditional(df: Tensor, squares: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    r"""Shape and rate of the gamma distribution of weights.

    Arguments:
        df: Degrees of freedom, with a shape that broadcasts with the others.
        squares: Squared distances of what is seen, with shape :math:`(*, N)`.
        count: How many entries are seen, with shape :math:`(N)`.
    """
    shape, rate = torch.broadcast_tensors((df + count) / 2, (df + squares) / 2)
    return shape, rate


def weight_quantile(u: Tensor, df: Tensor, squares: Tensor, count: Tensor) -> Tensor:
    """Draws weights by uniform numbers with shape :math:`(N)`; the rest as in :func:`weight_conditional`."""
    shape, rate = weight_conditional(df, squares, count)
    quantile = gammaincinv(shape.cpu().double().numpy(), u.cpu().double().numpy())  # torch has no inverse of it
    return torch.from_numpy(quantile).to(rate).clamp(min=1e-12) / rate


def metropolis_log_df(log_df: Tensor, squares: Tensor, count: Tensor) -> Tensor:
    r"""Random-walk Metropolis steps of each chain's :math:`\eta`, the weights integrated out.

    Arguments:
        log_df: Where the chains are, with shape :math:`(C)`; those with normal tails stay.
        squares: Squared distances of what is seen, with shape :math:`(C, N)`.
        count: How many entries are seen, with shape :math:`(N)`.
    """

    def log_prob(log_df: Tensor) -> Tensor:
        df = degrees(log_df).unsqueeze(-1)
        rows = ((df + count) / 2).lgamma() - (df / 2).lgamma() - count / 2 * df.log()
        rows = rows - (df + count) / 2 * (squares / df).log1p()
        return rows.sum(-1) - ((log_df - LOG_DF_LOC) / LOG_DF_SCALE).square() / 2

    current = log_prob(log_df)
    for _ in range(LOG_DF_STEPS):
        proposed = log_df + 0.5 * torch.randn_like(log_df)
        value = log_prob(proposed)
        accepted = (torch.rand_like(value).log() < value - current) & (log_df < LOG_DF_OF_NORMAL)
        log_df, current = torch.where(accepted, proposed, log_df), torch.where(accepted, value, current)
    return log_df
