"""Marginal likelihoods beside products of predictive laws, row by row; interventions, and sets of parents."""

import numpy as np
import pytest
from scipy.stats import multivariate_t

from pyro_gen.structure.graphs.scores import SetScores, family_scores, parent_sets
from tests.structure.graphs.enumerated import category_rows, mixed_rows

SIZES = (1.0, 7.0)


def dirichlet_predictive(x: np.ndarray, levels: np.ndarray, size: float) -> float:
    counts = np.full(levels, size / levels.prod())
    total = 0.0
    for row in x.astype(int):
        total += np.log(counts[tuple(row)] / counts.sum())
        counts[tuple(row)] += 1
    return total


def student_predictive(x: np.ndarray, size: float) -> float:
    """Normal-Wishart prior of mean 0 whose predictive variance is 1; rows one after the other."""
    k = x.shape[1]
    mean, weight, freedom, scale = np.zeros(k), size, size + 1 + k, size**2 / (size + 1) * np.eye(k)
    total = 0.0
    for row in x:
        nu = freedom - k + 1
        total += multivariate_t(mean, scale * (weight + 1) / (weight * nu), nu).logpdf(row)
        scale = scale + weight / (weight + 1) * np.outer(row - mean, row - mean)
        mean = (weight * mean + row) / (weight + 1)
        weight, freedom = weight + 1, freedom + 1
    return total


def test_categories_have_the_product_of_their_predictive_laws() -> None:
    levels = np.array([2, 3, 2])
    x = category_rows(25, levels, 0)
    sets = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=bool)
    found = SetScores(x, levels, SIZES)(sets)
    for e, size in enumerate(SIZES):
        expected = [dirichlet_predictive(x[:, s], levels[s], size) for s in sets[:3]]
        assert found[e] == pytest.approx([*expected, 0.0], abs=1e-10)


def test_numbers_have_the_product_of_their_predictive_laws_in_each_state() -> None:
    x, levels = mixed_rows(30, 1)
    sets = np.array([[0, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 1]], dtype=bool)
    found = SetScores(x, levels, SIZES)(sets)
    for e, size in enumerate(SIZES):
        for s, value in zip(sets, found[e], strict=True):
            categories, numbers = s & (levels > 0), s & (levels == 0)
            expected = dirichlet_predictive(x[:, categories], levels[categories], size) if categories.any() else 0.0
            for state in np.unique(x[:, categories], axis=0):
                rows = (x[:, categories] == state).all(1)
                expected += student_predictive(x[rows][:, numbers], size)
            assert value == pytest.approx(expected, abs=1e-9)


def test_rows_in_which_a_node_was_set_do_not_score_it() -> None:
    levels = np.array([2, 3, 2, 2])
    x = category_rows(40, levels, 2)
    targets = np.zeros((40, 4), dtype=bool)
    targets[:15, 1] = targets[10:20, 2] = True
    sets = [parent_sets(i, np.arange(4), np.zeros(4, dtype=bool), 3) for i in range(4)]
    found = family_scores(SetScores(x, levels, SIZES), sets, targets, "uniform")
    whole = family_scores(SetScores(x, levels, SIZES), sets, None, "uniform")
    for i in range(4):
        part = family_scores(SetScores(x[~targets[:, i]], levels, SIZES), sets, None, "uniform")
        np.testing.assert_allclose(found.log_weights[i], part.log_weights[i], atol=1e-9)
        assert np.allclose(found.log_weights[i], whole.log_weights[i]) == (not targets[:, i].any())


def test_sets_of_parents() -> None:
    required = np.array([False, True, False, False, False])
    sets = parent_sets(0, np.array([1, 2, 4]), required, 2)
    assert {tuple(np.flatnonzero(s)) for s in sets} == {(1,), (1, 2), (1, 4)}
    free = parent_sets(0, np.arange(5), np.zeros(5, dtype=bool), 2)
    x = category_rows(5, np.full(5, 2), 0)
    flat = family_scores(SetScores(x[:0], np.full(5, 2), [1.0]), [free] * 1 + [free[:1]] * 4, None, "sizes")
    of_size = [np.exp(flat.log_weights[0][0][free.sum(1) == k]).sum() for k in range(3)]
    assert of_size == pytest.approx([1.0, 1.0, 1.0])
