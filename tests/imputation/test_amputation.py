"""Holes made on purpose, by the mechanism that was asked for."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pyro_gen._random import seeded
from pyro_gen.imputation import amputation, columns, mechanisms
from pyro_gen.imputation.amputation import ampute


def numbers(n=2000, dim=4, seed=0):
    """Correlated columns, one of them skewed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)) + 0.8 * rng.normal(size=(n, 1))
    x[:, -1] = np.exp(x[:, -1])
    return x


def mixed(n=600, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 90, n),
            "big": rng.integers(2**62, 2**63, n),
            "weight": rng.normal(70, 10, n),
            "smokes": rng.random(n) < 0.3,
            "city": rng.choice(["Bonn", "Rome", "Oslo"], n),
            "grade": pd.Categorical(rng.choice(["low", "mid", "high"], n), ["low", "mid", "high"], ordered=True),
            "blood": pd.Categorical(rng.choice(["0", "A", "B"], n)),
            "visits": pd.array(rng.integers(0, 9, n), dtype="Int64"),
        },
        index=pd.Index(rng.permutation(n), name="id"),
    )


def wald(r, columns):
    """Wald statistics of the coefficients of a logistic regression of r on standardised columns, by Newton's method."""
    x = np.column_stack([np.ones(len(r)), (columns - columns.mean(0)) / columns.std(0)])
    beta = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ beta))
        information = (x * (p * (1 - p))[:, None]).T @ x
        beta += np.linalg.solve(information, x.T @ (r - p))
    return (beta / np.sqrt(np.diag(np.linalg.inv(information))))[1:]


# ----------------------------------------------------------------------------------------------------------------------
# How much goes, and what stays


@pytest.mark.parametrize("proportion", [0.0, 0.013, 0.3, 0.5])
@pytest.mark.parametrize("mechanism", ["mcar", "mar", "mnar", "self", "quantile"])
def test_the_share_of_the_cells_is_met_to_the_cell(mechanism, proportion, untouched_rng):
    x = numbers()
    gone = np.isnan(ampute(x, mechanism, proportion, columns=[1, 3]))
    assert not gone[:, [0, 2]].any()
    assert abs(gone[:, [1, 3]].sum() - proportion * 4000) <= 2
    if mechanism != "mcar":
        assert (abs(gone[:, [1, 3]].sum(0) - proportion * 2000) <= 1).all()


@pytest.mark.parametrize("proportion", [0.02, 0.6, 0.9])
@pytest.mark.parametrize("mechanism", ["mcar", "mar", "mnar", "self", "quantile"])
def test_the_share_of_the_rows_is_met_to_the_row(mechanism, proportion):
    x = numbers(dim=9)  # four columns that lose entries at random, four that decide
    gone = np.isnan(ampute(x, mechanism, proportion, of="rows"))
    assert abs(gone.any(1).sum() - proportion * 2000) <= 1


def test_rows_lose_cells_independently_given_that_they_lose_one():
    p = np.tile([0.1, 0.5, 0.3], (20000, 1))
    with seeded(0):
        gone = mechanisms._rows(lambda share: share * p, 1.0, 0.5)
    share = next(s for s in np.linspace(0, 1, 100001) if 1 - np.prod(1 - s * p[0]) >= 0.5)
    counts = np.bincount(gone @ [1, 2, 4], minlength=8)
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1
    expected = 20000 * np.prod(np.where(bits, share * p[0], 1 - share * p[0]), 1)
    assert counts[0] == 10000
    # False alarms: 1e-4, by the chi-square distribution; treating the three alike (the twin) fails.
    assert scipy.stats.chisquare(counts[1:], expected[1:] * 10000 / expected[1:].sum()).pvalue > 1e-4
    assert scipy.stats.chisquare(counts[1:], np.full(7, 10000 / 7)).pvalue < 1e-8


