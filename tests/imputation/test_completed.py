"""Completed tables: what was observed stays, what is imputed is decoded, analyses are read, files hold all of it."""

import functools
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation.completed import Completed
from pyro_gen.imputation.completed.middles import half_sample_mode
from pyro_gen.imputation.pooling import pool

NAN = float("nan")


def mixed():
    """A table with a hole of each kind, its schema, and where the holes are."""
    table = pd.DataFrame(
        {
            "real": [0.1, NAN, -2.5, 1e-300],
            "share": [0.25, 0.5, NAN, 1.0],
            "visits": [0.0, NAN, 3.0, 12.0],
            "age": pd.array([31, None, 48, 27], dtype="Int64"),
            "smokes": pd.array([True, None, None, False], dtype="boolean"),
            "town": ["Ulm", "Bonn", None, "Kiel"],
            "grade": pd.Categorical(["poor", None, "good", "fair"], ["poor", "fair", "good"], ordered=True),
        },
        index=pd.Index(["a", "b", "c", "d"], name="who"),
    )
    schema = Schema.infer(
        table, {"share": Column("share", "bounded", lower=0, upper=1), "visits": "count", "town": "nominal"}
    )
    return table, schema


def complete_mixed(m=3):
    table, schema = mixed()
    torch.manual_seed(0)
    encoded = schema.encode(table)
    draws = encoded.repeat(m, 1, 1)
    holes = encoded.isnan()
    top = torch.tensor([2.0, 1.4, 9.0, 60.0, 1.0, 2.0, 2.0], dtype=torch.float64)
    draws[:, holes] = (torch.rand(draws.shape, dtype=torch.float64) * top)[:, holes]
    return Completed(draws, schema, table, {"method": "by hand"}), table, schema, draws


