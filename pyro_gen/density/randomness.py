"""Randomness outside of sample sites, of which a density cannot have any."""

import random
from typing import Any

import numpy as np
import torch

__all__ = ["RANDOM", "generator_states", "is_randomness"]

RANDOM = (
    "The model draws random numbers outside of sample sites, so it has no density: draw them by pyro.sample, or "
    "switch them off in evaluation mode as torch.nn.Dropout does."
)


def generator_states(device: torch.device) -> list[Any]:
    """The states of the generators that a model on this device may draw from."""
    states: list[Any] = [torch.get_rng_state().numpy().tobytes(), random.getstate()]
    _, keys, *place = np.random.get_state()  # noqa: NPY002 -- whether a model draws from it
    states += [np.asarray(keys).tobytes(), place]
    return [*states, torch.cuda.get_rng_state(device).numpy().tobytes()] if device.type == "cuda" else states


def is_randomness(error: Exception) -> bool:
    """Whether vmap has refused a draw."""
    return "vmap" in str(error) and "random" in str(error)
