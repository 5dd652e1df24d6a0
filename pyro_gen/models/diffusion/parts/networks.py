"""Networks that see noisy data and how noisy they are."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NoiseLevel", "TimeMLP"]

FREQUENCIES = 4


class NoiseLevel(nn.Module):
    r"""Features of the negative log signal-to-noise ratio :math:`\gamma`: itself, sines and cosines.

    Arguments:
        width: The number of features.
        context: The number of entries of what the density is conditional on, (N, C), where there is any; NaN where it
            is not given.
    """

    def __init__(self, width: int, context: int = 0) -> None:
        super().__init__()
        self.context = context
        self.layer = nn.Linear(1 + 2 * FREQUENCIES + 2 * context, width)

    def forward(self, gamma: Tensor, context: Tensor | None = None) -> Tensor:
        """From shape (*) to (*, width)."""
        s = gamma.unsqueeze(-1) / 10
        waves = math.pi / 2 * s * 2.0 ** torch.arange(FREQUENCIES, device=gamma.device)
        told = []
        if self.context:
            context = gamma.new_full((self.context,), torch.nan) if context is None else context
            unknown = torch.isnan(context)
            told = [c.expand(*s.shape[:-1], -1) for c in (context.masked_fill(unknown, 0.0), unknown.to(s.dtype))]
        return F.silu(self.layer(torch.cat([s, waves.sin(), waves.cos(), *told], -1)))


class TimeMLP(nn.Module):
    """Creates a residual multilayer perceptron of noisy data, which says nothing (0) before training.

    Arguments:
        event_shape: The shape of one datum.
        out: The shape of the output.
        width: The width of the hidden layers.
        depth: The number of residual layers.
        context: The number of entries of what the density is conditional on.
        dropout: The share of hidden units dropped in training.

    Example:
        >>> TimeMLP((8, 8), (8, 8))(torch.zeros(3, 5, 8, 8), torch.zeros(3, 5)).shape
        torch.Size([3, 5, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out: Sequence[int],
        width: int = 256,
        depth: int = 2,
        context: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.event_dim, self.out = len(event_shape), tuple(out)
        self.first = nn.Linear(math.prod(event_shape), width)
        self.level = NoiseLevel(width, context)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, math.prod(out))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, z: Tensor, gamma: Tensor, context: Tensor | None = None) -> Tensor:
        """From data (*, *event) at noise levels (*) to (*, *out)."""
        level = self.level(gamma, context)
        h = F.silu(self.first(z.flatten(-self.event_dim)) + level)
        for layer in self.layers:
            h = h + F.silu(layer(self.dropout(h)) + level)
        return self.last(self.dropout(h)).unflatten(-1, self.out)  # type: ignore[no-any-return]
