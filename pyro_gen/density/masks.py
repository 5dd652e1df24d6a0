"""Latent variables that are masked out: they have no density.

A mask takes the log-density of a variable away and leaves the variable where it is: the steps after the end of a
sequence, or what Pyro's ``obs_mask`` makes for entries that were observed. As long as nothing depends on them, the
joint density is flat along their coordinates, its integral is infinite, and what is meant is the density of the others.
Such coordinates are held in a joint target. Where targets lie side by side, each has as many, and they are standard
normal in unconstrained space: their integral is 1, and they cancel. What something does depend on is an improper prior.
"""

from collections.abc import Callable, Collection
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._internals import site_mask
from pyro_gen.distributions import innermost
from pyro_gen.observation import point_in
from pyro_gen.traces import sample_sites

__all__ = ["along", "fill_masked", "flat_sites", "masked_out"]

TRIALS = 8  # other values of masked variables, to see whether anything depends on them


def masked_out(site: Any) -> Tensor | None:
    """Where a latent site, or a message to an effect handler, has no density: with the shape of its value."""
    fn, value = site["fn"], site["value"]
    masks = [(site["mask"], fn)]
    while True:
        if isinstance(fn, dist.MaskedDistribution):
            masks.append((site_mask(fn), fn))
        if fn is innermost(fn):
            break
        fn = fn.base_dist
    masks = [(mask, layer) for mask, layer in masks if mask is not None and mask is not True]
    if not masks:
        return None
    kept = torch.ones(value.shape, dtype=torch.bool, device=value.device)
    for mask, layer in masks:
        mask = torch.as_tensor(mask, device=value.device)
        events = len(layer.event_shape)
        kept = kept & mask.reshape(mask.shape + (1,) * events)
    return ~kept


def fill_masked(site: Any) -> None:
    """Puts a point of the support where the values of an observed site are masked: a code such as -999 among them.

    The density there is 0 times what a mask hides, but its gradient would be NaN.
    """
    base = innermost(site["fn"])
    out = masked_out(site)
    if out is None or out.shape != site["value"].shape or base.event_dim or isinstance(base, dist.Delta):
        return
    site["value"] = torch.where(out, point_in(base.support).to(site["value"]), site["value"])


def along(out: Tensor, dims: int, event_dim: int) -> Tensor:
    """What :func:`masked_out` found, for a tensor of ``dims`` dimensions that sums over the last ``event_dim``."""
    for _ in range(event_dim):
        out = out[..., 0]
    return out.reshape(out.shape + (1,) * (dims - out.dim())) if dims > out.dim() else out


def flat_sites(
    candidates: Collection[str], run: Callable[[Collection[str]], tuple[Trace, dict[str, Tensor]]]
) -> frozenset[str]:
    """The sites whose masked values nothing depends on.

    Arguments:
        candidates: The latent sites with masked values.
        run: Draws the masked values of these sites anew, and no others, and returns a trace with log-densities, and the
            log-Jacobians by name.
    """

    def nothing_moves(names: Collection[str]) -> bool:
        before, jacobians = run(())
        for _ in range(TRIALS):
            after, others = run(names)
            for name, site in sample_sites(before).items():
                if not _alike(site["log_prob"], after.nodes[name]["log_prob"]):
                    return False
                if name in jacobians and not _alike(jacobians[name], others[name]):
                    return False
        return True

    if nothing_moves(candidates):
        return frozenset(candidates)
    alone = frozenset(name for name in candidates if nothing_moves((name,)))
    return alone if nothing_moves(alone) else frozenset()


def _alike(a: Tensor, b: Tensor) -> bool:
    # The same operations on the same numbers.
    return a.shape == b.shape and torch.allclose(a, b, rtol=4 * torch.finfo(a.dtype).eps, atol=0.0, equal_nan=True)
