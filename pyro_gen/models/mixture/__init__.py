"""Finite mixtures: the component is summed out, so their densities are exact, with holes too."""

from pyro_gen.models.mixture.class_conditional import ClassConditional
from pyro_gen.models.mixture.dirichlet_process import DirichletProcessMixture
from pyro_gen.models.mixture.factor_analysers import MixtureOfFactorAnalysers
from pyro_gen.models.mixture.gaussian import GaussianMixture
from pyro_gen.models.mixture.kernel_density import KernelDensity
from pyro_gen.models.mixture.latent_class import BernoulliMixture, CategoricalMixture

__all__ = [
    "BernoulliMixture",
    "CategoricalMixture",
    "ClassConditional",
    "DirichletProcessMixture",
    "GaussianMixture",
    "KernelDensity",
    "MixtureOfFactorAnalysers",
]
