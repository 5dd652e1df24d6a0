"""Variational autoencoders."""

from pyro_gen.models.vae.vae import VAE

__all__ = ["VAE"]
