"""Linear Gaussian models: their likelihoods are known in closed form."""

from pyro_gen.models.linear.factor_analysis import FactorAnalysis, ProbabilisticPCA
from pyro_gen.models.linear.gaussian import Gaussian

__all__ = ["FactorAnalysis", "Gaussian", "ProbabilisticPCA"]
