r"""How well the first words of topics go together in the documents.

With :math:`D(i)` the number of documents that have word i and :math:`D(i, j)` of those that have both,
:math:`p(i, j) = D(i, j) / N`, and :math:`w_1, \dots, w_M` the M most probable words of a topic:

.. math::
    \text{NPMI} &= \frac{2}{M (M - 1)} \sum_{i < j}
    \frac{\log \, p(w_i, w_j) / (p(w_i) \, p(w_j))}{- \log p(w_i, w_j)} , \qquad
    \text{UMass} = \sum_{i < j} \log \frac{D(w_i, w_j) + 1}{D(w_i)} .

NPMI lies between -1, for words that never meet, and 1, for words that are always together; independent words have 0.
Both are of the documents that the topics were found in.

References:
    | Optimizing Semantic Coherence in Topic Models (Mimno et al., 2011), UMass
    | Machine Reading Tea Leaves (Lau, Newman & Baldwin, 2014), NPMI of topics
    | https://doi.org/10.3115/v1/E14-1056
"""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["npmi", "umass"]


def npmi(counts: Any, words: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The NPMI of topics, with shape (K,).

    Arguments:
        counts: Counts (N, V), a scipy matrix.
        words: The M first words of each topic, with shape (K, M).

    Example:
        >>> import scipy.sparse
        >>> always = scipy.sparse.csr_matrix([[1, 1, 0], [2, 1, 0], [0, 0, 3]])
        >>> npmi(always, np.array([[0, 1], [0, 2]])).round(6).tolist()
        [1.0, -1.0]
    """
    n = counts.shape[0]
    out = []
    for together in _together(counts, words):
        p, joint = np.diag(together) / n, together / n
        i, j = np.triu_indices(len(p), 1)
        pairs = joint[i, j]
        met = pairs > 0
        found = np.full(len(pairs), -1.0)
        everywhere = pairs == 1
        safe = met & ~everywhere
        found[safe] = np.log(pairs[safe] / (p[i] * p[j])[safe]) / -np.log(pairs[safe])
        found[everywhere] = 0.0  # in all documents: as independent as together
        out.append(found.mean())
    return np.array(out)


def umass(counts: Any, words: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The UMass coherence of topics, with shape (K,), nats; the arguments are those of :func:`npmi`."""
    out = []
    for together in _together(counts, words):
        i, j = np.triu_indices(len(together), 1)
        out.append(np.log((together[i, j] + 1) / np.maximum(np.diag(together)[i], 1)).sum())
    return np.array(out)


def _together(counts: Any, words: npt.NDArray[np.int64]) -> list[npt.NDArray[np.float64]]:
    """In how many documents words meet, (M, M) for each topic."""
    there = (counts > 0).astype(np.float64).tocsc()
    return [(there[:, row].T @ there[:, row]).toarray() for row in words]
