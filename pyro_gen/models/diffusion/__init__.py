"""Diffusion: chains that turn noise into data, step by step."""

from pyro_gen.models.diffusion.ddpm import DDPM

__all__ = ["DDPM"]
