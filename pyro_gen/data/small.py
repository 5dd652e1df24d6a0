"""A few rows of made-up data to try a program on; the same ones at every call."""

import torch
from torch import Tensor

__all__ = ["binary_rows", "count_rows", "level_rows", "network_rows", "normal_rows"]


def normal_rows(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers of a shape.

    Example:
        >>> normal_rows(9, 4).shape
        torch.Size([9, 4])
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def binary_rows(*shape: int) -> Tensor:
    """Fair coins, 0.0 or 1.0, of a shape."""
    return (normal_rows(*shape) > 0).float()


def level_rows(levels: int, *shape: int) -> Tensor:
    """Levels 0.0, 1.0, ..., ``levels - 1``, all as likely, of a shape."""
    return torch.randint(0, levels, shape, generator=torch.Generator().manual_seed(0)).float()


def count_rows(*shape: int) -> Tensor:
    """Counts, 3.0 in the mean, of a shape."""
    return normal_rows(*shape).exp().mul(2).floor()


def network_rows(networks: int, nodes: int, directed: bool = False, counts: bool = False) -> Tensor:
    """Random networks, (G, N, N), symmetric unless they are directed, of edges 0.0, 1.0, or of counts up to 3.0."""
    drawn = level_rows(4 if counts else 2, networks, nodes, nodes)
    if not directed:
        drawn = drawn.triu() + drawn.triu(1).mT
    return drawn * (1 - torch.eye(nodes))
