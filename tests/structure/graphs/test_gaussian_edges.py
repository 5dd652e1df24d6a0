"""Edges of Gaussian graphical models beside sums over all graphs, whose scores are written out by determinants."""

import itertools

import numpy as np
import pytest
from scipy.special import comb, gammaln, logsumexp

from pyro_gen.structure.graphs import gaussian_edges as module
from pyro_gen.structure.graphs.gaussian_edges import gaussian_edges


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    """A chain of columns, each the one before and noise."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    for j in range(1, d):
        x[:, j] += 0.35 * x[:, j - 1]
    return x


def log_weight(x: np.ndarray, graph: np.ndarray) -> float:
    n, d = len(x) - 1, x.shape[1]
    s = np.cov(x.T) * n
    total = 0.0
    for i in range(d):
        ne = np.flatnonzero(graph[i])
        p = len(ne)
        with_own = np.linalg.slogdet(s[np.ix_([i, *ne], [i, *ne])])[1]
        of_ne = np.linalg.slogdet(s[np.ix_(ne, ne)])[1] if p else 0.0
        total += gammaln((n + p) / 2) - gammaln((p + 1) / 2) - (2 * p + 1) / 2 * np.log(n)
        total -= (n - 1) / 2 * (with_own - of_ne)
    pairs = d * (d - 1) // 2
    return float(0.5 * total - np.log(comb(pairs, graph.sum() // 2)))


def enumerated(x: np.ndarray) -> np.ndarray:
    d = x.shape[1]
    upper = np.triu_indices(d, 1)
    graphs = np.zeros((2 ** len(upper[0]), d, d), dtype=bool)
    graphs[:, *upper] = list(itertools.product([False, True], repeat=len(upper[0])))
    graphs |= graphs.swapaxes(1, 2)
    weights = np.array([log_weight(x, g) for g in graphs])
    return np.asarray(np.einsum("g,gij->ij", np.exp(weights - logsumexp(weights)), graphs))


def test_probabilities_are_those_of_all_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(30, 4)
    exact = enumerated(x)
    assert ((exact > 0.1) & (exact < 0.9)).sum() >= 6  # of pairs that are not decided
    found = gaussian_edges(x, draws=800, chains=8)
    # Averages over 6,400 dependent draws; .02 is more than five standard errors at 15 dependent draws for one.
    assert np.abs(found.probabilities - exact).max() < 0.02
    assert max(found.r_hat().values()) < 1.02
    assert log_weight(x, found.best) == pytest.approx(max(log_weight(x, g) for g in found.graphs.reshape(-1, 4, 4)))
    monkeypatch.setattr(module, "SHARE", 1.0)  # the twin: the whole product
    assert np.abs(gaussian_edges(x, draws=300).probabilities - exact).max() > 0.05


def test_scores_follow_the_chain_after_many_turns() -> None:
    x = rows(25, 5, 3)
    found = gaussian_edges(x, draws=40, chains=2)
    assert found.log_scores is not None
    gaps = [
        score - log_weight(x / x.std(0), graph)
        for score, graph in zip(found.log_scores.ravel(), found.graphs.reshape(-1, 5, 5), strict=True)
    ]
    assert np.ptp(gaps) < 1e-8


def test_of_two_columns_the_probability_is_that_of_the_fractional_bayes_factor() -> None:
    x = rows(20, 2)
    n, r = 19, np.corrcoef(x.T)[0, 1]
    log_ratio = gammaln((n + 1) / 2) - gammaln(n / 2) - gammaln(1.0) + gammaln(0.5) - np.log(n)
    log_ratio -= (n - 1) / 2 * np.log(1 - r**2)
    found = gaussian_edges(x, draws=3000, chains=4)
    assert found.probabilities[0, 1] == pytest.approx(1 / (1 + np.exp(-log_ratio)), abs=0.02)


def test_edges_forbidden_and_required() -> None:
    x = rows(40, 4)
    forbidden, required = np.zeros((2, 4, 4), dtype=bool)
    forbidden[0, 1] = required[0, 3] = True
    found = gaussian_edges(x, draws=20, forbidden=forbidden, required=required)
    assert not found.graphs[..., 0, 1].any()
    assert found.graphs[..., 3, 0].all()
    assert found.probabilities[1, 0] == 0
    assert found.probabilities[0, 3] == 1


def test_missing_values_blur_what_is_known() -> None:
    x = rows(300, 4)
    whole = gaussian_edges(x, draws=100).probabilities
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    found = gaussian_edges(x, draws=50, chains=2)
    assert np.abs(found.probabilities - whole).max() < 0.25
    assert (found.probabilities[[0, 1, 2], [1, 2, 3]] > 0.9).all()
    noise = np.random.default_rng(0).normal(size=(60, 3))
    noise[:30, 2] = np.nan
    assert gaussian_edges(noise, draws=50, chains=2).probabilities.max() < 0.3


def test_more_columns_than_rows_and_too_few_rows(untouched_rng: None) -> None:
    found = gaussian_edges(rows(6, 8), draws=20)
    assert found.graphs.sum(-1).max() <= 4
    assert found.log_scores is not None
    assert np.isfinite(found.log_scores).all()
    with pytest.raises(ValueError, match="3 rows"):
        gaussian_edges(rows(3, 2))
