r"""What each engine of graphs returns: draws of graphs, probabilities of edges, and what follows from them.

Data tell a directed graph up to its equivalence class only, which is written as a *pattern* (a completed partially
directed graph): :math:`A_{ij} = A_{ji} = 1` where the class leaves the direction of an edge open. The pattern of an
undirected graph is itself. The structural Hamming distance of two patterns is the number of pairs of nodes that are
joined in different ways, so that the expected distance of a pattern A from the posterior needs no more than the
probability of each of the four ways at each pair,

.. math:: \sum_{i < j} \big( 1 - p(A_{ij}, A_{ji} \mid \text{data}) \big) .

References:
    | The max-min hill-climbing Bayesian network structure learning algorithm (Tsamardinos, Brown & Aliferis, 2006)
    | https://doi.org/10.1007/s10994-006-6889-7
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_gen.structure.estimator import r_hats

__all__ = ["GraphDraws"]

Array = npt.NDArray[np.float64]
Edges = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class GraphDraws:
    """Draws from the posterior over graphs of D nodes, all of one weight.

    Attributes:
        probabilities: Of an edge from i to j, with shape (D, D); symmetric if undirected, 0 from a node to itself.
        graphs: The draws, C chains of S, with shape (C, S, D, D); [..., i, j] is an edge from i to j.
        patterns: The pattern of each, with the same shape; of undirected graphs the graphs themselves.
        best: The graph of the highest score that was met, with shape (D, D).
        log_scores: Log-posterior of each draw up to a constant, nats, with shape (C, S); none of independent draws.
        log_evidence: Of the data, all graphs summed over, nats, where that is known.
        directed: Whether edges have a direction.
        details: What else the engine tells, by name.
        best_pattern: The pattern of the best graph, if it is another than the graph.
    """

    probabilities: Array
    graphs: Edges
    patterns: Edges
    best: Edges
    log_scores: Array | None = None
    log_evidence: float | None = None
    directed: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)
    best_pattern: Edges | None = None

    def joined(self) -> Array:
        """The probability of each of four ways that a pair is joined, with shape (2, 2, D, D).

        Entry [a, b, i, j] is that of ``pattern[i, j] == a`` and ``pattern[j, i] == b``.
        """
        forth = self.patterns.reshape(-1, *self.patterns.shape[-2:])
        back = forth.swapaxes(1, 2)
        both, one = (forth & back).mean(0), forth.mean(0)
        other = one.T
        return np.stack([np.stack([1 - one - other + both, other - both]), np.stack([one - both, both])])

    def expected_distance(self, pattern: Edges) -> float:
        """The expected structural Hamming distance of a pattern (D, D) from the posterior's."""
        way = self.joined()
        upper = np.triu_indices(len(pattern), 1)
        forth, back = pattern[upper].astype(int), pattern.T[upper].astype(int)
        return float((1 - way[forth, back, upper[0], upper[1]]).sum())

    def representative(self) -> tuple[Edges, float]:
        """The drawn pattern (D, D) with the least expected distance from all, and that distance."""
        d = self.patterns.shape[-1]
        drawn, counts = np.unique(self.patterns.reshape(-1, d * d), axis=0, return_counts=True)
        upper = np.triu_indices(d, 1)
        way = self.joined()
        patterns = drawn.reshape(-1, d, d)
        forth = patterns[:, upper[0], upper[1]].astype(int)
        back = patterns[:, upper[1], upper[0]].astype(int)
        distances = (1 - way[forth, back, upper[0], upper[1]]).sum(1)  # (U,)
        least = np.lexsort((-counts, distances.round(12)))[0]  # of several the one drawn more often
        return patterns[least], float(distances[least])

    def inference_data(self, names: Sequence[Any]) -> Any:
        """ArviZ's InferenceData: ``edge`` (C, S, D, D) from ``source`` to ``target``, and ``log_score`` in nats."""
        import arviz

        values: dict[str, Any] = {"edge": self.graphs.astype(np.int8)}
        if self.log_scores is not None:
            values["log_score"] = self.log_scores
        nodes = [str(name) for name in names]
        return arviz.from_dict(
            posterior=values, dims={"edge": ["source", "target"]}, coords={"source": nodes, "target": nodes}
        )

    def r_hat(self) -> dict[str, float]:
        """R-hat of the log score and the greatest of the edges; 1 of what is the same in all draws."""
        found = self.inference_data(range(self.best.shape[0]))
        return r_hats(found, found.posterior.data_vars)
