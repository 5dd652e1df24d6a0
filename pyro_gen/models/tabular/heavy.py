r"""Heavy tails: each row has a scale of its own, so that rows far off weigh less.

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
from collections.abc import Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from scipy.special import gammaincinv
from torch import Tensor

from pyro_gen.models.tabular.gibbs import join
from pyro_gen.models.tabular.normal import Normal

__all__ = [
    "HeavyNormal",
    "degrees",
    "distance",
    "may_be_heavy",
    "move_log_df",
    "sample_log_df",
    "seen_distance",
    "weight_given",
    "weight_quantile",
]

LOG_DF_LOC, LOG_DF_SCALE = math.log(10.0), 1.5
NORMAL = 16.0  # a value of eta that makes weights one, to 5e-4; of much greater ones densities have no digits left
NARROW = 0.02  # standard deviations: half of a normal column needs 1.35
STEPS = 5  # of Metropolis


class HeavyNormal(NamedTuple):
    r"""Parameters of C normals with heavy tails.

    Attributes:
        normal: Means and covariances :math:`\mu, \Sigma`.
        log_df: The :math:`\eta`, with shape :math:`(C)`.
    """

    normal: Normal
    log_df: Tensor

    @staticmethod
    def centre(ones: Tensor, heavy: bool = True) -> "HeavyNormal":
        """Parameters in the middle of the prior, for ``ones`` with shape :math:`(C, D)`; tails heavy, or normal."""
        return HeavyNormal(Normal.centre(ones), (LOG_DF_LOC if heavy else NORMAL) * ones[:, 0])

    @staticmethod
    def sites(kept: "Sequence[HeavyNormal]") -> dict[str, Tensor]:
        """All of some parameters as values of the sites of the model."""
        return Normal.join([k.normal for k in kept]).sites() | {"log_df": join([k.log_df for k in kept])}


def degrees(log_df: Tensor) -> Tensor:
    r"""The degrees of freedom :math:`\nu = 2 + e^\eta`."""
    return 2 + log_df.exp()


def may_be_heavy(x: Tensor) -> bool:
    r"""Whether no half of what is seen of a column of x, with shape :math:`(N, D)`, is all but one value."""
    for column in x.T:
        values = column[~torch.isnan(column)].sort().values
        half = len(values) // 2
        if half and float((values[half:] - values[: len(values) - half]).min()) <= NARROW * float(values.std()):
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


def weight_given(df: Tensor, squares: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    r"""Shape and rate of the gamma distribution of weights.

    Arguments:
        df: Degrees of freedom, with a shape that broadcasts with the others.
        squares: Squared distances of what is seen, with shape :math:`(*, N)`.
        count: How many entries are seen, with shape :math:`(N)`.
    """
    shape, rate = torch.broadcast_tensors((df + count) / 2, (df + squares) / 2)
    return shape, rate


def weight_quantile(u: Tensor, df: Tensor, squares: Tensor, count: Tensor) -> Tensor:
    """Draws weights by uniform numbers with shape :math:`(N)`; the rest as in :func:`weight_given`."""
    shape, rate = weight_given(df, squares, count)
    quantile = gammaincinv(shape.cpu().double().numpy(), u.cpu().double().numpy())  # torch has no inverse of it
    return torch.from_numpy(quantile).to(rate).clamp(min=1e-12) / rate


def move_log_df(log_df: Tensor, squares: Tensor, count: Tensor) -> Tensor:
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
    for _ in range(STEPS):
        proposed = log_df + 0.5 * torch.randn_like(log_df)
        value = log_prob(proposed)
        accepted = (torch.rand_like(value).log() < value - current) & (log_df < NORMAL)
        log_df, current = torch.where(accepted, proposed, log_df), torch.where(accepted, value, current)
    return log_df
