r"""Posteriors over partitions: how often two data are together, and the partition that stands for all draws.

References:
    | Bayesian Cluster Analysis: Point Estimation and Credible Balls (Wade & Ghahramani, 2018)
    | https://doi.org/10.1214/17-BA1073
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

__all__ = ["ROWS_FOR_MATRIX", "canonical", "co_assignment", "representative", "variation_of_information"]

ROWS_FOR_MATRIX = 5000  # beyond which no N x N matrix is made

Labels = npt.NDArray[np.int64]


def canonical(labels: Labels) -> Labels:
    """The same partition, or partitions in the last dimension, with clusters 0, 1, ... by size, ties by first datum.

    Example:
        >>> canonical(np.array([7, 3, 3, 7, 3])).tolist()
        [1, 0, 0, 1, 0]
    """
    if labels.ndim > 1:
        return np.stack([canonical(row) for row in labels])
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -counts))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return np.asarray(rank[inverse], dtype=np.int64)


def co_assignment(partitions: Labels) -> npt.NDArray[np.float64]:
    """How often two data are in one cluster, with shape (N, N), of partitions with shape (S, N).

    Example:
        >>> co_assignment(np.array([[0, 0, 1], [0, 1, 1]]))[1].tolist()
        [0.5, 1.0, 0.5]
    """
    together = np.zeros((partitions.shape[1],) * 2)
    for labels in partitions:
        member = (labels[:, None] == np.unique(labels)).astype(np.float32)
        together += member @ member.T
    return together / len(partitions)


def variation_of_information(a: Labels, b: Labels) -> float:
    """The distance of two partitions of N data in nats, 2 H(a, b) - H(a) - H(b) (Meila, 2007).

    Example:
        >>> round(variation_of_information(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])), 4)  # log 2
        0.6931
    """
    size = int(b.max()) + 1
    joint = np.bincount(a * size + b, minlength=(int(a.max()) + 1) * size).reshape(-1, size) / len(a)
    marginals = _negative_entropies(joint.sum(0)) + _negative_entropies(joint.sum(1))
    return float(marginals - 2 * _negative_entropies(joint.ravel()))


def representative(partitions: Labels) -> tuple[Labels, float]:
    """The partition with the least expected variation of information to the draws.

    Candidates are the draws and, of up to :data:`ROWS_FOR_MATRIX` data, the cuts of the tree by average linkage of how
    often data are apart, into as many clusters as draws have; of more data, 40 draws against 100.

    Arguments:
        partitions: Draws with shape (S, N).

    Returns:
        The labels in canonical order, and the expected loss in nats.

    Example:
        >>> labels, loss = representative(np.array([[0, 0, 1, 1]] * 9 + [[0, 0, 0, 1]]))
        >>> labels.tolist(), round(loss, 3)
        ([0, 0, 1, 1], 0.082)
    """
    draws, counts = np.unique(canonical(partitions), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    candidates: Any = draws[order[:200]]
    if partitions.shape[1] > ROWS_FOR_MATRIX:
        candidates, draws, counts = draws[order[:40]], draws[order[:100]], counts[order[:100]]
    elif partitions.shape[1] > 1:
        tree = linkage(squareform(1 - co_assignment(partitions), checks=False), "average")
        cuts = [fcluster(tree, k, "maxclust") for k in np.unique(draws.max(1) + 1)]
        candidates = np.unique(np.concatenate([candidates, canonical(np.stack(cuts))]), axis=0)
    share = counts / counts.sum()
    member = (draws[:, None] == np.arange(draws.max() + 1)[:, None]).astype(np.float64)  # (S, K, N)
    own = _negative_entropies(member.mean(2))
    losses = []
    for candidate in candidates:
        groups = (candidate[:, None] == np.unique(candidate)).astype(np.float64)
        joint = member @ groups / len(candidate)  # (S, K, K')
        distance = own + _negative_entropies(groups.mean(0)) - 2 * _negative_entropies(joint.reshape(len(draws), -1))
        losses.append(float(share @ distance))
    best = int(np.argmin(losses))
    return candidates[best], losses[best]


def _negative_entropies(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of laws in the last dimension, nats."""
    return np.asarray((p * np.log(np.where(p > 0, p, 1.0))).sum(-1))
