"""Description lengths: karate's, the count of partitions, and a sum over all small networks that must be 1."""

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import scipy.sparse

from pyro_gen.models.network.parts import description_length as module
from pyro_gen.models.network.parts.description_length import description_length, log_partitions


def test_karate_at_one_group_and_at_the_clubs():
    graph = nx.karate_club_graph()
    a = nx.to_numpy_array(graph, weight=None)
    clubs = [graph.nodes[v]["club"] for v in graph]
    assert description_length(a, np.zeros(34)) == pytest.approx(222.89013084, abs=1e-4)
    assert description_length(a, np.array(clubs)) == pytest.approx(230.67837092, abs=1e-4)
    assert description_length(scipy.sparse.csr_array(a), clubs) == description_length(a, clubs)


def test_partitions_of_integers_are_counted():
    def count(m, n, most):
        return 1 if m == 0 else sum(count(m - k, n - 1, k) for k in range(1, min(m, most) + 1)) if n else 0

    table = np.exp(log_partitions(12, 6))
    assert np.allclose(table, [[count(m, n, m) for m in range(13)] for n in range(7)])
    m, n = np.meshgrid([400, 900], [30, 60, 200])
    exact = log_partitions(900, 200)[n, m]
    assert np.abs(module.log_partitions_asymptotic(m, n) - exact).max() < 0.03


def of_all_multigraphs_of_two_edges(labels):
    """The sum of p(A, k, e, b) over A, over p(b): 1."""
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    total = 0.0
    for first, second in itertools.combinations_with_replacement(pairs, 2):
        a = np.zeros((3, 3))
        for i, j in (first, second):
            a[i, j] += 1
            a[j, i] += 1  # a loop is there twice
        total += math.exp(-description_length(a, np.array(labels)))
    sizes, groups = np.bincount(labels), max(labels) + 1
    return total / (math.prod(map(math.factorial, sizes)) / math.factorial(3) / math.comb(2, groups - 1) / 3)


@pytest.mark.parametrize("labels", [(0, 0, 0), (0, 0, 1), (0, 1, 2)])
def test_probabilities_of_all_multigraphs_sum_to_one(labels, monkeypatch):
    assert of_all_multigraphs_of_two_edges(labels) == pytest.approx(1.0, rel=1e-10)
    # The twin: partitions into one part more.
    monkeypatch.setattr(module, "log_partitions", lambda m, n: log_partitions(m, n + 1)[1:])
    assert labels == (0, 0, 0) or abs(of_all_multigraphs_of_two_edges(labels) - 1) > 0.01


def test_kinds_save_what_pairs_of_one_kind_cost():
    graph = nx.davis_southern_women_graph()
    a = nx.to_numpy_array(graph)
    kinds = np.array([graph.nodes[v]["bipartite"] for v in graph])
    known = description_length(a, kinds, kinds)
    # Without kinds: which are women (a binomial coefficient, sizes), and edges 0, 1, 1 of three pairs.
    assert description_length(a, kinds) - known == pytest.approx(
        math.log(math.comb(32, 18) * 31 * 32) - math.log(18 * 14) + math.log(math.comb(91, 89))
    )
