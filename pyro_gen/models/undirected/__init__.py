"""Undirected models: factors on graphs, known up to a constant."""

from pyro_gen.models.undirected.deep_belief import DeepBelief
from pyro_gen.models.undirected.deep_boltzmann import DeepBoltzmann
from pyro_gen.models.undirected.gaussian_graphical import GaussianGraphicalModel
from pyro_gen.models.undirected.ising import Ising
from pyro_gen.models.undirected.markov_random_field import MarkovRandomField
from pyro_gen.models.undirected.parts.graph import Graph, as_graph, complete, grid, torus
from pyro_gen.models.undirected.parts.samplers import BlockedGibbs, SwendsenWang
from pyro_gen.models.undirected.potts import Potts
from pyro_gen.models.undirected.restricted_boltzmann import RestrictedBoltzmann

__all__ = [
    "BlockedGibbs",
    "DeepBelief",
    "DeepBoltzmann",
    "GaussianGraphicalModel",
    "Graph",
    "Ising",
    "MarkovRandomField",
    "Potts",
    "RestrictedBoltzmann",
    "SwendsenWang",
    "as_graph",
    "complete",
    "grid",
    "torus",
]
