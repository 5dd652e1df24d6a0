"""Edges of Ising models beside a quadrature over couplings and fields, and of simulated spins."""

import numpy as np
import pytest
import torch
from scipy.special import log_expit, logsumexp
from sklearn.metrics import roc_auc_score

import pyro_gen as pg
from pyro_gen.models.undirected import Ising
from pyro_gen.structure.graphs import ising_edges as module
from pyro_gen.structure.graphs.ising_edges import ising_edges, polya_gamma


def test_polya_gamma_variables_have_their_laplace_transform() -> None:
    generator = np.random.default_rng(0)
    for b, c, t in ((0.5, 0.0, 4.0), (0.5, 2.0, 3.0), (1.0, 5.0, 6.0), (3.5, 1.0, 0.7)):
        w = np.exp(-t * polya_gamma(np.full(40_000, b), np.array(c), generator))
        # E exp(-t w) = (cosh(c / 2) / cosh(sqrt(c^2 / 4 + t / 2)))^b
        exact = (np.cosh(c / 2) / np.cosh(np.sqrt(c**2 / 4 + t / 2))) ** b
        error = w.std() / np.sqrt(len(w))
        assert abs(w.mean() - exact) < 4.5 * error  # four checks: one false alarm in 1e5 seeds


def pair(n: int = 40) -> np.ndarray:
    generator = np.random.default_rng(5)
    x = (generator.random((n, 2)) < 0.4).astype(float)
    x[:, 1] = np.where(generator.random(n) < 0.35, x[:, 0], x[:, 1])
    return x


def by_quadrature(x: np.ndarray) -> float:
    """The probability of the edge, fields and coupling on a grid; the fields are apart given the coupling."""
    s = 2 * x - 1
    t = s - s.mean(0)
    h = np.linspace(-4, 4, 801)
    j = np.linspace(-3, 3, 601)

    def log_sum(coupling: float) -> float:
        total = 0.0
        for a, b in ((0, 1), (1, 0)):
            each = log_expit(s[:, a] * 2 * (h[:, None] + coupling * t[:, b])).sum(1) / 2
            total += logsumexp(each - h**2 / 2)
        return total

    free = logsumexp([log_sum(v) - v**2 / (2 * 0.25) for v in j]) + np.log((j[1] - j[0]) / np.sqrt(2 * np.pi * 0.25))
    return float(1 / (1 + np.exp(log_sum(0.0) - free)))


def test_of_two_columns_the_probability_is_that_of_a_quadrature(monkeypatch: pytest.MonkeyPatch) -> None:
    x = pair()
    exact = by_quadrature(x)
    assert 0.2 < exact < 0.8
    assert ising_edges(x, draws=1000).probabilities[0, 1] == pytest.approx(exact, abs=0.03)
    monkeypatch.setattr(module, "SHARE", 1.0)  # the twin: the whole pseudo-likelihood
    assert abs(ising_edges(x, draws=300).probabilities[0, 1] - exact) > 0.06


def simulated() -> tuple[np.ndarray, np.ndarray]:
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 0), (0, 4)]
    sign = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0, -1.0])
    there = np.zeros((8, 8), dtype=bool)
    for i, j in edges:
        there[i, j] = there[j, i] = True
    names = sorted(range(8))
    ising = Ising(there.astype(int)[np.ix_(names, names)], 0.4, shared=False)
    order = [
        edges.index((int(a), int(b))) if (int(a), int(b)) in edges else edges.index((int(b), int(a)))
        for a, b in ising.graph.edges
    ]
    with torch.no_grad():
        ising.couplings.mul_(sign[order])
    return pg.sample(ising, 400, seed=0).numpy(), there


def test_edges_of_simulated_spins_are_found_with_and_without_holes() -> None:
    x, there = simulated()
    upper = np.triu_indices(8, 1)
    found = ising_edges(x, draws=100)
    assert roc_auc_score(there[upper], found.probabilities[upper]) >= 0.97
    assert (found.best != there)[upper].sum() <= 2
    assert max(found.r_hat().values()) < 1.1
    x = x.astype(np.float64)
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    holed = ising_edges(x, draws=60, chains=2)
    assert roc_auc_score(there[upper], holed.probabilities[upper]) >= 0.95


def test_edges_forbidden_and_required_and_other_numbers() -> None:
    x = simulated()[0][:100].astype(np.float64)
    forbidden, required = np.zeros((2, 8, 8), dtype=bool)
    forbidden[0, 1] = required[0, 2] = True
    found = ising_edges(x, draws=5, chains=2, forbidden=forbidden, required=required)
    assert not found.graphs[..., 1, 0].any()
    assert found.graphs[..., 2, 0].all()
    with pytest.raises(ValueError, match="0 and 1"):
        ising_edges(x + 1)
