"""Series of numbers in units of their own: location and scale of the first data that a program is trained on."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from pyro_gen.program import Program

__all__ = ["SeriesProgram", "moments"]


class SeriesProgram(Program):
    """A model of series of T numbers, whose parameters are about their location and in units of their scale.

    Arguments:
        event_shape: The shape of a series to generate, or its length T; series of any length are observed.
        centre: The location, where it is known.
        unit: The scale, likewise.

    Attributes:
        centre: The location, that given or the mean of the first data, with shape :math:`()`.
        unit: The scale, that given or their standard deviation, likewise.

    Raises:
        ValueError: A datum is no series of numbers, or the scale is not positive.
    """

    centre: Tensor
    unit: Tensor
    initialised: Tensor
    any_length = True

    def __init__(
        self, event_shape: int | Sequence[int], centre: float | None = None, unit: float | None = None
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        if len(self.event_shape) != 1:
            raise ValueError(f"{name}: a datum is a series of T numbers, not of shape {tuple(self.event_shape)}.")
        if unit is not None and not unit > 0:
            raise ValueError(f"{name}(scale={unit}): a standard deviation is positive.")
        self._given = (centre is not None, unit is not None)
        self.register_buffer("centre", torch.tensor(0.0 if centre is None else centre))
        self.register_buffer("unit", torch.tensor(1.0 if unit is None else unit))
        self.register_buffer("initialised", torch.tensor(all(self._given)))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Takes what was not given from series with shape :math:`(N, T)`, the first time only."""
        if not self.initialised:
            seen, (centre, unit) = x[~x.isnan()], self._given
            with torch.no_grad():
                if len(seen) and not centre:
                    self.centre.copy_(seen.mean())
                if len(seen) > 1 and seen.std() > 0 and not unit:
                    self.unit.copy_(seen.std())
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what is seen in columns of steps, 0 and 1 where that tells none.

    Arguments:
        x: Series with shape :math:`(N, T, *D)` and NaN where nothing was seen.

    Returns:
        Two tensors with shape :math:`(*D)`.
    """
    steps = x.flatten(0, 1)
    spread = (steps - steps.nanmean(0)).square().nanmean(0).sqrt()
    return steps.nanmean(0).nan_to_num(), torch.where(spread > 0, spread, 1.0)
