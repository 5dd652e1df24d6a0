"""The structure of data, one function a question: the posterior over the answer, not only the best one."""

from pyro_gen.structure.clusters import Clusters, find_clusters
from pyro_gen.structure.communities import Communities, find_communities
from pyro_gen.structure.factors import Factors, find_factors
from pyro_gen.structure.graph import Graph, find_graph
from pyro_gen.structure.regimes import Regimes, find_regimes
from pyro_gen.structure.topics import Topics, find_topics

__all__ = [
    "Clusters",
    "Communities",
    "Factors",
    "Graph",
    "Regimes",
    "Topics",
    "find_clusters",
    "find_communities",
    "find_factors",
    "find_graph",
    "find_regimes",
    "find_topics",
]
