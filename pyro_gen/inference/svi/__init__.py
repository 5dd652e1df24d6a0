"""Stochastic variational inference: the door `fit` (door.py), its loop, its steps, its checkpoints."""

from pyro_gen.inference.svi.door import fit
from pyro_gen.inference.svi.result import FitResult, NonFiniteLossError

__all__ = ["FitResult", "NonFiniteLossError", "fit"]
