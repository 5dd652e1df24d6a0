"""Bayesian networks: a graph that is given, with tables or linear Gaussian equations at its nodes."""

from pyro_gen.models.bayesian_network.discrete import DiscreteBayesianNetwork
from pyro_gen.models.bayesian_network.linear_gaussian import LinearGaussianBayesianNetwork

__all__ = ["DiscreteBayesianNetwork", "LinearGaussianBayesianNetwork"]
