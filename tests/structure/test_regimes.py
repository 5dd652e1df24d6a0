"""Regimes: the Nile, several columns with holes, and bad input."""

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.estimator_checks import check_estimator

import pyro_gen as pg
from pyro_gen.structure import Regimes, find_regimes


def test_the_nile_has_two_regimes() -> None:
    found = find_regimes(pg.data.load("nile").train[0])
    assert found.change_probabilities_[1899 - 1871] == pytest.approx(0.75, abs=0.02)
    assert found.number_probabilities_[1] == pytest.approx(0.71, abs=0.02)
    assert found.labels_.tolist() == [0] * 28 + [1] * 72
    assert found.plot().axes


def test_columns_change_together_and_holes_are_not_seen() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) + np.where(np.arange(60) >= 40, 3.0, 0.0)[:, None]
    x[rng.random(x.shape) < 0.2] = np.nan
    both = find_regimes(pd.DataFrame(x, columns=["a", "b"]))
    assert both.labels_.max() == 1 and abs(int((both.labels_ == 0).sum()) - 40) <= 1
    assert both.number_probabilities_[1] > 0.5 > both.number_probabilities_[0]
    still = find_regimes(rng.normal(size=60))  # the twin: where nothing changes, none is found
    assert still.number_probabilities_[0] > 0.5 and still.labels_.max() == 0


@pytest.mark.parametrize(
    ("x", "words"), [([1.0, 1.0, 1.0], "1 in every row"), ([1.0], "minimum of 2"), ([np.inf, 1.0], "infinity")]
)
def test_bad_input_gets_one_line(x: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find_regimes(x)


def test_it_is_an_estimator_of_scikit_learn() -> None:
    found = check_estimator(Regimes(), on_skip=None, on_fail=None)
    assert [f"{one['check_name']}: {one['exception']}" for one in found if one["status"] == "failed"] == []
