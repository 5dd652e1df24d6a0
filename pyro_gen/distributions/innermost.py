"""What a distribution is under what stands around it."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution

__all__ = ["elements", "innermost"]


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
