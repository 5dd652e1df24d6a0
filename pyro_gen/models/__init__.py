"""The zoo: one family a folder, one model a file."""

from pyro_gen.models.linear import FactorAnalysis, Gaussian, ProbabilisticPCA
from pyro_gen.models.vae import VAE

__all__ = ["VAE", "FactorAnalysis", "Gaussian", "ProbabilisticPCA"]
