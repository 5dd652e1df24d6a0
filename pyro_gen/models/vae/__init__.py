"""Variational autoencoders."""

from pyro_gen.models.vae.hierarchical import HierarchicalVAE
from pyro_gen.models.vae.semi_supervised import SemiSupervisedVAE
from pyro_gen.models.vae.vae import VAE

__all__ = ["VAE", "HierarchicalVAE", "SemiSupervisedVAE"]
