r"""Gated PixelCNN: an image pixel by pixel in reading order, each given all before it by masked convolutions.

.. math::
    p(x \mid c) = \prod_{t=1}^{HW} p\big(x_t \mid x_1, \dots, x_{t-1}, c\big)

Two stacks of gated convolutions see what is before a pixel. The vertical one, v, sees the rows above, the horizontal
one, h, the pixels on the left, and at each layer what v has seen:

.. math::
    v_{l+1} &= g\big(V_l * v_l + a_l\big), \\
    h_{l+1} &= h_l + R_l \, g\big(H_l * h_l + U_l (V_l * v_l) + b_l\big), \qquad
    g(s, s') = \tanh(s) \odot \sigma(s')

where :math:`V_l` has only rows above the pixel in the first layer, and its own row in others, whose features know no
more than rows above. The first layer, whose input is the image, does not add :math:`h_l`. The terms :math:`a_l, b_l`
depend on the place, and are linear in the context c. One stack whose convolutions are masked in reading order has a
blind spot: no path leads from pixels above and far to the right. Together the two see all pixels before, as far as the
layers reach.

All laws are had in one pass, and training is that of a network that labels pixels. Drawing goes pixel by pixel.

Missing entries are integrated out exactly where they come last. Elsewhere :func:`pyro_gen.impute` draws them, and
:func:`pyro_gen.log_likelihood` weighs the seen ones, by particles along the order
(:mod:`pyro_gen.inference.likelihood.in_order`).

References:
    | Conditional Image Generation with PixelCNN Decoders (van den Oord et al., 2016)
    | https://arxiv.org/abs/1606.05328
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.distributions import MaskedEntries
from pyro_gen.models.autoregressive.parts.convolutions import MaskedConv
from pyro_gen.models.autoregressive.parts.pixel_steps import PixelSteps
from pyro_gen.models.autoregressive.parts.pixels import PixelOutput, PixelProgram
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["PixelCNN"]


@model(
    "gated PixelCNN",
    paper="van den Oord et al. (2016b)",
    small={
        "bernoulli": lambda: (PixelCNN((2, 3), channels=4, layers=2), binary_rows(9, 2, 3)),
        "categorical": lambda: (
            PixelCNN((2, 2), channels=4, layers=1, likelihood="categorical", levels=3),
            level_rows(3, 9, 2, 2),
        ),
        "conditional": lambda: (
            PixelCNN((2, 2), channels=4, layers=2, context=2),
            binary_rows(9, 2, 2),
            normal_rows(9, 2),
        ),
    },
)
class PixelCNN(PixelProgram):
    r"""Creates a gated PixelCNN.

    Arguments:
        event_shape: The shape of one image, :math:`(H, W)`.
        channels: The number of channels of either stack.
        layers: The number L of layers.
        kernel: The height and width of the convolutions, an odd number k: a pixel sees as far as
            :math:`L (k - 1) / 2` rows and columns.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`.
        context: The number C of features that the model is conditioned on, a context with shape :math:`(N, C)`.
        dropout: The share of channels of a gate dropped in training.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: The data are no images, the kernel is even, sizes are out of range, or there is no such likelihood.

    Example:
        >>> program = PixelCNN((2, 2), channels=4, layers=2)
        >>> images = torch.cartesian_prod(*4 * [torch.tensor([0.0, 1.0])]).unflatten(1, (2, 2))
        >>> round(program.observed(16).log_prob(images).exp().sum().item(), 5)  # all that can be
        1.0
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 32,
        layers: int = 5,
        kernel: int = 5,
        likelihood: str = "bernoulli",
        context: int = 0,
        dropout: float = 0.0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, channels, kernel, likelihood, context, **head_options)
        check_sizes(self, layers=layers)
        sizes = (channels, kernel, self.event_shape, context, dropout)
        others = [GatedLayer(channels, *sizes) for _ in range(layers - 1)]
        self.layers = nn.ModuleList([GatedLayer(self.inputs, *sizes, first=True), *others])
        self.output = PixelOutput(channels, self.numbers, 0.0)

    def network(self, values: Tensor, m: Any, context: Tensor | None) -> Any:
        """The laws of pixels given those before them, of values with shape (*, D)."""
        v = h = self.images(values)  # (B, inputs, H, W)
        c = None if context is None else context.expand(*values.shape[:-1], -1).reshape(len(v), -1)
        for layer in self.layers:
            v, h = layer(v, h, c)
        return self.laws(self.output(h).reshape(*values.shape[:-1], -1))

    def steps(self, rows: int, m: int, context: Tensor | None) -> PixelSteps:
        """The laws of one pixel after the other, see :class:`pyro_gen.distributions.Steps`."""
        return PixelSteps(self, rows, context)

    def observed(self, rows: int, context: Tensor | None = None) -> MaskedEntries:
        """The law of so many images, with a context of shape (rows, C) where there is one."""
        shape = torch.Size((rows,))
        return MaskedEntries(self.network, self.order, self.event_shape, self.support, shape, context, self.steps)

    def model(self, x: Tensor, *context: Tensor) -> Tensor:
        """The density of images with shape :math:`(N, H, W)`; returns them completed."""
        with self.plate(x):
            return observe("x", self.observed(len(x), self.given(x, context)), x)


class GatedLayer(nn.Module):
    """One layer of both stacks, of ``before`` channels to ``channels``, for images of a shape (H, W)."""

    def __init__(
        self,
        before: int,
        channels: int,
        kernel: int,
        shape: torch.Size,
        context: int,
        dropout: float,
        first: bool = False,
    ) -> None:
        super().__init__()
        self.first = first
        self.above = MaskedConv(before, 2 * channels, kernel, "above", own=not first)  # V
        self.left = MaskedConv(before, 2 * channels, kernel, "left", own=not first)  # H
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)  # U
        self.out = nn.Conv2d(channels, channels, 1)  # R
        self.places = nn.Parameter(torch.zeros(4 * channels, *shape))
        self.given = nn.Linear(context, 4 * channels, bias=False) if context else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, v: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both stacks of shape (B, before, H, W) to (B, channels, H, W), with a context (B, C)."""
        a, b = self.conditions(c).chunk(2, -3)
        above = self.above(v)
        return self.vertical(above + a), self.horizontal(h, self.left(h) + self.across(above) + b)

    def vertical(self, s: Tensor) -> Tensor:
        """The next v."""
        return self.dropout(gate(s))  # type: ignore[no-any-return]

    def horizontal(self, h: Tensor, s: Tensor) -> Tensor:
        """The next h."""
        gated: Tensor = self.out(self.dropout(gate(s)))
        return gated if self.first else h + gated

    def conditions(self, c: Tensor | None) -> Tensor:
        """The terms a and b by context and place, with shape (B, 4 channels, H, W), or without B."""
        return self.places if self.given is None else self.given(c)[..., None, None] + self.places


def gate(s: Tensor) -> Tensor:
    r"""The gated activation :math:`\tanh(s_1) \odot \sigma(s_2)` of the two halves of channels."""
    a, b = s.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)
