r"""Classifier-free guidance: conditional diffusion that exaggerates what the condition says.

A chain trained with and without its context c (``drop_context``) has two networks in one. With the weight w,

.. math::
    \hat x_w(z, c) = (1 + w) \, \hat x(z, c) - w \, \hat x(z), \qquad
    \nabla_z \log p_w(z \mid c) = (1 + w) \, \nabla_z \log p(z \mid c) - w \, \nabla_z \log p(z) ,

is the score of :math:`p(z \mid c) \, p(c \mid z)^w` up to a constant: draws are of what a classifier is more sure of,
and less various. It is a chain of its own with a bound of its own; that of the conditional chain has w = 0.

References:
    | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022)
    | https://arxiv.org/abs/2207.12598
"""

from typing import Any

import torch
from torch import Tensor

from pyro_gen._sizes import check_weights
from pyro_gen.data.small import level_rows, normal_rows
from pyro_gen.inference.objectives import DiffusionELBO
from pyro_gen.models.diffusion.ddpm import DDPM
from pyro_gen.models.diffusion.parts.gaussian import GaussianChain, require_gaussian
from pyro_gen.models.diffusion.vdm import VDM
from pyro_gen.registry import model

__all__ = ["Guided"]


@model(
    "classifier-free guidance",
    paper="Ho & Salimans (2022)",
    small={
        "normal": lambda: (
            Guided(DDPM(3, steps=2, width=8, depth=1, context=2), 1.5),
            normal_rows(9, 3),
            normal_rows(9, 2),
        ),
        "levels": lambda: (
            Guided(VDM(3, 3, steps=2, width=8, depth=1, context=2), 1.0),
            level_rows(3, 9, 3),
            normal_rows(9, 2),
        ),
    },
)
class Guided(GaussianChain):
    r"""Creates a chain with guidance.

    Arguments:
        chain: A trained chain with a context, whose network is shared.
        weight: The weight w.

    Raises:
        ValueError: The weight is negative, or the chain is none of Gaussian noise.

    Example:
        >>> import pyro_gen as pg
        >>> chain = DDPM(2, steps=10, context=3, drop_context=0.1)
        >>> labels = torch.eye(3)[torch.tensor([0, 0, 2])]
        >>> pg.sample(Guided(chain, weight=2.0), 3, context=(labels,)).shape
        torch.Size([3, 2])
    """

    def __init__(self, chain: GaussianChain, weight: float) -> None:
        super().__init__()
        check_weights(self, weight=weight)
        self.chain, self.weight = require_gaussian(self, chain), weight
        self.event_shape, self.steps = chain.event_shape, chain.steps
        self.schedule, self.continuous = chain.schedule, chain.continuous
        self.objective = DiffusionELBO()

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        super().check_inputs(x, *context)
        if not context:
            raise ValueError("Guided: without a context nothing is guided: give one, or draw from the chain itself.")

    def known(self, x: Tensor) -> Tensor:
        return self.chain.known(x)

    def denoise(self, z: Tensor, gamma: Tensor, *context: Any) -> Tensor:
        """With the context beyond what is without it, of data (*, *event) at noise levels (*)."""
        without = self.chain.denoise(z, gamma, *(torch.full_like(c, torch.nan) for c in context))
        return (1 + self.weight) * self.chain.denoise(z, gamma, *context) - self.weight * without

    def likelihood(self, z: Tensor, *context: Any) -> Any:
        return self.chain.likelihood(z, *context)
