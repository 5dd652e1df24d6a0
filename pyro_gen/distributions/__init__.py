"""Distributions that Pyro does not have, one law a file."""

from pyro_gen.distributions.autoregressive import AutoregressiveSeries
from pyro_gen.distributions.censored import Censored
from pyro_gen.distributions.discretized_logistic import DiscretizedLogistic
from pyro_gen.distributions.either import Either
from pyro_gen.distributions.gaussian_kernels import GaussianKernels
from pyro_gen.distributions.innermost import elements, innermost, of_entry
from pyro_gen.distributions.level_categorical import LevelCategorical
from pyro_gen.distributions.logistic_normal import LogisticNormal
from pyro_gen.distributions.markov_path import MarkovPath
from pyro_gen.distributions.negative_multinomial import NegativeMultinomial
from pyro_gen.distributions.ordered_entries import MaskedEntries, OrderAgnosticEntries, OrderedEntries, Steps
from pyro_gen.distributions.state_space import StateSpaceSeries
from pyro_gen.distributions.wishart import Wishart

__all__ = [
    "AutoregressiveSeries",
    "Censored",
    "DiscretizedLogistic",
    "Either",
    "GaussianKernels",
    "LevelCategorical",
    "LogisticNormal",
    "MarkovPath",
    "MaskedEntries",
    "NegativeMultinomial",
    "OrderAgnosticEntries",
    "OrderedEntries",
    "StateSpaceSeries",
    "Steps",
    "Wishart",
    "elements",
    "innermost",
    "of_entry",
]
