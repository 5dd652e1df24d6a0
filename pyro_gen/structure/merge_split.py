r"""The posterior over the groups of a network's nodes, by Gibbs sweeps and moves that merge two groups or split one.

The target is the microcanonical degree-corrected block model of
:mod:`pyro_gen.models.network.parts.description_length`, as a posterior over partitions, each by one of its labellings:
:math:`p(b \mid A) \propto e^{-\Sigma}`. That is how graph-tool counts, too. All chains make their steps together, in
arrays with a dimension for chains.

**Gibbs.** A node is taken out of its group and put back into one of the others, or into one of its own, by the
conditional probability.

**Merge and split** (Jain & Neal, 2004). Two nodes are drawn. Are they together, a split of their group is proposed,
else a merge of theirs. To split, the other nodes go to one or the other by fair coins and a sweep between these two
groups, many nodes at once, and a last such sweep makes the proposal, with probability q. With q' that a last sweep had
made the split that there is, out of fair coins as well, the moves are accepted with probabilities

.. math:: \min\Big(1, \frac{p(\text{split})}{p(\text{merged}) \, q}\Big), \qquad
    \min\Big(1, \frac{p(\text{merged}) \, q'}{p(\text{split})}\Big) .

**Pairs that were not observed** are drawn, edge or none, given the groups and all else, one after another; the
probability of an edge is kept at each.

References:
    | A split-merge Markov chain Monte Carlo procedure for the Dirichlet process mixture model (Jain & Neal, 2004)
    | https://doi.org/10.1198/1061860043001
    | Merge-split Markov chain Monte Carlo for community detection (Peixoto, 2020)
    | https://doi.org/10.1103/PhysRevE.102.012305
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, gammaln

from pyro_gen.models.network.parts.description_length import log_binomial, log_double_factorial, log_partitions

__all__ = ["MergeSplit"]

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

LAUNCH = 1  # sweeps between the two groups of a split before the one that proposes
SETS = 6  # of nodes that are drawn at once in these sweeps


class MergeSplit:
    """Chains of partitions of the nodes of a network.

    Arguments:
        adjacency: Symmetric numbers of edges with shape (N, N), zeros on the diagonal.
        labels: Where C chains start, with shape (C, N), values below ``slots``.
        slots: The most groups that there can be.
        generator: What draws.
        kinds: Of a bipartite network, the kind of each node, 0 or 1, with shape (N,); groups have one kind.
        missing: Pairs that were not observed, with shape (M, 2); they start as they are in the adjacency.

    Attributes:
        b: The group of each node, with shape (C, N).
        a: The networks with the drawn pairs, with shape (C or 1, N, N).
        probability: Of an edge at each missing pair when it was drawn last, with shape (C, M).
    """

    def __init__(
        self,
        adjacency: npt.ArrayLike,
        labels: Labels,
        slots: int,
        generator: np.random.Generator,
        kinds: Labels | None = None,
        missing: Labels | None = None,
    ) -> None:
        a = np.asarray(adjacency, dtype=np.float64)
        self.rng, self.slots, self.n = generator, slots, len(a)
        self.missing = np.zeros((0, 2), dtype=np.int64) if missing is None else missing
        chains = len(labels)
        self.a = np.repeat(a[None], chains if len(self.missing) else 1, 0)
        self.rows = np.arange(chains)
        self.kinds = np.zeros(self.n, dtype=np.int64) if kinds is None else np.asarray(kinds)
        self.two = kinds is not None
        self.probability = np.zeros((chains, len(self.missing)))
        most = int(a.sum()) // 2 + int((1 - a[tuple(self.missing.T)]).clip(0).sum())
        self.log_factorial = gammaln(np.arange(2 * most + 3) + 1.0)
        self.log_double = np.where(np.arange(2 * most + 3) % 2 == 0, log_double_factorial(np.arange(2 * most + 3)), 0.0)
        self.log_q = log_partitions(2 * most, self.n)
        self.of_groups = self._groups_prior(most)
        self.width = int(a.sum(1).max() + np.bincount(self.missing.ravel(), minlength=1).max()) + 1
        self._set(np.array(labels, dtype=np.int64))

    def _groups_prior(self, most: int) -> Array:
        """What of log p(e | b) p(b) depends on the numbers of groups of both kinds, and on E: (K, K, E)."""
        first, second, edges = np.ogrid[0 : self.slots + 2, 0 : self.slots + 2, 0 : most + 1]
        groups = first + second
        pairs = np.maximum(first * second if self.two else groups * (groups + 1) // 2, 1)
        value = -log_binomial(pairs + edges - 1.0, edges)
        for kind, number in enumerate((first, second)[: 2 if self.two else 1]):
            size = int((self.kinds == kind).sum())
            with np.errstate(invalid="ignore"):
                value = value - np.where(
                    number <= size, log_binomial(size - 1, np.clip(number - 1, 0, size - 1)), np.inf
                )
        return np.asarray(value)

    def _set(self, labels: Labels) -> None:
        """Counts of these labels: e (C, K, K), stubs (C, K), sizes (C, K), degrees (C, N), eta (C, K, D)."""
        self.b = labels
        self.z = (labels[:, :, None] == np.arange(self.slots)).astype(np.float64)
        self.degree = np.broadcast_to(self.a.sum(2), labels.shape).astype(np.int64)
        self.e = np.rint(self.z.transpose(0, 2, 1) @ (self.a @ self.z)).astype(np.int64)
        self.stubs, self.sizes = self.e.sum(2), np.rint(self.z.sum(1)).astype(np.int64)
        self.eta = np.zeros((len(labels), self.slots, self.width), dtype=np.int64)
        np.add.at(self.eta, (self.rows[:, None], labels, self.degree), 1)
        self.edges = self.degree.sum(1) // 2
        self.kind_of = np.zeros((len(labels), self.slots), dtype=np.int64)  # kinds of groups that are not empty
        np.put_along_axis(self.kind_of, labels, np.broadcast_to(self.kinds, labels.shape), 1)

    def _copy(self) -> dict[str, Any]:
        names = ("b", "z", "e", "stubs", "sizes", "eta", "kind_of")
        return {name: getattr(self, name).copy() for name in names}

    def _restore(self, kept: dict[str, Any], where: npt.NDArray[np.bool_]) -> None:
        for name, value in kept.items():
            getattr(self, name)[where] = value[where]

    # ------------------------------------------------------------------------------------------------------------------
    # One node

    def _edges_to(self, v: int) -> Labels:
        """The number of edges of a node to each group, with shape (C, K)."""
        counts: Labels = np.rint((self.a[:, v, None] @ self.z)[:, 0]).astype(np.int64)
        return counts

    def _move(self, v: int, to: Labels, m: Labels, sign: int) -> None:
        """Puts a node into groups (C,), or takes it out of them (sign = -1)."""
        rows, k = self.rows, self.degree[:, v]
        self.e[rows, to] += sign * m
        self.e[rows, :, to] += sign * m
        self.stubs[rows, to] += sign * k
        self.sizes[rows, to] += sign
        self.eta[rows, to, k] += sign
        self.z[rows, v, to] += sign

    def _gains(self, v: int, m: Labels) -> Array:
        """The change of the log-posterior by a node that was taken out and comes to each of the groups, (C, K)."""
        lf, k = self.log_factorial, self.degree[:, v, None]
        gain = (lf[self.e + m[:, None]] - lf[self.e]).sum(2)
        inside = np.einsum("ckk->ck", self.e)
        gain += self.log_double[inside + 2 * m] - self.log_double[inside] - lf[inside + m] + lf[inside]
        gain -= lf[self.stubs + k] - lf[self.stubs]
        gain -= self.log_q[self.sizes + 1, self.stubs + k] - self.log_q[self.sizes, self.stubs]
        gain += np.log(self.eta[self.rows, :, self.degree[:, v]] + 1.0)
        empty = self.sizes == 0
        kind = self.kinds[v]
        first, second = self._numbers()
        more = self.of_groups[first + (kind == 0), second + (kind == 1), self.edges]
        gain += np.where(empty, more[:, None], self.of_groups[first, second, self.edges][:, None])
        possible = empty & (empty.cumsum(1) == 1)
        if self.two:
            possible |= ~empty & (self.kind_of == kind)
        else:
            possible |= ~empty
        return np.where(possible, gain, -np.inf)

    def _numbers(self) -> tuple[Labels, Labels]:
        """The numbers of groups of the first and of the second kind, with shape (C,)."""
        used = self.sizes > 0
        second = (used & (self.kind_of == 1)).sum(1) if self.two else np.zeros(len(used), dtype=np.int64)
        return used.sum(1) - second, second

    # ------------------------------------------------------------------------------------------------------------------
    # Moves

    def sweep(self) -> None:
        """Draws the group of each node in turn, in a new order."""
        for v in self.rng.permutation(self.n):
            m = self._edges_to(v)
            self._move(v, self.b[:, v], m, -1)
            gain = self._gains(v, m)
            gain -= gain.max(1, keepdims=True)
            total = np.exp(gain).cumsum(1)
            to = (total < total[:, -1:] * self.rng.random((len(total), 1))).sum(1)
            self._move(v, to, m, 1)
            self.b[:, v] = to
            self.kind_of[self.rows, to] = self.kinds[v]

    def merge_split(self) -> npt.NDArray[np.bool_]:
        """Proposes a merge or a split in each chain; says which were accepted, with shape (C,)."""
        rows, before, kept = self.rows, self.log_posterior(), self._copy()
        i = self.rng.integers(self.n, size=len(rows))
        j = (i + self.rng.integers(1, self.n, size=len(rows))) % self.n
        first, second = self.b[rows, i], self.b[rows, j]
        split = first == second
        empty = self.sizes == 0
        possible = (self.kinds[i] == self.kinds[j]) & (~split | empty.any(1))
        second = np.where(split, empty.argmax(1), second)
        inside = ((self.b == first[:, None]) | (self.b == second[:, None])) & possible[:, None]
        inside[rows, i], inside[rows, j] = False, False
        target = kept["b"]  # what a merge has to come back to
        start = np.where(inside, np.where(self.rng.random(self.b.shape) < 0.5, first[:, None], second[:, None]), self.b)
        start[rows, j] = np.where(possible, second, self.b[rows, j])
        self._set(start)
        log_q = np.zeros(len(rows))
        for step in range(LAUNCH + 1):
            last = step == LAUNCH
            log_q += self._between(first, second, inside, target, ~split & last, counted=last)
        after_split = self.log_posterior()
        if (~split).any():
            self._set(np.where((split | ~possible)[:, None], self.b, np.where(inside, first[:, None], self.b)))
            merged = self.b.copy()
            merged[rows, j] = np.where(split | ~possible, merged[rows, j], first)
            self._set(merged)
        after = np.where(split, after_split, self.log_posterior())
        log_ratio = after - before + np.where(split, -log_q, log_q)
        accepted: npt.NDArray[np.bool_] = possible & (np.log(self.rng.random(len(rows))) < log_ratio)
        self._restore(kept, ~accepted)
        return accepted

    def _between(
        self,
        first: Labels,
        second: Labels,
        inside: npt.NDArray[np.bool_],
        target: Labels,
        forced: npt.NDArray[np.bool_],
        counted: bool,
    ) -> Array:
        """A Gibbs sweep between two groups; the log-probability of what was drawn, or forced, with shape (C,)."""
        log_q = np.zeros(len(self.rows))
        nodes = self.rng.permutation(np.flatnonzero(inside.any(0)))
        for some in np.array_split(nodes, min(SETS, max(len(nodes), 1))):
            here, now = inside[:, some], self.b[:, some]
            is_second = now == second[:, None]
            other = np.where(is_second, first[:, None], second[:, None])
            gain = self._gain_of_move(some, now, np.where(here, other, now))
            odds = np.where(is_second, -gain, gain)
            to_second = self.rng.random(odds.shape) < expit(odds)
            to_second = np.where(forced[:, None], target[:, some] == second[:, None], to_second)
            if counted:
                log_q -= (here * np.logaddexp(0.0, np.where(to_second, -odds, odds))).sum(1)
            self._assign(some, np.where(here & (to_second != is_second), other, now))
        return log_q

    def _gain_of_move(self, nodes: Labels, r: Labels, s: Labels) -> Array:
        """The change of the log-posterior by each of some nodes that alone goes from group r to s, with shape (C, M).

        Neither group comes to be empty, or was.
        """
        rows, lf, ld = self.rows[:, None], self.log_factorial, self.log_double
        moves = r != s
        k = np.where(moves, self.degree[:, nodes], 0)
        m = np.rint(self.a[:, nodes] @ self.z).astype(np.int64) * moves[:, :, None]  # (C, M, K)
        e_r, e_s = self.e[rows, r], self.e[rows, s]
        m_r, m_s = (np.take_along_axis(m, g[:, :, None], 2)[:, :, 0] for g in (r, s))
        e_rr, e_ss, e_rs = self.e[rows, r, r], self.e[rows, s, s], self.e[rows, r, s]
        groups = np.arange(self.slots)
        others = (groups != r[:, :, None]) & (groups != s[:, :, None])
        m = np.where(others, m, 0)
        gain = (lf[e_r - m] - lf[e_r] + lf[e_s + m] - lf[e_s]).sum(2)
        gain += lf[e_rs + m_r - m_s] - lf[e_rs] + ld[e_rr - 2 * m_r] - ld[e_rr] + ld[e_ss + 2 * m_s] - ld[e_ss]
        stubs_r, stubs_s, n_r, n_s = self.stubs[rows, r], self.stubs[rows, s], self.sizes[rows, r], self.sizes[rows, s]
        gain += lf[stubs_r] - lf[stubs_r - k] + lf[stubs_s] - lf[stubs_s + k]
        q = self.log_q
        gain += q[n_r, stubs_r] - q[n_r - 1, stubs_r - k] + q[n_s, stubs_s] - q[n_s + 1, stubs_s + k]
        gain += np.log(self.eta[rows, s, k] + 1.0) - np.log(np.maximum(self.eta[rows, r, k], 1))
        return np.where(moves, gain, 0.0)

    def _assign(self, nodes: Labels, labels: Labels) -> None:
        """Puts nodes into groups (C, M)."""
        rows, k, old = self.rows[:, None], self.degree[:, nodes], self.b[:, nodes]
        step = (labels[:, :, None] == np.arange(self.slots)).astype(np.float64) - self.z[:, nodes]
        steps = step.transpose(0, 2, 1)
        a = self.a[:, nodes]
        change = steps @ (a @ self.z)
        change = change + change.transpose(0, 2, 1) + steps @ (a[:, :, nodes] @ step)
        self.e += np.rint(change).astype(np.int64)
        self.stubs += np.rint((steps @ k[:, :, None])[:, :, 0]).astype(np.int64)
        self.sizes += np.rint(step.sum(1)).astype(np.int64)
        np.add.at(self.eta, (rows, old, k), -1)
        np.add.at(self.eta, (rows, labels, k), 1)
        self.z[:, nodes] += step
        self.b[:, nodes] = labels

    def impute(self) -> None:
        """Draws each pair that was not observed, edge or none, given all else."""
        rows, lf = self.rows, self.log_factorial
        for at, (i, j) in enumerate(self.missing):
            r, s = self.b[:, i], self.b[:, j]
            self._set_pair(i, j, r, s, -self.a[:, i, j].astype(np.int64))
            same = r == s
            e_rs, k_i, k_j = self.e[rows, r, s], self.degree[:, i], self.degree[:, j]
            with_edge = np.where(same, self.log_double[e_rs + 2] - self.log_double[e_rs], np.log(e_rs + 1.0))
            with_edge += np.log(k_i + 1.0) + np.log(k_j + 1.0)
            step = 1 + same
            with_edge -= lf[self.stubs[rows, r] + step] - lf[self.stubs[rows, r]]
            with_edge -= np.where(same, 0.0, np.log(self.stubs[rows, s] + 1.0))
            first, second = self._numbers()
            before = self._of_degrees(r, s) + self.of_groups[first, second, self.edges]
            self._set_pair(i, j, r, s, np.ones_like(r))
            after = self._of_degrees(r, s) + self.of_groups[first, second, self.edges]
            self.probability[:, at] = p = 1 / (1 + np.exp(-(with_edge + after - before)))
            self._set_pair(i, j, r, s, -(self.rng.random(len(rows)) >= p).astype(np.int64))

    def _set_pair(self, i: int, j: int, r: Labels, s: Labels, by: Labels) -> None:
        """Adds edges (C,) to a pair of nodes in groups r and s."""
        rows = self.rows
        self.a[:, i, j] += by
        self.a[:, j, i] += by
        for node, group in ((i, r), (j, s)):
            self.eta[rows, group, self.degree[:, node]] -= 1
            self.degree[:, node] += by
            self.eta[rows, group, self.degree[:, node]] += 1
            self.stubs[rows, group] += by
        self.e[rows, r, s] += by
        self.e[rows, s, r] += by
        self.edges += by

    def _of_degrees(self, r: Labels, s: Labels) -> Array:
        """The logarithm of p(k | e, b) of groups r and s, with shape (C,)."""
        rows, value = self.rows, np.zeros(len(self.rows))
        for group, share in ((r, np.ones(len(rows))), (s, (r != s).astype(np.float64))):
            own = self.log_factorial[np.minimum(self.eta[rows, group], self.n)].sum(1)
            value += share * (own - self.log_q[self.sizes[rows, group], self.stubs[rows, group]])
        return value

    # ------------------------------------------------------------------------------------------------------------------
    # What is reached

    def log_posterior(self) -> Array:
        """The logarithm of p(A, partition) in nats up to what no move changes, with shape (C,)."""
        lf = self.log_factorial
        inside = np.einsum("ckk->ck", self.e)
        value = lf[self.e].sum((1, 2)) / 2 - lf[inside].sum(1) / 2 + self.log_double[inside].sum(1)
        value += lf[np.minimum(self.eta, self.n)].sum((1, 2)) - (
            lf[self.stubs] + self.log_q[self.sizes, self.stubs]
        ).sum(1)
        first, second = self._numbers()
        return np.asarray(value + self.of_groups[first, second, self.edges])
