"""Stochastic variational inference: `fit` (api.py), its loop, its steps, its checkpoints."""

from pyro_gen.inference.svi.api import fit
from pyro_gen.inference.svi.result import FitResult, NonFiniteLossError

__all__ = ["FitResult", "NonFiniteLossError", "fit"]
