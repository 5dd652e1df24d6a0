"""Belief propagation against sums over all labels on a tree; block Gibbs against those of six nodes."""

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from scipy.special import gammaln, logsumexp

from pyro_gen.structure.belief_propagation import Beliefs, Edges, State, propagate, run
from pyro_gen.structure.block_gibbs import sample_partitions

NONE = np.zeros((0, 2), dtype=np.int64)


def edges_of(graph, missing=NONE):
    return Edges.of(scipy.sparse.csr_array(nx.to_scipy_sparse_array(graph, nodelist=sorted(graph))), missing)


def test_a_tree_is_exact():
    tree = nx.Graph([(0, 1), (1, 2), (1, 3), (3, 4), (3, 5)])
    p, omega = np.array([0.3, 0.7]), np.array([[1.9, 0.4], [0.4, 1.3]])
    edges = edges_of(tree)
    start = State(np.full((1, 2, 6), 0.5), p[None], omega[None])
    _, [found] = run(edges, state=start, steps=400, learn=False)
    d, total = edges.degree, edges.degree.sum()
    field = omega @ (found.marginals.T @ d) / total
    terms, labels = [], list(itertools.product((0, 1), repeat=6))
    for b in labels:
        value = sum(math.log(p[k]) - d[i] * field[k] for i, k in enumerate(b))
        terms.append(value + sum(math.log(omega[b[i], b[j]]) for i, j in tree.edges))
    w = np.exp(np.array(terms) - logsumexp(terms))
    ones = (w[:, None] * np.array(labels)).sum(0)
    assert np.allclose(found.marginals[:, 1], ones, atol=1e-4)
    mass = found.marginals.T @ d
    assert found.log_likelihood == pytest.approx(logsumexp(terms) + mass @ omega @ mass / (2 * total), abs=1e-4)
    # The twin: messages that come back to where they came from, as without the cavity.
    assert abs(ones - (w[:, None] * np.array(labels))[32:].sum(0)).max() > 0.01


def exact(edges, rate):
    """The probability of each labelling of a network, p and omega integrated out; ``rate`` of the prior of omega."""
    n, total = len(edges.degree), edges.degree.sum()
    adjacency, seen = np.zeros((n, n)), 1 - np.eye(n)
    adjacency[edges.target, edges.source] = edges.weight
    for i, j in edges.missing:
        seen[i, j] = seen[j, i] = 0
    expected = np.outer(edges.degree, edges.degree) / total * seen
    labels = np.array(list(itertools.product((0, 1), repeat=n)))
    values = []
    for b in labels:
        z = np.eye(2)[b]
        counts, exposed = z.T @ adjacency @ z, z.T @ expected @ z
        value = gammaln(1 + z.sum(0)).sum()
        for r, s, share in ((0, 0, 0.5), (1, 1, 0.5), (0, 1, 1.0)):
            m, t = share * counts[r, s], share * exposed[r, s]
            value += gammaln(1 + m) - (1 + m) * np.log(rate + t)
        values.append(value)
    return labels, np.exp(np.array(values) - logsumexp(values))


def test_sets_of_nodes_at_once_draw_the_posterior():
    graph = nx.Graph([(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)])
    edges = edges_of(graph, np.array([[0, 5]]))
    start = Beliefs(0.0, 0.0, np.full((6, 2), 0.5), np.full(2, 0.5), np.ones((2, 2)))
    draws, omega = sample_partitions(edges, start, 300, 20, 60, 1, np.random.default_rng(0))
    assert omega.shape == (300, 60, 2, 2)
    together = (draws[..., :, None] == draws[..., None, :]).mean(1)  # (C, N, N)
    error = together.std(0, ddof=1) / math.sqrt(300) + 1e-4

    def worst(rate):
        labels, w = exact(edges, rate)
        truth = (w[:, None, None] * (labels[:, :, None] == labels[:, None, :])).sum(0)
        return (np.abs(together.mean(0) - truth) / error).max()

    assert worst(1.0) < 5  # 15 pairs of normal means: 1e-5
    assert worst(0.2) > 10  # the twin: another prior


def test_a_planted_partition_that_no_single_partition_shows():
    rng = np.random.default_rng(0)
    b, c, contrast = np.arange(1000) % 2, 5, 2 * math.sqrt(2.0 * 5)
    rate = (c + np.where(b[:, None] == b, contrast, -contrast) / 2) / 1000
    upper = np.triu(rng.random((1000, 1000)) < rate, 1)
    graph = nx.from_numpy_array(upper | upper.T)
    graph.remove_nodes_from([v for v in range(1000) if graph.degree[v] == 0])
    truth = b[sorted(graph)]
    edges = edges_of(nx.convert_node_labels_to_integers(graph, ordering="sorted"))
    found = {k: propagate(edges, k, np.random.default_rng(0)) for k in (1, 2, 3)}
    assert max(found, key=lambda k: found[k].log_evidence) == 2
    labels = found[2].marginals.argmax(1)
    right = max((labels == truth).mean(), (labels != truth).mean())
    assert right > 0.84 and abs(found[2].marginals.max(1).mean() - right) < 0.05
