"""Distributions that Pyro does not have, one law a file."""

from pyro_gen.distributions.censored import Censored
from pyro_gen.distributions.discretized_logistic import DiscretizedLogistic
from pyro_gen.distributions.innermost import elements, innermost
from pyro_gen.distributions.level_categorical import LevelCategorical

__all__ = ["Censored", "DiscretizedLogistic", "LevelCategorical", "elements", "innermost"]
