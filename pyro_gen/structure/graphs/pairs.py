r"""What edge-wise Gibbs sampling of undirected graphs shares: pairs that can be drawn together, and the prior of edges.

A priori each pair has an edge with the probability :math:`\theta \sim \operatorname{Uniform}(0, 1)`, so that all
numbers of edges are equally probable, and so are the graphs of each number,

.. math:: p(G) = \frac{1}{(M + 1) \binom{M}{|E|}} , \qquad M = D (D - 1) / 2 ,

less the pairs that are forbidden, or must have an edge. Given :math:`\theta`, pairs that share no node are independent
in scores that are sums over nodes, and are drawn together: a round-robin tournament has every pair in D - 1 rounds.

References:
    | Bayes and empirical-Bayes multiplicity adjustment in the variable-selection problem (Scott & Berger, 2010)
    | https://doi.org/10.1214/10-AOS792
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, logit

from pyro_gen.structure.graphs.base import GraphDraws

__all__ = ["EdgePrior", "most_drawn", "tournament"]

Array = npt.NDArray[np.float64]
Edges = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


def tournament(size: int, generator: np.random.Generator) -> Iterator[tuple[Places, Places]]:
    """All pairs of nodes in rounds of pairs that share none, in random order.

    Yields:
        First and second nodes of a round, with shape (P,) each.
    """
    even = size + size % 2
    players = generator.permutation(even)
    for turn in range(even - 1):
        seats = np.concatenate([players[:1], np.roll(players[1:], turn)])
        one, other = seats[: even // 2], seats[: even // 2 - 1 : -1]
        plays = (one < size) & (other < size)  # who meets the number that is too many has a rest
        yield one[plays], other[plays]


class EdgePrior:
    """The probability of an edge a priori, of C chains of graphs of D nodes.

    Arguments:
        size: The number D of nodes.
        forbidden: Pairs without an edge, symmetric, with shape (D, D), or none.
        required: Pairs with an edge, the same.

    Attributes:
        theta: Its value, with shape (C,).
        free: Pairs that may or may not have an edge, with shape (D, D).
        required: Pairs with an edge, with shape (D, D).
    """

    def __init__(self, size: int, chains: int, forbidden: Edges | None, required: Edges | None) -> None:
        nothing = np.zeros((size, size), dtype=bool)
        self.required = nothing if required is None else required | required.T
        closed = nothing if forbidden is None else forbidden | forbidden.T
        self.free = ~(self.required | closed | np.eye(size, dtype=bool))
        self.pairs = int(self.free.sum()) // 2
        self.theta = np.full(chains, min(0.5, 2 / size))

    def probability(self, log_ratio: Array, one: Places, other: Places) -> Array:
        """Of edges at pairs (P,), by the log-ratio of the scores with and without each, (C, P)."""
        odds = log_ratio + logit(self.theta)[:, None]
        p = np.exp(-np.logaddexp(0.0, -odds))
        return np.where(self.free[one, other], p, self.required[one, other])

    def draw(self, graphs: Edges, generator: np.random.Generator) -> None:
        """Draws the probability given graphs (C, D, D)."""
        edges = (graphs & self.free).sum((1, 2)) // 2
        self.theta = np.clip(generator.beta(1 + edges, 1 + self.pairs - edges), 1e-12, 1 - 1e-12)

    def log_prior(self, graphs: Edges) -> Array:
        """Of graphs (*, D, D), nats."""
        edges = (graphs & self.free).sum((-2, -1)) // 2
        return np.asarray(betaln(1 + edges, 1 + self.pairs - edges))


def most_drawn(draws: GraphDraws) -> GraphDraws:
    """The draws, with the graph for the best that was drawn most often; of several the one that is nearest to all."""
    size = draws.graphs.shape[-1]
    graphs, counts = np.unique(draws.graphs.reshape(-1, size * size), axis=0, return_counts=True)
    often = graphs[counts == counts.max()].reshape(-1, size, size)
    return replace(draws, best=min(often, key=draws.expected_distance))
