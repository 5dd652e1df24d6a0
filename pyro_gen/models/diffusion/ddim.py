r"""Denoising diffusion implicit models: the same network, and no noise on the way.

A trained chain of Gaussian noise has a network for the clean datum, :math:`\hat x(z, \gamma)`, and so for the noise,
:math:`\hat\epsilon = (z - \alpha \hat x) / \sigma`. Here a step takes both to the noise level before,

.. math:: z_s = \alpha_s \, \hat x(z_t, \gamma_t) + \sigma_s \, \hat\epsilon(z_t, \gamma_t) ,

at S levels, as few as 20, of the S + 1 that divide the time of its schedule evenly. All of z's randomness is in the
start, :math:`z_T \sim \mathcal{N}(0, I)`, so that this is a model with one latent variable ``z`` and a decoder
of S passes of the network. The guide is a point, the steps taken the other way round: data have codes, to be
interpolated (``pg.interpolate``) and decoded (``pg.reconstruct``).

The steps are Euler's for the ordinary differential equation of the probability flow, in
:math:`\bar z = z / \alpha` and :math:`\sigma / \alpha`.

References:
    | Denoising Diffusion Implicit Models (Song, Meng & Ermon, 2021)
    | https://arxiv.org/abs/2010.02502
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._sizes import check_sizes
from pyro_gen.data.small import level_rows, normal_rows
from pyro_gen.models.diffusion.ddpm import DDPM
from pyro_gen.models.diffusion.parts.gaussian import GaussianChain, require_gaussian
from pyro_gen.models.diffusion.parts.schedules import alpha_sigma
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["DDIM"]


@model(
    "denoising diffusion implicit model",
    paper="Song, Meng & Ermon (2021)",
    small={
        "normal": lambda: (DDIM(DDPM(4, steps=5, width=8, depth=1), 3), normal_rows(9, 4)),
        "levels, conditional": lambda: (
            DDIM(DDPM((2, 2), levels=3, schedule="cosine", width=8, depth=1, context=2), 2),
            level_rows(3, 9, 2, 2),
            normal_rows(9, 2),
        ),
    },
)
class DDIM(Program):
    r"""Creates a deterministic sampler of a trained chain.

    Arguments:
        chain: The chain, whose network is shared: :class:`~pyro_gen.models.DDPM`, :class:`~pyro_gen.models.VDM`, or
            either with guidance.
        steps: The number S of passes of the network.

    Raises:
        ValueError: The number of steps is not positive, or the chain is none of Gaussian noise.

    Example:
        >>> import pyro_gen as pg
        >>> pg.sample(DDIM(DDPM(2), steps=20), 5).shape
        torch.Size([5, 2])
    """

    def __init__(self, chain: GaussianChain, steps: int = 20) -> None:
        super().__init__()
        self.chain, self.steps = require_gaussian(self, chain), steps
        self.event_shape = self.chain.event_shape

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "steps":
            check_sizes(self, steps=value)
        super().__setattr__(name, value)

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        self.chain.check_inputs(x, *context)

    def _moved(self, z: Tensor, k: int, to: int, *context: Any) -> Tensor:
        """Noisy data of the k-th of the levels 0, ..., S at another one."""
        like = next(self.parameters())
        now, then = self.chain.schedule(torch.tensor([k, to], dtype=like.dtype, device=like.device) / self.steps)
        (alpha, sigma), (alpha_then, sigma_then) = alpha_sigma(now), alpha_sigma(then)
        clean = self.chain.denoise(z, now.expand(z.shape[: z.dim() - self.chain.event_dim]), *context)
        return alpha_then * clean + sigma_then * (z - alpha * clean) / sigma

    def decode(self, z: Tensor, *context: Any) -> Tensor:
        """From noise to data as they are noised, (*, *event)."""
        for k in range(self.steps, 0, -1):
            z = self._moved(z, k, k - 1, *context)
        return z

    def encode(self, x: Tensor, *context: Any) -> Tensor:
        """From data with shape :math:`(N, *event)` to noise, with 0 for what is missing."""
        z = self.chain.known(x)
        z = z.masked_fill(torch.isnan(z), 0.0)
        for k in range(self.steps):
            z = self._moved(z, k, k + 1, *context)
        return z

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""The joint density :math:`p(x, z)` of data with shape :math:`(N, *event)`; returns it completed."""
        with self.plate(x):
            z = pyro.sample("z", self.chain.start(x))
            return observe("x", self.chain.likelihood(self.decode(z, *context), *context), x)

    def guide(self, x: Tensor, *context: Any) -> None:
        """The point of the steps from data to noise."""
        with self.plate(x):
            pyro.sample("z", dist.Delta(self.encode(x, *context), event_dim=self.chain.event_dim))
