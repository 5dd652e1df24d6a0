"""Guides for any program: Gaussians and flows for its latent variables, flows for an encoder, and how good they are."""

from pyro_gen.distributions.flows import AmortisedFlow, FlowDistribution, Transport
from pyro_gen.inference.guides.attach import guide_of, with_guide
from pyro_gen.inference.guides.base import Guide
from pyro_gen.inference.guides.check import GuideReport, check_guide
from pyro_gen.inference.guides.laplace import laplace
from pyro_gen.inference.guides.latent import Flow, FullRank, LowRank, MeanField
from pyro_gen.inference.guides.neutra import NeuTra, neutra

#: Guides by name, those that need no more than the program.
GUIDES: dict[str, type[Guide]] = {
    "mean-field": MeanField,
    "full-rank": FullRank,
    "low-rank": LowRank,
    "flow": Flow,
}

__all__ = [
    "GUIDES",
    "AmortisedFlow",
    "Flow",
    "FlowDistribution",
    "FullRank",
    "Guide",
    "GuideReport",
    "LowRank",
    "MeanField",
    "NeuTra",
    "Transport",
    "check_guide",
    "guide_of",
    "laplace",
    "neutra",
    "with_guide",
]
