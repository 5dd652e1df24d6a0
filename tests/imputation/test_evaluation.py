"""Imputers that are right and wrong on purpose, and what an evaluation says of them."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.base import BaseEstimator
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyro_gen.data.schema import Schema
from pyro_gen.imputation.amputation import MAR, MCAR, Censoring, HardSelfMasking, ampute
from pyro_gen.imputation.evaluation import evaluate_imputer
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.scores import crps, rmse


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
    assert "3 x observed cells hidden by MCAR(share=0.2), 100 draws; 2700 cells" in text
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
    holes = ampute(truth, MAR(0.3), seed=5)
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
    evaluation = evaluate_imputer(Gaussian(MEAN, COV), x, draws=10, repeats=2, mechanism=MCAR(0.1))
    assert evaluation.info["cells"] == 2 * 75
    evaluation = evaluate_imputer(Gaussian(MEAN, COV), x, draws=10, repeats=1, mechanism=HardSelfMasking())
    assert len(evaluation.to_frame()) == 2  # one column, and all
    last_column = Censoring(0.3, columns=[2])
    evaluation = evaluate_imputer(Gaussian(MEAN, COV), x, draws=10, repeats=1, mechanism=last_column)
    assert evaluation.info["cells"] == 90 and evaluation.info["mechanism"] == "Censoring(share=0.3, columns=[2])"


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


class Dense(Gaussian):
    """One that has densities."""

    def log_prob(self, x, values):
        x, values = np.asarray(x, float), np.asarray(values, float)
        out = np.full(x.shape, np.nan)
        for n, d in zip(*np.nonzero(np.isnan(x) & ~np.isnan(values)), strict=True):
            seen = ~np.isnan(x[n])
            slope = self.cov[d, seen] @ np.linalg.inv(self.cov[seen][:, seen])
            loc = self.mean[d] + slope @ (x[n, seen] - self.mean[seen])
            scale = self.spread * math.sqrt(self.cov[d, d] - slope @ self.cov[seen, d])
            out[n, d] = norm.logpdf(values[n, d], loc, scale)
        return out


def test_the_log_score_is_the_mean_log_density():
    x = gaussian_table(400)
    holed = pd.DataFrame(ampute(x, MCAR(0.2)), columns=list("abc"))
    truth = pd.DataFrame(x, columns=list("abc"))
    evaluation = evaluate_imputer(Dense(MEAN, COV), holed, truth=truth, draws=20)
    frame = evaluation.to_frame()
    log_prob = Dense(MEAN, COV).log_prob(holed, truth) + np.log(holed.std(ddof=0).to_numpy())  # of standardised values
    assert frame["log_score"].tolist() == pytest.approx([*np.nanmean(log_prob, 0), np.nanmean(log_prob)], rel=1e-10)
    assert frame["log_score_se"].notna().all() and evaluation.info["no_log_score"] is None
    assert "log score" in str(evaluation) and max(map(len, str(evaluation).splitlines())) <= 120
    # In whatever order the columns are, and in whatever unit.
    schema = Schema.infer(truth[["c", "a", "b"]])
    other = evaluate_imputer(Dense(MEAN, COV), holed, truth=truth, draws=2, schema=schema).to_frame()
    assert other.loc["a", "log_score"] == pytest.approx(frame.loc["a", "log_score"])
    unit = np.array([10.0, 1.0, 0.1])
    scaled = Dense(MEAN * unit, COV * unit * unit[:, None])
    again = evaluate_imputer(scaled, holed * unit, truth=truth * unit, draws=2).to_frame()
    assert again["log_score"].tolist() == pytest.approx(frame["log_score"].tolist())
    for spread in (0.3, 3.0):  # it is a proper score: who is too sure, or not sure enough, has less of it
        wrong = evaluate_imputer(Dense(MEAN, COV, spread), holed, truth=truth, draws=2).to_frame()
        assert wrong.loc["overall", "log_score"] < frame.loc["overall", "log_score"] - 0.3


def test_the_log_score_of_levels_is_that_of_their_probabilities():
    table = mixed_table(150)[["height", "city"]]
    evaluation = evaluate_imputer(Imputer(method="mixture", random_state=0), table, draws=100, repeats=1)
    frame = evaluation.to_frame()
    # Both are of the same probabilities, by shares of 100 draws (2 / 200 nats too many) and themselves.
    assert frame.loc["city", "log_score"] == pytest.approx(-frame.loc["city", "log_loss"], abs=0.05)
    assert "Log score of all cells: -" in str(evaluation)
    assert frame.loc["overall", "log_score"] == pytest.approx(
        frame.loc[["height", "city"], "log_score"] @ frame.loc[["height", "city"], "cells"] / frame["cells"].iloc[-1]
    )


def test_where_there_is_no_log_score_it_is_said_why():
    evaluation = evaluate_imputer(Gaussian(MEAN, COV), gaussian_table(60), draws=5, repeats=1)
    assert evaluation.to_frame()["log_score"].isna().all()
    assert evaluation.info["no_log_score"] == "Gaussian has no log_prob(table, values), and so no densities."
    assert "No log score: Gaussian has no log_prob" in str(evaluation)
    # Of a column of levels that the imputer takes for numbers it has densities, and no probabilities.
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=80), "b": rng.integers(0, 2, 80)})
    evaluation = evaluate_imputer(Imputer(method="gaussian", random_state=0), table, draws=5, repeats=1)
    assert evaluation.to_frame()["log_score"].notna().tolist() == [True, False, False]
    assert evaluation.info["no_log_score"] == "the imputer takes column 'b' for numbers."
    # A level that the imputer never sees.
    table = pd.DataFrame({"a": rng.normal(size=80), "b": ["x"] * 40 + ["y"] * 39 + ["z"]})
    holed = table.mask((table == "z") | (rng.random(table.shape) < 0.1))
    evaluation = evaluate_imputer(Imputer(method="mixture", random_state=0), holed, truth=table, draws=5)
    assert "'z' in row 80 is none of its levels" in evaluation.info["no_log_score"]


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
    frame = evaluate_imputer(SimpleImputer(), table, mechanism=MCAR(0.3)).to_frame()  # the mean, some 0.75, becomes 1
    assert frame.loc["b", "kind"] == "binary"
    assert abs(frame.loc["b", "error_mode"] - 0.25) < 4 * frame.loc["b", "error_mode_se"]
    named = evaluate_imputer(SimpleImputer(), table, mechanism=MCAR(0.3), schema={"b": "count"}).to_frame()
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
    with pytest.raises(TypeError, match="expected a mechanism"):
        evaluate_imputer(Gaussian(MEAN, COV), x, mechanism="mcar")
    for options, words in (
        ({"truth": x, "mechanism": MCAR(0.2)}, "leave mechanism and repeats out"),
        ({"truth": x}, "nothing can be scored"),
        ({"truth": x[:10]}, "shape of the table"),
        ({"repeats": 0}, "positive"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate_imputer(Gaussian(MEAN, COV), x, **options)
