"""A model zoo for probabilistic programming on Pyro: model/guide pairs, trained, measured and put to work."""

from pyro_gen import data, inference, models
from pyro_gen.inference import FitResult, fit
from pyro_gen.likelihoods import observe
from pyro_gen.program import Program, plate

__version__ = "0.1.0"

__all__ = ["FitResult", "Program", "data", "fit", "inference", "models", "observe", "plate"]
