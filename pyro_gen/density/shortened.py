"""Recorded graphs made faster, as far as that is found to give the same numbers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_gen.density.factored import factored
from pyro_gen.density.together import together

__all__ = ["agree", "shortened"]

LONG = 500  # operations, from which on those that are alike are looked for


def shortened(graph: Any, args: Sequence[Tensor]) -> Any:
    """A recording with less to do, where that gives the same."""

    def alike(graph: Any) -> Any:
        return together(graph, args[0].device) if len(graph.graph.nodes) >= LONG else None

    for shorter in (factored, alike):
        try:
            short = shorter(graph)
            if short is not None and _equal(short, graph, args):
                graph = short
        except Exception:  # of an operation that torch cannot do for many: what was recorded holds
            continue
    return graph


def _equal(a: Any, b: Any, args: Sequence[Tensor]) -> bool:
    z = args[0]
    far = 3 * z.flip(0) + torch.linspace(-3, 3, z.numel(), dtype=z.dtype, device=z.device).view_as(z)
    # At the second point, other branches of a comparison are taken.
    return all(agree(x, y) for at in (z, far) for x, y in zip(a(at, *args[1:]), b(at, *args[1:]), strict=True))


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two results are the same but for rounding."""
    # Sums of thousands of float32 terms in another order: relative to the largest entry.
    largest = b.abs().nan_to_num(posinf=0.0).max() if b.numel() else 0.0  # a gradient, where all sites are held
    tolerance = (1e-4 if a.dtype == torch.float32 else 1e-8) * (1 + largest)
    return torch.allclose(a, b, rtol=1e-3 if a.dtype == torch.float32 else 1e-7, atol=float(tolerance), equal_nan=True)
