"""Regimes: the Nile, simulated states with holes, several series, and bad input."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import check_estimator

import pyro_gen as pg
from pyro_gen.structure import Regimes, find_regimes


def chain(steps: int, stay: float, states: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    moves = np.where(rng.random(steps) < stay, 0, rng.integers(1, states, steps) if states > 2 else 1)
    return np.asarray(moves.cumsum() % states)


def nile() -> pd.Series:
    return pd.Series(pg.data.load("nile").train[0].numpy(), index=pd.period_range("1871", "1970", freq="Y"))


# ----------------------------------------------------------------------------------------------------------------------
# Change points


def test_the_nile_has_one_change() -> None:
    found = find_regimes(nile(), "change points")
    assert found.change_probabilities_[1899 - 1871] == pytest.approx(0.75, abs=0.02)
    assert found.number_probabilities_[1] == pytest.approx(0.71, abs=0.02)
    assert found.labels_.tolist() == [0] * 28 + [1] * 72
    assert "before 1899 (0.75)" in found.summary() and str(found.regimes_["from"][1]) == "1899"
    assert found.plot().axes
    # 400 independent draws: off by five sd in 6e-7.
    change = found.posterior_.posterior["change"].values.reshape(400, 100)
    p = found.change_probabilities_
    assert (np.abs(change.mean(0) - p) < 5 * np.sqrt(p * (1 - p) / 400) + 1e-9).all()
    assert (found.predict(nile().to_frame()) == found.labels_).all()
    none_yet = (change[:, :29].sum(1) == 0).mean()  # up to 1899
    assert found.predict_proba(nile().to_frame())[28, 0] == pytest.approx(none_yet, abs=5 * 0.0125)
    assert found.score(nile().to_frame()) == pytest.approx(found.log_evidence_ / 100)


def test_columns_change_together_and_holes_are_not_seen() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) + np.where(np.arange(60) >= 40, 3.0, 0.0)[:, None]
    x[rng.random(x.shape) < 0.2] = np.nan
    both = find_regimes(pd.DataFrame(x, columns=["a", "b"]), "change points")
    assert both.labels_.max() == 1 and abs(int((both.labels_ == 0).sum()) - 40) <= 1
    assert both.number_probabilities_[1] > 0.5 > both.number_probabilities_[0]
    still = find_regimes(rng.normal(size=60), "change points")  # the twin: where nothing changes, none is found
    assert still.number_probabilities_[0] > 0.5 and still.labels_.max() == 0


def test_changes_of_several_series_are_those_of_each() -> None:
    rng = np.random.default_rng(1)
    x = [np.concatenate([rng.normal(size=20), rng.normal(4.0, 1.0, size=n)]) for n in (10, 30)]
    both = find_regimes(x, "change points")
    assert [len(labels) for labels in both.labels_] == [30, 50]
    assert [np.argmax(p) for p in both.change_probabilities_] == [20, 20]
    assert both.posterior_.posterior["number"].shape == (4, 100, 2) and len(both.number_probabilities_) == 2
    assert both.regimes_.index.tolist() == [(0, 0), (0, 1), (1, 0), (1, 1)]


# ----------------------------------------------------------------------------------------------------------------------
# States


@pytest.fixture(scope="module")
def simulated() -> tuple[Regimes, np.ndarray, pd.DataFrame]:
    """Three states in two columns, 30% of the entries missing."""
    states = chain(150, 0.9, 3, 0)
    rng = np.random.default_rng(100)
    x = np.array([[5.0, 0.0], [1.0, 2.0], [-3.0, 0.0]])[states] + rng.normal(size=(150, 2))
    x[rng.random(x.shape) < 0.3] = np.nan
    frame = pd.DataFrame(x, columns=["a", "b"], index=pd.date_range("2020-01-01", periods=150))
    return find_regimes(frame, max_states=4), states, frame


def test_states_and_their_number_are_found(simulated: Any) -> None:
    found, states, _ = simulated
    assert found.n_regimes_ == 3 and found.number_probabilities_[3] > 0.7
    assert sum(found.number_probabilities_.values()) == pytest.approx(1.0) and found.number_errors_[3] < 0.1
    assert (found.labels_ == 2 - states).mean() > 0.9  # in the order of the means of the first column
    assert found.regimes_["mean of a"].to_numpy() == pytest.approx([-3.0, 1.0, 5.0], abs=0.8)
    assert (found.regimes_["mean of a, 5%"] < found.regimes_["mean of a, 95%"]).all()
    assert found.probabilities_.shape == (150, 3) and found.probabilities_.sum(1) == pytest.approx(1.0)
    assert max(found.r_hat_.values()) < 1.1
    # Changes of the labels have what the marginal probability of changes says.
    changed = np.flatnonzero(np.diff(states)) + 1
    assert (
        found.change_probabilities_[changed].mean() > 0.5 > 0.1 > np.delete(found.change_probabilities_, changed).mean()
    )


def test_what_is_found_is_told_of_other_series(simulated: Any) -> None:
    found, _, frame = simulated
    assert (found.predict(frame) == found.labels_).all()
    assert found.predict_proba(frame) == pytest.approx(found.probabilities_, abs=1e-8)
    assert found.predict(pd.DataFrame({"a": [5.0, np.nan, 5.0], "b": np.nan})).tolist() == [2, 2, 2]
    grid = np.linspace(-15, 15, 601)
    frames = [pd.DataFrame({"a": [v, np.nan], "b": [np.nan, np.nan]}) for v in grid]
    density = np.exp([2 * found.score(one) for one in frames])
    assert density.sum() * 0.05 == pytest.approx(1.0, abs=0.01)


def test_the_posterior_is_arviz(simulated: Any) -> None:
    found, _, _ = simulated
    posterior = found.posterior_.posterior
    assert posterior["state"].shape == (4, 100, 150) and set(found.r_hat_) == {
        "number",
        "changes",
        "entropy",
        "log_density",
    }
    of_three = posterior["number"].values == 3
    drawn = posterior["state"].values[of_three]
    share = np.stack([(drawn == k).mean(0) for k in range(3)], 1)
    # 400 draws, labels of all alike: off by six sd and what the two sets of draws differ by.
    assert np.abs(share - found.probabilities_).max() < 0.15
    assert found.plot().axes and "3 with probability" in found.summary()


def test_states_with_one_mean_and_two_variances_are_told_apart() -> None:
    states = chain(250, 0.96, 2, 3)
    x = np.random.default_rng(3).normal(size=250) * np.where(states == 1, 4.0, 1.0)
    found = find_regimes(x, max_states=2)
    assert found.number_probabilities_[2] > 0.99
    assert adjusted_rand_score(states, found.labels_) > 0.75
    spread = found.regimes_.filter(like="standard deviation of 0").iloc[:, 0]
    assert spread.max() / spread.min() > 2.5  # labels of draws that were exchanged would have it near 1


def test_outliers_make_no_state_of_student_t() -> None:
    x = np.random.default_rng(4).standard_t(2, size=150)
    assert find_regimes(x, max_states=2, emission="student_t").number_probabilities_[1] > 0.8
    assert find_regimes(x, max_states=2).number_probabilities_[1] < 0.2  # the twin: of normal states there are two


@pytest.mark.parametrize("emission", ["poisson", "categorical"])
def test_counts_and_levels_of_several_series(emission: str) -> None:
    rng = np.random.default_rng(6)
    states = [chain(n, 0.93, 2, n) for n in (40, 90, 60)]
    law = (
        (lambda z: rng.poisson(np.where(z == 1, 8.0, 1.5)))
        if emission == "poisson"
        else (lambda z: np.where(rng.random(len(z)) < 0.85, 2 * z, 1))
    )
    x = [pd.Series(law(z)).astype(float).mask(rng.random(len(z)) < 0.2) for z in states]
    found = find_regimes(x, max_states=3, emission=emission)
    assert found.n_regimes_ == 2 and [len(labels) for labels in found.labels_] == [40, 90, 60]
    assert np.mean(np.concatenate(found.labels_) == np.concatenate(states)) > 0.85
    assert all(p[0] == 0 for p in found.change_probabilities_)  # no series goes over into the next
    assert found.predict(x)[1].tolist() == found.labels_[1].tolist()


# ----------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        ([1.0, 1.0, 1.0], {}, "1 in every row"),
        ([1.0], {}, "minimum of 2"),
        ([np.inf, 1.0], {}, "infinity"),
        ([1.0, 2.0], {"kind": "clusters"}, "choose a kind of states, change points"),
        ([1.0, 2.0], {"emission": "gamma"}, "an emission of normal"),
        ([1.0, 2.5], {"emission": "poisson"}, "not 2.5"),
        ([1.0, 2.0], {"draws": 1}, "give 1, 1 and 4 or more"),
        ([np.array([1.0, 2.0]), np.array([1.0])], {}, "series 1 has 1 step"),
        ([np.zeros((3, 1)), np.zeros((3, 2))], {}, "the same columns"),
        ([[1.0, 2.0], [1.0]], {}, "as a list of arrays"),
        (pd.Series([1.0, 2.0], index=pd.to_datetime(["2020-01-02", "2020-01-01"])), {}, "sort it by time"),
        (np.arange(5001.0), {"kind": "change points"}, "memory for 5000 steps"),
    ],
)
def test_bad_input_gets_one_line(x: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        find_regimes(x, **options)
    assert "\n" not in str(error.value)


def test_a_level_that_was_not_there_is_refused() -> None:
    found = find_regimes([0.0, 1.0, 1.0, 0.0], max_states=1, emission="categorical")
    with pytest.raises(ValueError, match="a level is greater"):
        found.predict([[2.0]])


IN_ORDER = dict.fromkeys(
    ["check_methods_subset_invariance", "check_methods_sample_order_invariance"], "steps are in order"
)


def checked(estimator: Regimes) -> list[str]:
    found = check_estimator(estimator, on_skip=None, on_fail=None, expected_failed_checks=IN_ORDER)
    return [f"{one['check_name']}: {one['exception']}" for one in found if one["status"] == "failed"]


def test_it_is_an_estimator_of_scikit_learn() -> None:
    assert checked(Regimes("change points")) == []


@pytest.mark.slow
def test_with_states_it_is_one_too() -> None:
    assert checked(Regimes(max_states=2, draws=4)) == []
