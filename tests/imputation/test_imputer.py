"""The estimator: scikit-learn's checks, draws that belong to rows, mixtures that are what their weights say."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_gen.data import Column, Scaling
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.stacking.draws import row_seeds
from pyro_gen.imputation.stacking.learning import Learner
from pyro_gen.imputation.stacking.linear_pool import allocated


def table(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=rows)
    frame = pd.DataFrame({"a": a, "b": 2 * a + rng.normal(size=rows), "c": -a + 0.5 * rng.normal(size=rows)})
    holes = rng.random(frame.shape) < 0.2
    return frame.mask(holes)


@pytest.fixture(scope="module")
def fitted() -> Imputer:
    return Imputer(method="gaussian", random_state=0).fit(table())


@parametrize_with_checks([Imputer(method="gaussian", random_state=0)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def units(rows: int = 80) -> pd.DataFrame:
    """Columns whose working scale is another one than their own."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(rows, 4))
    frame = pd.DataFrame({"real": 50 + 9 * z[:, 0], "positive": np.exp(1 + z[:, 0] + 0.5 * z[:, 1])})
    frame["bounded"] = 10 + 20 / (1 + np.exp(-z[:, 1] - 0.5 * z[:, 2]))
    frame["count"] = rng.poisson(np.exp(0.5 * z[:, 0]))
    frame["level"] = np.where(z[:, 3] + z[:, 0] > 0, "yes", "no")
    return frame


SCHEMA = {"positive": "positive", "bounded": Column("bounded", "bounded", lower=10.0, upper=30.0)}
NUMBERS = {
    "real": np.linspace(-50, 150, 1001),
    "positive": np.exp(np.linspace(-8, 9, 1001)),
    "bounded": 10 + 20 / (1 + np.exp(-np.linspace(-12, 12, 1001))),
}


def densities(imputer: Imputer, frame: pd.DataFrame, name: str, grid: np.ndarray) -> np.ndarray:
    """Of all values of one cell."""
    values = frame.iloc[[3] * len(grid)].reset_index(drop=True).assign(**{name: grid})
    log_prob = imputer.log_prob(values.assign(**{name: values[name].where(values.index < 0)}), values)
    d = frame.columns.get_loc(name)
    assert np.isnan(np.delete(log_prob, d, 1)).all()
    return np.exp(log_prob[:, d])


def totals() -> dict[str, float]:
    frame = units()[list(NUMBERS)]
    imputer = Imputer(method=["gaussian", "factor_analysis"], schema=SCHEMA, random_state=0).fit(frame)
    return {n: float(np.trapezoid(densities(imputer, frame, n, grid), grid)) for n, grid in NUMBERS.items()}


def test_densities_in_the_unit_of_the_user_integrate_to_one():
    for name, total in totals().items():
        assert total == pytest.approx(1.0, abs=0.01), name


def test_densities_without_the_slope_of_the_scale_do_not(monkeypatch):
    monkeypatch.setattr(Scaling, "log_abs_det", lambda self, encoded: 0 * encoded)
    assert all(abs(total - 1) > 0.05 for total in totals().values())


def test_densities_of_draws_that_are_pulled_together_integrate_to_one_too():
    frame = units()[list(NUMBERS)]
    imputer = Imputer(method=["gaussian", "factor_analysis"], schema=SCHEMA, random_state=0).fit(frame)
    assert 0.9 < imputer.spread_ <= 1 and imputer.info_["spread"] == imputer.spread_
    imputer.spread_ = 0.75
    for name, grid in NUMBERS.items():
        assert np.trapezoid(densities(imputer, frame, name, grid), grid) == pytest.approx(1.0, abs=0.01), name


def test_programs_refit_have_the_weights_and_the_scale_that_all_of_them_can_have():
    x, _ = grouped()
    imputer = Imputer(method=["gaussian", "copula"], random_state=0).fit(x)
    imputer.spread_ = 0.8
    again = imputer.refit(x[:200])
    assert again.weights_ == imputer.weights_ and again.spread_ == again.info_["spread"] == 0.8
    assert again.scaling_.levels == ((), ()) and set(again.programs_) == {"gaussian", "copula"}
    assert np.isfinite(again.transform(x)).all()


