"""Draws and the truth that they are compared with."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["pair"]


def pair(draws: Any, truth: Any, name: str, fewest: int = 1) -> tuple[Tensor, Tensor]:
    """Draws and truth as float64 tensors of matching shapes."""
    draws, truth = (t if isinstance(t, Tensor) else torch.as_tensor(np.asarray(t)) for t in (draws, truth))
    if draws.shape[1:] != truth.shape or not draws.dim():
        raise ValueError(
            f"{name} got draws of shape {tuple(draws.shape)} and a truth of shape {tuple(truth.shape)}: expected "
            f"draws of shape (m, *{tuple(truth.shape)})."
        )
    if len(draws) < fewest:
        raise ValueError(f"{name} got {len(draws)} draws: give at least {fewest}.")
    return draws.double(), truth.double()
