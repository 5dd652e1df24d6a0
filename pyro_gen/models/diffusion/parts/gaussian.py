r"""Chains of Gaussian noise, with the variance preserved.

.. math::
    q(z_t \mid x) &= \mathcal{N}(\alpha_t x, \sigma_t^2 I) \\
    q(z_s \mid z_t, x) &= \mathcal{N}\Big(\alpha_s \big( (1 - c) \, z_t / \alpha_t + c \, x \big), \;
    c \, \sigma_s^2 I\Big), \qquad c = 1 - e^{\gamma_s - \gamma_t}

at the noise levels :math:`\gamma_t = \log \sigma_t^2 / \alpha_t^2` of a schedule. The model has
:math:`\hat x(z_t)` for x, so that a step costs

.. math::
    \mathrm{KL} = \tfrac12 \big( e^{-\gamma_s} - e^{-\gamma_t} \big) \lVert x - \hat x(z_t) \rVert^2
    = \tfrac12 \big( e^{\gamma_t - \gamma_s} - 1 \big) \lVert \epsilon - \hat\epsilon(z_t) \rVert^2 ,
    \qquad z_t = \alpha_t x + \sigma_t \epsilon = \alpha_t \hat x + \sigma_t \hat \epsilon ,

and, in the limit of many steps, :math:`\tfrac12 \gamma'(t) \lVert \epsilon - \hat\epsilon(z_t) \rVert^2 dt`.
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.models.diffusion.parts.networks import check_conditions
from pyro_gen.models.diffusion.parts.schedules import Schedule, alpha_sigma
from pyro_gen.noising import NoisingChain

__all__ = ["GaussianChain", "require_gaussian"]


class GaussianChain(NoisingChain):
    """A chain of Gaussian noise. A subclass says what the clean datum is, and has a network for it.

    Attributes:
        schedule: The schedule of the noise.
        continuous: Whether :meth:`step` is of the limit of many steps.
        is_of_codes: Whether the noise is on codes of the data, and not on their entries.
    """

    schedule: Schedule
    continuous: bool = False
    is_of_codes: bool = False

    def denoise(self, z: Tensor, gamma: Tensor, *context: Any) -> Tensor:
        r"""What the network takes for the clean datum, of data (*, *event) at noise levels (*); the same shape."""
        raise NotImplementedError

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        super().check_inputs(x, *context)
        check_conditions(self, *context)

    def variance_parameters(self) -> tuple[nn.Parameter, ...]:
        return self.schedule.between() if self.continuous else ()

    def gamma(self, i: int | Tensor) -> Tensor:
        r"""The noise level :math:`\gamma_i`, of :math:`i = 0, \dots, T`."""
        like = next(self.parameters())
        return self.schedule(torch.as_tensor(i, dtype=like.dtype, device=like.device) / self.steps)  # type: ignore[no-any-return]

    def noise(self, i: int) -> tuple[Tensor, Tensor]:
        r"""The weight :math:`\alpha_i` of the datum in :math:`z_i`, and the deviation :math:`\sigma_i` of its noise."""
        return alpha_sigma(self.gamma(i))

    @property
    def event_dim(self) -> int:
        """The number of dimensions of a datum."""
        return len(self.event_shape)

    def start(self, x: Tensor) -> Any:
        return dist.Normal(torch.zeros_like(x), 1.0).to_event(self.event_dim)

    def end(self, x: Tensor) -> Any:
        alpha, sigma = alpha_sigma(self.gamma(self.steps))
        x = self.known(x)
        missing = torch.isnan(x)
        loc, scale = alpha * x.masked_fill(missing, 0.0), torch.where(missing, 1.0, sigma)
        return dist.Normal(loc, scale).to_event(self.event_dim)

    def predict(self, z: Tensor, i: int, *context: Any) -> Tensor:
        return self.denoise(z, self.gamma(i).expand(z.shape[: z.dim() - self.event_dim]), *context)

    def transition(self, z: Tensor, i: int, clean: Tensor) -> Any:
        before, now = self.gamma(i - 1), self.gamma(i)
        (alpha, sigma), c = alpha_sigma(before), -torch.expm1(before - now)
        loc = alpha * ((1 - c) * z / alpha_sigma(now)[0] + c * clean)
        return dist.Normal(loc, c.sqrt() * sigma).to_event(self.event_dim)

    def noised(self, x: Tensor, gamma: Tensor) -> Tensor:
        """Draws of clean data, (N, *event), with noise of levels (N)."""
        alpha, sigma = (part.reshape(-1, *(1,) * self.event_dim) for part in alpha_sigma(gamma))
        return alpha * x + sigma * torch.randn_like(x)

    def ends(self, x: Tensor, *context: Any) -> Tensor:
        clean = self.known(x)
        first, last = (self.gamma(i).expand(len(x)) for i in (0, self.steps))
        variance, signal = torch.sigmoid(last[0]), torch.sigmoid(-last[0])
        divergence = (variance - 1 - variance.log() + signal * clean.square()) / 2
        seen = self.likelihood(self.noised(clean, first), *context).log_prob(x)
        return divergence.flatten(1).sum(1) - seen  # type: ignore[no-any-return]

    def step(self, x: Tensor, time: Tensor, *context: Any) -> tuple[Tensor, Tensor]:
        clean = self.known(x)
        if self.continuous:
            gamma, weight = self.schedule(time), self.schedule.slope(time)
        else:
            i = (self.steps * time).floor() + 1  # one of 1, ..., T
            gamma = self.gamma(i)
            weight = self.steps * torch.expm1(gamma - self.gamma(i - 1))
        apart = clean - self.denoise(self.noised(clean, gamma), gamma, *context)
        return torch.exp(-gamma) * apart.square().flatten(1).sum(1) / 2, weight


def require_gaussian(model: object, chain: Any) -> GaussianChain:
    """A chain of Gaussian noise, as it is given to a model.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(chain, GaussianChain):
        raise ValueError(
            f"{type(model).__name__}(chain={type(chain).__name__}): give a chain of Gaussian noise, DDPM or VDM say."
        )
    return chain
