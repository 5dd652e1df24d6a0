r"""Mixtures of narrow Gaussians in the plane, on which generators are seen to drop modes.

.. math:: x \sim \frac{1}{K} \sum_{k=1}^K \mathcal{N}(c_k, \sigma^2 I_2), \qquad \sigma = 0.05

The ring has :math:`K = 8` centres on a circle of radius 2, the grid :math:`K = 25` at
:math:`\{-4, -2, 0, 2, 4\}^2`.

References:
    | Unrolled Generative Adversarial Networks (Metz et al., 2017), the ring
    | https://arxiv.org/abs/1611.02163
    | VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational Learning (Srivastava et al., 2017), the grid
    | https://arxiv.org/abs/1705.07761
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MIXTURES", "PlaneMixture"]


@dataclass(frozen=True, eq=False)
class PlaneMixture:
    """Gaussians of equal weight and width.

    Attributes:
        centres: Their means, with shape (K, 2).
        scale: Their standard deviation.
    """

    centres: Tensor
    scale: float = 0.05

    def draw(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draws n points (n, 2), and the component (n,) that each is of."""
        generator = torch.Generator().manual_seed(seed)
        component = torch.randint(len(self.centres), (n,), generator=generator)
        noise = torch.randn(n, 2, generator=generator)
        return (self.centres[component] + self.scale * noise).to(torch.get_default_dtype()), component


def _ring() -> Tensor:
    angle = 2 * math.pi * torch.arange(8) / 8
    return 2 * torch.stack([angle.cos(), angle.sin()], 1)


#: The mixtures, by the name of the data set.
MIXTURES = {
    "grid_of_gaussians": PlaneMixture(torch.cartesian_prod(*[torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])] * 2)),
    "ring_of_gaussians": PlaneMixture(_ring()),
}
