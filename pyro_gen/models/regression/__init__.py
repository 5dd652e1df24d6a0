"""Regressions: an outcome given covariates, with the posterior of everything that all data share."""

from pyro_gen.models.regression.conjugate import ConjugateRegression
from pyro_gen.models.regression.gaussian_process import GaussianProcess
from pyro_gen.models.regression.generalised_linear import Regression
from pyro_gen.models.regression.hierarchical import Hierarchical
from pyro_gen.models.regression.horseshoe import Horseshoe
from pyro_gen.models.regression.sparse_gaussian_process import SparseGaussianProcess

__all__ = ["ConjugateRegression", "GaussianProcess", "Hierarchical", "Horseshoe", "Regression", "SparseGaussianProcess"]
