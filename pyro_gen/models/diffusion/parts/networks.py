"""Networks that see noisy data and how noisy they are."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NETWORKS", "NoiseLevel", "TimeConvolutions", "TimeMLP", "check_conditions", "check_context", "make_network"]

FREQUENCIES = 4


def check_context(context: Tensor | None, width: int) -> None:
    """Refuses a context whose rows are not of the width that a network was made for, 0 for none.

    Raises:
        ValueError: It is of another.
    """
    if context is not None and (context.dim() < 2 or context.shape[-1] != width):
        raise ValueError(
            f"the context has the shape {tuple(context.shape)}, and the network was made for context={width} numbers a "
            f"row{'' if width else ', none'}: make it for as many, and give labels as indicators, (N, classes)."
        )


def check_conditions(program: nn.Module, *context: Any) -> None:
    """Refuses what a program is to condition on, where its networks were not made for it.

    Raises:
        ValueError: It is more than one tensor, or of another width than they were made for.
    """
    for part in program.modules():
        if isinstance(part, NoiseLevel):
            if len(context) > 1:
                raise ValueError(
                    f"{type(program).__name__} takes one context of shape (N, {part.context}), and was given "
                    f"{len(context)}: give it as one tensor."
                )
            check_context(context[0] if context else None, part.context)


class DropContext(nn.Dropout):
    """In training the context of a share of the rows is not given. To the rest of the package it is dropout."""

    def forward(self, context: Tensor) -> Tensor:
        """NaN in all entries of a row, of rows (*, C)."""
        if not self.training or self.p == 0:
            return context
        return torch.where(torch.rand_like(context[..., :1]) < self.p, torch.nan, context)


class NoiseLevel(nn.Module):
    r"""Features of the negative log signal-to-noise ratio :math:`\gamma`: itself, sines and cosines.

    Arguments:
        width: The number of features.
        context: The number of entries of what the density is conditional on, (N, C), where there is any; NaN where it
            is not given.
        drop_context: The share of rows whose context is not given in training.
    """

    def __init__(self, width: int, context: int = 0, drop_context: float = 0.0) -> None:
        super().__init__()
        self.context, self.drop = context, DropContext(drop_context)
        self.layer = nn.Linear(1 + 2 * FREQUENCIES + 2 * context, width)

    def forward(self, gamma: Tensor, context: Tensor | None = None) -> Tensor:
        """From shape (*) to (*, width).

        Raises:
            ValueError: The context is of another width, or there is to be none.
        """
        s = gamma.unsqueeze(-1) / 10
        waves = math.pi / 2 * s * 2.0 ** torch.arange(FREQUENCIES, device=gamma.device)
        told = []
        check_context(context, self.context)
        if self.context:
            context = gamma.new_full((self.context,), torch.nan) if context is None else self.drop(context)
            unknown = torch.isnan(context)
            told = [c.expand(*s.shape[:-1], -1) for c in (context.masked_fill(unknown, 0.0), unknown.to(s.dtype))]
        return F.silu(self.layer(torch.cat([s, waves.sin(), waves.cos(), *told], -1)))


def _silence(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class TimeMLP(nn.Module):
    """Creates a residual multilayer perceptron of noisy data, which says nothing (0) before training.

    It may see sines and cosines of each entry too, of frequencies pi / 2, pi, 2 pi, ...: what tells small differences
    apart (Kingma et al., 2021).

    Arguments:
        event_shape: The shape of one datum.
        out: The shape of the output.
        width: The width of the hidden layers.
        depth: The number of residual layers.
        context: The number C of features that the model is conditioned on, a context with shape :math:`(N, C)`, NaN
            where it is not given.
        dropout: The share of hidden units dropped in training.
        drop_context: The share of rows whose context is not given in training, so that the model is one without
            context, too; :class:`~pyro_gen.models.Guided` needs that.
        waves: The number of frequencies.

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
        drop_context: float = 0.0,
        waves: int = 0,
    ) -> None:
        super().__init__()
        self.event_dim, self.out, self.waves = len(event_shape), tuple(out), waves
        self.first = nn.Linear((1 + 2 * waves) * math.prod(event_shape), width)
        self.level = NoiseLevel(width, context, drop_context)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, math.prod(out))
        _silence(self.last)

    def forward(self, z: Tensor, gamma: Tensor, context: Tensor | None = None) -> Tensor:
        """From data (*, *event) at noise levels (*) to (*, *out)."""
        level = self.level(gamma, context)
        z = z.flatten(-self.event_dim)
        within = 4 * torch.tanh(z / 4)  # far out, where there are no data, nothing is to oscillate
        angles = [math.pi / 2 * 2**k * within for k in range(self.waves)]
        h = F.silu(self.first(torch.cat([z, *(a.sin() for a in angles), *(a.cos() for a in angles)], -1)) + level)
        for layer in self.layers:
            h = h + F.silu(layer(self.dropout(h)) + level)
        return self.last(self.dropout(h)).unflatten(-1, self.out)  # type: ignore[no-any-return]


