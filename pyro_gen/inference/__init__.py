"""Inference for any program: training, likelihoods, generation."""

from pyro_gen.inference.objectives import ELBO, IWAE, DReG, EnumELBO, Objective, Renyi, ScoreFunctionELBO
from pyro_gen.inference.svi import FitResult, NonFiniteLossError, fit

__all__ = [
    "ELBO",
    "IWAE",
    "DReG",
    "EnumELBO",
    "FitResult",
    "NonFiniteLossError",
    "Objective",
    "Renyi",
    "ScoreFunctionELBO",
    "fit",
]
