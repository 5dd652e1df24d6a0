"""Markov chain Monte Carlo on a density, many chains at once: pure kernels, and samplers that adapt them."""

from pyro_gen.inference.mcmc.discrete_langevin import DiscreteLangevin
from pyro_gen.inference.mcmc.driver import Block, Samples, run
from pyro_gen.inference.mcmc.gibbs import Gibbs
from pyro_gen.inference.mcmc.nuts import NUTS
from pyro_gen.inference.mcmc.random_walk import RandomWalk
from pyro_gen.inference.mcmc.sampler import HMC, MALA, Sampler
from pyro_gen.inference.mcmc.samplers import SAMPLERS, Kernel, make_sampler
from pyro_gen.inference.mcmc.tempering import Tempering

__all__ = [
    "HMC",
    "MALA",
    "NUTS",
    "SAMPLERS",
    "Block",
    "DiscreteLangevin",
    "Gibbs",
    "Kernel",
    "RandomWalk",
    "Sampler",
    "Samples",
    "Tempering",
    "make_sampler",
    "run",
]
