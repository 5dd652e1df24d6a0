"""Levels as real numbers, by uniform noise."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_gen.data.transforms.base import Transform, by_rows, check_levels, check_range

__all__ = ["Dequantize"]


@dataclass(frozen=True)
class Dequantize(Transform):
    r"""Creates the uniform dequantisation :math:`y = (x + u) / L`, :math:`u \sim U[0, 1)`, with values in [0, 1).

    With :math:`\log|\partial y/\partial x| = -D \log L`, a density of :math:`y` gives a lower bound of the probability
    of the discrete :math:`x`: :math:`E_u \log p(x + u) \le \log \int p(x + u) \, du = \log P(x)` (Theis et al., 2016).

    Arguments:
        levels: Number of levels :math:`L`: data has the values 0, 1, ..., L - 1.

    Example:
        >>> x = torch.tensor([[0.0, 255.0]])
        >>> t = Dequantize(256)
        >>> bool((t.inverse(t(x)) == x).all())
        True
        >>> round(t.log_abs_det_jacobian(x).item() / math.log(2), 6)
        -16.0
    """

    levels: int
    draws = True

    def __post_init__(self) -> None:
        check_levels(self.levels)

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        check_range(self, x, self.levels - 1)
        between = x > x.floor()
        if between.any():
            raise ValueError(
                f"{self}: expected whole numbers 0..{self.levels - 1}, got {x[between][0].item():g}; "
                "was the data scaled or dequantised before?"
            )
        uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        # x + u may round up to x + 1, which belongs to the next level, or at the top lies outside [0, 1).
        top = torch.nextafter(x.detach() + 1, x.detach())  # detached: torch 2.8 has no derivative of nextafter
        return torch.minimum(x + uniform, top) / self.levels

    def log_abs_det_jacobian(self, x: Tensor) -> Tensor:
        return -math.log(self.levels) * (~torch.isnan(by_rows(x))).sum(1).double()

    def inverse(self, y: Tensor) -> Tensor:
        return (y * self.levels).floor().clamp(0, self.levels - 1)
