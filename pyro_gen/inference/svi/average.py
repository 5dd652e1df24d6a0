"""The exponential moving average of a program's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]


class MovingAverage:
    r"""The exponential moving average of parameters along a run.

    After step :math:`t` it is :math:`d_t \bar\theta + (1 - d_t) \theta`, with
    :math:`d_t = \min(d, (1 + t) / (10 + t))`, so that the first steps are soon forgotten.

    References:
        | Acceleration of Stochastic Approximation by Averaging (Polyak & Juditsky, 1992)
        | https://doi.org/10.1137/0330046

    Arguments:
        module: Whose parameters it is of.
        decay: The decay :math:`d`.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.values = {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the parameters after a step, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self.parameters[name], 1 - decay)

    @torch.no_grad()
    def install(self, values: dict[str, Tensor] | None = None) -> None:
        """Writes the average, or other values, into the parameters."""
        for name, value in (self.values if values is None else values).items():
            self.parameters[name].copy_(value)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """A block in which the parameters are the average."""
        current = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.install()
        try:
            yield
        finally:
            self.install(current)
