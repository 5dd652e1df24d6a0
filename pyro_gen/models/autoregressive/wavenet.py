r"""WaveNet: a series whose next step has a law by gated convolutions over the steps before it, with widening gaps.

.. math::
    p(x) = \prod_{t=1}^T p\big(x_t \mid o_t\big), \qquad
    o_t = b + \sum_{j=1}^k A_j x_{t-j} + B \operatorname{relu} \sum_{l=1}^L s_t^{(l)},

with :math:`h_t^{(0)} = E x_{t-1} + C c` and, in layer l, whose taps are :math:`d_l = 2^{l-1}` steps apart,

.. math::
    z_t = \tanh\Big(\sum_{j < K} W_j h^{(l-1)}_{t - j d_l}\Big) \odot
        \sigma\Big(\sum_{j < K} V_j h^{(l-1)}_{t - j d_l}\Big), \qquad
    h_t^{(l)} = h_t^{(l-1)} + R z_t, \qquad s^{(l)}_t = S z_t .

So a law sees the last :math:`1 + (K - 1)(2^L - 1)` steps, or k where that is more, and before the first step there are
zeros. All weights are those of every step: series of any length are observed. The linear part, direct connections as
MADE has, is an autoregression of order k; without layers, and with a normal head, the density given the first steps is
its conditional likelihood. Drawing keeps the values of each layer (Fast WaveNet, Le Paine et al., 2016), so
that a step costs one of all T.

Missing steps are integrated out exactly where they come last: shorter series are padded with NaN, and
:func:`pyro_gen.impute` forecasts. Elsewhere :func:`pyro_gen.impute` draws them, and :func:`pyro_gen.log_likelihood`
weighs what is seen, by particles along the order (:mod:`pyro_gen.inference.likelihood.in_order`). Numbers should be
standardised.

References:
    | WaveNet: A Generative Model for Raw Audio (van den Oord et al., 2016)
    | https://arxiv.org/abs/1609.03499
    | Fast Wavenet Generation Algorithm (Le Paine et al., 2016)
    | https://arxiv.org/abs/1611.09482
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes
from pyro_gen.data.small import level_rows, normal_rows
from pyro_gen.distributions import MaskedEntries, Steps
from pyro_gen.models.autoregressive.parts.entries import EntryProgram
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["WaveNet"]


@model(
    "series of dilated gated convolutions (WaveNet)",
    paper="van den Oord et al. (2016)",
    small={
        "normal": lambda: (WaveNet(6, channels=4, layers=2), normal_rows(9, 6)),
        "categorical": lambda: (WaveNet(4, 4, 1, likelihood="categorical", levels=3), level_rows(3, 9, 4)),
        "conditional": lambda: (WaveNet(5, 4, 1, context=2), normal_rows(9, 5), normal_rows(9, 2)),
    },
)
class WaveNet(EntryProgram):
    r"""Creates a series of dilated gated convolutions.

    Arguments:
        event_shape: The shape of a series to generate, or its length T; series of any length are observed.
        channels: The number of channels of the convolutions.
        layers: The number L of layers, 0 for a linear autoregression.
        kernel: The number K of taps of a layer.
        lags: The order k of the linear part.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`.
        context: The number C of features that the model is conditioned on, a context with shape :math:`(N, C)`.
        dropout: The share of gated units dropped in training.
        head_options: Passed to the likelihood head, ``scale="entry"`` say, for a scale that depends on the past.

    Attributes:
        reach: How many steps before it a law sees.

    Raises:
        ValueError: Sizes are out of range, or a datum is no series.

    Example:
        >>> program = WaveNet(20, layers=3)
        >>> program.reach
        8
        >>> import pyro_gen as pg
        >>> x = torch.full((1, 30), torch.nan)
        >>> x[:, :20] = torch.arange(20.0).sin()
        >>> pg.impute(program, x, draws=3).shape  # forecasts of ten steps
        torch.Size([3, 1, 30])
    """

    any_length = True

    def __init__(
        self,
        event_shape: int | Sequence[int],
        channels: int = 16,
        layers: int = 4,
        kernel: int = 2,
        lags: int = 1,
        likelihood: str = "normal",
        context: int = 0,
        dropout: float = 0.0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, context, shared=True, **head_options)
        check_sizes(self, channels=channels, kernel=kernel, lags=lags)
        check_sizes(self, 0, layers=layers)
        if len(self.event_shape) != 1:
            raise ValueError(f"WaveNet({tuple(self.event_shape)}): give the length T of a series.")
        out = len(self.offset.flatten())
        self.direct = nn.Conv1d(self.inputs, out, lags, bias=False)
        self.embed = nn.Conv1d(self.inputs, channels, 1)
        self.conditioned = nn.Linear(context, channels, bias=False) if context else None
        self.layers = nn.ModuleList(GatedLayer(channels, kernel, 2**i, dropout) for i in range(layers))
        self.last = nn.Conv1d(channels, out, 1, bias=False)
        self.lags, self.reach = lags, max(lags, 1 + (kernel - 1) * (2**layers - 1) if layers else 0)
        nn.init.zeros_(self.direct.weight)

    def network(self, values: Tensor, m: Any, context: Tensor | None) -> Any:
        """The laws of steps of series with shape (*, T)."""
        shape = values.shape[:-1]
        before = F.pad(self.encode(values).transpose(-1, -2)[..., :-1], (1, 0))  # (*, inputs, T)
        before = before.reshape(-1, *before.shape[-2:])
        given = None if context is None else context.expand(*shape, -1).reshape(len(before), -1)
        h = self.condition(self.embed(before), given)  # (B, channels, T)
        total = torch.zeros_like(h)  # of the skip outputs
        layer: Any
        for layer in self.layers:
            h, skip = layer.gate(h, layer.taps(F.pad(h, (layer.back, 0))))
            total = total + skip
        linear = self.direct(F.pad(before, (self.lags - 1, 0)))
        return self.laws((linear + self.last(F.relu(total))).reshape(*shape, -1))

    def condition(self, h: Tensor, context: Tensor | None) -> Tensor:
        """Adds what a context with shape (B, C) says to every step, (B, channels, T)."""
        return h if self.conditioned is None else h + self.conditioned(context).unsqueeze(-1)

    def observed(self, rows: int, context: Tensor | None = None, steps: int | None = None) -> MaskedEntries:
        """The law of so many series, of T steps by default, with a context of shape (rows, C) where there is one."""
        size = self.entries if steps is None else steps
        order = torch.arange(size, device=self.offset.device).unsqueeze(0)
        shape = (torch.Size((size,)), self.support, torch.Size((rows,)))
        return MaskedEntries(self.network, order, *shape, context, lambda n, m, c: CachedLayers(self, n, size, c))

    def observed_like(self, x: Tensor, context: Tensor | None) -> MaskedEntries:
        """The law of series as long as those of x, (N, T)."""
        return self.observed(len(x), context, x.shape[1])

    def model(self, x: Tensor, *context: Tensor) -> Tensor:
        """The density of series with shape :math:`(N, T)`; returns them completed."""
        with self.plate(x):
            return observe("x", self.observed_like(x, self.given(x, context)), x)


class GatedLayer(nn.Module):
    """A dilated, gated convolution with a residual and a skip output."""

    def __init__(self, channels: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.taps = nn.Conv1d(channels, 2 * channels, kernel, dilation=dilation)
        self.mix = nn.Conv1d(channels, 2 * channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.dilation, self.back = dilation, (kernel - 1) * dilation

    def gate(self, h: Tensor, tapped: Tensor) -> tuple[Tensor, Tensor]:
        """The next h, and the skip output, (B, channels, T) each, for the output of the taps, (B, 2 channels, T)."""
        signal, gate = tapped.chunk(2, 1)
        residual, skip = self.mix(self.dropout(signal.tanh() * gate.sigmoid())).chunk(2, 1)
        return h + residual, skip


class CachedLayers(Steps):
    """The laws of steps one after the other, from the values of all layers at the steps before, which are kept."""

    def __init__(self, program: WaveNet, rows: int, steps: int, context: Tensor | None) -> None:
        self.program, self.t = program, 0
        self.given = None if program.conditioned is None else program.conditioned(context).unsqueeze(-1)
        self.before = program.offset.new_zeros(rows, program.inputs, program.lags - 1 + steps)
        layers: list[Any] = list(program.layers)
        self.seen = [program.offset.new_zeros(rows, layer.mix.in_channels, layer.back + steps) for layer in layers]

    def kept(self) -> list[Tensor]:
        return [self.before, *self.seen, *([] if self.given is None else [self.given])]

    def law(self, previous: Tensor | None) -> Any:
        """The law of the next step, with batch shape (rows,), given the value of the one before."""
        p, t, lags = self.program, self.t, self.program.lags
        if previous is not None:
            self.before[..., lags - 1 + t] = p.encode(previous.unsqueeze(-1)).squeeze(-2)
        h = p.embed(self.before[..., lags - 1 + t, None])  # (rows, channels, 1)
        h = h if self.given is None else h + self.given
        total = torch.zeros_like(h)  # of the skip outputs
        layer: Any
        for layer, seen in zip(p.layers, self.seen, strict=True):
            seen[..., layer.back + t, None] = h
            taps = layer.taps(seen[..., t : layer.back + t + 1])
            h, skip = layer.gate(h, taps)
            total = total + skip
        self.t += 1
        return p.law((p.direct(self.before[..., t : lags + t]) + p.last(F.relu(total))).squeeze(-1), t)
