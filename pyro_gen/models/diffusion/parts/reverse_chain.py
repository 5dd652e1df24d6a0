r"""Data drawn by the reverse steps of a stochastic differential equation, and missing entries given the seen ones.

Steps go from noise to data between times at equal distances in :math:`\log \rho`, :math:`\rho` the noise of a datum:
those of a sampler (:mod:`~pyro_gen.models.diffusion.parts.samplers`), or of a chain :math:`z_T, \dots, z_0, x` of
Gaussian laws, along which particles go (:mod:`pyro_gen.inference.likelihood.twisted`).
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen.distributions.flows import FlowDistribution, Rescaling
from pyro_gen.models.diffusion.parts.probability_flow import ProbabilityFlow
from pyro_gen.models.diffusion.parts.samplers import SAMPLERS, reverse_step
from pyro_gen.models.diffusion.parts.sdes import SDE
from pyro_gen.models.flows.parts.program import FlowProgram

__all__ = ["ReverseChain", "SampledFlow"]


class ReverseChain(FlowProgram):
    """A program whose bijection is a probability flow, and whose equation can be run backwards in steps.

    Attributes:
        sde: The equation.
        sampler: What draws: ``"flow"``, or a name in :data:`~pyro_gen.models.diffusion.parts.samplers.SAMPLERS`.
        steps: The number T of steps.
        is_of_codes: Whether the noise is on codes of the data, and not on their entries.
    """

    is_of_codes = False
    sde: SDE
    sampler: str
    steps: int

    @property
    def flow(self) -> ProbabilityFlow:
        """The probability flow of standardised data."""
        return self.bijection.parts[0]  # type: ignore[return-value]

    @property
    def scaling(self) -> Rescaling:
        """What gives standardised data the mean and the standard deviation of each entry."""
        return self.bijection.parts[1]  # type: ignore[return-value]

    def _time(self, i: int) -> Tensor:
        (least, greatest), like = self.flow.ends, self.scaling.loc
        return self.sde.time(like.new_tensor(least + (greatest - least) * i / self.steps).exp())

    def draw(self, shape: torch.Size, h: Tensor | None = None) -> Tensor:
        """Draws data by the sampler, by the global generator, with shape (*shape, *event)."""
        step, like = SAMPLERS[self.sampler], self.scaling.loc
        nothing = torch.zeros(*shape, *self.event_shape, dtype=like.dtype, device=like.device)
        z = self.start(nothing).sample()
        for i in range(self.steps, 0, -1):
            z = step(self.sde, lambda z, t: self.flow.score(z, t, h), z, self._time(i), self._time(i - 1))
        return self.scaling(z / self.noise(0)[0])[0]  # type: ignore[no-any-return]

    def noise(self, i: int) -> tuple[Tensor, Tensor]:
        r"""The weight :math:`\alpha` of the datum in :math:`z_i`, and the deviation :math:`\sigma` of its noise."""
        t = self._time(i)
        return self.sde.alpha(t), self.sde.sigma(t)

    def start(self, x: Tensor) -> Any:
        """The law of :math:`z_T`, of data with the shape of ``x``."""
        alpha, sigma = self.noise(self.steps)
        scale = (alpha.square() + sigma.square()).sqrt()
        return dist.Normal(torch.zeros_like(x), scale).to_event(len(self.event_shape))

    def known(self, x: Tensor) -> Tensor:
        """Data as they are noised: standardised, NaN where nothing is known."""
        return self.scaling.inverse(x)[0]

    def predict(self, z: Tensor, i: int, *context: Any) -> Tensor:
        r"""The mean :math:`\hat x` of the standardised datum given :math:`z_i`, with shape (N, *event)."""
        alpha, sigma = self.noise(i)
        return self.flow.clean(z / alpha, (sigma / alpha).expand(len(z)), self._features(context))

    def transition(self, z: Tensor, i: int, clean: Tensor) -> Any:
        r"""The law :math:`q(z_{i-1} \mid z_i, \hat x)`."""
        a, b, c = reverse_step(*zip(self.noise(i - 1), self.noise(i), strict=True))
        return dist.Normal(a * z + b * clean, c).to_event(len(self.event_shape))

    def likelihood(self, z: Tensor, *context: Any) -> Any:
        r"""The law :math:`p(x \mid z_0)`."""
        alpha, sigma = self.noise(0)
        loc, scale = self.scaling(self.predict(z, 0, *context))[0], self.scaling.scale * sigma / alpha
        return dist.Normal(loc, scale).to_event(len(self.event_shape))


class SampledFlow(FlowDistribution):
    """The distribution of the flow, draws of which are made by another sampler."""

    def __init__(self, program: ReverseChain, h: Tensor | None, batch_shape: torch.Size) -> None:
        self.program = program
        super().__init__(program.bijection, h, batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SampledFlow":
        h = None if self.h is None else self.h.expand(*batch_shape, self.h.shape[-1])
        return SampledFlow(self.program, h, torch.Size(batch_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        if self.program.sampler == "flow":
            return super().rsample(sample_shape)
        return self.program.draw(torch.Size((*sample_shape, *self.batch_shape)), self.h)
