"""Variational autoencoders."""

from pyro_gen.models.vae.autoencoder import Autoencoder
from pyro_gen.models.vae.characteristic_capturing import CCVAE
from pyro_gen.models.vae.conditional import ConditionalVAE
from pyro_gen.models.vae.discrete import DiscreteVAE
from pyro_gen.models.vae.hierarchical import HierarchicalVAE
from pyro_gen.models.vae.pixel import PixelVAE
from pyro_gen.models.vae.semi_supervised import SemiSupervisedVAE
from pyro_gen.models.vae.vae import VAE
from pyro_gen.models.vae.vector_quantised import VQVAE

__all__ = [
    "CCVAE",
    "VAE",
    "VQVAE",
    "Autoencoder",
    "ConditionalVAE",
    "DiscreteVAE",
    "HierarchicalVAE",
    "PixelVAE",
    "SemiSupervisedVAE",
]
