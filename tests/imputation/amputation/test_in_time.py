"""Gaps in series and dropout: shares met, lengths and hazards as they are said to be."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from pyro_gen.imputation.amputation import Dropout, Gaps, ampute, in_time


def series(rows=2000, columns=3, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


def runs(gone):
    """The lengths of runs on a circle."""
    start = np.flatnonzero(gone & ~np.roll(gone, 1))
    end = np.flatnonzero(gone & ~np.roll(gone, -1))
    return (np.sort(end) - np.sort(start) if end[0] >= start[0] else np.roll(end, -1) - start) % len(gone) + 1


@pytest.mark.parametrize("length", [1, 4, 30])
@pytest.mark.parametrize("proportion", [0.0, 0.013, 0.3])
def test_the_share_of_gaps_is_met_to_the_cell_and_their_mean_length_to_a_gap(proportion, length, untouched_rng):
    gone = np.isnan(ampute(series(), Gaps(proportion, length=length)))
    assert (np.abs(gone.sum(0) - 2000 * proportion) <= 1).all()
    for column in gone.T[: 3 if proportion else 0]:
        assert abs(len(runs(column)) - max(1, column.sum() / length)) <= 1
    assert proportion == 0 or not (gone[:, 0] == gone[:, 1]).all()


def test_columns_have_gaps_together_where_rows_are_asked_for():
    gone = np.isnan(ampute(series(), Gaps(0.2, of="rows", columns=[0, 2])))
    assert gone[:, 0].sum() == 400 and (gone[:, 0] == gone[:, 2]).all() and not gone[:, 1].any()
    assert abs(len(runs(gone[:, 0])) - 40) <= 1


def test_gaps_are_of_what_is_observed():
    x = series()
    x[::2, 0] = np.nan
    gone = np.isnan(ampute(x, Gaps(0.3)))
    assert gone[::2, 0].all() and gone[1::2, 0].sum() == 300 and gone[:, 1].sum() == 600
    one = pd.DataFrame({"x": [1.0], "y": [2.0]})
    assert ampute(one, Gaps(0.99)).notna().all(axis=None)


def check_gaps():
    """z-scores: of entries that go, by their place; of runs of length one, of which there are k (k - 1) / (n - 1)."""
    size, times, n, k = 20, 4000, 6, 3
    gone = np.stack(
        [np.isnan(ampute(np.ones((size, 1)), Gaps(n / size, length=n / k), seed=s))[:, 0] for s in range(times)]
    )
    places = (gone.mean(0) - n / size) / np.sqrt(n / size * (1 - n / size) / times)
    ones = np.array([(runs(g) == 1).sum() for g in gone])
    return np.abs(places).max(), abs(ones.mean() - k * (k - 1) / (n - 1)) / ones.std() * np.sqrt(times)


def test_every_entry_goes_alike_and_lengths_are_those_of_random_cuts():
    places, ones = check_gaps()
    assert places < 5 and ones < 5  # 21 normal numbers: false alarm 1e-5


def test_equal_lengths_would_be_seen(monkeypatch):
    monkeypatch.setattr(in_time, "_cut", lambda total, parts: np.diff(np.linspace(0, total, parts + 1).astype(int)))
    ones = [np.isnan(ampute(np.ones((20, 1)), Gaps(0.3, length=2), seed=s))[:, 0] for s in range(20)]
    assert all((runs(g) == 2).all() for g in ones)


def test_a_series_that_is_not_turned_would_be_seen(monkeypatch):
    monkeypatch.setattr(in_time, "below", lambda n: 0)
    assert check_gaps()[0] > 5


@pytest.mark.parametrize("strength", [0.0, 2.0])
@pytest.mark.parametrize("proportion", [0.0, 0.05, 0.4])
def test_who_drops_out_does_not_come_back_and_shares_are_met(proportion, strength, untouched_rng):
    x = series(columns=5)
    rows = np.isnan(ampute(x, Dropout(proportion, strength=strength, of="rows")))
    assert abs(rows.any(1).sum() - 2000 * proportion) <= 1
    cells = np.isnan(ampute(x, Dropout(proportion, strength=strength)))
    assert abs(cells.mean() - proportion) < 0.003
    for gone in (rows, cells):
        assert (np.diff(gone.astype(int), axis=1) >= 0).all() and not gone[:, 0].any()


def test_visits_are_in_the_order_of_the_columns_given():
    table = pd.DataFrame(series(columns=4), columns=list("abcd"))
    gone = ampute(table, Dropout(0.3, visits=["c", "a", "d"])).isna()
    assert not gone["b"].any() and not gone["c"].any() and gone["a"].any()
    assert gone["d"][gone["a"]].all() and (gone["d"] & ~gone["a"]).any()


def test_one_row_stays_to_the_end_and_holes_stay():
    x = series(30)
    gone = np.isnan(ampute(x, Dropout(0.666)))
    assert (~gone.any(1)).sum() == 1 and gone[:, 1].sum() == 29
    x[:10, 1] = np.nan
    gone = np.isnan(ampute(x, Dropout(0.2)))
    assert gone[:10, 1].all() and 10 <= gone[:, 1].sum() < 30


def slopes():
    """Of the log-odds to leave at the third visit, in the visit before and in that visit itself, in standard errors."""
    x = np.random.default_rng(1).normal(size=(6000, 1)) + np.random.default_rng(2).normal(size=(6000, 4))
    gone = np.isnan(ampute(x, Dropout(0.3, strength=1.5), seed=3))
    there = ~gone[:, 1]
    z = (x - x.mean(0)) / x.std(0)
    fit = sm.Logit(gone[there, 2].astype(float), sm.add_constant(z[there, 1:3])).fit(disp=0)
    return (fit.params[1:] - [1.5, 0.0]) / fit.bse[1:]


def test_dropout_is_at_random_given_the_visit_before():
    assert np.abs(slopes()).max() < 5  # two normal numbers: false alarm 1e-6


def test_dropout_by_what_goes_missing_would_be_seen(monkeypatch):
    score = in_time.score
    monkeypatch.setattr(in_time, "score", lambda s: np.roll(score(s), 1))  # of another row
    assert np.abs(slopes()).max() > 5
