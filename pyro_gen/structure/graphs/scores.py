r"""How well parents explain a node: log marginal likelihoods of columns of categories, of numbers, or of both.

The score of node i with parents :math:`\Pi` is a difference of two sets of columns, with their parameters summed out,

.. math:: \log p(x_i \mid x_\Pi) = M(\Pi \cup i) - M(\Pi),

so that equivalent graphs have equal scores. All priors have the weight of :math:`\alpha` rows (the equivalent sample
size).

**Categories** (BDeu): the q cells of a set have a Dirichlet prior of :math:`\alpha / q` each. With counts
:math:`N_c` of N rows,

.. math:: M(S) = \log \frac{\Gamma(\alpha)}{\Gamma(\alpha + N)}
    + \sum_c \log \frac{\Gamma(\alpha / q + N_c)}{\Gamma(\alpha / q)} .

**Numbers** (BGe), standardised: a normal-Wishart prior over all n of them, with mean 0 of weight :math:`\alpha`,
:math:`n + 1 + \alpha` degrees of freedom, and a scale matrix T by which the predictive variance is 1. With l of them
in S, and R the sum of T, the scatter about the mean and :math:`\frac{N \alpha}{N + \alpha} \bar x \bar x^\top`,

.. math:: M(S) = \frac{l}{2} \log \frac{\alpha}{N + \alpha} - \frac{l N}{2} \log \pi
    + \log \frac{\Gamma_l((\alpha + 1 + l + N) / 2)}{\Gamma_l((\alpha + 1 + l) / 2)}
    + \frac{\alpha + 1 + l}{2} \log |T_S| - \frac{\alpha + 1 + l + N}{2} \log |R_S| .

**Both**: numbers have such a law in each state of the categories of the set. Numbers are no parents of categories.

Rows in which a node was set by intervention do not score it: its parents did not act.

References:
    | Learning Bayesian networks: the combination of knowledge and statistical data (Heckerman et al., 1995)
    | https://doi.org/10.1007/BF00994016
    | Addendum on the scoring of Gaussian directed acyclic graphical models (Kuipers et al., 2014)
    | https://doi.org/10.1214/14-AOS1217
    | Cooper & Yoo (1999), causal discovery from a mixture of experimental and observational data
    | https://arxiv.org/abs/1301.6686
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, multigammaln

__all__ = ["Families", "SetScores", "family_scores", "graph_weights", "parent_sets", "set_prior"]

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CHUNK = 2_000_000  # entries of a matrix of sets by rows


class Families(NamedTuple):
    """What parents each node may have, and how well they do.

    Attributes:
        sets: For each node the sets, whether a node is in them: (P, d).
        log_weights: For each node the log marginal likelihood plus the log prior of each set, for each equivalent
            sample size: (E, P), nats.
    """

    sets: list[Bools]
    log_weights: list[Array]


class SetScores:
    r"""Log marginal likelihoods M of sets of columns.

    Arguments:
        values: Complete data, with shape (N, d): categories as 0, 1, ..., numbers standardised.
        levels: The number of categories of each column, 0 of numbers.
        equivalent_sample_sizes: The weights :math:`\alpha` of priors, in rows, (E,).
    """

    def __init__(self, values: Array, levels: Ints, equivalent_sample_sizes: Sequence[float]) -> None:
        self._values = values
        self._numbers = np.flatnonzero(levels == 0)
        self._categories = np.flatnonzero(levels)
        self._levels = levels[self._categories]
        self._codes = np.ascontiguousarray(values[:, self._categories].T.astype(np.int64))
        self._sizes = np.asarray(equivalent_sample_sizes, dtype=np.float64)

    def __call__(self, sets: Bools, rows: Bools | None = None) -> Array:
        """M of each set, with shape (E, P), nats.

        Arguments:
            sets: Whether a column is in the set, with shape (P, d).
            rows: Which rows count, (N,): all by default.
        """
        counted = np.arange(len(self._values)) if rows is None else np.flatnonzero(rows)
        discrete, of_set = np.unique(sets[:, self._categories], axis=0, return_inverse=True)
        total = self._discrete(discrete, counted)[:, of_set]
        numbers = sets[:, self._numbers]
        if numbers.any():
            for k in np.unique(of_set[numbers.any(1)]):
                chosen = np.flatnonzero((of_set == k) & numbers.any(1))
                total[:, chosen] += self._gaussian(np.flatnonzero(discrete[k]), numbers[chosen], counted)
        return total

    def _states(self, columns: Ints, counted: Ints) -> Ints:
        """A number for each state of columns (P, k) in each row, (P, N)."""
        states = np.zeros((len(columns), len(counted)), dtype=np.int64)
        for column in columns.T:
            states = states * self._levels[column][:, None] + self._codes[column][:, counted]
        return states

    def _discrete(self, sets: Bools, counted: Ints) -> Array:
        total = np.zeros((len(self._sizes), len(sets)))
        n = len(counted)
        constant = gammaln(self._sizes) - gammaln(self._sizes + n)
        for k, chosen in _by_size(sets):
            if k == 0:
                continue
            columns = np.nonzero(sets[chosen])[1].reshape(-1, k)
            for part in np.array_split(np.arange(len(chosen)), max(1, len(chosen) * n // CHUNK)):
                states = np.sort(self._states(columns[part], counted), axis=1)
                new = np.ones(states.shape, dtype=bool)
                new[:, 1:] = states[:, 1:] != states[:, :-1]
                starts = np.flatnonzero(new)
                counts = np.diff(starts, append=new.size)
                of_set = starts // n
                cells = self._levels[columns[part]].prod(1).astype(np.float64)
                for e, size in enumerate(self._sizes):
                    share = (size / cells)[of_set]
                    terms = gammaln(share + counts) - gammaln(share)
                    total[e, chosen[part]] = constant[e] + np.bincount(of_set, terms, minlength=len(part))
        return total

    def _gaussian(self, categories: Ints, sets: Bools, counted: Ints) -> Array:
        """The part of the numbers of sets (P, numbers), which all have these categories."""
        x = self._values[np.ix_(counted, self._numbers)]
        _, state = np.unique(self._states(categories[None], counted)[0], return_inverse=True)
        n = np.bincount(state).astype(np.float64)
        order = np.argsort(state, kind="stable")
        starts = np.cumsum(n).astype(np.int64) - n.astype(np.int64)
        mean = np.add.reduceat(x[order], starts, axis=0) / n[:, None]
        centred = (x - mean[state])[order]
        scatter = np.add.reduceat(centred[:, :, None] * centred[:, None, :], starts, axis=0)
        outer = mean[:, :, None] * mean[:, None, :]
        total = np.zeros((len(self._sizes), len(sets)))
        for e, size in enumerate(self._sizes):
            scale = size * size / (size + 1)
            r = scatter + scale * np.eye(x.shape[1]) + (n * size / (n + size))[:, None, None] * outer
            for k, chosen in _by_size(sets):
                columns = np.nonzero(sets[chosen])[1].reshape(-1, k)
                freedom = (size + 1 + k) / 2
                each = (
                    k / 2 * np.log(size / (n + size))
                    - k * n / 2 * math.log(math.pi)
                    + multigammaln(freedom + n / 2, k)
                    - multigammaln(freedom, k)
                    + freedom * k * math.log(scale)
                )
                determinants = np.linalg.slogdet(r[:, columns[:, :, None], columns[:, None, :]])[1]
                total[e, chosen] = each.sum() - ((freedom + n / 2)[:, None] * determinants).sum(0)
        return total


def _by_size(sets: Bools) -> Iterator[tuple[int, Ints]]:
    sizes = sets.sum(1)
    for k in np.unique(sizes):
        yield int(k), np.flatnonzero(sizes == k)


def parent_sets(node: int, candidates: Ints, required: Bools, max_parents: int) -> Bools:
    """All sets of up to so many candidates, with those that are required, as rows (P, d)."""
    d = len(required)
    must = np.flatnonzero(required)
    rest = [int(c) for c in candidates if c != node and not required[c]]
    blocks = []
    for k in range(min(max_parents - len(must), len(rest)) + 1):
        count = math.comb(len(rest), k)
        chosen = np.fromiter(itertools.chain.from_iterable(itertools.combinations(rest, k)), np.int64, count * k)
        block = np.zeros((count, d), dtype=bool)
        np.put_along_axis(block, chosen.reshape(count, k), values=True, axis=1)
        blocks.append(block)
    sets = np.concatenate(blocks)
    sets[:, must] = True
    return sets


def set_prior(sizes: Ints, d: int, prior: str) -> Array:
    """The log prior of sets of parents by their sizes: uniform over sizes, then over sets of the size; or over sets."""
    if prior == "uniform":
        return np.zeros(len(sizes))
    log_prior: Array = gammaln(sizes + 1) + gammaln(d - sizes) - gammaln(d)
    return log_prior


def family_scores(scores: SetScores, sets: list[Bools], targets: Bools | None, prior: str) -> Families:
    """The log weight of each set of parents of each node.

    Arguments:
        scores: Of sets of columns.
        sets: For each node its sets of parents, (P, d).
        targets: Whether a node was set by intervention in a row, with shape (N, d).
        prior: ``"sizes"`` or ``"uniform"``, see :func:`set_prior`.
    """
    d = len(sets)
    together: dict[bytes, list[int]] = {}
    for i in range(d):
        together.setdefault(b"" if targets is None else targets[:, i].tobytes(), []).append(i)
    weights: list[Array] = [np.zeros(0)] * d
    for nodes in together.values():
        alone = np.concatenate([sets[i] for i in nodes])
        joint = alone.copy()
        joint[np.arange(len(alone)), np.repeat(nodes, [len(sets[i]) for i in nodes])] = True
        packed = np.packbits(np.concatenate([joint, alone]), axis=1)
        _, first, inverse = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        unique = np.unpackbits(packed[first], axis=1, count=d).astype(bool)
        m = scores(unique, None if targets is None else ~targets[:, nodes[0]])[:, inverse.ravel()]
        gain = m[:, : len(alone)] - m[:, len(alone) :]
        ends = np.cumsum([len(sets[i]) for i in nodes])
        for i, part in zip(nodes, np.split(gain, ends[:-1], axis=1), strict=True):
            weights[i] = part + set_prior(sets[i].sum(1), d, prior)
    return Families(sets, weights)


def graph_weights(families: Families, graphs: Bools) -> Array:
    """The log weight of each graph (G, d, d) for each equivalent sample size, (E, G), nats; -inf if it cannot be."""
    total = np.zeros((len(families.log_weights[0]), len(graphs)))
    for i, (sets, weights) in enumerate(zip(families.sets, families.log_weights, strict=True)):
        number = {row.tobytes(): p for p, row in enumerate(np.packbits(sets, axis=1))}
        found = [number.get(row.tobytes(), -1) for row in np.packbits(graphs[:, :, i], axis=1)]
        total += np.concatenate([weights, np.full((len(weights), 1), -np.inf)], axis=1)[:, found]
    return total
