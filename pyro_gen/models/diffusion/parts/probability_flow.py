r"""The probability flow of a stochastic differential equation: noise to data and back, with the same densities.

In :math:`y = x_t / \alpha_t` and the logarithm of the noise :math:`\rho = \sigma_t / \alpha_t` it is the same for all
equations of :mod:`~pyro_gen.models.diffusion.parts.sdes`,

.. math:: \frac{dy}{d \log \rho} = y - \hat x(y, \rho) .
"""

import math

import torch
from torch import Tensor

from pyro_gen.distributions.flows import Bijection, divergence, flow_along
from pyro_gen.models.diffusion.parts.networks import TimeMLP
from pyro_gen.models.diffusion.parts.sdes import SDE

__all__ = ["ProbabilityFlow"]

STEPS = 7.5  # fixed ones for each unit of the logarithm of the noise; with half of them densities are 0.001 nats off


class ProbabilityFlow(Bijection):
    """The probability flow, from standard normal noise to standardised data."""

    def __init__(self, event_shape: torch.Size, sde: SDE, network: TimeMLP, features: int) -> None:
        super().__init__()
        self.event_shape, self.features = event_shape, features
        self.sde, self.network = sde, network
        self.ends = math.log(sde.least), math.log(sde.greatest)
        self.steps = math.ceil(STEPS * (self.ends[1] - self.ends[0]))

    def clean(self, y: Tensor, noise: Tensor, h: Tensor | None = None) -> Tensor:
        r"""The mean :math:`\hat x` of the datum given :math:`y` (*, *event), at noise :math:`\rho` (*)."""
        spread = (1 + noise.square()).sqrt()
        s, r = (v.reshape(*v.shape, *(1 for _ in self.event_shape)) for v in (spread, noise))
        return y / s.square() + r / s * self.network(y / s, 2 * noise.log(), h)  # type: ignore[no-any-return]

    def score(self, x: Tensor, t: Tensor, h: Tensor | None = None) -> Tensor:
        r"""The score :math:`s(x, t)` at points (*, *event) and times (*)."""
        t = t.expand(x.shape[: x.dim() - len(self.event_shape)])
        alpha, sigma = (
            v.reshape(*v.shape, *(1 for _ in self.event_shape)) for v in (self.sde.alpha(t), self.sde.sigma(t))
        )
        return (alpha * self.clean(x / alpha, self.sde.sigma(t) / self.sde.alpha(t), h) - x) / sigma.square()

    def _solve(self, y: Tensor, h: Tensor | None, start: float, end: float) -> tuple[Tensor, Tensor]:
        events = len(self.event_shape)
        batch = y.shape[: y.dim() - events]

        def field(log_noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            noise = log_noise.exp().to(y).expand(batch)
            return divergence(lambda y: y - self.clean(y, noise, h), y, events)

        return flow_along(field, y, start, end, batch, self.steps, adaptive=not self.training)

    def forward(self, u: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        spread = math.sqrt(1 + math.exp(2 * self.ends[1]))
        x, log_det = self._solve(spread * u, h, self.ends[1], self.ends[0])
        return x, log_det + self.event_shape.numel() * math.log(spread)

    def inverse(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        spread = math.sqrt(1 + math.exp(2 * self.ends[1]))
        y, log_det = self._solve(x, h, *self.ends)
        return y / spread, self.event_shape.numel() * math.log(spread) - log_det
