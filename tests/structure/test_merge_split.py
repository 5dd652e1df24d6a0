"""Merge and split against sums over all partitions of six nodes: plain, of two kinds, with pairs not observed."""

import itertools
import math

import numpy as np
import pytest

from pyro_gen.models.network.parts.description_length import description_length
from pyro_gen.structure.merge_split import MergeSplit

EDGES = [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)]
BIPARTITE = [(0, 3), (0, 4), (1, 4), (1, 3), (2, 5)]
CHAINS, STEPS, BURN_IN = 200, 150, 30


def canonical(labels):
    seen = {}
    return tuple(seen.setdefault(k, len(seen)) for k in labels)


def network(edges):
    a = np.zeros((6, 6), dtype=np.int64)
    for i, j in edges:
        a[i, j] = a[j, i] = 1
    return a


def exact(a, kinds=None, missing=(), forget=False):
    """The probability of each partition, and of an edge at each missing pair; the twin forgets the degrees."""
    weights = {}
    for labels in {canonical(b) for b in itertools.product(range(6), repeat=6)}:
        b = np.array(labels)
        if kinds is not None and any(len(set(kinds[b == k])) > 1 for k in labels):
            continue
        for fill in itertools.product((0, 1), repeat=len(missing)):
            for value, (i, j) in zip(fill, missing, strict=True):
                a[i, j] = a[j, i] = value
            value = -description_length(a, b, kinds)
            if forget:
                for k in set(labels):
                    eta = np.bincount(a.sum(1)[b == k])
                    value += math.lgamma((b == k).sum() + 1) - sum(math.lgamma(n + 1) for n in eta)
            weights[labels, fill] = value
    keys, log_w = list(weights), np.array(list(weights.values()))
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    share = {}
    for (labels, _), p in zip(keys, w, strict=True):
        share[labels] = share.get(labels, 0.0) + p
    edges = [sum(p for (_, fill), p in zip(keys, w, strict=True) if fill[m]) for m in range(len(missing))]
    return share, edges


def drawn(a, moves, kinds=None, missing=None):
    start = np.zeros(6, dtype=np.int64) if kinds is None else kinds
    chains = MergeSplit(a, np.repeat(start[None], CHAINS, 0), 7, np.random.default_rng(0), kinds, missing)
    partitions = []
    for step in range(STEPS):
        if "gibbs" in moves:
            chains.sweep()
        if "merge" in moves:
            chains.merge_split()
        chains.impute()
        if step >= BURN_IN:
            partitions.append(chains.b.copy())
    return np.stack(partitions, 1), chains


def deviation(partitions, share):
    """The largest z of the shares of the likely partitions, by the spread of the means of independent chains."""
    worst = 0.0
    found = [[canonical(b) for b in chain] for chain in partitions]
    for labels, p in share.items():
        if p > 0.01:
            means = np.array([np.mean([b == labels for b in chain]) for chain in found])
            worst = max(worst, abs(means.mean() - p) / (means.std(ddof=1) / math.sqrt(len(means)) + 1e-3))
    return worst


# Some twenty shares a case, normal means of 200 chains: z > 5 has probability 1e-5 in all.
@pytest.mark.parametrize("moves", ["gibbs", "merge"])
def test_each_move_alone_draws_the_posterior(moves):
    a = network(EDGES)
    partitions, chains = drawn(a, moves)
    assert deviation(partitions, exact(a)[0]) < 5
    assert deviation(partitions, exact(a, forget=True)[0]) > 10  # the twin
    again = np.array([description_length(a, b) for b in chains.b])
    assert np.ptp(again + chains.log_posterior()) < 1e-9


def test_groups_of_two_kinds():
    a, kinds = network(BIPARTITE), np.array([0, 0, 0, 1, 1, 1])
    partitions, _ = drawn(a, "gibbs merge", kinds)
    assert deviation(partitions, exact(a, kinds)[0]) < 5
    assert deviation(partitions, exact(a)[0]) > 10  # the twin: as if a group could have both


def test_pairs_that_were_not_observed():
    a, missing = network(EDGES), np.array([[0, 3], [1, 2]])
    partitions, chains = drawn(a.copy(), "gibbs merge", missing=missing)
    share, edges = exact(a.copy(), missing=missing)
    assert deviation(partitions, share) < 5
    assert deviation(partitions, exact(a.copy())[0]) > 10  # the twin: as if they had been seen
    error = chains.a[:, [0, 1], [3, 2]].std(0) / math.sqrt(CHAINS) + 1e-3
    assert (np.abs(chains.a[:, [0, 1], [3, 2]].mean(0) - edges) < 5 * error).all()