def numbers(m=8, rows=40, seed=0):
    """Three real columns with holes in the first two, completed by draws of a normal distribution."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)) @ np.array([[1.0, 0.5, 0.2], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]])
    table = pd.DataFrame(x, columns=["y", "x1", "x2"])
    table.loc[rng.random(rows) < 0.3, "y"] = NAN
    table.loc[rng.random(rows) < 0.2, "x1"] = NAN
    holes = table.isna().to_numpy()
    schema = Schema.infer(table, dict.fromkeys(table.columns, "real"))
    cells = torch.from_numpy(rng.normal(size=(m, int(holes.sum()))))
    return Completed.from_cells(cells, holes, schema=schema, like=table), table, cells


def same(a, b):
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def ols(table):
    x = np.column_stack([np.ones(len(table)), table.x1, table.x2])
    inverse = np.linalg.inv(x.T @ x)
    q = inverse @ x.T @ table.y.to_numpy()
    rest = table.y.to_numpy() - x @ q
    return q, inverse * (rest @ rest) / (len(x) - 3)


# ----------------------------------------------------------------------------------------------------------------------
# Tables


def test_observed_entries_index_and_types_stay():
    completed, table, _, _ = complete_mixed()
    for filled in completed:
        assert not filled.isna().any(axis=None)
        assert list(filled.dtypes) == list(table.dtypes)
        assert filled.index.equals(table.index) and list(filled.columns) == list(table.columns)
        for name in table:
            seen = table[name].notna()
            assert (filled[name][seen] == table[name][seen]).all()


def test_imputed_entries_are_what_was_drawn():
    completed, _, schema, draws = complete_mixed()
    for k in range(3):
        filled = completed[k]
        assert filled.loc["b", "real"] == draws[k, 1, 0].item()
        assert filled.loc["c", "share"] == min(draws[k, 2, 1].item(), 1.0)
        assert filled.loc["b", "visits"] == round(draws[k, 1, 2].item())
        assert filled.loc["b", "age"] == round(draws[k, 1, 3].item())
        assert filled.loc["c", "town"] == schema.columns[5].levels[round(draws[k, 2, 5].item())]
        assert filled.loc["b", "grade"] == ["poor", "fair", "good"][round(draws[k, 1, 6].item())]
    assert len({filled.loc["b", "real"] for filled in completed}) == 3


def test_cells_are_the_holes_row_by_row_as_decoded():
    completed, _, schema, _ = complete_mixed()
    for k in range(3):
        encoded = schema.encode(completed[k])
        assert torch.equal(completed.cells(k), encoded[torch.from_numpy(completed.missing)])


def test_the_table_is_a_snapshot():
    completed, table, _, _ = complete_mixed()
    before = completed[0]
    table.loc["a", "real"] = 99.0
    before.loc["a", "share"] = 0.75
    assert completed[0].loc["a", "real"] == 0.1 and completed[0].loc["a", "share"] == 0.25


def test_arrays_are_completed_as_arrays():
    table = np.array([[1.5, NAN], [NAN, 4.5]], dtype=np.float32)
    schema = Schema.infer(table, {"x0": "real", "x1": "real"})
    draws = torch.arange(8.0).reshape(2, 2, 2) + 0.5
    completed = Completed(draws, schema, table)
    assert completed[1].dtype == np.float32
    assert completed[1].tolist() == [[1.5, 5.5], [6.5, 4.5]]
    assert completed.missing.tolist() == [[False, True], [True, False]]


def test_length_iteration_negative_numbers_and_repr():
    completed, _, _, _ = complete_mixed()
    assert len(completed) == completed.m == 3 and len(list(completed)) == 3
    same(completed[-1], completed[2])
    for k in (3, -4):
        with pytest.raises(IndexError, match="there are 3 draws"):
            completed[k]
    assert repr(completed) == "Completed(3 draws of 4 rows x 7 columns, 8 cells (28.6%) imputed)"


def test_draws_of_the_missing_cells_are_labelled():
    completed, _, _, _ = complete_mixed()
    draws = completed.draws
    assert draws.dims == ("draw", "cell") and draws.shape == (3, 8)
    cell = (draws.row == "b") & (draws.column == "grade")
    assert int(cell.sum()) == 1
    levels = ["poor", "fair", "good"]
    assert [levels[int(code)] for code in draws[:, cell.values].values[:, 0]] == [
        t.loc["b", "grade"] for t in completed
    ]


def test_an_index_of_several_levels_labels_draws():
    table = pd.DataFrame({"x": [1.0, NAN]}, index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]))
    completed = Completed(torch.ones(2, 2, 1), Schema.infer(table, {"x": "real"}), table)
    assert completed.draws.row.values.tolist() == [("b", 2)]
    assert completed.long()[".id"].tolist() == [0, 1, 0, 1]


def test_draws_made_when_asked_for_are_those_kept():
    completed, table, cells = numbers()
    asked = []

    def make(k):
        asked.append(k)
        return cells[k]

    lazy = Completed.from_cells(make, completed.missing, schema=completed.schema, like=table, m=8)
    assert not asked
    for k in range(8):
        same(lazy[k], completed[k])
    assert asked == list(range(8))
    for middle in ("mean", "median", "mode"):
        same(getattr(lazy, middle)(), getattr(completed, middle)())
    same(lazy.long(), completed.long())
    assert np.array_equal(lazy.draws, completed.draws)


def test_middles_of_draws_on_disk_are_those_of_draws_in_memory(monkeypatch):
    completed, _, _ = numbers()
    middles = {middle: getattr(completed, middle)() for middle in ("median", "mode")}
    monkeypatch.setattr("pyro_gen.imputation.completed.drawn_cells.SPOOLED_BYTES", 300)  # two cells at a time
    for middle, before in middles.items():
        same(getattr(completed, middle)(), before)


def test_memory_is_that_of_the_holes():
    completed, _, cells = numbers()
    assert completed.drawn.held.shape == cells.shape == (8, int(completed.missing.sum()))


def test_it_can_be_pickled():
    completed, _, _, _ = complete_mixed()
    _ = completed[0]
    again = pickle.loads(pickle.dumps(completed))
    same(again[1], completed[1])
    assert again.info == {"method": "by hand"}


def test_what_does_not_fit_is_named():
    table, schema = mixed()
    holes = schema.encode(table).isnan()
    with pytest.raises(ValueError, match=r"got shape \(3, 4\), expected \(m, N, D\) = \(m, 4, 7\)"):
        Completed(torch.zeros(3, 4), schema, table)
    draws = torch.zeros(2, 4, 7)
    draws[1, 2, 1] = NAN
    with pytest.raises(ValueError, match="column 'share' has holes that are not filled"):
        Completed(draws, schema, table)
    with pytest.raises(ValueError, match="expected at least 1"):
        Completed(torch.zeros(0, 4, 7), schema, table)
    with pytest.raises(ValueError, match=r"cells: got shape \(2, 7\), expected \(m, 8\)"):
        Completed.from_cells(torch.zeros(2, 7), holes, schema=schema, like=table)
    with pytest.raises(ValueError, match="missing: got shape"):
        Completed.from_cells(torch.zeros(2, 8), holes[:3], schema=schema, like=table)
    with pytest.raises(ValueError, match="give the number of draws"):
        Completed.from_cells(lambda k: torch.zeros(8), holes, schema=schema, like=table)


def test_a_table_without_holes_is_completed_too():
    table = pd.DataFrame({"x": [1.0, 2.0]})
    completed = Completed(torch.zeros(2, 2, 1), Schema.infer(table, {"x": "real"}), table)
    same(completed[1], table)
    same(completed.median(), table)
    assert completed.draws.shape == (2, 0)


# ----------------------------------------------------------------------------------------------------------------------
# One table


def test_mean_median_and_mode():
    table = pd.DataFrame(
        {
            "x": [NAN, 1.5],
            "n": [NAN, 2.0],
            "b": ["yes", None],
            "g": pd.Categorical([None, "hi"], ["lo", "mid", "hi"], ordered=True),
        }
    )
    schema = Schema(
        (
            Column("x", "real"),
            Column("n", "count"),
            Column("b", "binary", ("no", "yes")),
            Column("g", "ordinal", ("lo", "mid", "hi")),
        )
    )
    # Holes row by row: x, n, g of the first row, then b of the second.
    cells = torch.tensor(
        [[1.0, 0.0, 0.0, 1.0], [1.1, 0.0, 2.0, 0.0], [1.2, 7.0, 1.0, 1.0], [9.0, 8.0, 2.0, 0.0], [9.9, 9.0, 0.0, 1.0]]
    )
    completed = Completed.from_cells(cells, schema.encode(table).isnan(), schema=schema, like=table)
    mean, median, mode = completed.mean(), completed.median(), completed.mode()
    assert mean.x[0] == pytest.approx(4.44) and median.x[0] == pytest.approx(1.2) and mode.x[0] == pytest.approx(1.1)
    assert (mean.n[0], median.n[0], mode.n[0]) == (4.8, 7, 0)  # the mean of counts need not be one
    assert mean.b[1] == median.b[1] == mode.b[1] == "yes"
    assert (mean.g[0], median.g[0], mode.g[0]) == ("lo", "mid", "lo")  # the lower of two levels as frequent
    assert mean.x[1] == median.x[1] == mode.x[1] == 1.5


def testhalf_sample_mode():
    assert half_sample_mode(np.array([[0.0, 1.0, 1.1, 5.0, 9.0]]).T) == pytest.approx([1.05])
    assert half_sample_mode(np.array([[3.0, 3.0, 1.0, 9.0]]).T) == pytest.approx([3.0])
    assert half_sample_mode(np.array([[1.0, 4.0]]).T) == pytest.approx([2.5])
    assert half_sample_mode(np.array([[7.0]]).T) == pytest.approx([7.0])
    draws = np.random.default_rng(0).gamma(3.0, size=(20000, 50))  # its mode is 2, its median 2.67, its mean 3
    assert np.median(half_sample_mode(draws)) == pytest.approx(2.0, abs=0.1)


# ----------------------------------------------------------------------------------------------------------------------
# Analyses


def test_params_and_covariance_are_pooled():
    completed, _, _ = numbers()
    results = [ols(table) for table in completed]
    expected = pool([q for q, _ in results], [u for _, u in results], df_complete=37)
    analyses = completed.fit(ols)
    assert analyses.df_complete == math.inf and analyses.names == ("q0", "q1", "q2")
    pooled = analyses.pool(df_complete=37)
    pd.testing.assert_frame_equal(pooled.summary(), expected.summary())
    assert pooled.test(["q1", "q2"]).statistic == expected.test(["q1", "q2"]).statistic
    # Variances alone, and names of a Series.
    pooled = completed.fit(lambda t: (pd.Series(ols(t)[0], index=["c", "x1", "x2"]), np.diag(ols(t)[1]))).pool()
    assert pooled.names == ("c", "x1", "x2") and np.allclose(pooled.t, expected.t)


def test_two_numbers_are_an_analysis():
    completed, _, _ = numbers()
    pooled = completed.fit(lambda t: (t.y.mean(), t.y.var() / len(t))).pool()
    means = np.array([t.y.mean() for t in completed])
    assert pooled.qbar[0] == pytest.approx(means.mean()) and pooled.b[0] == pytest.approx(means.var(ddof=1))


def test_one_number_has_the_name_of_its_analysis():
    completed, _, _ = numbers()

    def mean(table, name="y"):
        return table[name].mean(), table[name].var() / len(table)

    names = {
        "mean": mean,
        "parameter": lambda t: (np.float64(t.y.mean()), 1.0),  # a function without a name
        "q0": lambda t: ([t.y.mean()], [1.0]),  # a vector, were it of one number
        "bp": lambda t: (pd.Series({"bp": t.y.mean()}), [1.0]),
    }
    assert {name: completed.fit(analysis).names for name, analysis in names.items()} == {n: (n,) for n in names}
    assert completed.fit(functools.partial(mean, name="y")).names == ("parameter",)


class Fitted:
    """What statsmodels' results are to an analysis."""

    def __init__(self, table, labelled=True, df_resid=37.0):
        q, self.u = ols(table)
        names = ["Intercept", "x1", "x2"]
        self.params = pd.Series(q, index=names) if labelled else q
        self.model = SimpleNamespace(exog_names=names)
        self.df_resid = df_resid

    def cov_params(self):
        return pd.DataFrame(self.u, index=self.model.exog_names, columns=self.model.exog_names)


