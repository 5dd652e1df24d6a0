"""Series of numbers in units of their own: location and scale of the first data that a program is trained on."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from pyro_gen.program import Program

__all__ = ["SeriesProgram"]


class SeriesProgram(Program):
    """A model of series of T numbers, whose parameters are about their location and in units of their scale.

    Arguments:
        event_shape: The shape of a series to generate, or its length T; series of any length are observed.

    Attributes:
        centre: The mean of the first data, with shape :math:`()`.
        unit: Their standard deviation, likewise.
    """

    centre: Tensor
    unit: Tensor
    initialised: Tensor

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        if len(self.event_shape) != 1:
            name = type(self).__name__
            raise ValueError(f"{name}: a datum is a series of T numbers, not of shape {tuple(self.event_shape)}.")
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Takes location and scale from series with shape :math:`(N, T)`, the first time only."""
        if not self.initialised:
            seen = x[~x.isnan()]
            with torch.no_grad():
                if len(seen):
                    self.centre.copy_(seen.mean())
                if len(seen) > 1 and seen.std() > 0:
                    self.unit.copy_(seen.std())
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)
