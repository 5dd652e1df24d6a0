"""Regressions: an outcome given covariates, with the posterior of everything that all data share."""

from pyro_gen.models.regression.conjugate import ConjugateRegression
from pyro_gen.models.regression.generalised_linear import Regression
from pyro_gen.models.regression.hierarchical import Hierarchical
from pyro_gen.models.regression.horseshoe import Horseshoe

__all__ = ["ConjugateRegression", "Hierarchical", "Horseshoe", "Regression"]
