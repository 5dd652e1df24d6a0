"""Scores against brute force and closed forms, and their properness."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_gen.imputation.scores import (
    brier,
    crps,
    energy_score,
    interval_coverage,
    level_shares,
    log_loss,
    mae,
    pit,
    pit_test,
    ranked_probability_score,
    rmse,
    rows,
    variogram_score,
)


def z_score(values, expected):
    """How many standard errors the mean of values is from what is expected. Beyond 4: false alarms 6e-5."""
    return float((values.mean() - expected) / (values.std() / len(values) ** 0.5))


# ----------------------------------------------------------------------------------------------------------------------
# Brute force and closed forms


def test_errors_of_points():
    x, y = torch.randn(7, 50), torch.randn(50)
    y[3] = math.nan
    seen = ~y.isnan()
    assert torch.isclose(rmse(x, y), (x.double().mean(0) - y)[seen].square().mean().sqrt())
    assert torch.isclose(rmse(x, y, of="draws"), (x.double() - y)[:, seen].square().mean().sqrt())
    assert torch.isclose(mae(x, y), (x.double().median(0).values - y)[seen].abs().mean())
    assert torch.isclose(mae(x[:6], y), (x[:6].double().quantile(0.5, 0) - y)[seen].abs().mean())
    assert torch.isclose(mae(x, y, of="draws"), (x.double() - y)[:, seen].abs().mean())


def test_crps_by_brute_force():
    x, y = torch.randn(9, 4, 3).double(), torch.randn(4, 3).double()
    y[1, 2] = math.nan
    expected = (x - y).abs().mean(0) - sum((a - b).abs() for a, b in itertools.product(x, x)) / (2 * 9 * 8)
    assert torch.allclose(crps(x, y), expected, equal_nan=True)
    assert torch.allclose(crps(x.numpy(), y.numpy()), expected, equal_nan=True)
    assert torch.allclose(crps(x + 5, y + 5), expected, equal_nan=True)
    assert torch.allclose(crps(x * 3, y * 3), 3 * expected, equal_nan=True)


@pytest.mark.parametrize("m", [2, 3, 10])
def test_crps_of_few_draws_is_that_of_the_normal(m):
    """Gneiting & Raftery (2007), equation (21), for every number of draws: the score is fair."""
    y = 0.7
    x = torch.randn(m, 50_000).double()
    normal = scipy.stats.norm
    exact = y * (2 * normal.cdf(y) - 1) + 2 * normal.pdf(y) - 1 / math.sqrt(math.pi)
    found = crps(x, torch.full((50_000,), y))
    assert abs(z_score(found, exact)) < 4
    # The twin: pairs of a draw with itself counted too, as in the plug-in form.
    spread = (x.unsqueeze(0) - x.unsqueeze(1)).abs().sum((0, 1)) / 2
    assert abs(z_score(found + spread / (m * (m - 1)) - spread / m**2, exact)) > 8


def test_energy_score_by_brute_force():
    x, y = torch.randn(6, 5, 3).double(), torch.randn(5, 3).double()
    y[0, 1], y[1] = math.nan, math.nan
    x[:, 0, 1] = math.nan  # nothing is scored there
    for n in (0, 2, 3, 4):
        seen = ~y[n].isnan()
        rows = x[:, n, seen]
        pairs = sum((a - b).norm() for a, b in itertools.product(rows, rows))
        expected = (rows - y[n, seen]).norm(dim=-1).mean() - pairs / (2 * 6 * 5)
        assert torch.isclose(energy_score(x, y)[n], expected)
    assert energy_score(x, y)[1].isnan()
    assert torch.allclose(energy_score(x[..., :1], y[..., :1]), crps(x, y)[..., 0], equal_nan=True)
    assert torch.isclose(energy_score(x[:, 4], y[4]), energy_score(x, y)[4])  # one row
    assert energy_score(torch.randn(6, 2, 3, 4), torch.randn(2, 3, 4)).shape == (2, 3)


def test_rows_in_parts_score_the_same(monkeypatch):
    x, y = torch.randn(6, 50, 3), torch.randn(50, 3)
    whole = energy_score(x, y), variogram_score(x, y)
    monkeypatch.setattr(rows, "NUMBERS_AT_A_TIME", 700)
    parts = energy_score(x, y), variogram_score(x, y)
    assert all(torch.allclose(a, b) for a, b in zip(whole, parts, strict=True))


def test_variogram_score_by_brute_force():
    x, y = torch.randn(6, 4, 3).double(), torch.randn(4, 3).double()
    y[0, 1] = y[1, 0] = y[1, 1] = math.nan
    for n, p in itertools.product((0, 2, 3), (0.5, 1.0)):
        expected = 0.0
        for d, e in itertools.combinations(range(3), 2):
            if not (y[n, d].isnan() or y[n, e].isnan()):
                v = (x[:, n, d] - x[:, n, e]).abs() ** p
                expected += ((y[n, d] - y[n, e]).abs() ** p - v.mean()) ** 2 - v.var() / 6
        assert torch.isclose(variogram_score(x, y, p)[n], expected)
    assert variogram_score(x, y)[1].isnan()  # only one entry to score


def test_variogram_score_is_fair():
    truth = torch.randn(100_000, 2)
    few, many = (variogram_score(torch.randn(m, 100_000, 2), truth) for m in (2, 20))
    assert abs(z_score(few - many, 0.0)) < 4
    x = torch.randn(2, 100_000, 2)
    variance = (x[..., 0] - x[..., 1]).abs().sqrt().var(0) / 2
    assert abs(z_score(variogram_score(x, truth) + variance - many, 0.0)) > 8  # the twin: without the correction


def test_scores_of_levels_by_brute_force():
    draws, truth = torch.randint(3, (8, 20)), torch.randint(3, (20,)).double()
    truth[4] = math.nan
    p = torch.stack([(draws == level).double().mean(0) for level in range(3)], -1)
    for n in range(20):
        found = [float(score(draws, truth, 3)[n]) for score in (log_loss, brier, ranked_probability_score)]
        if n == 4:
            assert all(map(math.isnan, found))
            continue
        y = int(truth[n])
        up, true = p[n].cumsum(0), torch.nn.functional.one_hot(torch.tensor(y), 3).double()
        fair = (p[n] * (1 - p[n])).sum() / 7
        expected = [
            -math.log((8 * p[n, y] + 0.5) / (8 + 1.5)),
            float(((p[n] - true).square().sum() - fair) / 2),
            float((((up - true.cumsum(0)).square() - up * (1 - up) / 7)[:2]).sum() / 2),
        ]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert torch.allclose(level_shares(draws, 3, pseudo=0.0), p)


@pytest.mark.parametrize("m", [2, 5])
def test_brier_of_few_draws_is_that_of_the_probabilities(m):
    p = torch.tensor([0.6, 0.3, 0.1])
    draws = torch.distributions.Categorical(p).sample((m, 100_000))
    found = brier(draws, torch.zeros(100_000), 3)
    exact = float((p - torch.tensor([1.0, 0.0, 0.0])).square().sum() / 2)
    assert abs(z_score(found, exact)) < 4
    assert abs(z_score(found + (1 - level_shares(draws, 3, 0.0).square().sum(-1)) / (m - 1) / 2, exact)) > 8  # unfair


# ----------------------------------------------------------------------------------------------------------------------
# Proper: nothing scores better than draws from where the truth is from


@pytest.mark.parametrize("wrong", ["shifted", "narrow", "wide"])
@pytest.mark.parametrize("score", [crps, energy_score])
def test_numbers_are_scored_properly(score, wrong):
    shape = (20_000, 3) if score is energy_score else (20_000,)
    truth, right = torch.randn(shape), torch.randn(10, *shape)
    draws = {"shifted": right + 0.3, "narrow": right * 0.6, "wide": right * 1.6}[wrong]
    assert z_score(score(draws, truth) - score(right, truth), 0.0) > 6


@pytest.mark.parametrize(("score", "least"), [(energy_score, 4), (variogram_score, 20)])
def test_dependence_is_scored_properly(score, least):
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    truth, right = torch.randn(40_000, 2) @ factor.T, torch.randn(10, 40_000, 2) @ factor.T
    alone = torch.randn(10, 40_000, 2)  # the right marginals
    assert z_score(score(alone, truth) - score(right, truth), 0.0) > least


@pytest.mark.parametrize("score", [log_loss, brier, ranked_probability_score])
def test_levels_are_scored_properly(score):
    p = torch.tensor([0.6, 0.3, 0.1])

    def draws(p, *shape):
        return torch.distributions.Categorical(p).sample(shape)

    truth, right = draws(p, 20_000), draws(p, 30, 20_000)
    for wrong in ([0.3, 0.4, 0.3], [0.94, 0.05, 0.01]):
        assert z_score(score(draws(torch.tensor(wrong), 30, 20_000), truth, 3) - score(right, truth, 3), 0.0) > 6


# ----------------------------------------------------------------------------------------------------------------------
# Intervals and probability integral transforms


@pytest.mark.parametrize(("m", "level"), [(9, 0.6), (20, 0.8), (39, 0.95), (50, 0.95), (100, 0.5), (100, 0.95)])
@pytest.mark.parametrize("kind", ["normal", "exponential", "cauchy"])
def test_intervals_cover_what_they_promise(kind, m, level):
    base = {
        "normal": torch.distributions.Normal(0.0, 1.0),
        "exponential": torch.distributions.Exponential(1.0),
        "cauchy": torch.distributions.Cauchy(0.0, 1.0),
    }[kind]
    n = 20_000
    draws, truth = base.sample((m, n)), base.sample((n,))
    result = interval_coverage(draws, truth, level)
    assert result.nominal == level
    # Interpolation between order statistics is exact for uniform distributions only, and off by at most 0.004 here.
    assert abs(float(result.covered.mean()) - level) < 4 * math.sqrt(level * (1 - level) / n) + 0.004
    if m < 100:  # the twin: the usual sample quantiles
        low, high = np.quantile(draws.numpy(), [(1 - level) / 2, (1 + level) / 2], axis=0)
        covered = ((low <= truth.numpy()) & (truth.numpy() <= high)).mean()
        assert covered < level - 4 * math.sqrt(level * (1 - level) / n) - 0.004


def test_too_few_draws_promise_less():
    draws, truth = torch.randn(20, 40_000), torch.randn(40_000)
    result = interval_coverage(draws, truth, 0.95)
    assert result.nominal == pytest.approx(19 / 21)
    assert abs(z_score(result.covered, 19 / 21)) < 4
    assert torch.equal(result.lower, draws.double().amin(0)) and torch.equal(result.upper, draws.double().amax(0))
    one = interval_coverage(draws[:1], truth, 0.5)
    assert one.nominal == 0.0 and not one.width.any()
    usual = np.quantile(draws.numpy(), [0.025, 0.975], axis=0)
    held = ((usual[0] <= truth.numpy()) & (truth.numpy() <= usual[1])).mean()
    assert abs(held - 0.87) < 0.01  # as the docstring says


def test_intervals_leave_out_what_is_not_known():
    result = interval_coverage(torch.randn(50, 2), [0.0, math.nan])
    assert result.covered.isnan().tolist() == result.width.isnan().tolist() == [False, True]
    assert torch.allclose(result.width[0], (result.upper - result.lower)[0])


@pytest.mark.parametrize("m", [1, 4, 100])
def test_probability_integral_transforms_are_uniform(m, untouched_rng):
    rng = np.random.default_rng(0)
    for draw in (rng.standard_normal, lambda shape: rng.poisson(1.0, shape)):
        draws, truth = draw((m, 5000)), draw((5000,))
        assert pit_test(pit(draws, truth)) > 1e-4  # false alarms: 1e-4
        # The twin of counts: ranks without randomisation.
        if draws.dtype != float:
            assert pit_test((draws < truth).sum(0) / (m + 1)) < 1e-8
    truth = rng.standard_normal(5000)
    assert pit_test(pit(0.7 * rng.standard_normal((100, 5000)), truth)) < 1e-8
    assert pit_test(pit(1.4 * rng.standard_normal((100, 5000)), truth)) < 1e-8
    truth[0] = math.nan
    assert pit(rng.standard_normal((100, 5000)), truth).isnan().sum() == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: crps(torch.ones(1, 3), torch.ones(3)), "at least 2"),
        (lambda: crps(torch.ones(5, 3), torch.ones(4)), r"\(4,\)"),
        (lambda: crps(1.0, 1.0), "shape"),
        (lambda: rmse(torch.ones(2, 3), torch.ones(3), of="median"), '"mean" or "draws"'),
        (lambda: mae(torch.ones(2, 3), torch.ones(3), of="mean"), '"median" or "draws"'),
        (lambda: energy_score(torch.ones(3), 1.0), "at least one dimension"),
        (lambda: interval_coverage(torch.ones(2, 3), torch.ones(3), 95), "between 0 and 1"),
        (lambda: pit_test([math.nan]), "no value"),
        (lambda: log_loss(torch.full((2, 1), 2), [0], 2), "from 0 to 1"),
        (lambda: brier(torch.ones(2, 1), [0.5], 2), "truth are not all"),
    ],
)
def test_what_makes_no_sense_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
