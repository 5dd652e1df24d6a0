"""Normalizing flows: densities of data that are exact, by bijections of noise."""

from pyro_gen.models.flows.continuous import ContinuousFlow
from pyro_gen.models.flows.glow import Glow
from pyro_gen.models.flows.inverse_autoregressive import IAF
from pyro_gen.models.flows.masked_autoregressive import MAF
from pyro_gen.models.flows.neural_spline import NeuralSpline
from pyro_gen.models.flows.real_nvp import RealNVP
from pyro_gen.models.flows.residual import ResidualFlow
from pyro_gen.models.flows.variational_dequantization import VariationalDequantization

__all__ = [
    "IAF",
    "MAF",
    "ContinuousFlow",
    "Glow",
    "NeuralSpline",
    "RealNVP",
    "ResidualFlow",
    "VariationalDequantization",
]
