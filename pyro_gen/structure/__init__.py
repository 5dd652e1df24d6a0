"""The structure of data, one function a question: the posterior over the answer, not only the best one."""

from pyro_gen.structure.clusters import Clusters, find_clusters

__all__ = ["Clusters", "find_clusters"]
