"""Evaluations without Pyro's validation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch

from pyro_gen._random import exclusive

__all__ = ["no_validation"]


@contextmanager
def no_validation() -> Iterator[None]:
    """Checks that look at values are for the one run before: they would stop the batch, or the recording.

    A distribution that was made outside of the model remembers that it is to check its samples.
    """
    with exclusive():
        cls: Any = torch.distributions.Distribution
        check = cls._validate_sample
        cls._validate_sample = lambda self, value: None
        try:
            with pyro.validation_enabled(False):
                yield
        finally:
            cls._validate_sample = check
