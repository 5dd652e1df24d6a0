r"""The parameters of a multivariate normal, with the prior that tables have.

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
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import vec_to_tril_matrix

from pyro_gen.models.tabular.gibbs import join

__all__ = ["Normal", "draw_normal", "kept_normal", "moments", "sample_normal"]

LOC_SCALE = 3.0  # prior standard deviation of the mean, of standardised columns
STRENGTH_SCALE = 2.0  # of the logarithm of kappa
WEAK = 20  # columns for each row that the prior is worth, in the middle of what it allows
ROUNDING = 1e-3  # as if entries were rounded so: columns that determine each other would have no density
STEPS = 5  # of Metropolis


class Normal(NamedTuple):
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
    def join(kept: "Sequence[Normal]") -> "Normal":
        """All draws of some chains, see :func:`pyro_gen.models.tabular.gibbs.join`."""
        return Normal(*(join(values) for values in zip(*kept, strict=True)))

    @staticmethod
    def centre(ones: Tensor) -> "Normal":
        """Parameters in the middle of the prior, for ``ones`` with shape :math:`(C, D)`."""
        return Normal(math.log(ones.shape[-1] / WEAK) * ones[:, 0], ones, torch.diag_embed(ones), 0 * ones)

    def covariance(self) -> Tensor:
        """The covariances, with shape :math:`(C, D, D)`."""
        return torch.cholesky_inverse(torch.linalg.cholesky(self.precision))

    def sites(self) -> dict[str, Tensor]:
        """The same parameters as values of the sites of :func:`sample_normal`."""
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


def sample_normal(like: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Samples the parameters in a model.

    Arguments:
        like: A tensor of the dtype and on the device that they should have.
        size: The number D of columns.

    Returns:
        The mean, with shape :math:`(D)`, and the lower factor F of the precision, with shape :math:`(D, D)`.
    """
    ones = like.new_ones(size)
    log_strength = pyro.sample("log_strength", dist.Normal(math.log(size / WEAK) * ones[0], STRENGTH_SCALE))
    variances = pyro.sample("variances", dist.Gamma(ones, ones).to_event(1))  # s, (D,)
    df = size + 1 + log_strength.exp().unsqueeze(-1) - torch.arange(size).to(like)
    chi2 = pyro.sample("chi2", dist.Gamma(df / 2, 0.5).to_event(1))  # (D,)
    zeros = like.new_zeros(size * (size - 1) // 2)
    below = pyro.sample("below", dist.Normal(zeros, 1.0).to_event(1))
    loc = pyro.sample("loc", dist.Normal(0 * ones, LOC_SCALE).to_event(1))  # mu, (D,)
    return loc, _factor(log_strength, variances, chi2, below)


def moments(sites: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance, of shapes (*, D) and (*, D, D), by values of the sites of :func:`sample_normal`."""
    factor = _factor(*(sites[name] for name in ("log_strength", "variances", "chi2", "below")))
    return sites["loc"], torch.cholesky_inverse(factor)


def kept_normal(kept: Callable[[str], Tensor], s: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance, of shapes (D) and (D, D), of the s-th of the values of sites that a program kept."""
    return moments({name: kept(name)[s] for name in ("log_strength", "variances", "chi2", "below", "loc")})


def _factor(log_strength: Tensor, variances: Tensor, chi2: Tensor, below: Tensor) -> Tensor:
    """The lower factor of the precision, from shapes (*), (*, D), (*, D), (*, D (D - 1) / 2)."""
    lower = torch.diag_embed(chi2.sqrt()) + vec_to_tril_matrix(below, -1)
    scale = (log_strength.exp().unsqueeze(-1) * variances).rsqrt()
    return scale.unsqueeze(-1) * lower


def draw_normal(x: Tensor, normal: Normal, weights: Tensor | None = None) -> Normal:
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
    variances = torch._standard_gamma(shape.expand_as(rate)) / rate
    centred = x - loc.unsqueeze(1)
    weighed = centred if weights is None else weights.unsqueeze(-1) * centred
    spread = torch.diag_embed(strength * variances + rows * ROUNDING**2) + centred.mT @ weighed
    precision = _draw_wishart(size + 1 + strength.squeeze(-1) + rows, spread)
    factor = torch.linalg.cholesky(total * precision + torch.eye(size).to(x) / LOC_SCALE**2)
    mean = torch.cholesky_solve(precision @ weighted.sum(1).unsqueeze(-1), factor)
    noise = torch.linalg.solve_triangular(factor.mT, torch.randn_like(mean), upper=True)
    return Normal(log_strength, variances, precision, (mean + noise).squeeze(-1))


def _move_strength(normal: Normal) -> Tensor:
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
        return wishart - ((log_strength - math.log(size / WEAK)) / STRENGTH_SCALE).square() / 2

    current = log_prob(log_strength)
    for _ in range(STEPS):
        proposed = log_strength + 0.5 * torch.randn_like(log_strength)
        value = log_prob(proposed)
        accepted = torch.rand_like(value).log() < value - current
        log_strength, current = torch.where(accepted, proposed, log_strength), torch.where(accepted, value, current)
    return log_strength


def _draw_wishart(df: Tensor, inverse_scale: Tensor) -> Tensor:
    """Draws from Wishart distributions (C, D, D), by Bartlett's decomposition."""
    size = inverse_scale.shape[-1]
    scale = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(inverse_scale)))
    chi2 = 2 * torch._standard_gamma((df.unsqueeze(-1) - torch.arange(size).to(df)) / 2)
    bartlett = torch.randn_like(scale).tril(-1) + torch.diag_embed(chi2.sqrt())
    factor: Tensor = scale @ bartlett
    return factor @ factor.mT
