"""Stacking weights against a grid, and against what the optimum must satisfy."""

import numpy as np
import pytest

from pyro_gen.evaluation.stacking import could_rise, stacking_weights

RNG = np.random.default_rng(0)
LOG_P = -np.abs(RNG.normal(1.0, 1.0, size=(200, 2)))


def test_two_models_against_a_grid() -> None:
    w = np.linspace(0, 1, 20_001)[1:-1]
    mixed = np.logaddexp(LOG_P[:, :1] + np.log(w), LOG_P[:, 1:] + np.log1p(-w)).mean(0)
    found = stacking_weights(LOG_P)
    assert abs(found[0] - w[mixed.argmax()]) < 1e-3 and 0.05 < found[0] < 0.95


@pytest.mark.parametrize("models", [3, 12])
def test_nothing_can_rise_at_the_optimum(models: int) -> None:
    log_p = -np.abs(RNG.normal(np.arange(models), 1.0, size=(300, models))) - 700 * RNG.random((300, 1))
    found = stacking_weights(log_p)
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    assert found.min() >= 0 and found.sum() == pytest.approx(1)
    assert could_rise(p, found) < 1e-5
    # Twins: equal weights, and the best model alone, are caught by the same number.
    assert could_rise(p, np.full(models, 1 / models)) > 0.01
    assert could_rise(p, np.eye(models)[log_p.mean(0).argmax()]) > 0.01


def test_a_model_that_adds_nothing_has_no_weight() -> None:
    worse = np.stack([LOG_P[:, 0], LOG_P[:, 0] - 0.1], 1)
    np.testing.assert_allclose(stacking_weights(worse), [1.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(stacking_weights(LOG_P[:, :1]), [1.0])


def test_impossible_data_are_refused() -> None:
    with pytest.raises(ValueError, match="leave that datum out"):
        stacking_weights(np.array([[-np.inf, -np.inf], [0.0, 0.0]]))
    one = stacking_weights(np.array([[-np.inf, -1.0], [-1.0, -1.0]]))
    assert one[1] > 0.5