def test_every_entry_goes_with_its_probability():
    p = np.array([0.9, 0.05, 0.05, 0.3, 0.7, 0.5, 0.5, 1.0, 0.0])
    with seeded(0):
        chosen = np.stack([columns.choose(p) for _ in range(4000)])
    assert (chosen.sum(1) == 4).all()  # the sum of the probabilities
    assert chosen[:, 7].all() and not chosen[:, 8].any()
    error = np.sqrt(p * (1 - p) / 4000)[:7]
    assert (abs(chosen.mean(0)[:7] - p[:7]) < 4.5 * error).all()  # false alarms: 7 x 7e-6
    assert (abs(chosen.mean(0)[:7] - p.mean()) > 4.5 * error).any()  # the twin: all alike


def test_entries_that_are_missing_stay_so_and_do_not_count():
    x = numbers()
    x[:500, 1] = np.nan
    y = ampute(x, "self", 0.2, columns=[1, 2])
    assert np.isnan(y[:500, 1]).all()
    assert abs(np.isnan(y[500:, 1]).sum() - 300) <= 1 and abs(np.isnan(y[:, 2]).sum() - 400) <= 1
    assert 0 in np.isnan(ampute(x, "mar", 0.2))[500:].sum(0)  # a column that decides


CALLS = {
    "mcar": {"proportion": 0.3},
    "mar": {"proportion": 0.3},
    "mnar": {"proportion": 0.3},
    "self": {"proportion": 0.3, "columns": ["age", "city", "grade", "blood", "visits", "smokes", "big"]},
    "self_hard": {"columns": ["age", "smokes", "grade", "visits", "big"]},
    "quantile": {"columns": ["age", "smokes", "grade", "visits", "big"]},
    "patterns": {"patterns": [["age", "city"], ["smokes", "big", "grade", "visits"], ["blood"]], "proportion": 0.2},
    "like": {"like": mixed(50, seed=1).mask(np.random.default_rng(0).random((50, 8)) < 0.4), "nearest": 3},
    "gaps": {"proportion": 0.3, "length": 4},
    "dropout": {"proportion": 0.2, "columns": ["age", "weight", "city", "grade", "smokes", "big"]},
}


def test_every_mechanism_is_tried_on_a_mixed_table():
    assert set(CALLS) == set(amputation.MECHANISMS)


@pytest.mark.parametrize("mechanism", CALLS)
def test_a_mixed_table_keeps_types_and_every_other_value(mechanism, untouched_rng):
    table = mixed()
    before = table.copy()
    holes = ampute(table, mechanism, **CALLS[mechanism])
    pd.testing.assert_frame_equal(table, before)
    assert holes.index.equals(table.index) and list(holes.columns) == list(table.columns)
    gone = holes.isna()
    assert 0.05 < gone.to_numpy().mean() < 0.5
    types = {
        "age": "float64",
        "big": "Int64",
        "smokes": "boolean",
    }  # where a hole has no place in the column's own type
    for name in table:
        wanted = types.get(name) if gone[name].any() and name in types else table[name].dtype
        assert holes[name].dtype == wanted
        stayed = ~gone[name]
        assert holes[name][stayed].tolist() == table[name][stayed].tolist()
    pd.testing.assert_frame_equal(holes, ampute(table, mechanism, **CALLS[mechanism]))
    assert not gone.equals(ampute(table, mechanism, **CALLS[mechanism], seed=1).isna()) or mechanism == "self_hard"


def test_arrays_keep_their_type_where_it_has_a_place_for_holes():
    assert ampute(np.ones((9, 2), np.float32), "mcar").dtype == np.float32
    assert ampute(np.ones((9, 2), int), "mcar").dtype == np.float64
    texts = ampute(np.array([["a", "b"]] * 9), "mcar")
    assert texts.dtype == object and pd.isna(texts).sum() == 5


