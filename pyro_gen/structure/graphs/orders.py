r"""Chains over orders of nodes, for networks of more nodes than can be summed over.

An order has the weight of all graphs that agree with it, :math:`\prod_i \alpha_i(U_i)` for the nodes :math:`U_i` before
i. Parents are taken from K candidates of each node: those that greedy growth finds, and those that would then help
most; so :math:`\alpha_i` is a table of :math:`2^K` entries. A move takes a node out of the order and puts it back at a
place that is drawn given all others (Gibbs sampling), for which running sums give the weights of all places at once.
The equivalent sample size is drawn with the order. Chains are tempered: copies at powers of the weight from 1 down to
.08 exchange their states, or else they stay where they start and still agree with themselves.

So far a graph counts once for each of its orders. The state at power 1 is therefore an order with a graph, and its law
is the weight of the graph times :func:`q <pyro_gen.structure.graphs.exact.order_weights>`, the probability of the order
among those of the graph, in which each graph counts once. Moves of some nodes in random order, with new parents of
those before which other candidates are now, are a proposal that is reversible without q; it is accepted with
probability :math:`\min(1, q' / q)`. An order with a great q would stay for long; so before each proposal the order is
drawn given the graph, by q itself. And few graphs of the one law are probable in the other: between them are copies at
powers :math:`q^\gamma` of it, :math:`0 < \gamma < 1`, with :math:`\gamma = 0` for orders alone.

References:
    | Being Bayesian about network structure (Friedman & Koller, 2003)
    | https://doi.org/10.1023/A:1020249912095
    | Efficient structure learning and sampling of Bayesian networks (Kuipers et al., 2022)
    | https://doi.org/10.1080/10618600.2021.2020127
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pyro_gen.structure.graphs.exact import draw_orders, numbers_below, order_weights, zeta
from pyro_gen.structure.graphs.scores import Families, SetScores

__all__ = ["OrderChains", "OrderDraws", "candidate_parents"]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

GAMMA = np.linspace(1, 0, 3)  # powers of the probability of the order among those of its graph
BETA = np.geomspace(1, 0.08, 10)[1:]  # powers of the weight of the order
LEVELS = len(GAMMA) + len(BETA)
PARTS = 5  # of a sweep
IMPOSSIBLE = -1e7  # the log of 0, of which there are differences


def candidate_parents(
    scores: SetScores, allowed: Bools, required: Bools, targets: Bools | None, number: int, most: int
) -> Ints:
    """The candidates of each node, (d, K); -1 where there are no more.

    Arguments:
        scores: Of sets of columns; those of the middle equivalent sample size count.
        allowed: Which edges may be, with shape (d, d).
        required: Which edges must be, with shape (d, d).
        targets: Whether a node was set by intervention in a row, with shape (N, d).
        number: K.
        most: The most parents that greedy growth gives a node.
    """
    d = len(allowed)
    candidates = np.full((d, number), -1)
    for rows, nodes in _by_rows(targets, d):
        grown = required[:, nodes].T.copy()  # (nodes, d)
        own = np.eye(d, dtype=bool)[nodes]
        while True:
            tried = grown[:, None] | np.eye(d, dtype=bool)  # (nodes, d, d): one more each
            both = np.concatenate([tried | own[:, None], tried]).reshape(-1, d)
            m = scores(both, rows)
            joint, alone = m[len(m) // 2].reshape(2, len(nodes), d)
            gain = np.where(allowed[:, nodes].T & ~grown, joint - alone, -np.inf)
            base = scores(np.concatenate([grown | own, grown]), rows)[len(m) // 2].reshape(2, len(nodes))
            gain -= (base[0] - base[1])[:, None]
            better = (gain.max(1) > 0) & (grown.sum(1) < most)
            if not better.any():
                break
            grown[np.flatnonzero(better), gain.argmax(1)[better]] = True
        rank = np.where(required[:, nodes].T, np.inf, np.where(grown, np.finfo(np.float64).max, gain))
        for node, row, chosen in zip(nodes, rank, np.argsort(-rank, axis=1)[:, :number], strict=True):
            chosen = chosen[row[chosen] > -np.inf]
            candidates[node, : len(chosen)] = chosen
    return candidates


def _by_rows(targets: Bools | None, d: int) -> list[tuple[Bools | None, Ints]]:
    """Nodes that the same rows score, with these rows."""
    if targets is None:
        return [(None, np.arange(d))]
    columns, of_node = np.unique(targets.T, axis=0, return_inverse=True)
    return [(~column, np.flatnonzero(of_node == k)) for k, column in enumerate(columns)]


class OrderDraws(NamedTuple):
    """What chains visit.

    Attributes:
        graphs: With shape (C, S, d, d).
        sizes: Which equivalent sample size, with shape (C, S).
        acceptance: The share of proposals that were accepted where each graph counts once.
        swap_rate: The share of exchanges that happened.
    """

    graphs: Bools
    sizes: Ints
    acceptance: float
    swap_rate: float


class OrderChains:
    """Tempered chains over orders.

    Arguments:
        families: The sets of parents, made of candidates.
        candidates: Of each node, with shape (d, K), -1 where there are no more.
        chains: The number of chains.
        generator: Draws all that is random.
        start: Orders of all copies, (R, d), those of a chain one after the other; random ones by default.
    """

    def __init__(
        self,
        families: Families,
        candidates: Ints,
        chains: int,
        generator: np.random.Generator,
        start: Ints | None = None,
    ) -> None:
        self._families = families
        self._candidates = candidates
        self._rng = generator
        self._chains = chains
        d, k = candidates.shape
        self._bits = np.where(candidates >= 0, 1 << np.arange(k), 0)  # (d, K)
        self._codes = [
            s[:, np.maximum(c, 0)] @ b for s, c, b in zip(families.sets, candidates, self._bits, strict=True)
        ]
        self._alpha = self._table()
        # All sets of parents of all nodes in one array, filled up with sets of no weight.
        most = max(map(len, families.sets))
        self._padded_sets = np.zeros((d, most, d), dtype=bool)
        self._padded_codes = np.zeros((d, most), dtype=np.int64)
        self._padded_weights = np.full((len(self._alpha), d, most), -np.inf)
        for i, (sets, codes, weights) in enumerate(zip(families.sets, self._codes, families.log_weights, strict=True)):
            self._padded_sets[i, : len(sets)] = sets
            self._padded_codes[i, : len(sets)] = codes
            self._padded_weights[:, i, : len(sets)] = weights
        self._flat = self._alpha.ravel()
        # Powers of all copies, (R,), those of a chain one after the other.
        self._beta = np.tile(np.concatenate([np.ones(len(GAMMA)), BETA]), chains)
        copies = len(self._beta)
        self._size = self._rng.integers(0, len(self._alpha), copies)
        # Children: the nodes of which a node is a candidate, and its bit there.
        where = [np.nonzero(candidates == v) for v in range(d)]
        self._children = [(child, self._bits[child, column]) for child, column in where]
        self._place, self._mask = self._places(self._random_orders(copies) if start is None else start)
        # Copies at power 1 have a graph.
        self._held = np.flatnonzero(self._beta == 1)
        self._gamma = np.tile(GAMMA, chains)
        self._graph = np.zeros((len(self._held), d, d), dtype=bool)
        self._below, self._log_q = np.zeros((len(self._held), d)), np.zeros(len(self._held))
        self._draw_graphs(np.arange(len(self._held)))

    @property
    def orders(self) -> Ints:
        """Those of all copies now, (R, d)."""
        orders: Ints = np.argsort(self._place, axis=1)
        return orders

    def _places(self, orders: Ints) -> tuple[Ints, Ints]:
        """The place of each node, (n, d), and which candidates are before it, as a number, (n, d)."""
        place = np.argsort(orders, axis=1)
        before = place[:, np.maximum(self._candidates, 0)] < place[:, :, None]
        return place, (before * self._bits).sum(2)

    def _table(self) -> Array:
        """The sum over parents among each set of candidates, (E, d, 2^K)."""
        d, k = self._candidates.shape
        e = len(self._families.log_weights[0])
        table = np.full((1 << k, e, d), IMPOSSIBLE)
        for i, (codes, weights) in enumerate(zip(self._codes, self._families.log_weights, strict=True)):
            table[codes, :, i] = weights.T
        summed = zeta(torch.as_tensor(table.reshape(1 << k, e * d))).numpy()
        return np.ascontiguousarray(summed.reshape(1 << k, e, d).transpose(1, 2, 0))

    def _random_orders(self, copies: int) -> Ints:
        """Orders (R, d) in which required parents come first."""
        required = np.stack([sets.all(0) for sets in self._families.sets], 1)
        depth = np.zeros(len(required))
        for _ in range(len(required)):
            depth = np.where(required, depth[:, None] + 1, 0).max(0)
        orders = self._rng.permuted(np.tile(np.arange(len(depth)), (copies, 1)), axis=1)
        first_to_last: Ints = np.take_along_axis(orders, np.argsort(depth[orders], axis=1, kind="stable"), axis=1)
        return first_to_last

    def _entries(self, size: Ints, node: Ints, mask: Ints) -> Array:
        d, entries = self._alpha.shape[1:]
        values: Array = self._flat[(size * d + node) * entries + mask]
        return values

    def _choose(self, log_weights: Array) -> Ints:
        """An index for each row of (n, k), (n,)."""
        steps = np.exp(log_weights - log_weights.max(1, keepdims=True)).cumsum(1)
        chosen: Ints = (steps <= self._rng.random((len(steps), 1)) * steps[:, -1:]).sum(1)
        return chosen

    def _step(self) -> Array:
        """A sweep of all copies in parts, accepted or not at power 1; whether they were where a graph counts once."""
        e, d = self._alpha.shape[:2]
        held, accepted = self._held, []
        for part in np.array_split(self._rng.permutation(d + 1), PARTS):
            self._reorder()
            before = [x[held] for x in (self._size, self._place, self._mask)]
            for v in part.tolist():
                if v < d:
                    self._move(v)
                else:
                    every = self._entries(np.arange(e)[:, None, None], np.arange(d), self._mask[None]).sum(2).T
                    self._size = self._choose(self._beta[:, None] * every)
            changed, node = np.nonzero((before[2] != self._mask[held]) | (before[0] != self._size[held])[:, None])
            graph = self._graph.copy()
            graph[changed, :, node] = self._parents(held[changed], node)
            below = numbers_below(graph)
            log_q = order_weights(graph, np.argsort(self._place[held], axis=1), below)
            refused = np.log(self._rng.random(len(held))) >= self._gamma * (log_q - self._log_q)
            for x, was in zip((self._size, self._place, self._mask), before, strict=True):
                x[held[refused]] = was[refused]
            for x, new in zip((self._graph, self._below, self._log_q), (graph, below, log_q), strict=True):
                x[~refused] = new[~refused]
            accepted.append(~refused[self._gamma == 1])
        share: Array = np.concatenate(accepted).astype(float)
        return share

    def _reorder(self) -> None:
        """Draws orders given graphs, which are always accepted where each graph counts once."""
        orders = draw_orders(self._graph, self._below, self._rng)
        log_q = order_weights(self._graph, orders, self._below)
        taken = np.log(self._rng.random(len(log_q))) < (1 - self._gamma) * (self._log_q - log_q)
        copies = self._held[taken]
        self._log_q[taken] = log_q[taken]
        self._place[copies], self._mask[copies] = self._places(orders[taken])

    def _move(self, v: int) -> None:
        r, d = self._place.shape
        rows = np.arange(r)[:, None]
        place = self._place - (self._place > self._place[:, v : v + 1])  # among the rest
        # Children gain if v comes before them, summed from the last place on; v gains from its candidates before it.
        children, bit = self._children[v]
        mask = self._mask[:, children] & ~bit
        size = self._size[:, None]
        gains = np.zeros((r, d))
        first, last = self._entries(size, children, mask | bit), self._entries(size, children, mask)
        gains[rows, place[:, children]] = first - last
        total = gains[:, ::-1].cumsum(1)[:, ::-1]
        known = np.flatnonzero(self._bits[v])
        bits = np.zeros((r, d), dtype=np.int64)
        bits[rows, place[:, self._candidates[v, known]] + 1] = self._bits[v, known]
        masks = bits.cumsum(1)
        total += self._entries(size, np.array(v), masks)
        chosen = self._choose(self._beta[:, None] * total)[:, None]
        self._place = place + (place >= chosen)
        self._place[:, v] = chosen[:, 0]
        self._mask[:, children] = mask | np.where(place[:, children] >= chosen, bit, 0)
        self._mask[:, v] = masks[rows[:, 0], chosen[:, 0]]

    def _exchange(self, odd: int) -> Array:
        """Exchanges the states of neighbouring powers; whether each pair did."""
        scores = self._entries(self._size[:, None], np.arange(self._place.shape[1]), self._mask).sum(1)
        lower = np.arange(len(self._beta)).reshape(self._chains, LEVELS)[:, odd : LEVELS - 1 : 2]
        log_ratio = (self._beta[lower] - self._beta[lower + 1]) * (scores[lower + 1] - scores[lower])
        log_q = self._log_q.reshape(self._chains, len(GAMMA))
        pairs = np.arange(odd, len(GAMMA) - 1, 2)
        log_ratio[:, : len(pairs)] += (GAMMA[pairs] - GAMMA[pairs + 1]) * (log_q[:, pairs + 1] - log_q[:, pairs])
        swapped = np.log(self._rng.random(lower.shape)) < log_ratio
        index = np.arange(len(self._beta))
        index[lower[swapped]], index[lower[swapped] + 1] = lower[swapped] + 1, lower[swapped]
        self._size, self._place, self._mask = (x[index] for x in (self._size, self._place, self._mask))
        where = np.full(len(self._beta), -1)
        where[self._held] = np.arange(len(self._held))
        source = where[index[self._held]]
        self._graph, self._below, self._log_q = (x[source] for x in (self._graph, self._below, self._log_q))
        self._draw_graphs(np.flatnonzero(source < 0))  # of orders that come from a lower power
        exchanged: Array = swapped.ravel().astype(float)
        return exchanged

    def run(self, burn_in: int, draws: int, thin: int) -> OrderDraws:
        """Steps, of which every ``thin``-th after ``burn_in`` is kept."""
        kept, accepted, swapped = [], [], []
        for t in range(burn_in + draws * thin):
            accepted.append(self._step())
            swapped.append(self._exchange(t % 2))
            if t >= burn_in and (t - burn_in) % thin == thin - 1:
                kept.append((self._graph[self._gamma == 1], self._size[self._held[self._gamma == 1]]))
        graphs, sizes = (np.stack(x, 1) for x in zip(*kept, strict=True))
        return OrderDraws(graphs, sizes, float(np.mean(accepted)), float(np.concatenate(swapped).mean()))

    def _parents(self, copies: Ints, nodes: Ints) -> Bools:
        """Parents drawn given the order, of one node of a copy each, (n, d)."""
        sizes, masks = self._size[copies], self._mask[copies, nodes]
        inside = (self._padded_codes[nodes] & ~masks[:, None]) == 0
        possible = np.where(inside, self._padded_weights[sizes, nodes], -np.inf)
        parents: Bools = self._padded_sets[nodes, self._choose(possible)]
        return parents

    def _draw_graphs(self, which: Ints) -> None:
        """New graphs, given the order, of some copies among those at power 1."""
        d, copies = self._place.shape[1], self._held[which]
        parents = self._parents(np.repeat(copies, d), np.tile(np.arange(d), len(copies)))
        self._graph[which] = parents.reshape(len(copies), d, d).swapaxes(1, 2)
        self._below[which] = numbers_below(self._graph[which])
        self._log_q[which] = order_weights(
            self._graph[which], np.argsort(self._place[copies], axis=1), self._below[which]
        )
