"""The posterior of the local latent variables of each datum."""

from pyro_gen.inference.latents.api import latents
from pyro_gen.inference.latents.result import Latents, Marginal

__all__ = ["Latents", "Marginal", "latents"]
