"""Chains over orders beside the exact posterior, with candidates, knowledge and interventions; a defect planted."""

import numpy as np
import pytest

from pyro_gen.structure.graphs import search
from pyro_gen.structure.graphs.bayesian_network import bayesian_network_draws
from pyro_gen.structure.graphs.orders import candidate_parents
from pyro_gen.structure.graphs.scores import SetScores
from tests.structure.graphs.enumerated import category_rows


def both(monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Edges by sums, edges by chains, and R-hat."""
    levels = np.array([2, 3, 2, 2, 3])
    x = category_rows(60, levels, 9)
    exact = bayesian_network_draws(x, levels, max_parents=2, draws=10, **options)
    monkeypatch.setattr("pyro_gen.structure.graphs.bayesian_network.EXACT_NODES", 3)
    monkeypatch.setattr(search, "BURN_IN", 50)
    found = bayesian_network_draws(x, levels, max_parents=2, draws=200, **options)
    assert found.details["method"] == "orders"
    assert found.log_scores is not None
    return exact.probabilities, found.probabilities, found.r_hat()


def test_chains_have_the_law_in_which_each_graph_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, found, r_hat = both(monkeypatch)
    assert np.abs(found - exact).max() < 0.07  # 1,000 draws, of which a third is another one than before
    assert max(r_hat.values()) < 1.05


def test_graphs_that_count_once_for_each_order_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_gen.structure.graphs.orders.order_weights", lambda graphs, *_: np.zeros(len(graphs)))
    exact, found, _ = both(monkeypatch)
    assert np.abs(found - exact).max() > 0.07


def test_what_is_known_holds_in_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    required, forbidden = np.zeros((2, 5, 5), dtype=bool)
    required[0, 2] = forbidden[1, 2] = True
    targets = np.zeros((60, 5), dtype=bool)
    targets[:20, 3] = True
    exact, found, _ = both(monkeypatch, required=required, forbidden=forbidden, targets=targets)
    assert [found[0, 2], exact[0, 2]] == pytest.approx([1, 1])
    assert found[1, 2] == exact[1, 2] == 0
    assert np.abs(found - exact).max() < 0.09


def test_candidates_are_those_that_help_most_and_all_that_are_required() -> None:
    levels = np.full(6, 2)
    x = category_rows(300, levels, 3)
    x[:, 5] = (x[:, 0] + x[:, 1]) % 2  # no one parent alone tells of it
    required = np.zeros((6, 6), dtype=bool)
    required[1, 5] = True
    candidates = candidate_parents(SetScores(x, levels, [1.0]), ~np.eye(6, dtype=bool), required, None, 2, 3)
    assert set(candidates[5]) == {0, 1}
    assert {0, 2} <= set(candidates[1]) or 5 in candidates[1]


def test_required_parents_are_candidates_before_those_that_growth_finds() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 6))
    x[:, 5] = x[:, :4].sum(1) + 0.1 * generator.normal(size=200)
    levels, required = np.zeros(6, dtype=np.int64), np.zeros((6, 6), dtype=bool)
    required[4, 5] = True
    allowed = ~np.eye(6, dtype=bool)
    candidates = candidate_parents(SetScores(x, levels, [1.0]), allowed, required, None, 2, 5)
    assert 4 in candidates[5]
