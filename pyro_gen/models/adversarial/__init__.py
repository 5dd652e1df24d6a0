"""Adversarial models: generators without a density, trained against a critic."""

from pyro_gen.models.adversarial.gan import GAN

__all__ = ["GAN"]