def test_probabilities_sum_to_one():
    frame = units()[["real", "count", "level"]]
    imputer = Imputer(method="mixture", schema={"count": "count"}, random_state=0).fit(frame)
    for name, grid in (("count", np.arange(60)), ("level", np.array(["yes", "no"]))):
        assert densities(imputer, frame, name, grid).sum() == pytest.approx(1.0, abs=0.01), name


def test_scores_are_of_missing_entries_that_have_a_value(fitted: Imputer):
    frame = table()
    values = frame.fillna(0.5).mask(np.random.default_rng(2).random(frame.shape) < 0.3)
    found = fitted.log_prob(frame, values)
    assert (np.isnan(found) == (frame.notna() | values.isna())).all(axis=None)
    x, v = (fitted.scaling_.forward(fitted.schema_.encode(t)) for t in (frame, values.where(frame.isna())))
    by_program = (
        fitted.programs_["gaussian"].cell_log_prob(x, v) - torch.tensor(fitted.scaling_.scale, dtype=x.dtype).log()
    )
    np.testing.assert_allclose(found, by_program.numpy(), rtol=1e-10)
    np.testing.assert_allclose(fitted.log_prob(frame[:7], values[:7]), found[:7], rtol=1e-10)
    with pytest.raises(ValueError, match=r"values has 59 rows, expected 60"):
        fitted.log_prob(frame, values[1:])


def test_observed_cells_stay_and_holes_are_filled(fitted: Imputer):
    frame = table()
    filled = fitted.transform(frame)
    assert isinstance(filled, pd.DataFrame)
    assert filled.index.equals(frame.index)
    assert list(filled.columns) == list(frame.columns)
    seen = frame.notna().to_numpy()
    assert (filled.to_numpy()[seen] == frame.to_numpy()[seen]).all()
    assert filled.notna().all().all()
    for k in range(3):
        draw = fitted.impute(frame, draws=3)[k]
        assert (draw.to_numpy()[seen] == frame.to_numpy()[seen]).all()
        assert draw.notna().all().all()


def test_new_rows_need_no_refit_and_a_row_alone_gives_what_it_gives_in_a_batch(fitted: Imputer):
    new = table(seed=1)
    completed = fitted.impute(new, draws=4)
    for n in (0, 7, 31):
        alone = fitted.impute(new.iloc[[n]], draws=4)
        for k in range(4):
            pd.testing.assert_frame_equal(alone[k], completed[k].iloc[[n]], rtol=1e-9)
    pd.testing.assert_frame_equal(fitted.transform(new.iloc[[7]]), fitted.transform(new).iloc[[7]], rtol=1e-9)