@pytest.mark.parametrize("labelled", [True, False])
def test_results_like_those_of_statsmodels_are_read(labelled):
    completed, _, _ = numbers()
    analyses = completed.fit(lambda t: Fitted(t, labelled))
    assert analyses.names == ("Intercept", "x1", "x2") and analyses.df_complete == 37
    assert np.allclose(analyses.pool().t, completed.fit(ols).pool().t, rtol=1e-12)
    assert completed.fit(lambda t: Fitted(t, df_resid=0.0)).df_complete == math.inf


def test_results_of_statsmodels_are_read():
    formula = pytest.importorskip("statsmodels.formula.api")
    completed, _, _ = numbers()
    pooled = completed.fit(lambda t: formula.ols("y ~ x1 + x2", t).fit()).pool()
    assert pooled.names == ("Intercept", "x1", "x2") and pooled.dfcom == 37
    assert np.allclose(pooled.t, completed.fit(ols).pool().t, rtol=1e-8)


class Mean:
    """The smallest estimator: its jackknife is known exactly."""

    fit_intercept = False

    def __init__(self, table):
        self.coef_ = np.array([table.y.mean()])
        self.feature_names_in_ = np.array(["y"])


def test_the_jackknife_of_a_mean_is_its_variance():
    completed, _, _ = numbers(rows=40)
    analyses = completed.fit(Mean)
    assert analyses.names == ("y",) and analyses.df_complete == 39
    expected = [t.y.var(ddof=1) / 40 for t in completed]
    assert analyses.covariances[:, 0, 0] == pytest.approx(expected, rel=1e-10)