class TimeConvolutions(nn.Module):
    """Creates a residual convolutional network of noisy images, which says nothing (0) before training.

    Half of its layers see the whole image at half the resolution: a U of two scales (Ronneberger et al., 2015).

    Arguments:
        event_shape: The shape of one image, (H, W) or (C, H, W).
        out: The shape of the output, (..., H, W).
        width: The number of channels; twice as many at half the resolution.
        depth: The number of residual layers at each scale, on the way down and on the way up.
        context, dropout, drop_context: As of :class:`TimeMLP`.

    Raises:
        ValueError: The shape is none of an image.

    Example:
        >>> TimeConvolutions((8, 8), (17, 8, 8), width=16)(torch.zeros(3, 5, 8, 8), torch.zeros(3, 5)).shape
        torch.Size([3, 5, 17, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out: Sequence[int],
        width: int = 64,
        depth: int = 1,
        context: int = 0,
        dropout: float = 0.0,
        drop_context: float = 0.0,
    ) -> None:
        super().__init__()
        if len(event_shape) not in (2, 3):
            raise ValueError(f"A convolutional network is for images (H, W) or (C, H, W), not {tuple(event_shape)}.")
        self.event_dim, self.out = len(event_shape), tuple(out)
        self.image = tuple(event_shape) if len(event_shape) == 3 else (1, *event_shape)
        self.place = nn.Parameter(torch.zeros(width, *event_shape[-2:]))
        self.level = NoiseLevel(4 * width, context, drop_context)
        self.first = nn.Conv2d(self.image[0], width, 3, padding=1)
        self.down = nn.ModuleList(_Residual(width, 4 * width, dropout) for _ in range(depth))
        self.shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(_Residual(2 * width, 4 * width, dropout) for _ in range(depth))
        self.grow = nn.Conv2d(2 * width, width, 3, padding=1)
        self.up = nn.ModuleList(_Residual(width, 4 * width, dropout) for _ in range(depth))
        self.last = nn.Conv2d(width, math.prod(out) // math.prod(event_shape[-2:]), 3, padding=1)
        _silence(self.last)

    def forward(self, z: Tensor, gamma: Tensor, context: Tensor | None = None) -> Tensor:
        """From images (*, *event) at noise levels (*) to (*, *out)."""
        batch = z.shape[: z.dim() - self.event_dim]
        level = self.level(gamma, context).expand(*batch, -1).flatten(0, -2)
        h = self.first(z.reshape(-1, *self.image)) + self.place
        for layer in self.down:
            h = layer(h, level)
        below = self.shrink(h)
        for layer in self.middle:
            below = layer(below, level)
        h = h + self.grow(F.interpolate(below, size=h.shape[-2:]))
        for layer in self.up:
            h = layer(h, level)
        return self.last(F.silu(h)).reshape(*batch, *self.out)  # type: ignore[no-any-return]


class _Residual(nn.Module):
    """Two convolutions that are added to what they see."""

    def __init__(self, width: int, level: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.level = nn.Linear(level, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        inner = self.first(F.silu(h)) + self.level(level)[..., None, None]
        return h + self.second(self.dropout(F.silu(inner)))  # type: ignore[no-any-return]


NETWORKS: dict[str, type[TimeMLP | TimeConvolutions]] = {"convolutional": TimeConvolutions, "mlp": TimeMLP}


def make_network(
    name: str,
    event_shape: Sequence[int],
    out: Sequence[int],
    width: int,
    depth: int,
    context: int,
    dropout: float,
    drop_context: float,
) -> nn.Module:
    """Creates a network by name, with the arguments of :class:`TimeMLP`.

    Raises:
        ValueError: There is no network of that name, or sizes are out of range.
    """
    if name not in NETWORKS:
        raise ValueError(f"There is no network named {name!r} of noisy data: choose one of {', '.join(NETWORKS)}.")
    if min(width, depth + 1, context + 1) < 1 or not (0 <= dropout < 1 and 0 <= drop_context < 1):
        raise ValueError(
            f"A network of width={width}, depth={depth}, context={context}, dropout={dropout}, "
            f"drop_context={drop_context}: give a positive width, numbers of 0 or more, and shares in [0, 1)."
        )
    return NETWORKS[name](event_shape, out, width, depth, context, dropout, drop_context)
