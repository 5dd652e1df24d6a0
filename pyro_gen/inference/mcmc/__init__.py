"""Markov chain Monte Carlo on a density, many chains at once: pure kernels, and samplers that adapt them."""

from pyro_gen.inference.mcmc.driver import Block, Samples, run
from pyro_gen.inference.mcmc.sampler import HMC, MALA, Sampler

__all__ = ["HMC", "MALA", "SAMPLERS", "Block", "Sampler", "Samples", "run"]

SAMPLERS: dict[str, type[Sampler]] = {"hmc": HMC, "mala": MALA}
