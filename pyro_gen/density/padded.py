"""The gradients of the parts of a tensor, side by side.

The gradient of a slice is padded by zeros to the size of the whole, and those of several slices are added. Where they
are all parts of it, as the latent variables are of a point, that is to put them side by side.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import fx

__all__ = ["join_gradients"]

_ATEN = torch.ops.aten
_ADD = _ATEN.add.Tensor


def join_gradients(graph: fx.Graph) -> None:
    """Puts the gradients of all slices of a tensor side by side, which are else each padded by zeros and added."""
    pieces: dict[fx.Node, tuple[Any, list[tuple[int, int, fx.Node, bool]]]] = {}
    for node in list(graph.nodes):
        if (piece := _piece(node)) is not None:
            pieces[node] = piece
        elif node.target is _ADD and len(node.args) == 2 and not node.kwargs and all(a in pieces for a in node.args):
            (key, some), (other, more) = (pieces[a] for a in node.args)
            joined = sorted((*some, *more), key=lambda p: p[:2])
            if key != other or any(a[1] > b[0] for a, b in pairwise(joined)):
                continue
            pieces[node] = key, joined
            shape, dim, _ = key
            if joined[0][0] == 0 and joined[-1][1] == shape[dim] == sum(stop - start for start, stop, *_ in joined):
                with graph.inserting_before(node):
                    parts = [
                        graph.call_function(_ATEN.unsqueeze.default, (g, dim)) if alone else g
                        for *_, g, alone in joined
                    ]
                    whole = graph.call_function(_ATEN.cat.default, (parts, dim))
                whole.meta.update(node.meta)
                for part, (*_, g, alone) in zip(parts, joined, strict=True):
                    if alone:
                        size = list(g.meta["shape"])
                        part.meta.update(g.meta, shape=torch.Size((*size[:dim], 1, *size[dim:])))
                node.replace_all_uses_with(whole)
    graph.eliminate_dead_code()


def _piece(node: Any) -> tuple[Any, list[tuple[int, int, fx.Node, bool]]] | None:
    if node.target not in (_ATEN.slice_backward.default, _ATEN.select_backward.default):
        return None
    g, shape, dim, *place = node.args
    if not (isinstance(g, fx.Node) and "shape" in g.meta and isinstance(shape, Sequence) and isinstance(dim, int)):
        return None
    size, dim = shape[dim], dim % len(shape)
    first, *rest = (int(p) for p in place)
    start = max(0, first + size) if first < 0 else min(first, size)
    key = (tuple(shape), dim, node.meta.get("dtype"))
    if not rest:
        return key, [(start, start + 1, g, True)]
    stop, step = rest
    stop = max(start, stop + size if stop < 0 else min(stop, size))
    return None if step != 1 else (key, [(start, stop, g, False)])
