"""Markov chain Monte Carlo on a density, many chains at once: pure kernels, and samplers that adapt them."""

from pyro_gen.inference.mcmc.sampler import Sampler

__all__ = ["Sampler"]
