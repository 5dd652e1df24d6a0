r"""Latent diffusion: an autoencoder makes codes of the data, and diffusion is the law of the codes.

.. math::
    z_T \sim \mathcal{N}(0, I), \qquad z_{i-1} \mid z_i \sim q\big(z_{i-1} \mid z_i, \hat u(z_i)\big), \qquad
    x \mid z_0 \sim p_\theta\big(x \mid f_\theta(m + s \, z_0 / \alpha_0)\big)

The clean datum of the chain is the code :math:`u = (g_\phi(x) - m) / s` of the encoder, with the mean and the standard
deviation that the codes of some data have at first taken out. The guide adds noise to it. So this is a variational
autoencoder whose posterior has a fixed spread, :math:`\sigma_0 / \alpha_0`, and whose prior is a chain in a few
dimensions, where steps are cheap.

All is trained together by the bound (Vahdat et al.), or in two steps (Rombach et al.): an autoencoder by itself, which
is then fixed (:meth:`LatentDiffusion.freeze_codes`), and the chain on its codes.

References:
    | High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022)
    | https://arxiv.org/abs/2112.10752
    | Score-based Generative Modeling in Latent Space (Vahdat, Kreis & Kautz, 2021), the bound
    | https://arxiv.org/abs/2106.05931
"""

import math
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._sizes import check_sizes
from pyro_gen.data.small import binary_rows, normal_rows
from pyro_gen.inference.objectives import DiffusionELBO
from pyro_gen.models.diffusion.parts.gaussian import GaussianChain
from pyro_gen.models.diffusion.parts.networks import TimeMLP
from pyro_gen.models.diffusion.parts.schedules import CosineSchedule, alpha_sigma
from pyro_gen.models.vae.autoencoder import Autoencoder
from pyro_gen.registry import model

__all__ = ["LatentDiffusion"]


@model(
    "latent diffusion",
    paper="Rombach et al. (2022)",
    small={
        "bernoulli": lambda: (LatentDiffusion(Autoencoder(6, 2, (5,)), steps=3, width=8, depth=1), binary_rows(9, 6)),
        "normal": lambda: (
            LatentDiffusion(Autoencoder((2, 3), 3, (5,), likelihood="normal"), steps=2, width=8, depth=1),
            normal_rows(9, 2, 3),
        ),
    },
)
class LatentDiffusion(GaussianChain):
    r"""Creates a diffusion model of the codes of an autoencoder.

    Arguments:
        autoencoder: The autoencoder, trained or not.
        steps: The number T of steps.
        spread: The standard deviation of a code given its datum, where that of all codes is about 1.
        width: The width of the network.
        depth: The number of its residual layers.
        dropout: The share of hidden units dropped in training.

    Raises:
        ValueError: Sizes are out of range, the spread is not in (0, 1), or there is no autoencoder.

    Example:
        >>> import pyro_gen as pg
        >>> pg.sample(LatentDiffusion(Autoencoder((8, 8), latent=4), steps=10), 5).shape
        torch.Size([5, 8, 8])
    """

    is_of_codes = True
    mean: Tensor
    scale: Tensor
    initialised: Tensor

    def __init__(
        self,
        autoencoder: Autoencoder,
        steps: int = 100,
        spread: float = 0.2,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(autoencoder, Autoencoder):
            raise ValueError(f"LatentDiffusion(autoencoder={type(autoencoder).__name__}): give an Autoencoder.")
        check_sizes(self, steps=steps, width=width)
        check_sizes(self, 0, depth=depth)
        if not 0 < spread < 1:
            raise ValueError(f"LatentDiffusion(spread={spread!r}): give a number in (0, 1).")
        self.autoencoder, self.event_shape, self.steps = autoencoder, autoencoder.event_shape, steps
        self.schedule = CosineSchedule(2 * math.log(spread), 8.0)
        self.network = TimeMLP((autoencoder.latent,), (autoencoder.latent,), width, depth, dropout=dropout)
        self.register_buffer("mean", torch.zeros(autoencoder.latent))
        self.register_buffer("scale", torch.ones(autoencoder.latent))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.objective = DiffusionELBO()

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets mean and scale from the codes of data with shape :math:`(N, *event)`, the first time only."""
        self.autoencoder.initialise(x, seed=seed)
        if not self.initialised:
            with torch.no_grad():
                codes = self.autoencoder.encoder(self.autoencoder.centre(x))
                self.mean.copy_(codes.mean(0))
                self.scale.copy_(codes.std(0, correction=0).clamp(min=1e-3))
                self.initialised.fill_(True)
        return super().initialise(x[:1], *context, seed=seed)

    def freeze_codes(self) -> Self:
        """Fixes the autoencoder, for the second step of training; returns the program."""
        self.autoencoder.requires_grad_(False)
        return self

    @property
    def event_dim(self) -> int:
        """The number of dimensions of a code."""
        return 1

    def start(self, x: Tensor) -> Any:
        return dist.Normal(x.new_zeros(len(x), self.autoencoder.latent), 1.0).to_event(1)

    def known(self, x: Tensor) -> Tensor:
        """The codes of data, (N, K), NaN where nothing of a datum was seen."""
        code = (self.autoencoder.encoder(self.autoencoder.centre(x)) - self.mean) / self.scale
        nothing = torch.isnan(x).flatten(1).all(1, keepdim=True)
        return torch.where(nothing, torch.nan, code)

    def denoise(self, z: Tensor, gamma: Tensor, *context: Any) -> Tensor:
        alpha, sigma = (part.unsqueeze(-1) for part in alpha_sigma(gamma))
        return (z - sigma * (sigma * z + self.network(z, gamma))) / alpha  # type: ignore[no-any-return]

    def likelihood(self, z: Tensor, *context: Any) -> Any:
        alpha, _ = alpha_sigma(self.gamma(0))
        return self.autoencoder.decode(self.mean + self.scale * z / alpha)