def test_scikit_learn_regressions_get_the_jackknife():
    completed, _, _ = numbers(rows=400, m=4)
    analyses = completed.fit(lambda t: LinearRegression().fit(t[["x1", "x2"]], t.y))
    expected = completed.fit(ols)
    assert analyses.names == ("intercept", "x1", "x2") and analyses.df_complete == 49
    assert np.allclose(analyses.estimates, expected.estimates)
    ratio = np.diagonal(analyses.covariances, axis1=1, axis2=2) / np.diagonal(expected.covariances, axis1=1, axis2=2)
    # Each is a chi-square of about 49 degrees of freedom over 49 (relative deviation 0.2): 5 deviations.
    assert ratio.min() > 0.4 and ratio.max() < 2.0


def test_classifiers_have_a_coefficient_for_each_class():
    completed, _, _ = numbers(rows=60, m=2)

    def classes(t, edges):
        return LogisticRegression().fit(t[["x1", "x2"]].to_numpy(), np.digitize(t.y, edges))

    assert completed.fit(lambda t: classes(t, [0.0]), groups=4).names == ("intercept", "x0", "x1")
    names = completed.fit(lambda t: classes(t, [-0.5, 0.5]), groups=4).names
    assert names == tuple(f"{level}:{name}" for level in range(3) for name in ("intercept", "x0", "x1"))


