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
probability :math:`\min(1, q' / q)`.

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

from pyro_gen.structure.graphs.exact import order_weights, zeta
from pyro_gen.structure.graphs.scores import Families, SetScores

__all__ = ["OrderChains", "OrderDraws", "candidate_parents"]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

LEVELS, COLDEST = 14, 0.08
PARTS = 4  # of a sweep
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
        acceptance: The share of proposals that were accepted.
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

    Attributes:
        orders: Those of all copies now.
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
        self._beta = np.tile(np.geomspace(1, COLDEST, LEVELS), chains)  # (R,), copies of a chain one after the other
        copies = len(self._beta)
        self.orders = self._random_orders(copies) if start is None else start
        self._size = self._rng.integers(0, len(self._alpha), copies)
        # Children: the nodes of which a node is a candidate, and its bit there.
        where = [np.nonzero(candidates == v) for v in range(d)]
        self._children = [(child, self._bits[child, column]) for child, column in where]
        self._place = np.argsort(self.orders, axis=1)
        before = self._place[:, np.maximum(candidates, 0)] < self._place[:, :, None]
        self._mask = (before * self._bits).sum(2)
        self._cold = np.arange(0, copies, LEVELS)
        self._graph = np.zeros((chains, d, d), dtype=bool)
        self._graph = self._propose(self._cold)
        self._log_q = order_weights(self._graph, self.orders[self._cold])

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

    def _step(self) -> Array:
        """A sweep of all copies in parts, each of which those at power 1 accept or not; whether they did."""
        e, d = self._alpha.shape[:2]
        cold, accepted = self._cold, []
        for part in np.array_split(self._rng.permutation(d + 1), PARTS):
            before = [x[cold] for x in (self.orders, self._size, self._place, self._mask)]
            for v in part.tolist():
                if v < d:
                    self._move(v)
                else:
                    every = self._entries(np.arange(e)[:, None, None], np.arange(d), self._mask[None]).sum(2).T
                    self._size = (self._beta[:, None] * every + self._rng.gumbel(size=every.shape)).argmax(1)
            same = (before[3] == self._mask[cold]) & (before[1] == self._size[cold])[:, None]
            graph = np.where(same[:, None, :], self._graph, self._propose(cold))
            log_q = order_weights(graph, self.orders[cold])
            refused = np.log(self._rng.random(len(cold))) >= log_q - self._log_q
            for x, was in zip((self.orders, self._size, self._place, self._mask), before, strict=True):
                x[cold[refused]] = was[refused]
            self._graph[~refused], self._log_q[~refused] = graph[~refused], log_q[~refused]
            accepted.append(~refused)
        share: Array = np.concatenate(accepted).astype(float)
        return share

    def _move(self, v: int) -> None:
        r, d = self.orders.shape
        rows = np.arange(r)[:, None]
        rest = self.orders[self.orders != v].reshape(r, d - 1)
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
        chosen = (self._beta[:, None] * total + self._rng.gumbel(size=(r, d))).argmax(1)[:, None]
        index = np.arange(d)
        source = np.minimum(index - (index > chosen), d - 2)
        self.orders = np.where(index == chosen, v, np.take_along_axis(rest, source, 1))
        self._place = place + (place >= chosen)
        self._place[:, v] = chosen[:, 0]
        self._mask[:, children] = mask | np.where(place[:, children] >= chosen, bit, 0)
        self._mask[:, v] = masks[rows[:, 0], chosen[:, 0]]

    def _exchange(self, odd: int) -> Array:
        """Exchanges the states of neighbouring powers; whether each pair did."""
        scores = self._entries(self._size[:, None], np.arange(self.orders.shape[1]), self._mask).sum(1)
        lower = np.arange(len(self._beta)).reshape(self._chains, LEVELS)[:, odd : LEVELS - 1 : 2]
        log_ratio = (self._beta[lower] - self._beta[lower + 1]) * (scores[lower + 1] - scores[lower])
        if not odd:
            graph = self._propose(self._cold + 1)
            log_q = order_weights(graph, self.orders[self._cold + 1])
            log_ratio[:, 0] += log_q - self._log_q
        swapped = np.log(self._rng.random(lower.shape)) < log_ratio
        if not odd:
            taken = swapped[:, 0]
            self._graph[taken], self._log_q[taken] = graph[taken], log_q[taken]
        index = np.arange(len(self._beta))
        index[lower[swapped]], index[lower[swapped] + 1] = lower[swapped] + 1, lower[swapped]
        self.orders, self._size, self._place, self._mask = (
            x[index] for x in (self.orders, self._size, self._place, self._mask)
        )
        exchanged: Array = swapped.ravel().astype(float)
        return exchanged

    def run(self, burn_in: int, draws: int, thin: int) -> OrderDraws:
        """Steps, of which every ``thin``-th after ``burn_in`` is kept."""
        kept, accepted, swapped = [], [], []
        for t in range(burn_in + draws * thin):
            accepted.append(self._step())
            swapped.append(self._exchange(t % 2))
            if t >= burn_in and (t - burn_in) % thin == thin - 1:
                kept.append((self._graph.copy(), self._size[self._cold]))
        graphs, sizes = (np.stack(x, 1) for x in zip(*kept, strict=True))
        return OrderDraws(graphs, sizes, float(np.mean(accepted)), float(np.concatenate(swapped).mean()))

    def _propose(self, copies: Ints) -> Bools:
        """A graph drawn given the order of each copy."""
        sizes, masks = self._size[copies], self._mask[copies]
        nodes = np.arange(masks.shape[1])
        possible = np.where((self._padded_codes & ~masks[:, :, None]) == 0, self._padded_weights[sizes], -np.inf)
        steps = np.exp(possible - possible.max(2, keepdims=True)).cumsum(2)
        level = self._rng.random(masks.shape)[:, :, None] * steps[:, :, -1:]
        graphs: Bools = self._padded_sets[nodes, (steps <= level).sum(2)].swapaxes(1, 2)
        return graphs
