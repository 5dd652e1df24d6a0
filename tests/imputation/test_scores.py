"""Scores against brute force and closed forms, their properness, and imputers that are right and wrong on purpose."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from sklearn.base import BaseEstimator
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyro_gen.data.schema import Schema
from pyro_gen.imputation import scores
from pyro_gen.imputation.amputation import ampute
from pyro_gen.imputation.scores import (
    brier,
    crps,
    energy_score,
    evaluate_imputer,
    interval_coverage,
    level_shares,
    log_loss,
    mae,
    pit,
    pit_test,
    ranked_probability_score,
    rmse,
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
    monkeypatch.setattr(scores, "CHUNK", 700)
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


# ----------------------------------------------------------------------------------------------------------------------
# Imputers


class Gaussian(BaseEstimator):
    """Draws from the conditional of a known Gaussian, with its standard deviations times `spread`."""

    def __init__(self, mean, cov, spread=1.0, random_state=None):
        self.mean, self.cov, self.spread, self.random_state = mean, cov, spread, random_state

    def fit(self, x):
        self.fitted_ = True
        return self

    def impute(self, x, draws):
        rng = np.random.default_rng(self.random_state)
        out = np.repeat(np.asarray(x, float)[None], draws, 0)
        for m in np.unique(np.isnan(out[0]), axis=0)[1:]:
            rows = (np.isnan(out[0]) == m).all(1)
            slope = self.cov[m][:, ~m] @ np.linalg.inv(self.cov[~m][:, ~m])
            loc = self.mean[m] + (out[0][rows][:, ~m] - self.mean[~m]) @ slope.T
            factor = np.linalg.cholesky(self.cov[m][:, m] - slope @ self.cov[~m][:, m])
            out[np.ix_(range(draws), rows, m)] = (
                loc + self.spread * rng.normal(size=(draws, rows.sum(), m.sum())) @ factor.T
            )
        return out if isinstance(x, np.ndarray) else [pd.DataFrame(o, x.index, x.columns) for o in out]


MEAN = np.array([1.0, -2.0, 30.0])
FACTOR = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [5.0, -4.0, 8.0]])
COV = FACTOR @ FACTOR.T


def gaussian_table(n=1500, seed=0):
    return MEAN + np.random.default_rng(seed).normal(size=(n, 3)) @ FACTOR.T


@pytest.fixture(scope="module")
def evaluations():
    x = gaussian_table()
    return {spread: evaluate_imputer(Gaussian(MEAN, COV, spread), x) for spread in (1.0, 0.1, 2.0)}


def test_a_right_imputer_is_found_right(evaluations):
    frame = evaluations[1.0].to_frame()
    assert frame.index.tolist()[-1] == "overall" and frame["cells"].tolist()[-1] == 3 * 900
    for _, row in frame.iterrows():
        for level in (50, 80, 95):
            # False alarms: 6e-5 each.
            assert abs(row[f"coverage_{level}"] - level / 100) < 4 * row[f"coverage_{level}_se"]
        assert row["pit_p"] > 1e-4
        # The error of a draw is that of the mean, and its own.
        assert abs(row["rmse_draws"] / row["rmse_mean"] - math.sqrt(2)) < 0.1
        assert abs(row["mae_draws"] / row["mae_median"] - math.sqrt(2)) < 0.12
        # The CRPS of a normal forecast that is right is its standard deviation over the root of pi.
        assert row["crps"] < row["mae_median"] < row["rmse_mean"]
    assert frame.iloc[:3]["rmse_mean_units"].to_numpy() == pytest.approx(
        frame.iloc[:3]["rmse_mean"] * gaussian_table().std(0)
    )
    assert frame["energy"].notna().tolist() == [False] * 3 + [True]


def test_a_collapsed_imputer_is_found_out(evaluations):
    right, narrow = (evaluations[spread].to_frame().loc["overall"] for spread in (1.0, 0.1))
    assert abs(narrow["rmse_mean"] / right["rmse_mean"] - 1) < 0.03  # its points are as good,
    assert narrow["rmse_draws"] < right["rmse_draws"]  # its draws even seem better:
    assert narrow["coverage_95"] < 0.3 and narrow["pit_p"] < 1e-8
    for score in ("crps", "energy"):
        assert narrow[score] - right[score] > 4 * right[f"{score}_se"]


def test_an_over_dispersed_imputer_is_found_out(evaluations):
    right, wide = (evaluations[spread].to_frame().loc["overall"] for spread in (1.0, 2.0))
    assert wide["coverage_50"] > 0.75 and wide["pit_p"] < 1e-8
    assert abs(wide["width_80"] / right["width_80"] - 2) < 0.1
    for score in ("crps", "energy"):
        assert wide[score] > right[score] + 3 * right[f"{score}_se"]


def test_standard_errors_are_those_of_repetitions():
    found = []
    for seed in range(24):
        x = gaussian_table(200, seed)
        found.append(evaluate_imputer(Gaussian(MEAN, COV), x, draws=10, seed=seed).to_frame().loc["overall"])
    frame = pd.DataFrame(found)
    for score in ("rmse_mean", "crps", "coverage_80", "energy"):
        # The standard deviation of 24 numbers is known to 15 percent; without clusters it would be 1.5 times less.
        ratio = frame[score].std() / frame[f"{score}_se"].mean()
        assert 0.55 < ratio < 1.6


def test_prints_and_exports(evaluations):
    evaluation = evaluations[1.0]
    text = str(evaluation)
    assert "3 x 20% of the observed cells hidden (mcar), 100 draws; 2700 cells" in text
    for words in ("RMSE mean", "RMSE draws", "in 95%", "PIT p", "energy score"):
        assert words in text
    assert "log-loss" not in text and max(map(len, text.splitlines())) <= 120
    exported = json.loads(json.dumps(evaluation.to_dict()))
    assert set(exported) == {"info", "overall", "columns"} and len(exported["columns"]) == 3
    assert exported["overall"]["crps"] == evaluation.frame.loc["overall", "crps"]
    assert "log_loss" not in exported["overall"] and exported["info"]["seed"] == 0


def test_the_same_seed_gives_the_same_and_nothing_is_disturbed(untouched_rng):
    x, imputer = gaussian_table(100), Gaussian(MEAN, COV)
    one, two, three = (evaluate_imputer(imputer, x, draws=5, repeats=1, seed=s).to_frame() for s in (0, 0, 1))
    pd.testing.assert_frame_equal(one, two)
    assert not one.equals(three)
    assert not hasattr(imputer, "fitted_") and imputer.random_state is None
    narrow = evaluate_imputer(Gaussian(MEAN, COV), x, draws=20, repeats=1).info["nominal"]
    assert narrow["95"] == pytest.approx(19 / 21)


def test_a_truth_takes_the_place_of_hidden_cells():
    truth = gaussian_table(400)
    holes = ampute(truth, "mar", 0.3, seed=5)
    evaluation = evaluate_imputer(Gaussian(MEAN, COV), holes, truth=truth, draws=50)
    assert evaluation.info["cells"] == np.isnan(holes).sum() and evaluation.info["mechanism"] is None
    assert "the truth of its missing cells" in str(evaluation)
    overall = evaluation.to_frame().loc["overall"]
    assert abs(overall["coverage_80"] - 0.8) < 4 * overall["coverage_80_se"]
    draws = Gaussian(MEAN, COV, random_state=3).impute(holes, 50)
    again = evaluate_imputer(Gaussian(MEAN, COV, random_state=3), holes, truth=truth, draws=50).to_frame()
    gone = np.isnan(holes)
    sd = np.nanstd(holes, 0)
    expected = rmse((draws / sd)[:, gone], (truth / sd)[gone])
    assert again.loc["overall", "rmse_mean"] == pytest.approx(float(expected))
    d = int(np.flatnonzero(gone.any(0))[0])
    rows = gone[:, d]
    assert again.iloc[0]["crps_units"] == pytest.approx(float(crps(draws[:, rows, d], truth[rows, d]).mean()))


def test_only_observed_cells_are_hidden():
    x = gaussian_table(300)
    x[:150, 0] = np.nan
    evaluation = evaluate_imputer(Gaussian(MEAN, COV), x, draws=10, repeats=2, proportion=0.1)
    assert evaluation.info["cells"] == 2 * 75
    evaluation = evaluate_imputer(Gaussian(MEAN, COV), x, draws=10, repeats=1, mechanism="self_hard")
    assert len(evaluation.to_frame()) == 2  # one column, and all
    assert evaluation.info["proportion"] is None

    def last_column(table, seed):
        return ampute(table, "quantile", 0.3, columns=[2], seed=seed)

    evaluation = evaluate_imputer(Gaussian(MEAN, COV), x, draws=10, repeats=1, mechanism=last_column)
    assert evaluation.info["cells"] == 90 and evaluation.info["mechanism"] == "last_column"


class HotDeck(BaseEstimator):
    """Fills holes with values drawn from the same column, as they are: for any kind of table."""

    def fit(self, table):
        self.donors_ = {name: table[name].dropna() for name in table}
        return self

    def impute(self, table, draws):
        rng = np.random.default_rng(0)
        return [
            table.apply(lambda s: s.where(s.notna(), rng.choice(self.donors_[s.name].to_numpy(), len(s))))
            for _ in range(draws)
        ]


def mixed_table(n=400):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height": rng.normal(170, 8, n),
            "city": rng.choice(["Bonn", "Rome", "Oslo"], n, p=[0.6, 0.3, 0.1]),
            "smokes": rng.choice(["yes", "no"], n),
            "grade": pd.Categorical(rng.choice(["low", "mid", "high"], n), ["low", "mid", "high"], ordered=True),
        },
        index=np.arange(n) * 3,
    )


def test_levels_of_a_mixed_table_are_scored():
    table = mixed_table()
    evaluation = evaluate_imputer(HotDeck(), table, draws=30, repeats=2)
    frame = evaluation.to_frame()
    assert frame["kind"].tolist() == ["real", "nominal", "binary", "ordinal", ""]
    p = np.array([0.6, 0.3, 0.1])
    city = frame.loc["city"]
    # The draws come from the marginal, and the truth is independent: all scores are known. False alarms: 6e-5 each.
    assert abs(city["log_loss"] + p @ np.log(p)) < 4 * city["log_loss_se"] + 0.04  # 2 / 60 for 30 draws
    assert abs(city["brier"] - (1 - p @ p) / 2) < 4 * city["brier_se"]
    assert abs(city["error_mode"] - 0.4) < 4 * city["error_mode_se"] + 0.02
    assert abs(city["error_draws"] - (1 - p @ p)) < 4 * city["error_draws_se"]
    assert abs(frame.loc["grade", "rps"] - 2 / 9) < 4 * frame.loc["grade", "rps_se"]
    assert frame["rps"].notna().tolist() == [False, False, False, True, True]
    assert frame["pit_p"].notna().tolist() == [True, False, True, True, True] and frame["pit_p"].min() > 1e-4
    assert frame["crps"].notna().tolist() == [True, False, False, False, True]
    assert "log-loss" in str(evaluation) and max(map(len, str(evaluation).splitlines())) <= 120
    binary = evaluate_imputer(HotDeck(), table[["city", "smokes"]], draws=5, repeats=1).to_frame()
    assert math.isnan(binary.loc["overall", "variogram"]) and binary.loc["overall", "energy"] > 0


def test_a_schema_may_have_the_columns_in_another_order():
    table = mixed_table(200)
    schema = Schema.infer(table[["grade", "smokes", "height", "city"]])
    frames = [evaluate_imputer(HotDeck(), table, draws=5, repeats=1, schema=s).to_frame() for s in (None, schema)]
    assert frames[1].index.tolist() == ["grade", "smokes", "height", "city", "overall"]
    for name in ("log_loss", "crps_units", "rps"):
        pd.testing.assert_series_equal(frames[0][name], frames[1][name].loc[frames[0].index])


def test_scikit_learn_imputes_once_and_is_scored_as_a_point():
    x = gaussian_table(600)
    evaluation = evaluate_imputer(SimpleImputer(), x, repeats=2)
    frame = evaluation.to_frame()
    assert evaluation.info["single"] and "point scores only" in str(evaluation)
    overall = frame.loc["overall"]
    assert abs(overall["rmse_mean"] - 1) < 4 * overall["rmse_mean_se"]
    assert frame[["crps", "coverage_95", "energy", "rmse_draws", "pit_p"]].isna().to_numpy().all()
    table = pd.DataFrame(x, columns=list("abc"), index=np.arange(600)[::-1])
    pipeline = make_pipeline(StandardScaler(with_std=False), SimpleImputer())
    assert evaluate_imputer(pipeline, table).info["imputer"] == "Pipeline"


def test_numbers_in_columns_of_levels_go_to_the_next_level():
    table = pd.DataFrame({"a": gaussian_table(200)[:, 0], "b": np.tile([0, 1, 1, 1], 50)})
    frame = evaluate_imputer(SimpleImputer(), table, proportion=0.3).to_frame()  # the mean, some 0.75, becomes 1
    assert frame.loc["b", "kind"] == "binary"
    assert abs(frame.loc["b", "error_mode"] - 0.25) < 4 * frame.loc["b", "error_mode_se"]
    named = evaluate_imputer(SimpleImputer(), table, proportion=0.3, schema={"b": "count"}).to_frame()
    assert named.loc["b", "kind"] == "count" and named.loc["b", "rmse_mean"] > 0


class Broken(BaseEstimator):
    def __init__(self, how):
        self.how = how

    def fit_transform(self, table):
        return {"holes": table, "rows": np.zeros((3, 3))}[self.how]


def test_what_an_imputer_or_a_user_does_wrong_is_said():
    x = gaussian_table(50)
    with pytest.raises(ValueError, match="left 30 hidden cells missing"):
        evaluate_imputer(Broken("holes"), x)
    with pytest.raises(ValueError, match=r"shape \(3, 3\), expected \(50, 3\)"):
        evaluate_imputer(Broken("rows"), x)
    with pytest.raises(TypeError, match="neither"):
        evaluate_imputer(object(), x)
    for options, words in (
        ({"truth": x, "proportion": 0.2}, "leave mechanism, proportion and repeats out"),
        ({"truth": x}, "nothing can be scored"),
        ({"truth": x[:10]}, "shape of the table"),
        ({"repeats": 0}, "positive"),
        ({"mechanism": "self_hard", "proportion": 0.2}, "takes no proportion"),
        ({"mechanism": ampute, "proportion": 0.2}, "share of its own"),
        ({"mechanism": "nope"}, "unknown"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate_imputer(Gaussian(MEAN, COV), x, **options)
