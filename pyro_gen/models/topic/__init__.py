"""Topic models: counts of words in documents, of which each mixes a few topics."""

from pyro_gen.models.topic.latent_dirichlet_allocation import LatentDirichletAllocation
from pyro_gen.models.topic.prod_lda import ProdLDA

__all__ = ["LatentDirichletAllocation", "ProdLDA"]
