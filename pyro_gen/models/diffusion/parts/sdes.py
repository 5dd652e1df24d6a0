r"""Stochastic differential equations that turn data into noise, linear in the state,

.. math:: dx = f(t) \, x \, dt + g(t) \, dw , \qquad x_t \mid x_0 \sim \mathcal{N}(\alpha_t x_0, \sigma_t^2 I) ,
    \qquad \dot\alpha = f \alpha, \quad \frac{d \sigma^2}{dt} = 2 f \sigma^2 + g^2 .

With :math:`B(t) = \int_0^t \beta`, :math:`\beta(t) = \beta_0 + t \, (\beta_1 - \beta_0)`, they are

========================  =================  ==========================  ==================================
variance                  :math:`\alpha_t`   :math:`\sigma_t`            :math:`g^2`
========================  =================  ==========================  ==================================
exploding (VE)            1                  :math:`a \, (b / a)^t`      :math:`2 \log(b / a) \, \sigma^2`
preserving (VP)           :math:`e^{-B/2}`   :math:`\sqrt{1 - e^{-B}}`   :math:`\beta`
below that (sub-VP)       :math:`e^{-B/2}`   :math:`1 - e^{-B}`          :math:`\beta \, (1 - e^{-2B})`
========================  =================  ==========================  ==================================

and :math:`f = 0, -\beta/2, -\beta/2`. What they have in common is the noise by which data are seen,
:math:`\rho = \sigma / \alpha`, which rises with t: time is told by it.

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021)
    | https://arxiv.org/abs/2011.13456
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SDE", "SDES", "VarianceExploding", "VariancePreserving", "VarianceSubPreserving"]


class SDE:
    r"""A linear stochastic differential equation; its functions are of times of any shape, and have that shape.

    Attributes:
        least: The noise :math:`\rho` at the end of the data.
    """

    least: float

    def alpha(self, t: Tensor) -> Tensor:
        r"""The weight :math:`\alpha_t` of the datum."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        r"""The standard deviation :math:`\sigma_t` of the noise."""
        raise NotImplementedError

    def drift(self, t: Tensor) -> Tensor:
        """The rate f(t)."""
        raise NotImplementedError

    def diffusion(self, t: Tensor) -> Tensor:
        r"""The square :math:`g(t)^2`."""
        raise NotImplementedError

    def time(self, noise: Tensor) -> Tensor:
        r"""When the noise is so large: the inverse of :math:`\rho(t)`."""
        raise NotImplementedError

    @property
    def greatest(self) -> float:
        r"""The noise :math:`\rho(1)` at the other end."""
        end = torch.ones((), dtype=torch.float64)
        return float(self.sigma(end) / self.alpha(end))


@dataclass(frozen=True)
class VarianceExploding(SDE):
    """Noise on top of data that stay as they are.

    Arguments:
        least: The standard deviation a of the noise at time 0, for data of variance 1.
        most: That at time 1, b.

    Raises:
        ValueError: They are not positive, or not in this order.
    """

    least: float = 0.01
    most: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.least < self.most < math.inf:
            raise ValueError(f"{self}: give positive numbers, the least one first.")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.least * (self.most / self.least) ** t

    def drift(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return 2 * math.log(self.most / self.least) * self.sigma(t).square()

    def time(self, noise: Tensor) -> Tensor:
        return (noise / self.least).log() / math.log(self.most / self.least)


@dataclass(frozen=True)
class VariancePreserving(SDE):
    r"""Noise that takes the place of data of variance 1.

    Arguments:
        least: The noise :math:`\rho` at the end of the data.
        beta_0: The rate at time 0.
        beta_1: The rate at time 1.

    Raises:
        ValueError: They are not positive, the rate falls, or the noise at time 1 is less than the least.
    """

    least: float = 0.01
    beta_0: float = 0.1
    beta_1: float = 20.0

    def __post_init__(self) -> None:
        if not (0 < self.beta_0 <= self.beta_1 < math.inf and 0 < self.least < self.greatest):
            raise ValueError(f"{self}: give positive numbers, rates that do not fall, and less noise than at time 1.")

    def beta(self, t: Tensor) -> Tensor:
        r"""The rate :math:`\beta(t)`."""
        return self.beta_0 + t * (self.beta_1 - self.beta_0)

    def total(self, t: Tensor) -> Tensor:
        r"""Its integral :math:`B(t)`."""
        return t * (self.beta_0 + self.beta(t)) / 2

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.total(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.total(t)))

    def drift(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t)

    def _total_at(self, noise: Tensor) -> Tensor:
        return torch.log1p(noise.square())

    def time(self, noise: Tensor) -> Tensor:
        total, slope = self._total_at(noise), self.beta_1 - self.beta_0
        return 2 * total / (self.beta_0 + (self.beta_0**2 + 2 * slope * total).sqrt())


@dataclass(frozen=True)
class VarianceSubPreserving(VariancePreserving):
    """The same with less noise at each time. Its arguments are those of :class:`VariancePreserving`."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.total(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return -self.beta(t) * torch.expm1(-2 * self.total(t))

    def _total_at(self, noise: Tensor) -> Tensor:
        return 2 * torch.asinh(noise / 2)


SDES: dict[str, type[SDE]] = {
    "variance exploding": VarianceExploding,
    "variance preserving": VariancePreserving,
    "sub-variance preserving": VarianceSubPreserving,
}
