r"""The mixture of factor analysers: a Gaussian mixture whose covariances have few parameters.

.. math::
    c_n \sim \operatorname{Categorical}(\pi), \quad z_n \sim \mathcal{N}(0, I_R), \quad
    x_n \mid c_n = k, z_n \sim \mathcal{N}(W_k z_n + \mu_k, \; \Psi_k) , \qquad
    x_n \mid c_n = k \sim \mathcal{N}(\mu_k, \; W_k W_k^\top + \Psi_k)

with :math:`\Psi_k` diagonal and at least :math:`\varepsilon^2`. Component and factors are integrated out, and so are
missing entries: rows :math:`o` of :math:`W_k, \mu_k, \Psi_k` are the same model of the seen entries.

**EM** with holes: with :math:`\tilde z_n = (z_n, 1)` given :math:`x_{n,o}` and :math:`k`, each entry of a component is
a regression on the factors over the rows where it is seen,

.. math::
    (w_{kd}, \mu_{kd}) &\leftarrow \Big(\sum_{n : d \in o_n} r_{nk} \, \mathbb{E}[\tilde z_n \tilde z_n^\top] +
    \Lambda\Big)^{-1} \sum_{n : d \in o_n} r_{nk} \, x_{nd} \, \mathbb{E}[\tilde z_n] , \\
    \psi_{kd} &\leftarrow \frac{\psi_0 + \sum_{n : d \in o_n} r_{nk} \, \mathbb{E}[(x_{nd} - w_{kd}^\top z_n -
    \mu_{kd})^2]}{1 + \sum_{n : d \in o_n} r_{nk}} ,

with a ridge :math:`\Lambda` worth one datum on the loadings and :math:`\psi_0` a tenth of the data's mean variance.

References:
    | The EM algorithm for mixtures of factor analyzers (Ghahramani & Hinton, 1996)
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.factor_posterior import factor_posterior
from pyro_gen.models.mixture.base import Mixture
from pyro_gen.registry import model

__all__ = ["MixtureOfFactorAnalysers"]


@model(
    "mixture of factor analysers",
    paper="Ghahramani & Hinton (1996)",
    small={"": lambda: (MixtureOfFactorAnalysers(4, 2, rank=2), normal_rows(12, 4))},
)
class MixtureOfFactorAnalysers(Mixture):
    r"""Creates a mixture of factor analysers.

    Arguments:
        features: The number of entries :math:`D` of one datum.
        components: The number of components :math:`K`.
        rank: The number of factors :math:`R` of each.
        min_scale: The least standard deviation of the noise, :math:`\varepsilon`.

    Attributes:
        logits: The logarithms of the weights :math:`\pi`, up to a constant, with shape :math:`(K,)`.
        loc: The means :math:`\mu`, with shape :math:`(K, D)`.
        loadings: The matrices :math:`W`, with shape :math:`(K, D, R)`.
        scale: The square roots of :math:`\Psi - \varepsilon^2`, with shape :math:`(K, D)`.

    Raises:
        ValueError: There is no component, or no factor.

    Example:
        >>> x = torch.randn(50, 1) * torch.tensor([1.0, -1.0, 0.0]) + 0.1 * torch.randn(50, 3)
        >>> line = MixtureOfFactorAnalysers(3, components=1, rank=1).initialise(x)
        >>> [round(v.item()) for v in line.loadings[0, :, 0] / line.loadings[0, 0, 0]]
        [1, -1, 0]
    """

    def __init__(self, features: int, components: int, rank: int, min_scale: float = 1e-2) -> None:
        super().__init__(features, components)
        if rank < 1:
            raise ValueError(f"MixtureOfFactorAnalysers(rank={rank}): give at least one factor.")
        self.rank, self.min_scale = rank, min_scale
        self.loc = nn.Parameter(torch.randn(components, features))
        self.loadings = nn.Parameter(torch.randn(components, features, rank) / features**0.5)
        self.scale: Any = PyroParam(torch.ones(components, features), constraint=constraints.positive)

    def noise(self) -> Tensor:
        r"""The diagonals of :math:`\Psi_k`, with shape :math:`(K, D)`."""
        return self.scale.square() + self.min_scale**2  # type: ignore[no-any-return]

    def component(self, k: Any = slice(None)) -> Any:
        return dist.LowRankMultivariateNormal(self.loc[k], self.loadings[k], self.noise()[k])

    def log_joint(self, x: Tensor) -> Tensor:
        # Over what is seen, with F F' = I + W' Psi^-1 W and e = F^-1 W' Psi^-1 (x - mu) of the factors' posterior.
        centre = self.loc.detach().mean(0)  # squares of numbers far from zero would cancel
        x, loc, noise = x - centre, self.loc - centre, self.noise()
        seen, filled = (~torch.isnan(x)).to(x), x.nan_to_num()
        square = filled.square() @ (1 / noise).T - 2 * filled @ (loc / noise).T
        square = square + seen @ (loc.square() / noise + (2 * math.pi * noise).log()).T  # (N, K)
        factors = factor_posterior(x, self.loadings, loc, noise)
        log_joint: Tensor = self.logits.log_softmax(0) - square / 2
        return log_joint + (factors.e.square().sum(0) / 2 - factors.log_det()).T

    def maximise(self, x: Tensor, r: Tensor) -> None:
        seen, filled = (~torch.isnan(x)).to(x), x.nan_to_num()
        factors = factor_posterior(x, self.loadings, self.loc, self.noise())
        mean, covariance = factors.draw(torch.zeros_like(factors.e)), factors.covariance()  # (K, N, R), (K, N, R, R)
        z = torch.cat([mean, mean.new_ones(*mean.shape[:2], 1)], 2)  # (K, N, R + 1)
        outer = z.unsqueeze(3) * z.unsqueeze(2)
        outer[..., :-1, :-1] += covariance
        weight = r.T.unsqueeze(1) * seen.T  # (K, D, N)
        ridge = torch.diag(torch.cat([z.new_ones(self.rank), z.new_full((1,), 1e-6)]))
        gram = (weight @ outer.flatten(2)).unflatten(2, outer.shape[2:]) + ridge  # (K, D, R + 1, R + 1)
        moment = (weight * filled.T) @ z  # (K, D, R + 1)
        both = torch.linalg.solve(gram, moment)  # (w, mu)
        rest = (weight * filled.T.square()).sum(2) - (moment * both).sum(2)  # of the ridge regression
        first = (x - x.nanmean(0)).square().nanmean() / 10
        psi = (first + rest.clamp(min=0)) / (1 + weight.sum(2))
        self.loadings.copy_(both[..., :-1])
        self.loc.copy_(both[..., -1])
        floor = self.min_scale**2
        self.scale = (psi - floor).clamp(min=floor).sqrt()
