"""Adversarial models: generators without a density, trained against a critic."""

from pyro_gen.models.adversarial.cycle import CycleGAN
from pyro_gen.models.adversarial.dcgan import DCGAN
from pyro_gen.models.adversarial.gan import GAN
from pyro_gen.models.adversarial.style import StyleGAN

__all__ = ["DCGAN", "GAN", "CycleGAN", "StyleGAN"]
