"""The zoo: one family a folder, one model a file."""

from pyro_gen.models import tabular
from pyro_gen.models.adversarial import GAN
from pyro_gen.models.autoregressive import MADE, NADE
from pyro_gen.models.bayesian_network import DiscreteBayesianNetwork, LinearGaussianBayesianNetwork
from pyro_gen.models.energy import EnergyBased
from pyro_gen.models.flows import IAF, MAF, ContinuousFlow, Glow, NeuralSpline, RealNVP, ResidualFlow
from pyro_gen.models.linear import FactorAnalysis, Gaussian, ProbabilisticPCA
from pyro_gen.models.mixture import (
    BernoulliMixture,
    CategoricalMixture,
    ClassConditional,
    DirichletProcessMixture,
    GaussianMixture,
    MixtureOfFactorAnalysers,
)
from pyro_gen.models.network import (
    BipartiteBlockModel,
    DegreeCorrectedBlockModel,
    LatentPosition,
    NestedBlockModel,
    StochasticBlockModel,
    WeightedBlockModel,
)
from pyro_gen.models.regression import (
    ConjugateRegression,
    GaussianProcess,
    Hierarchical,
    Horseshoe,
    Regression,
    SparseGaussianProcess,
)
from pyro_gen.models.sequence import (
    Autoregression,
    BayesianAutoregression,
    ChangePoints,
    DeepMarkov,
    HiddenMarkov,
    StateSpace,
    SwitchingAutoregression,
    SwitchingStateSpace,
    VariationalRNN,
)
from pyro_gen.models.tabular import (
    DeepLatentTable,
    NotMIWAE,
    TableCopula,
    TableFactors,
    TableGaussian,
    TableMixture,
    TableSelection,
    TableStudent,
)
from pyro_gen.models.topic import LatentDirichletAllocation, ProdLDA
from pyro_gen.models.undirected import GaussianGraphicalModel, Ising, MarkovRandomField, Potts, RestrictedBoltzmann
from pyro_gen.models.vae import VAE, HierarchicalVAE, SemiSupervisedVAE

__all__ = [
    "GAN",
    "IAF",
    "MADE",
    "MAF",
    "NADE",
    "VAE",
    "Autoregression",
    "BayesianAutoregression",
    "BernoulliMixture",
    "BipartiteBlockModel",
    "CategoricalMixture",
    "ChangePoints",
    "ClassConditional",
    "ConjugateRegression",
    "ContinuousFlow",
    "DeepLatentTable",
    "DeepMarkov",
    "DegreeCorrectedBlockModel",
    "DirichletProcessMixture",
    "DiscreteBayesianNetwork",
    "EnergyBased",
    "FactorAnalysis",
    "Gaussian",
    "GaussianGraphicalModel",
    "GaussianMixture",
    "GaussianProcess",
    "Glow",
    "HiddenMarkov",
    "Hierarchical",
    "HierarchicalVAE",
    "Horseshoe",
    "Ising",
    "LatentDirichletAllocation",
    "LatentPosition",
    "LinearGaussianBayesianNetwork",
    "MarkovRandomField",
    "MixtureOfFactorAnalysers",
    "NestedBlockModel",
    "NeuralSpline",
    "NotMIWAE",
    "Potts",
    "ProbabilisticPCA",
    "ProdLDA",
    "RealNVP",
    "Regression",
    "ResidualFlow",
    "RestrictedBoltzmann",
    "SemiSupervisedVAE",
    "SparseGaussianProcess",
    "StateSpace",
    "StochasticBlockModel",
    "SwitchingAutoregression",
    "SwitchingStateSpace",
    "TableCopula",
    "TableFactors",
    "TableGaussian",
    "TableMixture",
    "TableSelection",
    "TableStudent",
    "VariationalRNN",
    "WeightedBlockModel",
    "tabular",
]