def test_a_draw_is_the_same_alone_and_with_others(fitted: Imputer, monkeypatch: pytest.MonkeyPatch):
    """Whichever are asked for, in whatever order; programs that always make their first draw are found out."""
    frame = table()
    imputer = Imputer(method=("gaussian", "factor_analysis"), random_state=0).fit(frame)
    imputer.weights_ = {"gaussian": 0.6, "factor_analysis": 0.4}
    if len(imputer.programs_) == 1:
        imputer.programs_ = {name: imputer.programs_.get(name) or fitted.programs_[name] for name in imputer.weights_}
    together = imputer.impute(frame, draws=7)
    expected = [together[k] for k in range(7)]
    monkeypatch.setattr("pyro_gen.imputation.stacking.draws.NUMBERS_KEPT", 1)

    def largest_difference() -> float:
        alone = imputer.impute(frame, draws=7)
        return max(float((alone[k] - expected[k]).abs().max().max()) for k in (6, 0, 3, 3, 1, 5, 2, 4))

    assert largest_difference() < 1e-9
    program = imputer.programs_["gaussian"]
    real = type(program).complete
    first = lambda self, x, draws, *, seeds, which: real(self, x, draws, seeds=seeds, which=range(len(which)))  # noqa: E731
    monkeypatch.setattr(type(program), "complete", first)
    assert largest_difference() > 0.1


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor):
                self.numbers = max(self.numbers, value.untyped_storage().nbytes() // value.element_size())
        return out


def test_memory_is_flat_in_the_number_of_draws(fitted: Imputer, monkeypatch: pytest.MonkeyPatch):
    frame = pd.concat([table(seed=s) for s in range(5)], ignore_index=True)

    def largest(draws: int) -> int:
        with Largest() as mode:
            completed = fitted.impute(frame, draws=draws)
            for _ in completed:
                pass
            completed.mean()
        return mode.numbers

    assert largest(400) > 5 * largest(10)  # as they are, all draws of a small table are made at once
    monkeypatch.setattr("pyro_gen.imputation.stacking.draws.NUMBERS_KEPT", 2000)
    assert largest(400) == largest(20)


def test_rows_that_are_alike_get_draws_of_their_own(fitted: Imputer):
    row = pd.DataFrame({"a": [1.0] * 500, "b": [np.nan] * 500, "c": [np.nan] * 500})
    drawn = fitted.impute(row, draws=1)[0]["b"]
    assert drawn.nunique() == 500
    assert drawn.std() > 0.5


def test_the_test_set_does_not_leak(fitted: Imputer):
    new = table(seed=2)
    before = pickle.dumps(fitted)
    fitted.transform(new)
    assert pickle.dumps(fitted) == before


def test_pickle_and_clone(fitted: Imputer):
    frame = table(seed=3)
    copy = pickle.loads(pickle.dumps(fitted))
    pd.testing.assert_frame_equal(copy.transform(frame), fitted.transform(frame))
    assert clone(fitted).get_params() == fitted.get_params()


def test_in_pipelines_and_column_transformers():
    frame = table()
    y = frame["a"].fillna(0.0)
    pipeline = make_pipeline(StandardScaler(), Imputer(method="gaussian", random_state=0), LinearRegression())
    assert pipeline.fit(frame[["b", "c"]], y).score(frame[["b", "c"]], y) > 0.3
    both = ColumnTransformer([("filled", Imputer(method="gaussian", random_state=0), ["b", "c"])], remainder="drop")
    out = both.set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == ["filled__b", "filled__c"]
    assert out.notna().all().all()


def test_auto_stacks_and_says_what_it_chose():
    imputer = Imputer(method=("gaussian", "factor_analysis"), random_state=0).fit(table(40))
    assert set(imputer.scores_) == {"gaussian", "factor_analysis"}
    assert sum(imputer.weights_.values()) == pytest.approx(1)
    assert imputer.info_["weights"] == imputer.weights_
    completed = imputer.impute(table(40), draws=10)
    assert len(completed) == 10


def grouped(rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """A number that is one of two, by the sign of another, with holes; and the chances of the greater in them."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=rows)
    group = np.where(z + 0.5 * rng.normal(size=rows) > 0, 2.5, -1.5)
    x = np.column_stack([z, np.where(rng.random(rows) < 0.3, np.nan, group)])
    return x, norm.cdf(z[np.isnan(x[:, 1])] / 0.5)


def test_numbers_of_a_few_values_are_drawn_from_them_and_have_means_between_them():
    x, chances = grouped()
    holes = np.isnan(x[:, 1])
    imputer = Imputer(random_state=0).fit(x)
    assert imputer.schema_.columns[1].kind == "real" and imputer.scaling_.levels[1] == (-1.5, 2.5)
    completed = imputer.impute(x, draws=20)
    assert set(np.unique([completed[k][:, 1] for k in range(20)])) == {-1.5, 2.5}
    mean = imputer.transform(x)[holes, 1]
    assert abs((mean + 1.5) / 4 - chances).mean() < 0.06
    density = imputer.log_prob(x, np.where(holes[:, None], 2.5, x))[holes, 1]
    np.testing.assert_allclose(np.exp(density), (mean + 1.5) / 4, atol=1e-9)


def rainy(rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Rain that falls where another number is high, with holes; and the chances of none in them."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=rows)
    rain = np.where(z + 0.5 * rng.normal(size=rows) > 0.3, np.exp(z + 0.5 * rng.normal(size=rows)), 0.0)
    x = np.column_stack([z, np.where(rng.random(rows) < 0.3, np.nan, rain)])
    return x, norm.cdf((0.3 - z[np.isnan(x[:, 1])]) / 0.5)


def test_a_number_that_most_rows_have_is_drawn_as_often_as_it_should_be():
    x, chances = rainy()
    holes = np.isnan(x[:, 1])
    imputer = Imputer(random_state=0).fit(x)
    assert imputer.scaling_.columns[1].atom is not None and set(imputer.weights_) <= {"copula", "mixture"}
    assert list(imputer.info_["atoms"].values()) == [0.0]
    drawn = np.stack([table[holes, 1] for table in imputer.impute(x, draws=100)])
    assert drawn.min() == 0
    dry = (drawn == 0).mean(0)
    assert abs(dry - chances).mean() < 0.1  # standard errors: 0.03 of 100 draws, 0.05 of what 280 rows tell
    assert abs(dry.mean() - chances).mean() > 0.2  # the twin: as often in all rows
    found = imputer.log_prob(x, np.where(holes[:, None], 0.0, x))[holes, 1]
    assert abs(np.exp(found) - dry).mean() < 0.04
    np.testing.assert_allclose(imputer.transform(x)[holes, 1].mean(), drawn.mean(), rtol=0.05)

    blind = Imputer(method="gaussian", schema={"x1": Column("x1", "real", atom=0.0)}, random_state=0).fit(x)
    assert blind.info_["warnings"] == ["The atom of x1 is a number like others here: copula, mixture know atoms."]
    assert blind.scaling_.columns[1].atom is None  # the twin: it is not told
    assert (blind.impute(x)[0][holes, 1] == 0).mean() == 0


def test_numbers_stay_numbers_for_a_program_of_real_columns():
    x, _ = grouped()
    imputer = Imputer(method="gaussian", random_state=0).fit(x)
    assert imputer.scaling_.levels == ((), ())
    assert len(np.unique(imputer.impute(x)[0][:, 1])) > 50


def test_options_reach_the_program():
    imputer = Imputer(method="factor_analysis", options={"rank": 1}, random_state=0).fit(table())
    assert imputer.programs_["factor_analysis"].rank == 1
    assert clone(imputer).options == {"rank": 1}


def test_strategies():
    frame = table()
    base = Imputer(method="gaussian", random_state=0).fit(frame)
    mean = base.transform(frame)
    many = np.stack([t.to_numpy() for t in base.impute(frame, draws=200)])
    error = many.std(0) / np.sqrt(200)
    # 36 entries at 5 standard errors: false alarm 2e-5.
    assert (np.abs(many.mean(0) - mean.to_numpy()) <= 5 * error + 1e-12).all()
    one = base.set_params(strategy="draw").transform(frame)
    assert not np.allclose(one, mean)
    median = base.set_params(strategy="median").transform(frame)
    assert np.abs(median.to_numpy() - mean.to_numpy()).max() < 0.6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "em"}, r"method='em'.*gaussian"),
        ({"method": ()}, "method"),
        ({"method": None}, "method=None"),
        ({"method": ["auto"]}, "method"),
        ({"method": ["gaussian", "gaussian"]}, "each once"),
        ({"draws": 0}, "draws=0"),
        ({"draws": 2.5}, "draws=2.5"),
        ({"random_state": -1}, "random_state=-1"),
        ({"random_state": np.random.default_rng(0)}, "random_state=Generator"),
        ({"strategy": "mode"}, "strategy='mode'"),
        ({"time_limit": 0}, "time_limit=0"),
        ({"options": {"rank": 1}}, "names one program"),
    ],
)
def test_options_that_make_no_sense_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        Imputer(**options).fit(table())


def test_draws_are_whole_numbers(fitted: Imputer):
    with pytest.raises(ValueError, match=r"impute\(draws=2.5\)"):
        fitted.impute(table(), draws=2.5)  # type: ignore[arg-type]


def test_a_fit_that_is_cut_short_says_so():
    imputer = Imputer(method="gaussian", random_state=0, time_limit=1e-6).fit(table())
    assert imputer.info_["warnings"] == [
        "gaussian stopped learning early, at the time limit: draws are made of what it knew by then."
    ]
    assert Imputer(method="gaussian", random_state=0).fit(table(30)).info_["warnings"] == []


def test_few_hidden_entries_of_many_need_no_second_fit(monkeypatch: pytest.MonkeyPatch):
    fits = []
    learn = Learner.fit
    monkeypatch.setattr(Learner, "fit", lambda self, name, *rest: fits.append(name) or learn(self, name, *rest))
    frame = table(400)
    Imputer(method=("gaussian", "factor_analysis"), random_state=0, time_limit=1.0).fit(frame)
    assert fits.count("gaussian") == 3 + 1  # scored thrice, as the table is small
    fits.clear()
    monkeypatch.setattr("pyro_gen.imputation.stacking.learning.ENTRIES_AT_A_TIME", 30)
    scored = Imputer(method=("gaussian", "factor_analysis"), random_state=0, time_limit=1.0).fit(frame)
    assert fits.count("gaussian") == 3
    assert not scored.transform(frame).isna().any().any()


def test_programs_learn_again_where_few_entries_are_many_of_their_column(monkeypatch: pytest.MonkeyPatch):
    """Entries are hidden in columns that have holes alone: few of a wide table, and a seventh of the column."""
    learnt = []
    learn = Learner.fit
    monkeypatch.setattr(Learner, "fit", lambda self, name, x, *rest: learnt.append(x) or learn(self, name, x, *rest))
    frame = table(100).fillna(0.0).assign(**{f"d{i}": np.arange(100.0) ** (1 + i / 9) for i in range(9)})
    frame.loc[::2, "a"] = np.nan
    Imputer(method=("gaussian", "factor_analysis"), random_state=0, time_limit=1.0).fit(frame)
    assert int(learnt[0].isnan().sum()) > 50  # scored without some of the 50 that are seen
    assert int(learnt[-1].isnan().sum()) == int(learnt[-2].isnan().sum()) == 50


def test_a_table_too_small_to_hide_an_entry_of_has_no_scores():
    imputer = Imputer(method=("gaussian", "factor_analysis"), random_state=0).fit(
        [[1.0, 2.5], [np.nan, 3.7], [2.0, np.nan]]
    )
    assert imputer.scores_ == {} and set(imputer.weights_.values()) == {0.5}


def test_progress_shows_nothing_of_what_is_over_at_once(capsys: pytest.CaptureFixture[str]):
    Imputer(method="gaussian", random_state=0, progress=True, time_limit=0.5).fit(table(30))
    assert capsys.readouterr().err == ""


def test_draws_are_dealt_by_weight():
    owners = allocated([0.6, 0.3, 0.1], 100)
    assert [owners.count(k) for k in range(3)] == [60, 30, 10]
    assert {0, 1} <= set(owners[:3])


def test_row_seeds_depend_on_what_a_row_holds():
    x = torch.tensor([[1.0, torch.nan], [2.0, 0.0], [1.0, torch.nan], [2.0, -0.0]])
    seeds = row_seeds(x, 0)
    assert seeds.unique().numel() == 4
    assert seeds[0] == row_seeds(x[:1], 0)[0]
    assert torch.equal(row_seeds(x[[1, 0]], 0), seeds[[1, 0]])
    assert not bool((row_seeds(x, 1) == seeds).any())