@pytest.mark.parametrize("mechanism", ["mcar", "mar", "mnar", "self", "quantile"])
def test_no_column_loses_its_last_value(mechanism):
    x = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, np.nan]])
    for seed in range(20):
        options = {"quantile": 0.001} if mechanism == "quantile" else {}
        y = ampute(x, mechanism, 0.99, seed=seed, columns=[1], **options)
        assert y[0, 1] == 2.0
        y = ampute(x[:, ::2], mechanism, 0.99, seed=seed, **options) if mechanism != "mar" else x
        assert (~np.isnan(y)).any(0).all()


# ----------------------------------------------------------------------------------------------------------------------
# By which mechanism


def test_at_random_depends_on_the_given_columns_and_on_nothing_else():
    x = numbers(20000, 4)
    for mechanism in ("mar", "mnar", "self", "mcar"):
        options = {"given": [0, 1]} if mechanism == "mar" else {}
        y = ampute(x, mechanism, 0.3, columns=[2], **options)
        z = abs(wald(np.isnan(y[:, 2]), x[:, :3]))
        # False alarms: 6e-5 for each statistic that should be null.
        if mechanism in ("mar", "mcar"):
            assert z[2] < 4
        if mechanism in ("mar", "mnar"):
            assert z[:2].max() > 8
        if mechanism == "mcar":
            assert z.max() < 4
        if mechanism in ("mnar", "self"):
            assert z[2] > 8
        if mechanism == "self":
            assert z[:2].max() < 4


def test_strength_zero_is_completely_at_random():
    x = numbers(20000, 3)
    z = wald(np.isnan(ampute(x, "self", 0.3, columns=[0], strength=0.0)[:, 0]), x[:, :1])
    assert abs(z[0]) < 4  # false alarms: 6e-5
    z = wald(np.isnan(ampute(x, "self", 0.3, columns=[0], strength=0.2)[:, 0]), x[:, :1])
    assert z[0] > 4


def test_the_logit_has_the_slope_that_was_asked_for():
    x = np.random.default_rng(0).normal(size=(50000, 1))
    for slope in (0.5, 2.0):
        r = np.isnan(ampute(x, "self", 0.4, strength=slope))[:, 0]
        z = (x[:, 0] - x.mean()) / x.std()
        edges = np.quantile(z, [0.2, 0.8])
        low, high = (r[(z > edge - 0.05) & (z < edge + 0.05)].mean() for edge in edges)
        measured = (math.log(high / (1 - high)) - math.log(low / (1 - low))) / (edges[1] - edges[0])
        assert abs(measured - slope) < 0.35  # some four standard errors; the other slope is 1.5 away


def test_shapes_say_which_values_go():
    x = np.random.default_rng(0).normal(size=(4000, 1))
    kept = {}
    for shape in ("right", "left", "mid", "tail"):
        y = ampute(x, "self", 0.3, shape=shape, strength=3.0)
        kept[shape] = y[~np.isnan(y)]
    assert kept["right"].mean() < -0.2 and kept["left"].mean() > 0.2
    assert abs(kept["mid"].mean()) < 0.1 and abs(kept["tail"].mean()) < 0.1
    assert kept["tail"].std() < 0.9 and kept["mid"].std() > 1.1


def test_levels_decide_and_lose():
    table = mixed(6000)
    holes = ampute(table, "mar", 0.3, columns=["blood"], given=["city"], strength=1.0)
    rates = holes["blood"].isna().groupby(table["city"]).mean()
    assert rates.max() - rates.min() > 0.2  # a score with unit variance over three levels, slope 1
    counts = pd.crosstab(table["blood"], holes["blood"].isna())
    assert scipy.stats.chi2_contingency(counts).pvalue > 1e-4  # its own level has no part in it; false alarms: 1e-4
    holes = ampute(table, "self", 0.3, columns=["blood"])
    rates = holes["blood"].isna().groupby(table["blood"], observed=True).mean()
    assert rates.max() - rates.min() > 0.2
    holes = ampute(table, "self", 0.3, columns=["grade"], strength=3.0)  # in order
    rates = holes["grade"].isna().groupby(table["grade"], observed=True).mean()
    assert rates["low"] < rates["mid"] < rates["high"]


