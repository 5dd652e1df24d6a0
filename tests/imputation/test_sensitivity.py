"""Shifts of imputations against closed forms: units, log-odds, groups, priors and tipping points."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation.completed import Completed
from pyro_gen.imputation.sensitivity import delta_prior, tipping_point
from pyro_gen.imputation.sensitivity.moves import moved_levels, prior, recast, slid, slid_cumulative, tilted

NAN = float("nan")


def one_column(column, m, holes, draw, seen=(), arm=None):
    """A table with one column of interest: some rows seen, the holes filled by ``draw(shape)``; perhaps with groups."""
    values = [*seen, *[None] * holes]
    table = pd.DataFrame({column.name: pd.Series(values, dtype=object if column.discrete else float)})
    columns = [column]
    if arm is not None:
        table["arm"] = arm
        columns.append(Column("arm", "nominal", ("a", "b", "c")))
    schema = Schema(tuple(columns))
    missing = schema.encode(table).isnan()
    torch.manual_seed(0)
    return Completed.from_cells(draw((m, int(missing.sum()))), missing, schema=schema, like=table)


def cells(completed):
    return torch.stack([completed.cells(k) for k in range(completed.m)])


def logit(p):
    return torch.logit(torch.as_tensor(p, dtype=torch.float64))


def mean_of(name):
    return lambda t: (t[name].mean(), t[name].var() / len(t))


# ----------------------------------------------------------------------------------------------------------------------
# Numbers


def test_numbers_move_by_delta_and_observed_ones_do_not(untouched_rng):
    state = torch.get_rng_state()
    before = one_column(Column("bp", "real"), 5, 4, torch.randn, seen=[120.0, 130.0])
    torch.set_rng_state(state)
    after = before.delta({"bp": -5.5})
    torch.testing.assert_close(cells(after), cells(before) - 5.5, rtol=0, atol=1e-12)
    assert after[0].bp[:2].tolist() == [120.0, 130.0]
    assert after.info["delta"] == ({"deltas": {"bp": -5.5}, "by": None, "seed": 0},) and "delta" not in before.info
    twice = after.delta({"bp": 5.5})
    torch.testing.assert_close(cells(twice), cells(before), rtol=0, atol=1e-12)
    assert len(twice.info["delta"]) == 2


def test_a_pooled_mean_moves_by_the_share_of_the_holes():
    before = one_column(Column("bp", "real"), 6, 30, torch.randn, seen=np.linspace(-1, 1, 70))
    base, moved = (c.fit(mean_of("bp")).pool() for c in (before, before.delta({"bp": 2.0})))
    assert moved.qbar[0] - base.qbar[0] == pytest.approx(0.3 * 2.0)
    assert moved.b[0] == pytest.approx(base.b[0])


def test_whole_numbers_stay_whole_and_move_by_delta_on_average():
    before = one_column(Column("age", "real", integer=True), 50, 400, lambda s: torch.randint(20, 60, s).double())
    assert torch.equal(cells(before.delta({"age": -3.0})), cells(before) - 3)
    moved = cells(before.delta({"age": 0.3})) - cells(before)
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    # 20000 draws, standard deviation 0.0032: false alarm below 1e-4 within 0.013.
    assert moved.mean().item() == pytest.approx(0.3, abs=0.013)
    assert torch.equal(cells(before.delta({"age": 0.0})), cells(before))


def test_bounds_hold():
    share = one_column(Column("share", "bounded", lower=0, upper=1), 20, 50, torch.rand)
    assert torch.equal(cells(share.delta({"share": 0.7})), (cells(share) + 0.7).clamp(max=1.0))
    count = one_column(Column("visits", "count"), 20, 50, lambda s: torch.poisson(torch.full(s, 2.0)))
    assert torch.equal(cells(count.delta({"visits": -2.0})), (cells(count) - 2).clamp(min=0.0))
    income = one_column(Column("income", "positive"), 20, 50, torch.rand, seen=[0.2, 3.0])
    assert torch.equal(cells(income.delta({"income": -0.4})), (cells(income) - 0.4).clamp(min=0.2))
    # What is not shifted is not brought to the smallest one observed either.
    assert torch.equal(cells(income.delta({"income": 0.0})), cells(income))
    limited = one_column(
        Column("grade", "real", lower=0.5, upper=9.5, integer=True), 20, 50, lambda s: 9 * torch.rand(s)
    )
    assert cells(limited.delta({"grade": 6.0})).max() == 9 and cells(limited.delta({"grade": -6.0})).min() == 1


def test_draws_made_when_asked_for_are_shifted_alike():
    before = one_column(Column("b", "binary", ("no", "yes")), 8, 40, lambda s: torch.rand(s).round())
    kept = cells(before)
    lazy = Completed.from_cells(kept.__getitem__, before.missing, schema=before.schema, like=before.holes.table, m=8)
    assert torch.equal(cells(lazy.delta({"b": 1.0}, seed=3)), cells(before.delta({"b": 1.0}, seed=3)))
    assert not torch.equal(cells(before.delta({"b": 1.0}, seed=4)), cells(before.delta({"b": 1.0}, seed=3)))


# ----------------------------------------------------------------------------------------------------------------------
# Levels


@pytest.mark.parametrize("amount", [-3.0, -0.7, 0.0, 0.4, 2.5])
def test_ordered_levels_take_the_shifted_distribution_exactly(amount):
    # The chance of each move, by going through the uniform numbers on a fine grid.
    p = torch.tensor([[0.1, 0.5, 0.15, 0.25]], dtype=torch.float64)
    cumulative = slid_cumulative(p, torch.tensor([amount], dtype=torch.float64))
    beyond = 1 - p.cumsum(1)[:, :-1]
    torch.testing.assert_close(1 - cumulative, (logit(beyond) + amount).sigmoid())
    grid = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    q = torch.zeros(4, dtype=torch.float64)
    for level in range(4):
        to = slid(torch.full((20000,), level), p.expand(20000, 4), cumulative.expand(20000, 3), grid)
        q += p[0, level] * torch.bincount(to, minlength=4) / 20000
        assert (to >= level).all() if amount >= 0 else (to <= level).all()  # all move one way
    expected = torch.cat([cumulative[0], torch.ones(1).double()]).diff(prepend=torch.zeros(1).double())
    torch.testing.assert_close(q, expected, rtol=0, atol=1e-4)


def test_levels_without_an_order_take_thetilted_distribution_exactly():
    p = torch.tensor([[0.1, 0.5, 0.15, 0.25]], dtype=torch.float64)
    amount = torch.tensor([[0.0, -1.0, 2.0, 0.3]], dtype=torch.float64)
    q = tilted(p, amount)
    torch.testing.assert_close(q, p * amount.exp() / (p * amount.exp()).sum())
    side = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    noise = torch.cartesian_prod(side, side)
    found, kept = torch.zeros(4, dtype=torch.float64), 0.0
    for level in range(4):
        to = recast(torch.full((len(noise),), level), p.expand(len(noise), 4), q, noise)
        found += p[0, level] * torch.bincount(to, minlength=4) / len(noise)
        kept += p[0, level].item() * (to == level).double().mean().item()
    torch.testing.assert_close(found[None], q, rtol=0, atol=0.005)
    assert kept == pytest.approx(torch.minimum(p, q).sum().item(), abs=0.005)  # no coupling keeps more


def test_log_odds_of_a_binary_column_are_shifted():
    p = torch.tensor([0.1, 0.3, 0.5, 0.8]).repeat(50)
    before = one_column(Column("b", "binary", ("no", "yes")), 400, 200, lambda s: torch.bernoulli(p.expand(s)))
    after = cells(before.delta({"b": 1.2}))
    assert (after >= cells(before)).all()
    expected = (logit(p) + 1.2).sigmoid().reshape(50, 4).mean(0)
    # 20000 draws each, standard deviation at most 0.0036, and a bias of 1/m: false alarm below 1e-4 within 0.016.
    torch.testing.assert_close(after.mean(0).reshape(50, 4).mean(0), expected, rtol=0, atol=0.016)


def test_a_shift_of_probabilities_would_be_noticed():
    p = torch.tensor([0.1, 0.3, 0.5, 0.8]).repeat(50)
    wrong = (p + 1.2 * p * (1 - p)).reshape(50, 4).mean(0)  # to first order
    assert ((logit(p) + 1.2).sigmoid().reshape(50, 4).mean(0) - wrong).abs().max() > 0.016


@pytest.mark.parametrize("kind", ["ordinal", "nominal"])
def test_log_odds_of_several_levels_are_shifted(kind):
    levels = ("lo", "mid", "hi")
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    before = one_column(
        Column("g", kind, levels), 400, 60, lambda s: torch.multinomial(p, s[0] * s[1], True).reshape(s)
    )
    if kind == "ordinal":
        after, beyond = before.delta({"g": -0.8}), (logit([0.5, 0.2]) - 0.8).sigmoid()
        q = torch.stack([1 - beyond[0], beyond[0] - beyond[1], beyond[1]])
        assert (cells(after) <= cells(before)).all()
    else:
        after, q = before.delta({"g": {"mid": 1.0, "hi": -0.5}}), p * torch.tensor([0.0, 1.0, -0.5]).exp()
    found = torch.bincount(cells(after).long().reshape(-1), minlength=3) / 24000
    # Standard deviation 0.0032, and a bias of 1/m: false alarm below 1e-4 within 0.015.
    torch.testing.assert_close(found.double(), q / q.sum(), rtol=0, atol=0.015)
    assert after[0].g.isin(levels).all()


MIXES = {
    "rare": lambda n: torch.full((n,), 0.02),
    "even": lambda n: torch.full((n,), 0.3),
    "wide": lambda n: dist.Beta(0.5, 0.5).sample((n,)),
    "skewed": lambda n: dist.Beta(1.0, 9.0).sample((n,)),
    "logit-normal": lambda n: (2 * torch.randn(n) - 1).sigmoid(),
}


def error_of_shift(mix, amount, posterior, m=20, n=4000):
    """Of the share of the second level over many holes, each known by m draws, after a shift of its log-odds."""
    torch.manual_seed(0)
    p = MIXES[mix](n).double()
    draws = torch.bernoulli(p.expand(m, n))
    counts = torch.stack([m - draws.sum(0), draws.sum(0)], 1)
    column = Column("b", "binary", (0, 1))
    far = torch.full((n,), amount, dtype=torch.float64)
    after = torch.stack([moved_levels(column, draw, far, posterior(counts)) for draw in draws])
    return after.mean().item() - (logit(p) + amount).sigmoid().mean().item()


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("amount", [-2.0, 1.0, 2.0])
def test_with_twenty_draws_shares_are_right(mix, amount):
    # Twenty draws of 4000 holes: the share has a standard deviation of at most 0.008 (holes that differ count
    # less, since their own p is compared with): below 0.0035. False alarm below 1e-4 within 0.014.
    error = error_of_shift(mix, amount, lambda counts: dist.Dirichlet(counts + prior(counts)).sample())
    assert abs(error) < 0.014


def test_with_a_pseudo_count_for_each_level_they_would_not_be():
    assert error_of_shift("rare", 1.0, lambda counts: (counts + 0.5) / 21) > 0.025


def test_the_prior_is_that_of_the_holes():
    torch.manual_seed(0)
    concentration = torch.tensor([3.0, 1.0, 0.5])
    p = dist.Dirichlet(concentration).sample((20000,))
    counts = dist.Multinomial(20, p).sample().double()
    torch.testing.assert_close(prior(counts), concentration.double(), rtol=0.1, atol=0)
    alike = dist.Multinomial(20, torch.tensor([0.5, 0.3, 0.2]).expand(500, 3)).sample().double()
    assert prior(alike).sum() > 50
    sure = torch.eye(3, dtype=torch.float64).repeat(10, 1) * 20
    assert prior(sure).sum().item() == pytest.approx(0.1)
    assert prior(torch.eye(3, dtype=torch.float64)).sum().item() == pytest.approx(1e6)


def test_a_level_keeps_what_goes_with_it():
    # Two binary columns whose draws agree: after a shift of one of them they still do where it has not moved.
    table = pd.DataFrame({"a": [None] * 300, "b": [None] * 300}, dtype=object)
    schema = Schema((Column("a", "binary", (0, 1)), Column("b", "binary", (0, 1))))
    both = torch.bernoulli(torch.full((20, 300), 0.4))
    completed = Completed(torch.stack([both, both], 2), schema, table)
    shifted = completed.delta({"b": 0.5})
    a, b = (np.stack([np.asarray(t[name], dtype=float) for t in shifted]) for name in "ab")
    assert np.array_equal(a, both.numpy()) and (b >= a).all()
    assert (a == b).mean() > 0.85  # independent draws would agree in half of the cases


# ----------------------------------------------------------------------------------------------------------------------
# Groups


def test_groups_move_by_their_own_deltas():
    arm = ["a", "b", "c"] * 20
    before = one_column(Column("bp", "real"), 3, 60, torch.randn, arm=arm)
    after = before.delta({"bp": {"a": -4.0, "b": 1.0}}, by="arm")
    moved = (cells(after) - cells(before)).reshape(3, 20, 3)
    torch.testing.assert_close(moved, torch.tensor([-4.0, 1.0, 0.0]).double().expand(3, 20, 3), rtol=0, atol=1e-12)
    # A number is for all groups.
    torch.testing.assert_close(cells(before.delta({"bp": 2.0}, by="arm")), cells(before) + 2)


def test_an_imputed_group_counts_in_its_own_draw():
    table = pd.DataFrame({"x": [NAN, 1.0], "arm": [None, "a"]})
    schema = Schema((Column("x", "real"), Column("arm", "binary", ("a", "b"))))
    draws = torch.tensor([[5.0, 0.0], [5.0, 1.0]])  # x and arm of the first row
    completed = Completed.from_cells(draws, schema.encode(table).isnan(), schema=schema, like=table)
    assert [t.x[0] for t in completed.delta({"x": {"b": 10.0}}, by="arm")] == [5.0, 15.0]


def test_groups_by_a_column_of_numbers_and_of_levels_without_an_order():
    table = pd.DataFrame({"town": [None] * 400, "wave": [1.0, 2.0] * 200})
    schema = Schema((Column("town", "nominal", ("x", "y", "z")), Column("wave", "real")))
    torch.manual_seed(0)
    draws = torch.randint(0, 3, (100, 400)).double()
    completed = Completed.from_cells(draws, schema.encode(table).isnan(), schema=schema, like=table)
    after = cells(completed.delta({"town": {2: {"z": 1.5}}}, by="wave"))
    assert torch.equal(after[:, ::2], draws[:, ::2])
    z = math.exp(1.5) / (2 + math.exp(1.5))
    assert (after[:, 1::2] == 2).double().mean().item() == pytest.approx(z, abs=0.02)


def test_derived_columns_follow():
    table = pd.DataFrame({"kg": [NAN, 80.0], "m": [1.6, 1.8], "bmi": [NAN, NAN]})
    schema = Schema(tuple(Column(name, "real") for name in table))
    completed = Completed(torch.full((2, 2, 3), 60.0), schema, table).derive(bmi=lambda t: t.kg / t.m**2)
    assert completed.delta({"kg": 4.0})[1].bmi[0] == 64.0 / 1.6**2
    with pytest.raises(ValueError, match="'bmi' is derived"):
        completed.delta({"bmi": 1.0})


@pytest.mark.parametrize(
    ("deltas", "by", "message"),
    [
        ({"x": 1.0}, None, "no column 'x'; there are bp, arm"),
        ({"arm": 1.0}, None, "no missing entry"),
        ({"bp": NAN}, None, "a finite number"),
        ({"bp": [1.0, 2.0]}, None, "one for each of the 3 draws"),
        ({"bp": {"a": 1.0}}, None, "groups to numbers with the column"),
        ({"bp": {"d": 1.0}}, "arm", "no level 'd'"),
        ({"bp": {"a": 1.0}}, "ward", "no such column"),
        ({"bp": 1.0}, "ward", "no such column"),
        ({"bp": {1: 1.0}}, "bp", "its own groups"),
    ],
)
def test_deltas_that_make_no_sense_are_named(deltas, by, message):
    completed = one_column(Column("bp", "real"), 3, 6, torch.randn, arm=["a", "b", "c"] * 2)
    with pytest.raises(ValueError, match=message):
        completed.delta(deltas, by=by)


def test_levels_without_an_order_need_a_mapping():
    completed = one_column(Column("town", "nominal", ("x", "y", "z")), 3, 6, torch.zeros)
    with pytest.raises(ValueError, match=r"such as \{'x': 0.5\}"):
        completed.delta({"town": 1.0})
    with pytest.raises(ValueError, match="no level 'w'"):
        completed.delta({"town": {"w": 1.0}})


# ----------------------------------------------------------------------------------------------------------------------
# A prior


def test_a_prior_on_delta_widens_the_interval_as_it_should(untouched_rng):
    state = torch.get_rng_state()
    before = one_column(Column("bp", "real"), 400, 40, torch.randn, seen=np.linspace(-1, 1, 60))
    torch.set_rng_state(state)
    after = before.delta_prior({"bp": dist.Normal(-2.0, 1.5)}, seed=1)
    base, wide = (c.fit(mean_of("bp")).pool() for c in (before, after))
    deltas = after.info["delta"][0]["deltas"]["bp"].numpy()
    # Exactly: each mean moves by its own 0.4 delta.
    moved = wide.estimates[:, 0] - base.estimates[:, 0]
    np.testing.assert_allclose(moved, 0.4 * deltas, atol=1e-12)
    # In the mean over the prior; standard deviations 0.03 and 0.026, false alarm below 1e-4.
    assert wide.qbar[0] - base.qbar[0] == pytest.approx(0.4 * -2.0, abs=0.12)
    assert wide.b[0] - base.b[0] == pytest.approx((0.4 * 1.5) ** 2, abs=0.11)
    assert abs(base.b[0] - (0.4 * 1.5) ** 2) > 0.11  # what would be left without the prior


def test_priors_for_groups_levels_and_fixed_numbers():
    completed = one_column(Column("bp", "real"), 7, 6, torch.randn, arm=["a", "b", "c"] * 2)
    after = delta_prior(completed, {"bp": {"a": dist.Normal(0.0, 1.0), "b": 3.0}}, by="arm")
    moved = (cells(after) - cells(completed)).reshape(7, 2, 3)
    assert moved[:, 0, 0].unique().numel() == 7 and torch.allclose(moved[:, 0, 0], moved[:, 1, 0])
    torch.testing.assert_close(moved[..., 1], torch.full((7, 2), 3.0, dtype=torch.float64))
    town = one_column(Column("town", "nominal", ("x", "y")), 50, 20, torch.zeros)
    far = delta_prior(town, {"town": {"y": dist.Uniform(20.0, 30.0)}})
    assert (cells(far) == 1).double().mean() > 0.95
    with pytest.raises(ValueError, match="distributions of one number"):
        delta_prior(completed, {"bp": dist.Normal(torch.zeros(2), 1.0)})


# ----------------------------------------------------------------------------------------------------------------------
# Tipping points


def tipping_table(m=10, n=100, holes=40):
    return one_column(
        Column("y", "real"), m, holes, lambda s: 0.5 + torch.randn(s), seen=0.5 + np.linspace(-2, 2, n - holes)
    )


def mean_with_known_variance(t):
    return pd.Series({"mean": t.y.mean()}), [0.01]


@pytest.mark.parametrize("bracket", [(-5.0, 0.0), (-5.0, 5.0), (-3.0, 1.0)])
def test_the_tipping_point_of_a_mean_is_found(bracket):
    completed = tipping_table()
    base = completed.fit(mean_with_known_variance).pool()
    # The estimate moves by 0.4 delta and its error does not: it tips where the lower end reaches 0.
    exact = -base.intervals()[0, 0] / 0.4
    tip = tipping_point(completed, mean_with_known_variance, "mean", "y", bracket=bracket)
    assert tip.delta == pytest.approx(exact, abs=(bracket[1] - bracket[0]) / 1000)
    assert abs(tip.delta) >= abs(exact)  # on the far side: there the conclusion is the other one
    assert not tip.path.changed[0] and tip.path.delta[0] == 0
    assert f"a shift of y by {tip.delta:.4g} changes that" in str(tip) and "excludes 0" in str(tip)


def test_degrees_of_freedom_count():
    completed = tipping_table()
    path = tipping_point(completed, mean_with_known_variance, "mean", "y", grid=[1.0], df_complete=5).path
    low, high = completed.fit(mean_with_known_variance).pool(5).intervals()[0]
    assert (path["conf.low"][0], path["conf.high"][0]) == pytest.approx((low, high))
    assert low < completed.fit(mean_with_known_variance).pool().intervals()[0, 0]


def test_a_conclusion_may_tip_the_other_way():
    completed = one_column(Column("y", "real"), 10, 40, torch.randn, seen=np.linspace(-2, 2, 60))
    base = completed.fit(mean_with_known_variance).pool()
    low, high = base.intervals()[0]
    assert low < 0 < high
    tip = completed.tipping_point(mean_with_known_variance, "mean", "y", bracket=(-4.0, 4.0), tolerance=1e-4)
    assert tip.delta == pytest.approx(min(-low / 0.4, -high / 0.4, key=abs), abs=2e-4) and "contains 0" in str(tip)


def test_no_tipping_point_is_said():
    completed = tipping_table()
    tip = tipping_point(completed, mean_with_known_variance, "mean", "y", bracket=(-0.2, 0.2))
    assert tip.delta is None and "none of the shifts of y that were tried changes that" in str(tip)
    tip = tipping_point(completed, mean_with_known_variance, "mean", "y", grid=[-0.2, 0.0, 0.2])
    assert tip.delta is None and len(tip.path) == 3


def test_a_grid_of_two_groups():
    arm = ["a"] * 50 + ["b"] * 50
    completed = one_column(
        Column("y", "real"), 10, 60, lambda s: 0.3 + torch.randn(s), seen=0.3 + np.linspace(-2, 2, 40), arm=arm
    )

    def contrast(t):
        a, b = t.y[t.arm == "a"], t.y[t.arm == "b"]
        return pd.Series({"mean": t.y.mean(), "a-b": a.mean() - b.mean()}), [0.001, 0.001]

    grid = {"a": [-1.0, -0.5, 0.0, 0.5, 1.0], "b": [-1.0, -0.5, 0.0, 0.5, 1.0]}
    tip = tipping_point(completed, contrast, "mean", "y", grid=grid, by="arm")
    assert len(tip.path) == 25 and list(tip.path.columns[:2]) == ["a", "b"]
    low = tip.path["conf.low"][0]
    # 10 of the rows of arm a are holes, and 50 of arm b: the estimate moves by 0.1 and by 0.5 of each delta.
    expected = low + 0.1 * tip.path.a + 0.5 * tip.path.b
    np.testing.assert_allclose(tip.path["conf.low"], expected, atol=1e-9)
    changed = tip.path[tip.path.changed]
    assert len(changed) and (changed["conf.low"] <= 0).all()
    assert math.hypot(*tip.delta.values()) == np.hypot(changed.a, changed.b).min()
    assert "for a, " in str(tip)


def test_a_tipping_point_in_log_odds_is_found_by_bisection_too():
    completed = one_column(
        Column("b", "binary", (0, 1)), 20, 80, lambda s: torch.bernoulli(torch.full(s, 0.7)), seen=[0, 1, 1] * 40
    )

    def share(t):
        b = t.b.astype(float)
        return b.mean() - 0.5, b.mean() * (1 - b.mean()) / len(b)

    tip = tipping_point(completed, share, "share", "b", bracket=(-6.0, 0.0))
    assert -6 < tip.delta < 0
    # The same uniform numbers for all shifts: estimates fall with delta without noise.
    path = tip.path.sort_values("delta")
    assert path.estimate.is_monotonic_increasing
    again = tipping_point(completed, share, "share", "b", bracket=(-6.0, 0.0))
    assert again.delta == tip.delta


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a bracket"),
        ({"bracket": (0.0, 1.0), "grid": [1.0]}, "either a bracket"),
        ({"bracket": (1.0, 2.0)}, "0 between them"),
        ({"grid": {"a": [1.0]}}, "by goes with a grid"),
        ({"grid": [1.0], "by": "arm"}, "by goes with a grid"),
    ],
)
def test_searches_that_cannot_be_made_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tipping_point(tipping_table(), mean_with_known_variance, "mean", "y", **options)


def test_an_unknown_term_is_named():
    with pytest.raises(ValueError, match="no term 'slope'; it has mean"):
        tipping_point(tipping_table(), mean_with_known_variance, "slope", "y", grid=[1.0])
