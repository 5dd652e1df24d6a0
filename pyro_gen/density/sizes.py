"""The shapes of what is in a recorded graph, worked out without running it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

__all__ = ["REARRANGED", "broadcast", "is_constant_along", "shape_of", "summed_shape"]

_ATEN = torch.ops.aten


def shape_of(node: fx.Node) -> torch.Size:
    """That of the tensor which a node gives, as it was noted; that of a number where it was not."""
    return node.meta.get("shape") or torch.Size()


def is_constant_along(node: fx.Node, dims: Iterable[int]) -> bool:
    """Whether a tensor that broadcasts is the same along some dimensions."""
    return all(shape_of(node)[d] == 1 for d in dims)


def broadcast(*shapes: torch.Size) -> torch.Size:
    """The shape of shapes that are known to fit."""
    rank = max(map(len, shapes), default=0)
    columns = zip(*((1,) * (rank - len(s)) + tuple(s) for s in shapes), strict=True)
    return torch.Size([max(column) if 0 not in column else 0 for column in columns])


def summed_shape(node: fx.Node, dims: Iterable[int], keep: bool) -> torch.Size:
    """The shape of a tensor after a sum over some dimensions."""
    shape = shape_of(node)
    gone = {d % len(shape) for d in dims}
    return torch.Size([1 if i in gone else n for i, n in enumerate(shape) if keep or i not in gone])


def _transposed(shape: torch.Size, a: int, b: int) -> torch.Size:
    sizes = list(shape)
    sizes[a], sizes[b] = sizes[b], sizes[a]
    return torch.Size(sizes)


# Operations that rearrange dimensions: the shape of the result by the shape and the other arguments.
REARRANGED: dict[Any, Callable[..., torch.Size]] = {
    _ATEN.permute.default: lambda s, dims: torch.Size([s[d] for d in dims]),
    _ATEN.transpose.int: _transposed,
    _ATEN.t.default: lambda s: torch.Size(s[::-1]),
    _ATEN.unsqueeze.default: lambda s, d: torch.Size([*s[: d % (len(s) + 1)], 1, *s[d % (len(s) + 1) :]]),
    _ATEN.squeeze.dim: lambda s, d: torch.Size([n for i, n in enumerate(s) if i != d % len(s) or n != 1]),
}
