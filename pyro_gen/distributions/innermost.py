"""What a distribution is under what stands around it."""

from typing import Any

import pyro.distributions as dist

__all__ = ["innermost"]


def innermost(distribution: Any) -> Any:
    """A distribution without to_event, mask and expand around it."""
    while hasattr(distribution, "base_dist") and not isinstance(distribution, dist.TransformedDistribution):
        distribution = distribution.base_dist
    return distribution
