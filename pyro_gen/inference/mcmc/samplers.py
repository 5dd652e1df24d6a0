"""The samplers by name."""

from pyro_gen.inference.mcmc.gibbs import Gibbs
from pyro_gen.inference.mcmc.nuts import NUTS
from pyro_gen.inference.mcmc.random_walk import RandomWalk
from pyro_gen.inference.mcmc.sampler import HMC, MALA, Sampler
from pyro_gen.inference.mcmc.tempering import Tempering

__all__ = ["SAMPLERS"]

SAMPLERS: dict[str, type[Sampler]] = {
    "hmc": HMC,
    "nuts": NUTS,
    "mala": MALA,
    "rwm": RandomWalk,
    "gibbs": Gibbs,
    "tempering": Tempering,
}
