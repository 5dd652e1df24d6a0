r"""Denoising diffusion: a chain of steps from noise to data, each of which takes a little noise away.

.. math::
    z_T \sim \mathcal{N}(0, I), \qquad z_{i-1} \mid z_i \sim q\big(z_{i-1} \mid z_i, \hat x(z_i)\big), \qquad
    x \mid z_0 \sim p(x \mid z_0)

with :math:`q(z_{i-1} \mid z_i, x)` that of a chain which adds Gaussian noise to data
(:mod:`pyro_gen.models.diffusion.parts.gaussian`). The network tells the noise,

.. math:: \hat x(z_i) = (z_i - \sigma_i \, \hat\epsilon) / \alpha_i, \qquad
    \hat\epsilon = \sigma_i z_i + \mathrm{NN}(z_i, \gamma_i) ,

which is, with the network at 0, what is right for standard normal data. The observation is what is left at the first
noise level: of a number :math:`x \sim \mathcal{N}(\hat x(z_0), \sigma_0^2)`, of one of L levels, at
:math:`v_k \in [-1, 1]`, :math:`p(x = k \mid z_0) \propto \mathcal{N}(z_0; \alpha_0 v_k, \sigma_0^2)`.

``DiffusionELBO("simple")`` weighs all steps alike, which makes better samples; ``DiffusionELBO()`` is the bound.

References:
    | Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel, 2020)
    | https://arxiv.org/abs/2006.11239
    | Deep Unsupervised Learning Using Nonequilibrium Thermodynamics (Sohl-Dickstein et al., 2015)
    | https://arxiv.org/abs/1503.03585
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._sizes import check_sizes, event_of
from pyro_gen.data.small import level_rows, normal_rows
from pyro_gen.distributions import LevelCategorical
from pyro_gen.inference.objectives import DiffusionELBO
from pyro_gen.models.diffusion.parts.gaussian import GaussianChain
from pyro_gen.models.diffusion.parts.networks import TimeMLP
from pyro_gen.models.diffusion.parts.schedules import Schedule, alpha_sigma, make_schedule
from pyro_gen.registry import model

__all__ = ["DDPM"]


@model(
    "denoising diffusion",
    paper="Ho, Jain & Abbeel (2020)",
    small={
        "normal": lambda: (DDPM(4, steps=3, width=8, depth=1), normal_rows(9, 4)),
        "levels, cosine": lambda: (
            DDPM((2, 2), steps=2, levels=3, schedule="cosine", width=8, depth=1),
            level_rows(3, 9, 2, 2),
        ),
        "conditional": lambda: (DDPM(3, steps=2, width=8, depth=1, context=2), normal_rows(9, 3), normal_rows(9, 2)),
    },
)
class DDPM(GaussianChain):
    r"""Creates a denoising diffusion model.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries. Numbers should be of the order of 1.
        steps: The number T of steps.
        levels: The number L of levels of an entry; 0 where data are numbers.
        schedule: How fast noise is added, ``"linear"``, ``"cosine"``, or a
            :class:`~pyro_gen.models.diffusion.parts.schedules.Schedule`.
        width, depth, context, dropout, drop_context, waves: Those of the network,
            :class:`~pyro_gen.models.diffusion.parts.networks.TimeMLP`.

    Raises:
        ValueError: Sizes are out of range, or there is no such schedule.

    Example:
        >>> import pyro_gen as pg
        >>> pg.sample(DDPM(2, steps=10), 5).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        steps: int = 100,
        levels: int = 0,
        schedule: str | Schedule = "linear",
        width: int = 256,
        depth: int = 2,
        context: int = 0,
        dropout: float = 0.0,
        drop_context: float = 0.0,
        waves: int = 0,
    ) -> None:
        super().__init__()
        self.event_shape = event_of(self, event_shape)
        check_sizes(self, steps=steps, width=width)
        check_sizes(self, 0, levels=levels, depth=depth, context=context, waves=waves)
        if levels == 1:
            raise ValueError("DDPM(levels=1): give 2 or more, or 0 where data are numbers.")
        self.steps, self.levels = steps, levels
        self.schedule = make_schedule(schedule)
        self.network = TimeMLP(self.event_shape, self.event_shape, width, depth, context, dropout, drop_context, waves)
        self.objective = DiffusionELBO()

    def known(self, x: Tensor) -> Tensor:
        """Data as they are noised: levels within [-1, 1]."""
        return 2 * x / (self.levels - 1) - 1 if self.levels else x

    def denoise(self, z: Tensor, gamma: Tensor, *context: Any) -> Tensor:
        alpha, sigma = (part[(...,) + (None,) * self.event_dim] for part in alpha_sigma(gamma))
        noise = sigma * z + self.network(z, gamma, *context)
        return (z - sigma * noise) / alpha  # type: ignore[no-any-return]

    def likelihood(self, z: Tensor, *context: Any) -> Any:
        alpha, sigma = alpha_sigma(self.gamma(0))
        if not self.levels:
            return dist.Normal(self.predict(z, 0, *context), sigma).to_event(self.event_dim)
        values = alpha * self.known(torch.arange(self.levels, device=z.device, dtype=z.dtype))
        law: Any = LevelCategorical(logits=-(((z.unsqueeze(-1) - values) / sigma) ** 2) / 2)
        return law.to_event(self.event_dim)
