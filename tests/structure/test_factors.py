"""Factors: their number, loadings up to sign and order, holes, bad input, and scikit-learn's checks."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator

import pyro_gen as pg
from pyro_gen.structure import Factors, factor_evidence, factors, find_factors
from pyro_gen.structure.factors import aligned

W = np.array([[0.9, 0], [0.8, 0], [-0.9, 0], [0, 1.2], [0, 1.0], [0, -1.1], [0, 0]])


def two_factors(n=150, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    return z, z @ W.T + 0.6 * rng.normal(size=(n, 7))


@pytest.fixture(scope="module")
def found() -> Factors:
    _, x = two_factors()
    x = x * [1, 100, 1, 1, 0.01, 1, 1] + 5
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(factor_evidence, "SETTINGS", factor_evidence.SETTINGS | {"particles": 128})
        return find_factors(pd.DataFrame(x, columns=list("abcdefg")), max_factors=3, draws=100)


def test_two_sparse_factors_are_found_up_to_sign_and_order(found):
    assert found.n_factors_ == 2 and found.number_probabilities_[2] > 0.95
    assert sum(found.number_probabilities_.values()) == pytest.approx(1) and found.number_errors_[2] < 0.05
    # The factor of d, e, f carries more variance, so it is the first; the largest loading of each is positive.
    assert ((found.included_ > 0.5) == (W[:, ::-1] != 0)).all()
    assert (found.loadings_[np.abs(found.loadings_).argmax(0), [0, 1]] > 0).all()
    truth = W[:, ::-1] / np.sqrt(np.square(W).sum(1, keepdims=True) + 0.36)
    truth = truth * np.sign((truth * found.loadings_).sum(0))
    low, high = found.loadings_interval_
    assert ((low - 0.05 <= truth) & (truth <= high + 0.05)).mean() > 0.9 and (high - low).max() < 0.5
    uniqueness = 0.36 / (np.square(W).sum(1) + 0.36)
    assert np.abs(found.uniquenesses_ - uniqueness).max() < 0.15 and found.uniquenesses_[6] > 0.95
    assert max(found.r_hat_.values()) < 1.1


def test_rows_have_their_factors_with_deviations(found):
    z, x = two_factors()
    frame = pd.DataFrame(x * [1, 100, 1, 1, 0.01, 1, 1] + 5, columns=list("abcdefg"))
    mean, deviation = found.scores(frame)
    for k in range(2):
        assert abs(np.corrcoef(mean[:, k], z[:, 1 - k])[0, 1]) > 0.9
    assert 0.2 < deviation.min() < deviation.max() < 0.6
    out = Factors.set_output(found, transform="pandas").transform(frame)
    assert list(out.columns) == ["factor0", "factor1"] and len(out) == 150
    empty = pd.DataFrame(np.nan, index=[0], columns=frame.columns)
    mean, deviation = found.scores(empty)
    assert np.abs(mean).max() < 1e-9 and np.allclose(deviation, 1)
    holes = frame.copy()
    holes.loc[:, "d"] = np.nan
    filled = found.predict(holes)
    assert np.corrcoef(filled[:, 3], frame["d"])[0, 1] > 0.7 and (filled[:, 0] == frame["a"]).all()
    # A density: that of one column, others not seen, integrates to 1.
    grid = np.linspace(-15, 25, 161)
    lines = [pd.DataFrame(np.nan, index=[0], columns=frame.columns).assign(a=v) for v in grid]
    assert np.exp([found.score(line) for line in lines]).sum() * 0.25 == pytest.approx(1, abs=0.01)


def test_output_for_people_and_for_arviz(found):
    assert "2 with probability" in found.summary() and "the chains agree" in found.summary()
    table = found.table()
    assert len(table) == 7 * 3 and set(table["of"]) == {"factor0", "factor1", "uniqueness"}
    idata = found.posterior_
    assert idata.posterior["loadings"].dims == ("chain", "draw", "column", "factor")
    assert list(idata.posterior["column"].values) == list("abcdefg")
    assert len(found.plot().axes) == 3


def test_draws_that_are_not_matched_would_be_caught(found):
    """Signs and order drawn anew: what is matched is as before, what is not has no mean left."""
    w = found.posterior_.posterior["loadings"].values.reshape(-1, 7, 2)
    rng = np.random.default_rng(0)
    turned = np.stack([d[:, rng.permutation(2)] * rng.choice([-1, 1], 2) for d in w])
    assert np.abs(turned.mean(0)).max() < 0.1 < 0.5 < np.abs(w.mean(0)).max()
    np.testing.assert_allclose(aligned(torch.from_numpy(turned)).numpy(), w)


def test_noise_has_no_factor_and_holes_are_allowed(monkeypatch):
    monkeypatch.setattr(factor_evidence, "SETTINGS", factor_evidence.SETTINGS | {"particles": 128})
    rng = np.random.default_rng(0)
    none = find_factors(rng.normal(size=(60, 4)), draws=10)
    assert none.n_factors_ == 0 and none.transform(np.zeros((3, 4))).shape == (3, 0)
    assert "0 with probability" in none.summary() and none.plot().axes
    _, x = two_factors()
    x[rng.random(x.shape) < 0.1] = np.nan
    holed = pg.structure.find_factors(x[:, :3], draws=50)
    assert holed.n_factors_ == 1 and (holed.included_ > 0.9).all()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[1.0, 2.0], [1.0, 3.0]], "column 0 is 1 in every row"),
        ([[1.0], [2.0]], "1 feature"),
        ([[1.0, 2.0]], "minimum of 2"),
        ([[1.0, np.inf], [2.0, 3.0]], "infinity"),
    ],
)
def test_bad_input_gets_one_line(x, words):
    with pytest.raises(ValueError, match=words):
        Factors().fit(x)
    with pytest.raises(ValueError, match="give 1 and 4 or more"):
        Factors(max_factors=0).fit([[1.0, 2.0], [2.0, 1.0]])


@pytest.mark.slow
def test_scikit_learn_takes_it_for_a_transformer(monkeypatch):
    monkeypatch.setattr(factor_evidence, "SETTINGS", {"particles": 16, "islands": 2, "length": 8, "leapfrog": 1})
    monkeypatch.setattr(factors, "BURN_IN", 5)
    failed = [
        f"{one['check_name']}: {one['exception']}"
        for one in check_estimator(Factors(max_factors=1, draws=4), on_skip=None, on_fail=None)
        if one["status"] == "failed"
    ]
    assert failed == []
