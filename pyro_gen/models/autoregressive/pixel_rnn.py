r"""PixelRNN with row LSTMs: an image pixel by pixel, with a memory that goes down row by row.

.. math::
    p(x) = \prod_{t=1}^{HW} p\big(x_t \mid x_1, \dots, x_{t-1}\big)

in reading order. A layer reads features u, and carries a state (h, c) for each place of a row from one row to the next,
for all places of the row at once:

.. math::
    (o_i, f_i, n_i, g_i) &= K_{ss} * h_{i-1} + K_{is} * u_i , \\
    c_i &= \sigma(f_i) \odot c_{i-1} + \sigma(n_i) \odot \tanh(g_i) , \qquad
    h_i = \sigma(o_i) \odot \tanh(c_i)

where :math:`K_{is}` sees the place and what is left of it in row i, and :math:`K_{ss}`, since the row above is known,
both sides. So a place sees a triangle of the rows above, to the top of the image, where a convolution has a window; of
k columns each row adds :math:`(k - 1) / 2` on either side. The first features come from a convolution that is masked in
reading order, and each layer adds to those it sees.

All laws are had in one pass of H steps. Missing entries are integrated out exactly where they come last. Elsewhere
:func:`pyro_gen.impute` draws them, and :func:`pyro_gen.log_likelihood` weighs the seen ones, by particles along the
order (:mod:`pyro_gen.inference.likelihood.in_order`).

References:
    | Pixel Recurrent Neural Networks (van den Oord, Kalchbrenner & Kavukcuoglu, 2016)
    | https://arxiv.org/abs/1601.06759
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes
from pyro_gen.data.small import binary_rows, level_rows
from pyro_gen.distributions import MaskedEntries
from pyro_gen.models.autoregressive.parts.convolutions import MaskedConv
from pyro_gen.models.autoregressive.parts.pixels import PixelOutput, PixelProgram
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["PixelRNN"]


@model(
    "PixelRNN with row LSTMs",
    paper="van den Oord et al. (2016a)",
    small={
        "bernoulli": lambda: (PixelRNN((2, 3), channels=4, layers=1), binary_rows(9, 2, 3)),
        "categorical": lambda: (
            PixelRNN((2, 2), channels=4, layers=1, likelihood="categorical", levels=3),
            level_rows(3, 9, 2, 2),
        ),
    },
)
class PixelRNN(PixelProgram):
    r"""Creates a PixelRNN with row LSTMs.

    Arguments:
        event_shape: The shape of one image, :math:`(H, W)`.
        channels: The number of features of a place, and of units of an LSTM.
        layers: The number of LSTMs.
        kernel: The width k of the convolutions, an odd number; the first is as high, too.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`.
        dropout: The share of features dropped in training before each layer.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: The data are no images, the kernel is even, sizes are out of range, or there is no such likelihood.

    Example:
        >>> program = PixelRNN((2, 2), channels=4, layers=1)
        >>> images = torch.cartesian_prod(*4 * [torch.tensor([0.0, 1.0])]).unflatten(1, (2, 2))
        >>> round(program.observed(16).log_prob(images).exp().sum().item(), 5)  # all that can be
        1.0
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 32,
        layers: int = 2,
        kernel: int = 3,
        likelihood: str = "bernoulli",
        dropout: float = 0.0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, channels, kernel, likelihood, **head_options)
        check_sizes(self, layers=layers)
        self.first = MaskedConv(self.inputs, channels, kernel, "before", own=False)
        self.places = nn.Parameter(torch.zeros(channels, *self.event_shape))
        self.layers = nn.ModuleList(RowLSTM(channels, kernel) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.output = PixelOutput(channels, self.numbers, dropout)

    def network(self, values: Tensor, m: Any, context: Tensor | None) -> Any:
        """The laws of pixels given those before them, of values with shape (*, D)."""
        u = self.first(self.images(values)) + self.places  # (B, channels, H, W)
        for layer in self.layers:
            u = u + layer(self.dropout(u))
        return self.laws(self.output(u).reshape(*values.shape[:-1], -1))

    def observed(self, rows: int, context: Tensor | None = None) -> MaskedEntries:
        """The law of so many images; there is no context."""
        return MaskedEntries(self.network, self.order, self.event_shape, self.support, torch.Size((rows,)), context)

    def model(self, x: Tensor, *context: Tensor) -> Tensor:
        """The density of images with shape :math:`(N, H, W)`; returns them completed."""
        self.given(x, context)
        with self.plate(x):
            return observe("x", self.observed(len(x)), x)


class RowLSTM(nn.Module):
    """An LSTM whose state is a row of places, each with so many units."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.of_input = MaskedConv(channels, 4 * channels, kernel, "left", own=True)  # K_is
        self.of_state = nn.Conv1d(channels, 4 * channels, kernel, padding=kernel // 2, bias=False)  # K_ss

    def forward(self, u: Tensor) -> Tensor:
        """Features of shape (B, channels, H, W) to states of this shape."""
        h = c = torch.zeros_like(u[:, :, 0])  # (B, channels, W)
        states = []
        for of_input in self.of_input(u).unbind(2):  # row by row
            o, f, n, g = (self.of_state(h) + of_input).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(n) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        return torch.stack(states, 2)
