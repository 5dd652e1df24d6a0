"""Networks: block models, whose nodes have groups, and positions in a latent space."""

from pyro_gen.models.network.bipartite import BipartiteBlockModel
from pyro_gen.models.network.degree_corrected import DegreeCorrectedBlockModel
from pyro_gen.models.network.latent_position import LatentPosition
from pyro_gen.models.network.nested import NestedBlockModel
from pyro_gen.models.network.stochastic_block import StochasticBlockModel
from pyro_gen.models.network.weighted import WeightedBlockModel

__all__ = [
    "BipartiteBlockModel",
    "DegreeCorrectedBlockModel",
    "LatentPosition",
    "NestedBlockModel",
    "StochasticBlockModel",
    "WeightedBlockModel",
]
