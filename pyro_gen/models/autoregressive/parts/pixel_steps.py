"""Drawing from a gated PixelCNN with what its stacks have computed so far.

A pixel costs its own features of the horizontal stack, and the first of a row those of the vertical stack in this row,
where the whole network would compute all of them once more for each pixel.

References:
    | Fast Generation for Convolutional Autoregressive Models (Ramachandran et al., 2017)
    | https://arxiv.org/abs/1704.06001
"""

from typing import Any

from torch import Tensor

from pyro_gen.distributions import Steps

__all__ = ["PixelSteps"]


class PixelSteps(Steps):
    """The laws of pixels in reading order, see :class:`pyro_gen.distributions.Steps`.

    Arguments:
        program: The :class:`~pyro_gen.models.PixelCNN`.
        rows: The number B of images.
        context: Their context, with shape (B, C).
    """

    def __init__(self, program: Any, rows: int, context: Tensor | None) -> None:
        self.program, self.layers, self.t = program, list(program.layers), 0
        self.width = program.event_shape[1]
        self.v = [layer.above.room(rows, program.event_shape) for layer in self.layers]  # what each layer sees
        self.h = [layer.left.room(rows, program.event_shape) for layer in self.layers]
        self.conditions = [layer.conditions(context).chunk(2, -3) for layer in self.layers]
        self.beside: list[Tensor] = []  # by layer, what h is given from v and conditions in this row

    def kept(self) -> list[Tensor]:
        given = [part for both in self.conditions for part in both if part.dim() == 4]  # those of a context
        return [*self.v, *self.h, *self.beside, *given]

    def law(self, previous: Tensor | None) -> Any:
        """The law of the next pixel, with batch shape (B,)."""
        i, j = divmod(self.t, self.width)
        if previous is not None:
            pixel = self.program.encode(previous)[..., None, None]  # (B, inputs, 1, 1)
            at = divmod(self.t - 1, self.width)
            self.layers[0].above.put(self.v[0], pixel, *at)
            self.layers[0].left.put(self.h[0], pixel, *at)
        if j == 0:
            self.start_row(i)
        h = self.h[0][:, :, :1, :1]  # the first layer adds nothing to what it sees
        for k, layer in enumerate(self.layers):
            h = layer.horizontal(h, layer.left.at(self.h[k], i, j) + self.beside[k][..., j : j + 1])
            if k + 1 < len(self.layers):
                self.layers[k + 1].left.put(self.h[k + 1], h, i, j)
        self.t += 1
        return self.program.law(self.program.output(h).flatten(1), self.t - 1)

    def start_row(self, i: int) -> None:
        """The vertical stack in row i, for which all rows above are known."""
        self.beside = []
        for k, layer in enumerate(self.layers):
            a, b = (part[..., i : i + 1, :] for part in self.conditions[k])
            above = layer.above.at_row(self.v[k], i)
            self.beside.append(layer.across(above) + b)
            if k + 1 < len(self.layers):
                self.layers[k + 1].above.put(self.v[k + 1], layer.vertical(above + a), i)
