"""Sums over orders, and over graphs, beside all 29,281 graphs of five nodes; draws, the best graph."""

import numpy as np
import pytest
import torch

from pyro_gen.structure.graphs.exact import OrderSums, draw_orders, numbers_below, order_weights, zeta
from pyro_gen.structure.graphs.modular import modular_sums
from pyro_gen.structure.graphs.scores import Families, SetScores, family_scores, graph_weights, parent_sets
from tests.structure.graphs.enumerated import all_graphs, category_rows, edge_probabilities

LEVELS = np.array([2, 3, 2, 3, 2])
SIZES = (1.0, 10.0)


@pytest.fixture(scope="module")
def families() -> Families:
    x = category_rows(60, LEVELS, 0)
    sets = [parent_sets(i, np.arange(5), np.zeros(5, dtype=bool), 4) for i in range(5)]
    return family_scores(SetScores(x, LEVELS, SIZES), sets, None, "sizes")


@pytest.fixture(scope="module")
def graphs() -> tuple[np.ndarray, np.ndarray]:
    return all_graphs(5)


@pytest.mark.parametrize("size", [0, 1])
def test_sums_over_orders_and_over_graphs_are_those_of_all_graphs_one_by_one(
    families: Families, graphs: tuple[np.ndarray, np.ndarray], size: int
) -> None:
    every, orders = graphs
    assert len(every) == 29281
    weights = graph_weights(families, every)[size]
    by_order, log_z_by_order = edge_probabilities(every, weights + np.log(orders))
    once, log_z = edge_probabilities(every, weights)
    sums = OrderSums(families, size)
    assert sums.log_z == pytest.approx(log_z_by_order, abs=1e-10)
    np.testing.assert_allclose(sums.edge_probabilities(), by_order, atol=1e-10)
    found_log_z, found = modular_sums(families, size)
    assert found_log_z == pytest.approx(log_z, abs=1e-10)
    np.testing.assert_allclose(found, once, atol=1e-10)
    best, score = sums.best()
    assert score == pytest.approx(weights.max(), abs=1e-10)
    assert graph_weights(families, best[None])[size, 0] == pytest.approx(score, abs=1e-10)
    # Of these defects the bounds above can tell: graphs counted once an order, and no prior over sets of parents.
    assert np.abs(by_order - once).max() > 1e-3
    sizes = every.sum(1)
    prior = np.log([1, 1 / 4, 1 / 6, 1 / 4, 1])[sizes].sum(1)
    assert np.abs(edge_probabilities(every, weights - prior)[0] - once).max() > 1e-3


def test_weighted_draws_have_the_law_in_which_each_graph_counts_once(
    families: Families, graphs: tuple[np.ndarray, np.ndarray]
) -> None:
    every, orders = graphs
    weights = graph_weights(families, every)[0]
    n = 20_000
    drawn, order = OrderSums(families, 0).draw(n, torch.Generator().manual_seed(1))
    by_order, once = (edge_probabilities(every, w)[0] for w in (weights + np.log(orders), weights))
    error = np.sqrt(by_order * (1 - by_order) / n)
    assert (np.abs(drawn.mean(0) - by_order) <= 5 * error + 1e-12).all()  # false alarm at .00001 of 20 edges
    share = np.exp(order_weights(drawn, order))
    share /= share.sum()
    found = np.einsum("n,nij->ij", share, drawn)
    error = np.sqrt(once * (1 - once) * (share**2).sum())
    assert (np.abs(found - once) <= 5 * error + 1e-12).all()
    assert (np.abs(drawn.mean(0) - once) > 5 * error + 1e-12).any()  # unweighted draws do not pass
    # The weight of an order averages to one over the number of orders of its graph.
    where = {g.tobytes(): k for k, g in enumerate(every)}
    number = orders[[where[g.tobytes()] for g in drawn]]
    ratio = np.exp(order_weights(drawn, order)) * number
    assert ratio.mean() == pytest.approx(1, abs=5 * ratio.std() / np.sqrt(n) + 1e-9)


def test_orders_drawn_given_a_graph_have_the_probabilities_of_their_weights() -> None:
    graph = np.zeros((1, 5, 5), dtype=bool)
    graph[0, [0, 1, 0, 3], [2, 2, 3, 4]] = True  # 0 and 1 to 2, 0 to 3 to 4
    n = 20_000
    graphs, below = np.repeat(graph, n, 0), np.repeat(numbers_below(graph), n, 0)
    assert below[0].tolist() == [4, 2, 1, 2, 1]

    def error(rates: np.ndarray) -> float:
        """The greatest error of a frequency, in standard errors."""
        drawn, counts = np.unique(draw_orders(graphs, rates, np.random.default_rng(3)), axis=0, return_counts=True)
        p = np.exp(order_weights(np.repeat(graph, len(drawn), 0), drawn))
        assert p.sum() == pytest.approx(1)
        return float((np.abs(counts / n - p) / np.sqrt(p * (1 - p) / n)).max())

    assert error(below) < 4.5  # false alarm at .0001 of fewer than 20 orders
    assert error(np.ones_like(below)) > 4.5  # all that wait as probable


def test_sums_over_subsets_and_supersets() -> None:
    x = torch.randn(8, 2, dtype=torch.float64)
    inside = np.array([[(a & b) == a for a in range(8)] for b in range(8)])
    for upward in (False, True):
        masks = torch.as_tensor(inside.T if upward else inside)
        terms = torch.where(masks[:, :, None], x[None], -torch.inf)
        torch.testing.assert_close(zeta(x.clone(), upward=upward), terms.logsumexp(1))
        torch.testing.assert_close(zeta(x.clone(), upward=upward, best=True), terms.amax(1))
