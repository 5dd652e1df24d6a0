"""What a distribution is under what stands around it."""

import copy
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch.utils._pytree import tree_map

__all__ = ["elements", "innermost", "of_entry"]


def innermost(distribution: Any) -> Any:
    """A distribution without to_event, mask and expand around it.

    Example:
        >>> type(innermost(dist.LogNormal(0.0, 1.0).expand([2]).mask(False).to_event(1))).__name__
        'LogNormal'
    """
    while isinstance(distribution, torch.distributions.Independent | dist.MaskedDistribution | ExpandedDistribution):
        distribution = distribution.base_dist
    return distribution


def elements(distribution: Any) -> Any:
    """A distribution without to_event and mask around it: their dimensions are batch dimensions, of one entry each."""
    while isinstance(distribution, torch.distributions.Independent | dist.MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def of_entry(distribution: Any, entry: int) -> Any:
    """The law of one entry, with batch shape (*), of a distribution of single entries with batch shape (*, D).

    Example:
        >>> law = dist.Normal(torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2]))
        >>> of_entry(law, 1)
        Normal(loc: 2.0, scale: 0.20000000298023224)
    """
    return _select(distribution, distribution.batch_shape, entry)


def _select(distribution: Any, batch: torch.Size, entry: int) -> Any:
    """One entry along the last dimension of a batch shape that all parts of a distribution begin with."""

    def select(part: Any) -> Any:
        if isinstance(part, torch.Tensor) and part.shape[: len(batch)] == batch:
            return part.select(len(batch) - 1, entry)
        return _select(part, batch, entry) if isinstance(part, torch.distributions.Distribution) else part

    new = copy.copy(distribution)
    vars(new).update(tree_map(select, vars(distribution)))
    new._batch_shape = batch[:-1] + distribution.batch_shape[len(batch) :]  # noqa: SLF001 -- as expand does it
    return new
