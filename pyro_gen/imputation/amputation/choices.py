"""Random numbers and choices among entries, from torch's generator."""

import numpy as np
import numpy.typing as npt
import torch

from pyro_gen.imputation.columns import Bools, Floats

__all__ = ["below", "choose", "in_random_order", "normal", "uniform"]


def uniform(*shape: int) -> Floats:
    """Uniform numbers in [0, 1)."""
    numbers: Floats = torch.rand(shape, dtype=torch.float64).numpy()
    return numbers


def normal(*shape: int) -> Floats:
    """Standard normal numbers."""
    numbers: Floats = torch.randn(shape, dtype=torch.float64).numpy()
    return numbers


def below(n: int) -> int:
    """A whole number from 0 to n - 1."""
    return int(torch.randint(n, ()))


def in_random_order(n: int) -> npt.NDArray[np.int64]:
    """The whole numbers from 0 to n - 1, in random order."""
    order: npt.NDArray[np.int64] = torch.randperm(n).numpy()
    return order


def choose(probabilities: Floats) -> Bools:
    """Chooses entries of a vector, each with its probability, by systematic sampling in random order."""
    order = in_random_order(len(probabilities))
    steps = np.floor(np.concatenate([[0.0], probabilities[order].cumsum()]) + uniform(1))
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order] = np.diff(steps) > 0
    return chosen
