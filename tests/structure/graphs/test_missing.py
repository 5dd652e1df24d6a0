"""Missing entries: their laws beside sums and integrals, and posteriors close to those of complete data."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from pyro_gen.structure.graphs import missing
from pyro_gen.structure.graphs.bayesian_network import bayesian_network_draws
from pyro_gen.structure.graphs.missing import Laws, Line, Table
from pyro_gen.structure.graphs.search import Search
from tests.structure.graphs.enumerated import category_rows, mixed_rows


def search_of(levels: np.ndarray) -> Search:
    d = len(levels)
    return Search(levels, ~np.eye(d, dtype=bool), np.zeros((d, d), dtype=bool), None, 2, (2.0,), "sizes")


def test_an_entry_has_its_law_given_the_row() -> None:
    """A number between a category and a number, of a joint normal law; a category above, by Bayes' theorem."""
    levels = np.array([2, 0, 0])
    graph = np.zeros((3, 3), dtype=bool)
    graph[0, 1] = graph[1, 2] = True
    laws = Laws(search_of(levels), np.zeros((0, 3)), graph, 2.0, np.random.default_rng(0))
    laws.laws = [
        Table(np.log([[0.3, 0.7]])),
        Line(np.array([0.0, 1.0]), np.zeros((2, 0)), np.array([1.0, 0.5])),
        Line(np.array([0.2]), np.array([[1.5]]), np.array([0.4])),
    ]
    n = 40_000
    x = np.tile([1.0, np.nan, 2.0], (n, 1))
    x[:, 1] = 0.0
    laws.draw(x, 1, np.arange(n))
    covariance = np.array([[0.5, 0.75], [0.75, 0.4 + 1.5**2 * 0.5]])
    mean = 1.0 + covariance[0, 1] / covariance[1, 1] * (2.0 - 1.7)
    variance = covariance[0, 0] - covariance[0, 1] ** 2 / covariance[1, 1]
    assert x[:, 1].mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / n))
    assert x[:, 1].var() == pytest.approx(variance, rel=5 * np.sqrt(2 / n))
    alone = 1.0  # the mean if what is below were forgotten
    assert abs(x[:, 1].mean() - alone) > 5 * np.sqrt(variance / n)
    x[:, 1] = 0.4
    laws.draw(x, 0, np.arange(n))
    odds = np.array([0.3, 0.7]) * [
        multivariate_normal(0.0, 1.0).pdf(0.4),
        multivariate_normal(1.0, 0.5).pdf(0.4),
    ]
    p = odds[1] / odds.sum()
    assert x[:, 0].mean() == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / n))


def test_parameters_have_their_posterior() -> None:
    """Means of tables and of lines, in closed form, over many draws."""
    x, levels = mixed_rows(60, 1)
    graph = np.zeros((4, 4), dtype=bool)
    graph[0, 2] = graph[1, 3] = True
    generator = np.random.default_rng(0)
    laws = [Laws(search_of(levels), x, graph, 2.0, generator).laws for _ in range(400)]
    tables = np.exp([law[2].log_probability for law in laws])
    counts = np.stack([np.bincount(x[x[:, 0] == a, 2].astype(int), minlength=3) for a in range(2)]) + 2 / 6
    np.testing.assert_allclose(tables.mean(0), counts / counts.sum(1, keepdims=True), atol=5 * tables.std() / 20)
    y = np.concatenate([x[:, [1, 3]], np.zeros((2, 2))])  # the prior mean, of weight 2
    scatter = (y - y.mean(0)).T @ (y - y.mean(0)) + 4 / 3 * np.eye(2)
    slopes = np.array([law[3].slopes[0, 0] for law in laws])
    assert slopes.mean() == pytest.approx(scatter[0, 1] / scatter[0, 0], abs=5 * slopes.std() / 20)
    shape, rate = (2 + 1 + 2 + 60) / 2, (scatter[1, 1] - scatter[0, 1] ** 2 / scatter[0, 0]) / 2
    variances = np.array([law[3].variance[0] for law in laws])
    assert variances.mean() == pytest.approx(rate / (shape - 1), abs=5 * variances.std() / 20)


@pytest.mark.parametrize("kind", ["categories", "both"])
def test_a_tenth_missing_leaves_the_posterior_where_it_was(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing, "ROUNDS", 8)
    monkeypatch.setattr(missing, "BURN_IN", 4)
    levels = np.array([2, 3, 2, 3])
    x = category_rows(300, levels, 2)
    if kind == "both":
        x, levels = mixed_rows(300, 2)
    holes = np.random.default_rng(1).random(x.shape) < 0.1
    complete = bayesian_network_draws(x, levels, draws=50)
    found = bayesian_network_draws(np.where(holes, np.nan, x), levels, draws=50, chains=2)
    assert found.graphs.shape == (2, 50, 4, 4)
    assert found.log_scores is not None
    assert found.details["missing"] == holes.sum()
    sure = np.abs(complete.probabilities + complete.probabilities.T - 0.5) > 0.45
    adjacent = found.probabilities + found.probabilities.T
    np.testing.assert_allclose(adjacent[sure], (complete.probabilities + complete.probabilities.T)[sure], atol=0.3)


def test_more_draws_are_of_more_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing, "ROUNDS", 3)
    monkeypatch.setattr(missing, "BURN_IN", 1)
    monkeypatch.setattr(missing, "EACH", 2)
    completions = []
    monkeypatch.setattr(missing, "_impute", lambda *given: completions.append(given))
    x = category_rows(20, np.array([2, 2]), 0)
    x[0, 0] = np.nan
    for draws, rounds in ((4, 3), (6, 3), (20, 10)):
        completions.clear()
        found = bayesian_network_draws(x, [2, 2], draws=draws, chains=1)
        assert len(completions) == 1 + rounds
        assert found.graphs.shape == (1, draws, 2, 2)