def test_hard_self_masking_is_that_of_not_miwae():
    x = numbers(300, 5)
    for offset in (0.0, 0.5):
        y = ampute(x, "self_hard", offset=offset)
        expected = x[:, :2] > x[:, :2].mean(0) + offset * x[:, :2].std(0)
        assert (np.isnan(y) == np.pad(expected, ((0, 0), (0, 3)))).all()


def test_quantiles_censor_one_side():
    x = numbers(1000, 2)
    y = ampute(x, "quantile", 0.2, quantile=0.75, columns=[0])
    gone = np.isnan(y[:, 0])
    assert gone.sum() == 200 and x[gone, 0].min() > np.quantile(x[:, 0], 0.749)
    y = ampute(x, "quantile", 0.2, quantile=0.25, shape="left", columns=[0])
    assert x[np.isnan(y[:, 0]), 0].max() < np.quantile(x[:, 0], 0.251)
    ties = ampute(
        np.repeat([[0.0], [1.0]], 500, 0), "quantile", 0.1, quantile=0.8
    )  # half of the values are the largest
    assert np.isnan(ties).sum() == 100 and not np.isnan(ties[:500]).any()


def test_patterns_go_together_as_often_as_asked():
    table = pd.DataFrame(numbers(3000, 4), columns=list("abcd"))
    holes = ampute(table, "patterns", 0.5, of="rows", patterns=[["a"], ["b", "c"]], frequencies=[1, 3])
    found = holes.isna().value_counts()
    assert set(found.index) == {(False,) * 4, (True, False, False, False), (False, True, True, False)}
    assert abs(found[(True, False, False, False)] - 375) <= 2 and abs(found[(False, True, True, False)] - 1125) <= 2
    z = wald(holes["b"].isna()[holes["a"].notna()], table.to_numpy()[holes["a"].notna()])
    assert max(abs(z[[0, 3]])) > 6  # what stays decides
    cells = ampute(table, "patterns", 0.2, patterns=[["a"], ["b", "c"]], frequencies=[1, 3]).isna()
    assert abs(cells.to_numpy().sum() - 0.2 * 9000) <= 4  # of the cells of the three columns in patterns
    # A column of the pattern itself decides: not at random.
    holes = ampute(table, "patterns", 0.3, of="rows", patterns=[["a"]], given=["a"], strength=4.0)
    assert table["a"][holes["a"].isna()].mean() > table["a"].mean() + 0.5


def test_holes_are_copied_from_another_table():
    table = pd.DataFrame(numbers(1500, 3), columns=list("abc"))
    like = pd.DataFrame(numbers(1500, 3, seed=1), columns=list("abc"))
    like.loc[like["a"] > 0.5, ["b", "c"]] = np.nan
    like.loc[like.index % 7 == 0, "a"] = np.nan
    plain = ampute(table, "like", like=like)
    near = ampute(table, "like", like=like, nearest=5)
    for holes in (plain, near):  # each pattern just as often
        assert holes.isna().value_counts().to_dict() == like.isna().value_counts().to_dict()
    both = holes["a"].notna()
    assert abs(wald(plain["b"].isna()[both], table[["a"]].to_numpy()[both])[0]) < 4  # false alarms: 6e-5
    high = table["a"] > 0.5
    assert near["b"].isna()[high & both].mean() > 0.8 and near["b"].isna()[~high & both].mean() < 0.2
    longer = ampute(table, "like", like=like[:1000])  # no row twice before all were taken once
    counts = longer.isna().value_counts()
    for pattern, count in like[:1000].isna().value_counts().items():
        assert count <= counts[pattern] <= 2 * count


