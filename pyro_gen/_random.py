"""Reproducible randomness that leaves the caller's generators alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generators inside the block and restores their states after it.

    Arguments:
        seed: A non-negative integer. Same seed, same device, same draws.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded(0):
        ...     first = torch.rand(3)
        >>> with seeded(0):
        ...     bool((torch.rand(3) == first).all())
        True
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    # CUDA is forked only once it is in use: asking for its state would initialise it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