@pytest.mark.parametrize(
    ("analysis", "error", "message"),
    [
        (lambda t: DummyClassifier().fit(t[["x1"]], t.y > 0), TypeError, "returned DummyClassifier, expected"),
        (lambda t: make_pipeline(StandardScaler(), LinearRegression()).fit(t[["x1"]], t.y), TypeError, "Pipeline"),
        (lambda t: t.y.mean(), TypeError, "expected \\(params, cov\\)"),
        (lambda t: (np.ones((2, 2)), np.eye(4)), ValueError, "expected a vector"),
        (lambda t: (np.ones(2), np.eye(3)), ValueError, "2 params and a covariance with shape"),
        (lambda t: (pd.Series({str(t.y.mean()): 1.0}), 1.0), ValueError, "in draw 1 but"),
        (lambda t: (t.y.mean() * NAN, 1.0), ValueError, "estimate of 'parameter' is nan in draw 0"),
    ],
)
def test_analyses_that_cannot_be_pooled_are_named(analysis, error, message):
    completed, _, _ = numbers()
    with pytest.raises(error, match=message):
        completed.fit(analysis).pool()


def test_one_draw_cannot_be_pooled():
    completed, _, _ = numbers(m=1)
    with pytest.raises(ValueError, match="1 table"):
        completed.fit(ols).pool()


# ----------------------------------------------------------------------------------------------------------------------
# Derived columns


def bodies():
    table = pd.DataFrame(
        {"kg": [60.0, NAN, 80.0, 75.0], "m": [1.6, 1.8, NAN, 1.75], "bmi": [60.0 / 1.6**2, NAN, NAN, 75.0 / 1.75**2]}
    )
    schema = Schema(tuple(Column(name, "real") for name in table))
    cells = torch.tensor([[70.0, 1.0, 1.9, 2.0], [73.0, 3.0, 1.7, 4.0], [80.0, 5.0, 1.85, 6.0]], dtype=torch.float64)
    return Completed.from_cells(cells, schema.encode(table).isnan(), schema=schema, like=table)


def bmi(table):
    return table.kg / table.m**2


def test_derived_columns_are_exact_in_each_table():
    completed = bodies()
    derived = completed.derive(bmi=bmi, heavy=lambda t: t.bmi > 25)
    for k, filled in enumerate(derived):
        assert (filled.bmi == bmi(filled)).all()  # bit for bit
        assert (filled.heavy == (filled.bmi > 25)).all()
        same(filled[["kg", "m"]], completed[k][["kg", "m"]])
        assert derived.cells(k).tolist() == [filled.kg[1], filled.bmi[1], filled.m[2], filled.bmi[2]]
    for one in (derived.mean(), derived.median(), derived.mode()):
        assert (one.bmi == bmi(one)).all()
    assert (completed[0].bmi != bmi(completed[0])).any()  # the first object is as it was
    assert derived.draws.sel(draw=1).values.tolist() == derived.cells(1).tolist()
    assert list(derived.long().columns) == [".imp", ".id", "kg", "m", "bmi", "heavy"]


def test_observed_entries_of_a_derived_column_stay():
    table = pd.DataFrame({"kg": [NAN, 60.0], "m": [1.6, 1.6], "bmi": [25.0, NAN]})
    schema = Schema(tuple(Column(name, "real") for name in table))
    completed = Completed(torch.full((2, 2, 3), 70.0), schema, table).derive(bmi=bmi)
    assert completed[0].bmi[0] == 25.0 and completed[0].bmi[1] == 60.0 / 1.6**2


def test_derived_levels_are_coded():
    table = pd.DataFrame({"age": [10.0, NAN, 70.0], "group": ["young", None, "old"]})
    schema = Schema.infer(table, {"age": "real"})
    completed = Completed(torch.tensor([[0.0, 0], [80.0, 0], [0, 0]]).expand(2, 3, 2), schema, table)
    derived = completed.derive(group=lambda t: np.where(t.age > 50, "old", "young"))
    assert derived[0].group.tolist() == ["young", "old", "old"]


