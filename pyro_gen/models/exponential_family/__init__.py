"""Deep exponential families: layers of latent variables, each with the parameters of the layer below."""

from pyro_gen.models.exponential_family.deep_exponential_family import DeepExponentialFamily

__all__ = ["DeepExponentialFamily"]
