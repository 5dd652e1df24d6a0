r"""Sums and maxima over all orders of up to 20 nodes, and with them over all directed acyclic graphs.

Let :math:`\beta_i(\Pi)` be the weight of the parents :math:`\Pi` of node i. Where those before it are U, its parents
have weight :math:`\alpha_i(U) = \sum_{\Pi \subseteq U} \beta_i(\Pi)`, and sets S of first nodes

.. math:: L(S) = \sum_{i \in S} L(S \setminus i)\, \alpha_i(S \setminus i), \qquad
    R(S) = \sum_{i \notin S} \alpha_i(S)\, R(S \cup i), \qquad Z = L(V),

.. math:: P(\Pi \to i) = \beta_i(\Pi) \sum_{U \supseteq \Pi} L(U)\, R(U \cup i) / Z ,

all in logarithms, a layer of sets of one size at once. A graph counts once for each order that it agrees with. Draws
are of an order and of a graph given it. The weight of a draw for the law in which each graph counts once is the
probability of its order in a random choice among the orders of its graph, whatever the choice: it averages to one over
their number. Here nodes are chosen from first to last, in proportion to their descendants and themselves, which makes
orders of forests equally probable.

References:
    | Exact Bayesian structure discovery in Bayesian networks (Koivisto & Sood, 2004)
    | https://www.jmlr.org/papers/v5/koivisto04a.html
    | A simple approach for finding the globally optimal Bayesian network structure (Silander & Myllymaki, 2006)
    | https://arxiv.org/abs/1206.6875
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_gen.structure.graphs.scores import Families

__all__ = ["OrderSums", "draw_orders", "numbers_below", "order_weights", "set_codes", "zeta"]

Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NEGLIGIBLE = 35.0  # nats below a subset of it: such a set of parents is left out of draws


class Layer(NamedTuple):
    """The sets of one size as numbers whose bits are nodes, (C,), and their nodes, (C, size)."""

    sets: Tensor
    nodes: Tensor


@lru_cache(maxsize=2)
def layers(d: int) -> list[Layer]:
    """All sets of d nodes, by size."""
    sets = torch.arange(1 << d)
    bits = (sets[:, None] >> torch.arange(d)) & 1
    sizes = bits.sum(1)
    found = []
    for k in range(d + 1):
        chosen = (sizes == k).nonzero().squeeze(1)
        found.append(Layer(chosen, bits[chosen].nonzero()[:, 1].reshape(len(chosen), k)))
    return found


def without(sets: Tensor, node: Tensor) -> Tensor:
    """Sets that lack a node as numbers of d - 1 bits."""
    low = (1 << node) - 1
    return (sets & low) | ((sets >> 1) & ~low)


def set_codes(sets: Bools, node: int) -> Tensor:
    """Rows (P, d) of sets that lack a node as numbers of d - 1 bits, (P,)."""
    rest = np.delete(sets, node, axis=1)
    return torch.as_tensor(rest @ (1 << np.arange(rest.shape[1], dtype=np.int64)))


def zeta(x: Tensor, *, upward: bool = False, best: bool = False) -> Tensor:
    """Sums (or maxima) of logarithms over all subsets (or supersets) of each set, in place: (2^b, d), each column."""
    combine = torch.maximum if best else torch.logaddexp
    for bit in range(x.shape[0].bit_length() - 1):
        halves = x.view(-1, 2, 1 << bit, x.shape[1])
        to, of = (halves[:, 0], halves[:, 1]) if upward else (halves[:, 1], halves[:, 0])
        combine(to, of, out=to)
    return x


class OrderSums:
    """Sums over all orders of nodes.

    Arguments:
        families: The sets of parents.
        size: Which of the equivalent sample sizes.

    Attributes:
        log_z: The sum of all, nats.
    """

    def __init__(self, families: Families, size: int) -> None:
        self.sets = families.sets
        self._d = len(self.sets)
        self._weights = [torch.as_tensor(w[size]) for w in families.log_weights]
        self._codes = [set_codes(sets, i) for i, sets in enumerate(self.sets)]
        self._alpha = zeta(self._table())
        self._first = self._forward(self._alpha)
        self.log_z = float(self._first[-1])

    def _table(self) -> Tensor:
        table = torch.full((1 << (self._d - 1), self._d), -torch.inf, dtype=torch.float64)
        for i, (codes, weights) in enumerate(zip(self._codes, self._weights, strict=True)):
            table[codes, i] = weights
        return table

    def _forward(self, alpha: Tensor, *, best: bool = False) -> Tensor:
        """L of each set, (2^d,)."""
        first = torch.zeros(1 << self._d, dtype=torch.float64)
        for sets, nodes in layers(self._d)[1:]:
            rest = sets[:, None] ^ (1 << nodes)
            terms = first[rest] + alpha[without(rest, nodes), nodes]
            first[sets] = terms.amax(1) if best else terms.logsumexp(1)
        return first

    def set_probabilities(self) -> list[Array]:
        """The probability of each set of parents of each node, (P,) each."""
        d, everything = self._d, (1 << self._d) - 1
        last = torch.zeros(1 << d, dtype=torch.float64)
        for complement, nodes in layers(d)[1:]:
            sets = everything ^ complement
            terms = last[sets[:, None] | (1 << nodes)] + self._alpha[without(sets[:, None], nodes), nodes]
            last[sets] = terms.logsumexp(1)
        node = torch.arange(d)
        low = (1 << node) - 1
        packed = torch.arange(1 << (d - 1))[:, None]
        before = (packed & low) | ((packed & ~low) << 1)
        above = zeta(self._first[before] + last[before | (1 << node)] - self.log_z, upward=True)
        return [
            (weights + above[codes, i]).exp().numpy()
            for i, (codes, weights) in enumerate(zip(self._codes, self._weights, strict=True))
        ]

    def edge_probabilities(self) -> Array:
        """The probability of each edge from i to j, (d, d), where graphs count once for each of their orders."""
        columns = [p @ sets for p, sets in zip(self.set_probabilities(), self.sets, strict=True)]
        return np.stack(columns, 1)

    def best(self) -> tuple[Bools, float]:
        """The graph of highest weight, (d, d), and its log weight."""
        alpha = zeta(self._table(), best=True)
        first = self._forward(alpha, best=True)
        graph = np.zeros((self._d, self._d), dtype=bool)
        rest = torch.tensor((1 << self._d) - 1)
        while int(rest):
            nodes = ((rest >> torch.arange(self._d)) & 1).nonzero().squeeze(1)
            before = rest ^ (1 << nodes)
            node = nodes[(first[before] + alpha[without(before, nodes), nodes]).argmax()]
            rest = rest ^ (1 << node)
            i = int(node)
            allowed = (self._codes[i] & ~without(rest, node)) == 0
            graph[:, i] = self.sets[i][int(self._weights[i].masked_fill(~allowed, -torch.inf).argmax())]
        return graph, float(first[-1])

    def draw(self, n: int, generator: torch.Generator) -> tuple[Bools, npt.NDArray[np.int64]]:
        """Draws n orders, (n, d) from first to last, and a graph given each, (n, d, d)."""
        d = self._d
        order = torch.zeros(n, d, dtype=torch.int64)
        graphs = np.zeros((n, d, d), dtype=bool)
        rest = torch.full((n,), (1 << d) - 1)
        node = torch.arange(d)
        kept = self._worth_drawing()
        for k in reversed(range(d)):
            inside = ((rest[:, None] >> node) & 1).bool()
            before = torch.where(inside, rest[:, None] ^ (1 << node), 0)
            logits = self._first[before] + self._alpha[without(before, node), node]
            chosen = _choose(logits.masked_fill(~inside, -torch.inf), generator)
            order[:, k] = chosen
            rest = before.gather(1, chosen[:, None]).squeeze(1)
            for i in chosen.unique().tolist():
                rows = (chosen == i).nonzero().squeeze(1)
                codes, weights = self._codes[i][kept[i]], self._weights[i][kept[i]]
                available = without(rest[rows], node[i])
                for part in rows.split(max(1, 4_000_000 // len(codes))):
                    available = without(rest[part], node[i])[:, None]
                    possible = torch.where((codes & ~available) == 0, weights, -torch.inf)
                    picked = _choose(possible, generator)
                    graphs[part.numpy(), :, i] = self.sets[i][kept[i].numpy()[picked.numpy()]]
        return graphs, order.numpy()

    def _worth_drawing(self) -> list[Tensor]:
        best = zeta(self._table(), best=True)
        return [
            (weights > best[codes, i] - NEGLIGIBLE).nonzero().squeeze(1)
            for i, (codes, weights) in enumerate(zip(self._codes, self._weights, strict=True))
        ]


def _choose(logits: Tensor, generator: torch.Generator) -> Tensor:
    """An index for each row of (n, k)."""
    steps = (logits - logits.amax(1, keepdim=True)).exp().cumsum(1)
    level = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64) * steps[:, -1:]
    return (steps <= level).sum(1)


def numbers_below(graphs: Bools) -> Array:
    """How many descendants each node has, itself included: (n, d)."""
    d = graphs.shape[-1]
    reach = torch.as_tensor(graphs).float() + torch.eye(d)
    total, before = reach.sum(2), torch.zeros(())
    while not torch.equal(total, before):
        reach = (reach @ reach).clamp_(max=1)
        total, before = reach.sum(2), total
    below: Array = total.double().numpy()
    return below


def order_weights(graphs: Bools, orders: Ints, below: Array | None = None) -> Array:
    """Log weights, (n,), by which draws of orders and graphs have the law in which each graph counts once."""
    below = numbers_below(graphs) if below is None else below
    n, d = orders.shape
    rows, place = np.arange(n)[:, None], np.argsort(orders, axis=1)
    first = np.where(graphs, place[:, :, None] + 1, 0).max(1)  # from the place after its last parent on, a node waits
    waiting = np.zeros((n, d + 1))
    np.add.at(waiting, (rows, first), below)
    waiting[rows, place + 1] -= below
    log_weight: Array = np.log(below / waiting[:, :-1].cumsum(1)[rows, place]).sum(1)
    return log_weight


def draw_orders(graphs: Bools, below: Array, generator: np.random.Generator) -> Ints:
    """A random choice among the orders of each graph, (n, d), of which ``order_weights`` tells the probability.

    A node waits for a time of which the rate is the number of its descendants and itself, from the last of its parents
    on: as waiting has no memory, the next of those that wait is chosen in proportion to these rates.
    """
    waited = generator.exponential(1 / below)
    of, child, parent = np.nonzero(graphs.swapaxes(1, 2))
    family, start = np.unique(of * graphs.shape[1] + child, return_index=True)
    time = waited
    while len(family):
        later = waited.copy()
        later.reshape(-1)[family] += np.maximum.reduceat(time[of, parent], start)
        if (later == time).all():
            break
        time = later
    orders: Ints = np.argsort(time, axis=1)
    return orders