def test_columns_that_cannot_be_derived_are_named():
    completed = bodies()
    with pytest.raises(ValueError, match="formula of 'bmi' gives missing values"):
        completed.derive(bmi=lambda t: t.kg * NAN)[0]
    with pytest.raises(TypeError, match="impute a pandas DataFrame"):
        Completed(torch.zeros(2, 1, 1), Schema((Column("x0", "real"),)), np.array([[NAN]])).derive(y=lambda t: t)


# ----------------------------------------------------------------------------------------------------------------------
# Files


def test_the_long_form_is_that_of_mice():
    completed, table, _, _ = complete_mixed()
    long = completed.long()
    assert list(long.columns) == [".imp", ".id", *table.columns]
    assert long[".imp"].tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert long[".id"].tolist() == ["a", "b", "c", "d"] * 3
    for k, part in long.groupby(".imp"):
        same(part.set_index(".id").rename_axis("who")[list(table.columns)], completed[k - 1])
    with_original = completed.long(original=True)
    assert with_original[".imp"].tolist()[:4] == [0] * 4
    assert with_original.iloc[:4]["grade"].isna().tolist() == [False, True, False, False]


def test_parquet_holds_all_draws_in_row_groups(tmp_path):
    completed, _, _, _ = complete_mixed()
    completed.to_parquet(tmp_path / "all.parquet", original=True)
    file = pq.ParquetFile(tmp_path / "all.parquet")
    assert file.num_row_groups == 4
    back = file.read_row_group(2).to_pandas()
    assert back[".imp"].tolist() == [2] * 4
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "all.parquet"), completed.long(original=True), check_exact=True
    )
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]


def test_csv_holds_all_draws(tmp_path):
    completed, _, _ = numbers()
    completed.to_csv(tmp_path / "all.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "all.csv"), completed.long(), rtol=1e-14)


def test_the_table_with_holes_in_front_has_no_derived_values(tmp_path):
    completed = bodies().derive(heavy=lambda t: t.kg > 72, half=lambda t: t.kg / 2)
    long = completed.long(original=True)
    assert long.columns.tolist() == [".imp", ".id", "kg", "m", "bmi", "heavy", "half"]
    assert long.heavy.isna().tolist() == long.half.isna().tolist() == [True] * 4 + [False] * 12
    completed.to_parquet(tmp_path / "a.parquet", original=True)
    completed.to_csv(tmp_path / "a.csv", original=True)
    for back in (pd.read_parquet(tmp_path / "a.parquet"), pd.read_csv(tmp_path / "a.csv")):
        back, expected = (frame.astype({"heavy": "boolean"}) for frame in (back, long))
        pd.testing.assert_frame_equal(back, expected, rtol=1e-14)


def test_files_are_written_draw_by_draw_and_whole_or_not_at_all(tmp_path):
    completed, table, cells = numbers()
    alive = []

    def make(k):
        alive.append(k)
        if k == 5:
            raise RuntimeError("lost")
        return cells[k]

    lazy = Completed.from_cells(make, completed.missing, schema=completed.schema, like=table, m=8)
    for write in (lazy.to_parquet, lazy.to_csv):
        alive.clear()
        path = tmp_path / "out"
        path.write_text("before")
        with pytest.raises(RuntimeError, match="lost"):
            write(path)
        assert alive[-1] == 5
        assert [p.name for p in tmp_path.iterdir()] == ["out"] and path.read_text() == "before"


def test_arrays_have_a_long_form_with_names(tmp_path):
    table = np.array([[1.0, NAN], [3.0, 4.0]])
    completed = Completed(torch.full((2, 2, 2), 0.5), Schema.infer(table, {"x0": "real", "x1": "real"}), table)
    assert list(completed.long().columns) == [".imp", ".id", "x0", "x1"]
    completed.to_parquet(tmp_path / "a.parquet")
    assert len(pd.read_parquet(tmp_path / "a.parquet")) == 4


def test_a_column_with_a_name_of_the_long_form_is_an_error():
    table = pd.DataFrame({".id": [1.0, NAN]})
    completed = Completed(torch.zeros(1, 2, 1), Schema.infer(table, {".id": "real"}), table)
    with pytest.raises(ValueError, match=r"column '\.id'"):
        completed.long()
