"""Holes made on purpose, by the mechanism that was asked for."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pyro_gen._random import seeded
from pyro_gen.imputation import amputation
from pyro_gen.imputation.amputation import (
    MAR,
    MCAR,
    MNAR,
    Censoring,
    Dropout,
    Gaps,
    HardSelfMasking,
    HolesOf,
    Mechanism,
    Patterns,
    SelfMasking,
    ampute,
)
from pyro_gen.imputation.amputation.choices import choose
from pyro_gen.imputation.amputation.columnwise import rows_first

COLUMNWISE = [MCAR, MAR, MNAR, SelfMasking, Censoring]


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
@pytest.mark.parametrize("mechanism", COLUMNWISE)
def test_the_share_of_the_cells_is_met_to_the_cell(mechanism, proportion, untouched_rng):
    x = numbers()
    gone = np.isnan(ampute(x, mechanism(proportion, columns=[1, 3])))
    assert not gone[:, [0, 2]].any()
    assert abs(gone[:, [1, 3]].sum() - proportion * 4000) <= 2
    if mechanism is not MCAR:
        assert (abs(gone[:, [1, 3]].sum(0) - proportion * 2000) <= 1).all()


@pytest.mark.parametrize("proportion", [0.02, 0.6, 0.9])
@pytest.mark.parametrize("mechanism", COLUMNWISE)
def test_the_share_of_the_rows_is_met_to_the_row(mechanism, proportion):
    x = numbers(dim=9)  # four columns that lose entries at random, four that decide
    gone = np.isnan(ampute(x, mechanism(proportion, of="rows")))
    assert abs(gone.any(1).sum() - proportion * 2000) <= 1


def test_rows_lose_cells_independently_given_that_they_lose_one():
    p = np.tile([0.1, 0.5, 0.3], (20000, 1))
    with seeded(0):
        gone = rows_first(lambda share: share * p, 1.0, 0.5)
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
        chosen = np.stack([choose(p) for _ in range(4000)])
    assert (chosen.sum(1) == 4).all()  # the sum of the probabilities
    assert chosen[:, 7].all() and not chosen[:, 8].any()
    error = np.sqrt(p * (1 - p) / 4000)[:7]
    assert (abs(chosen.mean(0)[:7] - p[:7]) < 4.5 * error).all()  # false alarms: 7 x 7e-6
    assert (abs(chosen.mean(0)[:7] - p.mean()) > 4.5 * error).any()  # the twin: all alike


def test_entries_that_are_missing_stay_so_and_do_not_count():
    x = numbers()
    x[:500, 1] = np.nan
    y = ampute(x, SelfMasking(0.2, columns=[1, 2]))
    assert np.isnan(y[:500, 1]).all()
    assert abs(np.isnan(y[500:, 1]).sum() - 300) <= 1 and abs(np.isnan(y[:, 2]).sum() - 400) <= 1
    assert 0 in np.isnan(ampute(x, MAR(0.2)))[500:].sum(0)  # a column that decides


EXAMPLES = [
    MCAR(0.3),
    MAR(0.3),
    MNAR(0.3),
    SelfMasking(0.3, columns=["age", "city", "grade", "blood", "visits", "smokes", "big"]),
    HardSelfMasking(columns=["age", "smokes", "grade", "visits", "big"]),
    Censoring(0.3, columns=["age", "smokes", "grade", "visits", "big"]),
    Patterns([["age", "city"], ["smokes", "big", "grade", "visits"], ["blood"]], 0.2),
    HolesOf(mixed(50, seed=1).mask(np.random.default_rng(0).random((50, 8)) < 0.4), nearest=3),
    Gaps(0.3, length=4),
    Dropout(0.2, visits=["age", "weight", "city", "grade", "smokes", "big"]),
]


def test_every_mechanism_is_tried_on_a_mixed_table():
    def leaves(cls):
        below = cls.__subclasses__()
        return set().union(*map(leaves, below)) if below else {cls}

    named = {getattr(amputation, name) for name in amputation.__all__} - {ampute, Mechanism}
    assert {type(mechanism) for mechanism in EXAMPLES} == named
    assert named == {cls for cls in leaves(Mechanism) if cls.__module__.startswith("pyro_gen.")}


def test_a_mechanism_prints_its_share_and_what_is_not_as_by_default():
    assert repr(MAR(0.3, given=["city"], shape="tail")) == "MAR(share=0.3, shape='tail', given=['city'])"
    assert repr(HardSelfMasking()) == "HardSelfMasking()"
    assert repr(HolesOf(mixed(5), nearest=2)) == "HolesOf(nearest=2)"


@pytest.mark.parametrize("mechanism", EXAMPLES, ids=lambda mechanism: type(mechanism).__name__)
def test_a_mixed_table_keeps_types_and_every_other_value(mechanism, untouched_rng):
    table = mixed()
    before = table.copy()
    holes = ampute(table, mechanism)
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
    pd.testing.assert_frame_equal(holes, ampute(table, mechanism))
    assert not gone.equals(ampute(table, mechanism, seed=1).isna()) or isinstance(mechanism, HardSelfMasking)


def test_arrays_keep_their_type_where_it_has_a_place_for_holes():
    assert ampute(np.ones((9, 2), np.float32), MCAR(0.3)).dtype == np.float32
    assert ampute(np.ones((9, 2), int), MCAR(0.3)).dtype == np.float64
    texts = ampute(np.array([["a", "b"]] * 9), MCAR(0.3))
    assert texts.dtype == object and pd.isna(texts).sum() == 5


@pytest.mark.parametrize("mechanism", COLUMNWISE)
def test_no_column_loses_its_last_value(mechanism):
    x = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, np.nan]])
    for seed in range(20):
        options = {"quantile": 0.001} if mechanism is Censoring else {}
        y = ampute(x, mechanism(0.99, columns=[1], **options), seed=seed)
        assert y[0, 1] == 2.0
        y = ampute(x[:, ::2], mechanism(0.99, **options), seed=seed) if mechanism is not MAR else x
        assert (~np.isnan(y)).any(0).all()


# ----------------------------------------------------------------------------------------------------------------------
# By which mechanism


def test_at_random_depends_on_the_given_columns_and_on_nothing_else():
    x = numbers(20000, 4)
    for mechanism in (MAR, MNAR, SelfMasking, MCAR):
        options = {"given": [0, 1]} if mechanism is MAR else {}
        y = ampute(x, mechanism(0.3, columns=[2], **options))
        z = abs(wald(np.isnan(y[:, 2]), x[:, :3]))
        # False alarms: 6e-5 for each statistic that should be null.
        if mechanism in (MAR, MCAR):
            assert z[2] < 4
        if mechanism in (MAR, MNAR):
            assert z[:2].max() > 8
        if mechanism is MCAR:
            assert z.max() < 4
        if mechanism in (MNAR, SelfMasking):
            assert z[2] > 8
        if mechanism is SelfMasking:
            assert z[:2].max() < 4


def test_strength_zero_is_completely_at_random():
    x = numbers(20000, 3)
    z = wald(np.isnan(ampute(x, SelfMasking(0.3, columns=[0], strength=0.0))[:, 0]), x[:, :1])
    assert abs(z[0]) < 4  # false alarms: 6e-5
    z = wald(np.isnan(ampute(x, SelfMasking(0.3, columns=[0], strength=0.2))[:, 0]), x[:, :1])
    assert z[0] > 4


def test_the_logit_has_the_slope_that_was_asked_for():
    x = np.random.default_rng(0).normal(size=(50000, 1))
    for slope in (0.5, 2.0):
        r = np.isnan(ampute(x, SelfMasking(0.4, strength=slope)))[:, 0]
        z = (x[:, 0] - x.mean()) / x.std()
        edges = np.quantile(z, [0.2, 0.8])
        low, high = (r[(z > edge - 0.05) & (z < edge + 0.05)].mean() for edge in edges)
        measured = (math.log(high / (1 - high)) - math.log(low / (1 - low))) / (edges[1] - edges[0])
        assert abs(measured - slope) < 0.35  # some four standard errors; the other slope is 1.5 away


def test_shapes_say_which_values_go():
    x = np.random.default_rng(0).normal(size=(4000, 1))
    kept = {}
    for shape in ("right", "left", "mid", "tail"):
        y = ampute(x, SelfMasking(0.3, shape=shape, strength=3.0))
        kept[shape] = y[~np.isnan(y)]
    assert kept["right"].mean() < -0.2 and kept["left"].mean() > 0.2
    assert abs(kept["mid"].mean()) < 0.1 and abs(kept["tail"].mean()) < 0.1
    assert kept["tail"].std() < 0.9 and kept["mid"].std() > 1.1


def test_levels_decide_and_lose():
    table = mixed(6000)
    holes = ampute(table, MAR(0.3, columns=["blood"], given=["city"]))
    rates = holes["blood"].isna().groupby(table["city"]).mean()
    assert rates.max() - rates.min() > 0.2  # a score with unit variance over three levels, slope 1
    counts = pd.crosstab(table["blood"], holes["blood"].isna())
    assert scipy.stats.chi2_contingency(counts).pvalue > 1e-4  # its own level has no part in it; false alarms: 1e-4
    holes = ampute(table, SelfMasking(0.3, columns=["blood"]))
    rates = holes["blood"].isna().groupby(table["blood"], observed=True).mean()
    assert rates.max() - rates.min() > 0.2
    holes = ampute(table, SelfMasking(0.3, columns=["grade"], strength=3.0))  # in order
    rates = holes["grade"].isna().groupby(table["grade"], observed=True).mean()
    assert rates["low"] < rates["mid"] < rates["high"]


def test_hard_self_masking_is_that_of_not_miwae():
    x = numbers(300, 5)
    for offset in (0.0, 0.5):
        y = ampute(x, HardSelfMasking(offset=offset))
        expected = x[:, :2] > x[:, :2].mean(0) + offset * x[:, :2].std(0)
        assert (np.isnan(y) == np.pad(expected, ((0, 0), (0, 3)))).all()


def test_quantiles_censor_one_side():
    x = numbers(1000, 2)
    y = ampute(x, Censoring(0.2, quantile=0.75, columns=[0]))
    gone = np.isnan(y[:, 0])
    assert gone.sum() == 200 and x[gone, 0].min() > np.quantile(x[:, 0], 0.749)
    y = ampute(x, Censoring(0.2, quantile=0.25, side="below", columns=[0]))
    assert x[np.isnan(y[:, 0]), 0].max() < np.quantile(x[:, 0], 0.251)
    ties = ampute(np.repeat([[0.0], [1.0]], 500, 0), Censoring(0.1, quantile=0.8))  # half are the largest
    assert np.isnan(ties).sum() == 100 and not np.isnan(ties[:500]).any()


def test_patterns_go_together_as_often_as_asked():
    table = pd.DataFrame(numbers(3000, 4), columns=list("abcd"))
    holes = ampute(table, Patterns([["a"], ["b", "c"]], 0.5, of="rows", frequencies=[1, 3]))
    found = holes.isna().value_counts()
    assert set(found.index) == {(False,) * 4, (True, False, False, False), (False, True, True, False)}
    assert abs(found[(True, False, False, False)] - 375) <= 2 and abs(found[(False, True, True, False)] - 1125) <= 2
    z = wald(holes["b"].isna()[holes["a"].notna()], table.to_numpy()[holes["a"].notna()])
    assert max(abs(z[[0, 3]])) > 6  # what stays decides
    cells = ampute(table, Patterns([["a"], ["b", "c"]], 0.2, frequencies=[1, 3])).isna()
    assert abs(cells.to_numpy().sum() - 0.2 * 9000) <= 4  # of the cells of the three columns in patterns
    # A column of the pattern itself decides: not at random.
    holes = ampute(table, Patterns([["a"]], 0.3, of="rows", given=["a"], strength=4.0))
    assert table["a"][holes["a"].isna()].mean() > table["a"].mean() + 0.5


def test_holes_are_copied_from_another_table():
    table = pd.DataFrame(numbers(1500, 3), columns=list("abc"))
    like = pd.DataFrame(numbers(1500, 3, seed=1), columns=list("abc"))
    like.loc[like["a"] > 0.5, ["b", "c"]] = np.nan
    like.loc[like.index % 7 == 0, "a"] = np.nan
    plain = ampute(table, HolesOf(like))
    near = ampute(table, HolesOf(like, nearest=5))
    for holes in (plain, near):  # each pattern just as often
        assert holes.isna().value_counts().to_dict() == like.isna().value_counts().to_dict()
    both = holes["a"].notna()
    assert abs(wald(plain["b"].isna()[both], table[["a"]].to_numpy()[both])[0]) < 4  # false alarms: 6e-5
    high = table["a"] > 0.5
    assert near["b"].isna()[high & both].mean() > 0.8 and near["b"].isna()[~high & both].mean() < 0.2
    longer = ampute(table, HolesOf(like[:1000]))  # no row twice before all were taken once
    counts = longer.isna().value_counts()
    for pattern, count in like[:1000].isna().value_counts().items():
        assert count <= counts[pattern] <= 2 * count


def test_nearest_rows_of_a_mixed_table():
    table, like = (mixed(400, seed=seed)[["city", "weight", "blood"]] for seed in (0, 3))
    like.loc[like["city"] == "Rome", "blood"] = None
    holes = ampute(table, HolesOf(like, nearest=10))
    rates = holes["blood"].isna().groupby(table["city"]).mean()
    assert rates["Rome"] > 0.6 and rates[["Bonn", "Oslo"]].max() < 0.3


@pytest.mark.parametrize(
    ("mechanism", "words"),
    [
        (lambda: MCAR(1.0), "below 1"),
        (lambda: MCAR(math.nan), "below 1"),
        (lambda: Dropout(-0.1), "below 1"),
        (lambda: MCAR(0.3, of="tables"), "cells"),
        (lambda: MCAR(0.3, columns=["age", "nope"]), "no column 'nope'"),
        (lambda: MCAR(0.3, columns=["age", "age"]), "each once"),
        (lambda: MCAR(0.3, columns=[]), "at least one"),
        (lambda: MCAR(0.3, columns=["empty"]), "nothing is observed"),
        (lambda: MAR(0.3, columns=["age"], given=["age"]), "both"),
        (lambda: MAR(0.3, columns=["age"], given=["holes"]), "has missing entries"),
        (lambda: SelfMasking(0.3, shape="round"), "shape"),
        (lambda: Censoring(0.3, side="right"), "above"),
        (lambda: Censoring(0.3, quantile=1.0), "between 0 and 1"),
        (lambda: Censoring(0.3, columns=["city"]), "no numbers"),
        (lambda: Censoring(0.6, columns=["age"]), "cannot be censored"),
        (lambda: Censoring(0.6, columns=["age"], of="rows"), "at most 0.5"),
        (lambda: HardSelfMasking(columns=["city"]), "no numbers"),
        (lambda: Patterns([], 0.3), "at least one"),
        (lambda: Patterns([["age"]], 0.3, frequencies=[0]), "1 positive"),
        (lambda: Patterns([["age"], ["city"]], 0.7), "at most 0.5"),
        (lambda: HolesOf(pd.DataFrame({"age": [1]})), "columns"),
        (lambda: HolesOf(mixed(5), nearest=0), "at least one row"),
        (lambda: Gaps(0.3, length=0.5), "at least 1"),
        (lambda: Gaps(0.8, length=1.0), "longer gaps"),
        (lambda: Dropout(0.3, visits=["age"]), "at least two visits"),
        (lambda: Dropout(0.6, visits=["age", "weight"]), "at most 0.5"),
    ],
)
def test_what_makes_no_sense_is_said(mechanism, words):
    table = mixed(100).assign(holes=np.where(np.arange(100) < 50, np.nan, 1.0), empty=np.nan)
    with pytest.raises(ValueError, match=words):
        ampute(table, mechanism())


def test_only_tables_are_taken():
    with pytest.raises(TypeError, match="shape \\(3,\\)"):
        ampute(np.ones(3), MCAR(0.3))
    with pytest.raises(TypeError, match="list"):
        ampute([[1.0]], MCAR(0.3))
    with pytest.raises(TypeError, match=r"\['ab'\]"):
        ampute(pd.DataFrame({"ab": [1.0]}), MCAR(0.3, columns="ab"))
    with pytest.raises(TypeError, match=r"such as MCAR\(0.2\)"):
        ampute(np.ones((3, 2)), "mcar")
    with pytest.raises(ValueError, match="duplicate"):
        ampute(pd.DataFrame([[1, 2]], columns=["a", "a"]), MCAR(0.3))
    with pytest.raises(ValueError, match="infinite"):
        ampute(np.array([[1.0, np.inf]]), SelfMasking(0.3))
    with pytest.raises(ValueError, match="apart from"):
        ampute(np.ones((5, 1)), MAR(0.3))
