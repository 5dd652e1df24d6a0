"""Normalizing flows: bijections of noise and data, as distributions of Pyro."""

from pyro_gen.distributions.flows.amortised import AmortisedFlow
from pyro_gen.distributions.flows.autoregressive import Transport
from pyro_gen.distributions.flows.bijection import Bijection, Chain, FlowDistribution, Inverse, Rescaling
from pyro_gen.distributions.flows.marginals import NormalMarginals
from pyro_gen.distributions.flows.ode import divergence, flow_along

__all__ = [
    "AmortisedFlow",
    "Bijection",
    "Chain",
    "FlowDistribution",
    "Inverse",
    "NormalMarginals",
    "Rescaling",
    "Transport",
    "divergence",
    "flow_along",
]