def test_nearest_rows_of_a_mixed_table():
    table, like = (mixed(400, seed=seed)[["city", "weight", "blood"]] for seed in (0, 3))
    like.loc[like["city"] == "Rome", "blood"] = None
    holes = ampute(table, "like", like=like, nearest=10)
    rates = holes["blood"].isna().groupby(table["city"]).mean()
    assert rates["Rome"] > 0.6 and rates[["Bonn", "Oslo"]].max() < 0.3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mechanism": "mar?"}, "unknown"),
        ({"mechanism": "mcar", "strength": 2.0}, "takes no strength"),
        ({"mechanism": "self_hard", "proportion": 0.3}, "takes no proportion"),
        ({"mechanism": "mcar", "proportion": 1.0}, "below 1"),
        ({"mechanism": "mcar", "of": "tables"}, "cells"),
        ({"mechanism": "mcar", "columns": ["age", "nope"]}, "no column 'nope'"),
        ({"mechanism": "mcar", "columns": ["age", "age"]}, "each once"),
        ({"mechanism": "mcar", "columns": []}, "at least one"),
        ({"mechanism": "mar", "columns": ["age"], "given": ["age"]}, "both"),
        ({"mechanism": "mar", "given": ["holes"], "columns": ["age"]}, "has missing entries"),
        ({"mechanism": "self", "shape": "round"}, "shape"),
        ({"mechanism": "quantile", "shape": "mid"}, "above"),
        ({"mechanism": "quantile", "quantile": 1.0}, "between 0 and 1"),
        ({"mechanism": "quantile", "columns": ["city"]}, "no numbers"),
        ({"mechanism": "quantile", "columns": ["age"], "proportion": 0.6}, "cannot be censored"),
        ({"mechanism": "quantile", "columns": ["age"], "proportion": 0.6, "of": "rows"}, "at most 0.5"),
        ({"mechanism": "self_hard", "columns": ["city"]}, "no numbers"),
        ({"mechanism": "mcar", "columns": ["empty"]}, "nothing is observed"),
        ({"mechanism": "patterns"}, "needs patterns"),
        ({"mechanism": "patterns", "patterns": []}, "at least one"),
        ({"mechanism": "patterns", "patterns": [["age"]], "frequencies": [0]}, "1 positive"),
        ({"mechanism": "patterns", "patterns": [["age"], ["city"]], "proportion": 0.7}, "at most 0.5"),
        ({"mechanism": "like"}, "needs like"),
        ({"mechanism": "like", "like": pd.DataFrame({"age": [1]})}, "columns"),
        ({"mechanism": "mcar", "length": 3}, "takes no length"),
        ({"mechanism": "gaps", "length": 0.5}, "at least 1"),
        ({"mechanism": "gaps", "length": 1.0, "proportion": 0.8}, "longer gaps"),
        ({"mechanism": "dropout", "columns": ["age"]}, "at least two visits"),
        ({"mechanism": "dropout", "columns": ["age", "weight"], "proportion": 0.6}, "at most 0.5"),
    ],
)
def test_what_makes_no_sense_is_said(options, words):
    table = mixed(100).assign(holes=np.where(np.arange(100) < 50, np.nan, 1.0), empty=np.nan)
    with pytest.raises(ValueError, match=words):
        ampute(table, **options)


def test_only_tables_are_taken():
    with pytest.raises(TypeError, match="shape \\(3,\\)"):
        ampute(np.ones(3), "mcar")
    with pytest.raises(TypeError, match="list"):
        ampute([[1.0]], "mcar")
    with pytest.raises(TypeError, match=r"\['ab'\]"):
        ampute(pd.DataFrame({"ab": [1.0]}), "mcar", columns="ab")
    with pytest.raises(ValueError, match="duplicate"):
        ampute(pd.DataFrame([[1, 2]], columns=["a", "a"]), "mcar")
    with pytest.raises(ValueError, match="infinite"):
        ampute(np.array([[1.0, np.inf]]), "self")
    with pytest.raises(ValueError, match="apart from"):
        ampute(np.ones((5, 1)), "mar")
