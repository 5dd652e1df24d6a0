r"""The Dirichlet process mixture of Gaussians, by stick-breaking: global weights and components, locals summed out.

.. math::
    \alpha &\sim \operatorname{Gamma}(2, 2), \qquad v_k \sim \operatorname{Beta}(1, \alpha), \qquad
    \pi_k = v_k \textstyle\prod_{l < k} (1 - v_l), \quad v_K = 1 \\
    \mu_{kd} &\sim \mathcal{N}(0, m^2), \qquad \sigma_{kd} \sim \operatorname{LogNormal}(\log s, \tfrac12), \qquad
    x_n \sim \textstyle\sum_{k=1}^K \pi_k \, \mathcal{N}\big(\mu_k, \operatorname{diag}(\sigma_k^2)\big) .

The process is cut off at K sticks; what is lost is :math:`\mathbb{E} \sum_{k > K} \pi_k = (\alpha / (1 + \alpha))^K`.
Sticks and components are *global* latent variables, which :func:`pyro_gen.posterior` samples and a mean-field guide
approximates (:func:`pyro_gen.with_guide` gives another); the component of a datum, discrete and *local*, is summed
out, and missing entries are integrated out. Data should be standardised.

References:
    | A Bayesian Analysis of Some Nonparametric Problems (Ferguson, 1973)
    | A Constructive Definition of Dirichlet Priors (Sethuraman, 1994)
    | Gibbs Sampling Methods for Stick-Breaking Priors (Ishwaran & James, 2001)
    | https://doi.org/10.1198/016214501750332758
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_gen.data.small import normal_rows
from pyro_gen.inference.guides import Guide, MeanField
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["DirichletProcessMixture", "log_stick_weights"]


@model(
    "Dirichlet process mixture",
    paper="Ishwaran & James (2001)",
    small={"": lambda: (DirichletProcessMixture(2, 3), normal_rows(8, 2))},
)
class DirichletProcessMixture(Program):
    r"""Creates a Dirichlet process mixture of Gaussians with diagonal covariances.

    Arguments:
        features: The number of entries :math:`D` of one datum.
        components: The number of sticks :math:`K` at which it is cut off, 2 or more.
        spread: The standard deviation :math:`m` of the means.
        scale: The median :math:`s` of the standard deviations inside a component.

    Raises:
        ValueError: There are fewer than two sticks.

    Example:
        >>> log_stick_weights(torch.tensor([0.5, 0.5])).exp()
        tensor([0.5000, 0.2500, 0.2500])
    """

    def __init__(self, features: int, components: int = 10, spread: float = 1.0, scale: float = 0.5) -> None:
        super().__init__()
        if components < 2:
            raise ValueError(f"DirichletProcessMixture(components={components}): give at least 2 sticks.")
        self.event_shape = torch.Size((features,))
        self.components, self.spread, self.scale = components, spread, scale
        self._guide: Guide = MeanField()

    @property
    def given_guide(self) -> Guide:
        return self._guide

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of the parameters and of data with shape :math:`(N, D)`; returns it completed."""
        ones = x.new_ones(self.components, *self.event_shape)
        alpha = pyro.sample("alpha", dist.Gamma(x.new_tensor(2.0), 2.0))
        sticks = dist.Beta(x.new_ones(self.components - 1), alpha.unsqueeze(-1)).to_event(1)
        v = pyro.sample("v", sticks)  # (K - 1,)
        loc = pyro.sample("loc", dist.Normal(0 * ones, self.spread).to_event(2))  # (K, D)
        law = dist.LogNormal(ones * torch.log(torch.tensor(self.scale)), 0.5).to_event(2)
        scale = pyro.sample("scale", law)  # (K, D)
        with self.plate(x):
            components = dist.Normal(loc, scale).to_event(1)
            mixture: Any = dist.MixtureSameFamily(dist.Categorical(logits=log_stick_weights(v)), components)
            return observe("x", mixture, x)

    def guide(self, x: Tensor) -> Any:
        """A draw of the global latent variables from a normal of independent entries, without constraints."""
        return self._guide(self.model, x)


def log_stick_weights(v: Tensor) -> Tensor:
    r"""The logarithms :math:`\log \pi_k` of K weights from K - 1 sticks, with shape :math:`(*, K)`."""
    rest = torch.log1p(-v).cumsum(-1)
    return F.pad(v.log(), (0, 1)) + F.pad(rest, (1, 0))
