"""Distributions that Pyro does not have, one law a file."""

from pyro_gen.distributions.censored import Censored

__all__ = ["Censored"]
