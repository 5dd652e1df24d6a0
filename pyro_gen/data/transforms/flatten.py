"""Images as rows of numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_gen.data.transforms.base import Transform

__all__ = ["Flatten"]


@dataclass(frozen=True)
class Flatten(Transform):
    """Creates the row of all entries of a datum.

    Arguments:
        event_shape: The shape of one datum.

    Example:
        >>> Flatten((2, 3))(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 6])
    """

    event_shape: tuple[int, ...]

    def __post_init__(self) -> None:  # plain numbers where a file has them as floats
        object.__setattr__(self, "event_shape", tuple(int(length) for length in self.event_shape))

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if x.shape[1:] != self.event_shape:
            raise ValueError(f"{self}: got data with event shape {tuple(x.shape[1:])}.")
        return x.flatten(1)

    def log_abs_det_jacobian(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def inverse(self, y: Tensor) -> Tensor:
        return y.reshape(len(y), *self.event_shape)
