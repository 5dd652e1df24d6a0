"""Inference for any program: training, likelihoods, generation."""

from pyro_gen.inference.ais import bdmc
from pyro_gen.inference.importance import log_likelihood
from pyro_gen.inference.likelihood import LogLikelihood
from pyro_gen.inference.objectives import ELBO, IWAE, DReG, EnumELBO, Objective, Renyi, ScoreFunctionELBO
from pyro_gen.inference.predictive import impute, reconstruct, sample
from pyro_gen.inference.svi import FitResult, NonFiniteLossError, fit

__all__ = [
    "ELBO",
    "IWAE",
    "DReG",
    "EnumELBO",
    "FitResult",
    "LogLikelihood",
    "NonFiniteLossError",
    "Objective",
    "Renyi",
    "ScoreFunctionELBO",
    "bdmc",
    "fit",
    "impute",
    "log_likelihood",
    "reconstruct",
    "sample",
]
