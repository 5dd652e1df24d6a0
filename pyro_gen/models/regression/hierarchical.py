r"""Hierarchical regression: groups whose intercepts and slopes are drawn towards each other (partial pooling).

.. math::
    \eta_n = \alpha_{g_n} + \gamma_{g_n}^\top v_n + \beta^\top u_n, \qquad
    \theta_{jk} \sim \mathcal{N}(\mu_k, \tau_k^2), \qquad
    \mu_k, \beta_p \sim \mathcal{N}(0, s^2), \quad \tau_k \sim \mathcal{N}^+(0, s^2)

with :math:`\theta_j = (\alpha_j, \gamma_j)` of group :math:`j`, and :math:`v_n` the covariates whose slopes vary by
group. A group with few data is drawn to the mean :math:`\mu`, one with many stays where its data are, and the data say
how much by :math:`\tau`: 0 is one regression for all, infinity one for each.

**Centred or not.** Where a group's data are weak, :math:`\theta_j` and :math:`\tau` make a funnel that samplers and
guides fail in, and :math:`\theta_j = \mu + \tau \epsilon_j` makes none; where they are strong it is the other way round
(Papaspiliopoulos et al., 2007). What is drawn is between the two, by the share :math:`\lambda_j` of the data,

.. math::
    a_{jk} \sim \mathcal{N}(\lambda_j \mu_k, \; \tau_k^{2 \lambda_j}), \qquad
    \theta_{jk} = \mu_k + \tau_k^{1 - \lambda_j} (a_{jk} - \lambda_j \mu_k), \qquad
    \lambda_j = \frac{n_j}{n_j + 10},

from the number :math:`n_j` of data in the group, where it is known. The model is the same for all :math:`\lambda`.

References:
    | Data Analysis Using Regression and Multilevel/Hierarchical Models (Gelman & Hill, 2007), chapters 12 and 13
    | A general framework for the parametrization of hierarchical models (Papaspiliopoulos, Roberts & Skold, 2007)
    | https://doi.org/10.1214/088342307000000014
    | Automatic reparameterisation of probabilistic programs (Gorinova, Moore & Hoffman, 2020)
    | https://arxiv.org/abs/1906.03028
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.models.regression.parts.guided import GuidedRegression, check_covariates, check_positive
from pyro_gen.models.regression.parts.likelihoods import check_likelihood, sample_law
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["Hierarchical"]

HALF = 10.0  # data of a group that make it half centred: the variance of the noise over that of groups, about


@model(
    "hierarchical regression with partial pooling",
    paper="Gelman & Hill (2007)",
    small={
        "intercepts": lambda: (
            Hierarchical(level_rows(3, 9), 2),
            normal_rows(9),
            normal_rows(9, 2),
            level_rows(3, 9).long(),
        ),
        "slopes": lambda: (
            Hierarchical(3, 2, "bernoulli", slopes=[1]),
            binary_rows(9),
            normal_rows(9, 2),
            level_rows(3, 9).long(),
        ),
    },
)
class Hierarchical(GuidedRegression):
    r"""Creates a hierarchical regression.

    Data are outcomes ``y`` (N,); their context is covariates ``u`` (N, P) and groups (N,), whole numbers.

    Arguments:
        groups: The groups of the data to come, 0, ..., J - 1, with shape :math:`(N,)`, or how many there are; groups of
            which nothing is known are then as weak as can be. One group more than the data have is a new one.
        covariates: The number :math:`P` of covariates.
        likelihood: The law of the outcome, see :class:`~pyro_gen.models.regression.generalised_linear.Regression`.
        slopes: The covariates, by number, whose slopes vary by group; intercepts always do.
        levels: The number of levels of an ordinal outcome.
        scale: The scale :math:`s` of the priors.

    Raises:
        ValueError: There is no such likelihood or covariate, or groups are no whole numbers from 0.

    Example:
        >>> group = torch.tensor([0, 0, 1, 1, 1, 2])
        >>> y, u = torch.full((6,), torch.nan), torch.zeros(6, 2)
        >>> program = Hierarchical(group, covariates=2, slopes=[1])
        >>> program.model(y, u, group).shape
        torch.Size([6])
        >>> program.centred.shape
        torch.Size([3])
    """

    centred: Tensor

    def __init__(
        self,
        groups: int | Tensor,
        covariates: int,
        likelihood: str = "normal",
        *,
        slopes: Sequence[int] = (),
        levels: int | None = None,
        scale: float = 2.5,
    ) -> None:
        super().__init__()
        check_likelihood(type(self).__name__, likelihood, levels)
        check_positive(self, scale=scale)
        if any(not 0 <= k < covariates for k in slopes) or len(set(slopes)) < len(slopes):
            raise ValueError(
                f"Hierarchical(slopes={list(slopes)}): name some of the covariates 0, ..., {covariates - 1}, each once."
            )
        self.covariates, self.likelihood, self.levels, self.scale = covariates, likelihood, levels, scale
        self.slopes = tuple(slopes)
        self.register_buffer("centred", centredness(groups))

    def model(self, y: Tensor, u: Tensor, group: Tensor) -> Tensor:
        r"""The joint density of outcomes (N,) given covariates (N, P) and groups (N,); returns the outcomes completed.

        Raises:
            ValueError: The covariates have another number of columns.
        """
        check_covariates(self, u, self.covariates)
        s = torch.full((), self.scale, dtype=u.dtype, device=u.device)
        varying = s.new_zeros(1 + len(self.slopes))
        fixed = [p for p in range(self.covariates) if p not in self.slopes]
        mu = pyro.sample("mu", dist.Normal(varying, s).to_event(1))  # (K,)
        tau = pyro.sample("tau", dist.HalfNormal(s.expand(len(varying))).to_event(1))  # (K,)
        share = self.centred.to(s).unsqueeze(-1)  # lambda, (J, 1)
        a = pyro.sample("a", dist.Normal(share * mu, tau**share).to_event(2))  # (J, K)
        theta = pyro.deterministic("theta", mu + tau ** (1 - share) * (a - share * mu), event_dim=2)
        offset = s.new_zeros(())
        if fixed:
            beta = pyro.sample("beta", dist.Normal(s.new_zeros(len(fixed)), s).to_event(1))
            offset = u[:, fixed] @ beta
        law = sample_law(self.likelihood, s, self.levels or 0)
        v = torch.cat([u.new_ones(len(u), 1), u[:, list(self.slopes)]], -1)  # (N, K)
        with self.plate(y):
            return observe("y", law(offset + (theta[group.long()] * v).sum(-1)), y)


def centredness(groups: int | Tensor) -> Tensor:
    r"""The shares :math:`\lambda_j` with shape :math:`(J,)`: 0 is not centred at all, 1 centred.

    Example:
        >>> centredness(torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]))
        tensor([0.0909, 0.5000])
        >>> centredness(2)
        tensor([0., 0.])
    """
    if not isinstance(groups, Tensor):
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
            raise ValueError(f"Hierarchical(groups={groups!r}): give the groups of the data, or a positive number.")
        return torch.zeros(groups)
    if groups.dim() != 1 or len(groups) == 0 or not bool((groups >= 0).all() & (groups == groups.round()).all()):
        raise ValueError(
            f"Hierarchical: groups are whole numbers 0, 1, ... with shape (N,), and were given with shape "
            f"{tuple(groups.shape)} and dtype {groups.dtype}, or as others: number them, by pandas.factorize say."
        )
    counts = torch.bincount(groups.long()).to(torch.get_default_dtype())
    return counts / (counts + HALF)
