"""What is imputed could have been observed: never negative where nothing was, in cents, and whatever a 9999 says."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyro_gen.data import Column, Scaling, Schema
from pyro_gen.data.gross import plausible_range
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.report import report


def season(rows: int = 150) -> pd.DataFrame:
    """Numbers that are never negative, and none of them skewed: of a normal 5% to 15% of the draws would be."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=rows)
    near = lambda: z + 0.7 * rng.normal(size=rows)  # noqa: E731
    frame = pd.DataFrame({"goals": np.abs(12 + 8 * near()).round(), "pay": np.abs(60 + 40 * near()).round(2)})
    frame["share"] = 0.1 + np.abs(0.4 + 0.3 * near())
    frame["change"] = (10 * near()).round(2)
    return frame.mask(rng.random(frame.shape) < 0.25)


def drawn(imputer: Imputer, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """All imputed numbers, by column."""
    tables = list(imputer.impute(frame, draws=100))
    return {name: np.stack([t[name][frame[name].isna()] for t in tables]) for name in frame}


@pytest.mark.parametrize("method", ["student_t", "copula", "mixture"])
def test_numbers_that_are_never_negative_are_never_imputed_so(method: str) -> None:
    frame = season()
    imputer = Imputer(method=method, random_state=0).fit(frame)
    assert imputer.info_["assumed"] == {
        "goals": "never negative",
        "pay": "never negative, rounded to 2 decimals",
        "share": "never negative",
        "change": "rounded to 2 decimals",
    }
    found = drawn(imputer, frame)
    for name in ("goals", "pay", "share"):
        assert found[name].min() >= 0 and imputer.transform(frame)[name].min() >= 0
    low = found["share"][found["share"] < frame["share"].min()]
    assert np.unique(low).size == low.size > 10  # squeezed between 0 and what was observed, and not piled up at 0
    assert found["change"].min() < 0
    assert (found["goals"] % 1 == 0).all()
    for name in ("pay", "change"):
        assert (found[name] == found[name].round(2)).all() and (found[name] != found[name].round(1)).any()
    # The schema has the last word: the twin in which nothing is assumed.
    free: dict[str, str | Column] = {name: Column(name, "real") for name in frame}
    other = Imputer(method=method, schema=free, random_state=0).fit(frame)
    found = drawn(other, frame)
    assert other.info_["assumed"] == {}
    assert max((found[name] < 0).mean() for name in ("goals", "pay", "share")) > 0.005
    assert (found["pay"] != found["pay"].round(2)).any()


def test_what_is_assumed_is_no_limit_of_what_new_rows_may_hold() -> None:
    frame = season()
    imputer = Imputer(method="gaussian", random_state=0).fit(frame)
    new = pd.DataFrame({"goals": [-3.0, np.nan], "pay": [-0.5, 0.0], "share": [np.nan, 0.0], "change": [1.0, np.nan]})
    filled = imputer.transform(new)
    assert filled["goals"][0] == -3.0 and filled["pay"].tolist() == [-0.5, 0.0] and filled.notna().all().all()


def test_a_schema_goes_through_json_with_its_decimals() -> None:
    schema = Schema.infer(season())
    assert [column.decimals for column in schema.columns] == [None, 2, None, 2]
    again = Schema.from_dict(schema.to_dict())
    assert again == schema and again.assumed == schema.assumed
    assert "pay: real, 2 decimals, at least 0" in schema.describe()
    old = schema.to_dict()
    for column in old["columns"]:
        del column["decimals"]  # as schemas were written before
    assert [column.decimals for column in Schema.from_dict(old).columns] == [None] * 4
    with pytest.raises(ValueError, match="decimals=0 is no whole number from 1 on"):
        Column("a", "real", decimals=0)
    with pytest.raises(ValueError, match="decimals are for numbers"):
        Column("a", "binary", ("n", "y"), decimals=2)


@pytest.mark.parametrize(
    ("column", "limits"),
    [
        (Column("a", "real", lower=0.005, upper=0.995, decimals=2), (0.01, 0.99)),
        (Column("a", "real", lower=1.1, upper=2.2, decimals=1), (1.1, 2.2)),
        (Column("a", "positive", decimals=2), (0.01, np.inf)),
        (Column("a", "real", lower=0.5, upper=3.5, integer=True), (1.0, 3.0)),
        (Column("a", "count"), (0.0, np.inf)),
    ],
)
def test_limits_are_numbers_that_a_column_can_have(column: Column, limits: tuple[float, float]) -> None:
    assert column.limits == limits
    settled = column.settled(np.array([-1e300, 0.7, 1.26, 1e300]))
    assert settled[0] == limits[0] if np.isfinite(limits[0]) else settled[0] < -1e299
    assert (column.rounded(settled) == settled).all()


# ----------------------------------------------------------------------------------------------------------------------
# Gross entries


def correlated() -> tuple[np.ndarray, np.ndarray]:
    """A table of standard normal columns and its holes, one of them next to where a gross entry will be."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 4))
    z[:, 1:] = 0.8 * z[:, :1] + 0.6 * z[:, 1:]
    holes = rng.random(z.shape) < 0.2
    holes[7] = [False, True, False, False]
    return z, holes


def errors(method: str, entry: float, **options: Any) -> tuple[float, float, Imputer]:
    """RMSE of means and of draws, of a table in which one entry is another."""
    z, holes = correlated()
    x = z.copy()
    x[7, 2] = entry
    x[holes] = np.nan
    imputer = Imputer(method=method, random_state=0, **options).fit(x)
    draws = np.stack(list(imputer.impute(x, draws=20)))
    assert draws[0][7, 2] == entry
    of = [float(np.sqrt(np.mean((found - z)[..., holes] ** 2))) for found in (imputer.transform(x), draws)]
    return of[0], of[1], imputer


@pytest.mark.parametrize("method", ["student_t", "copula", "gaussian"])
def test_a_gross_entry_ruins_nothing_and_is_named(method: str) -> None:
    clean = errors(method, 0.1)
    assert clean[2].info_["warnings"] == []
    for entry in (999.0, -9999.0):
        found = errors(method, entry)
        assert found[0] < 1.02 * clean[0] and found[1] < 1.05 * clean[1]
        (warning,) = found[2].info_["warnings"]
        assert warning.startswith(f"Column 'x2' has {entry:g} in row 8 far beyond all other numbers")
    # The twin: a column whose limits allow for it is taken as it is.
    trusted = errors(method, 999.0, schema={"x2": Column("x2", "real", upper=1e4)})
    assert trusted[2].info_["warnings"] == [] and trusted[1] > 2 * clean[1]


def test_a_gross_entry_of_new_rows_is_named_too() -> None:
    z, _ = correlated()
    imputer = Imputer(method="gaussian", random_state=0).fit(z)
    new = np.array([[0.0, np.nan, 0.0, 0.0], [0.0, np.nan, 0.0, 9999.0]])
    completed = imputer.impute(new)
    assert imputer.info_["warnings"] == []
    assert [w[:33] for w in completed.info["warnings"]] == ["Column 'x3' has 9999 in row 2 far"]
    filled = imputer.transform(new)
    assert abs(filled[1, 1] - filled[0, 1]) < 0.5 and filled[1, 3] == 9999.0


CODES = {
    "a code that several rows have": (np.append(np.random.default_rng(0).normal(40, 10, 95), [999.0] * 5), 999.0),
    "two codes": (np.append(np.random.default_rng(0).normal(40, 10, 98), [-9999.0, 9999.0]), 9999.0),
    "one of a few": (np.append(np.arange(1.0, 16.0), 9999.0), 9999.0),
    "children": (np.append(np.repeat([0.0, 1.0, 2.0, 3.0], 20), [999.0]), 999.0),
}


@pytest.mark.parametrize("case", CODES.values(), ids=CODES)
def test_codes_are_gross(case: tuple[np.ndarray, float]) -> None:
    values, code = case
    low, high = plausible_range(values)
    inside = values[(values >= low) & (values <= high)]
    assert high < code and inside.max() < 100 and len(values) - len(inside) <= 0.1 * len(values)
    schema = Schema.infer(pd.DataFrame({"a": values, "b": np.linspace(-1, 1, len(values))}))
    assert schema.columns[0].kind in ("real", "count")
    scaling = Scaling.fit(schema, schema.encode(pd.DataFrame({"a": values, "b": np.linspace(-1, 1, len(values))})))
    assert scaling.ends[0][1] < 100


RNG = np.random.default_rng(0)
SOUND = {
    "a normal": RNG.normal(size=2000),
    "an outlier": np.append(RNG.normal(size=200), 30.0),
    "Student's t": RNG.standard_t(3, size=2000),
    "incomes": np.exp(RNG.normal(10, 1.5, size=2000)),
    "two clusters": np.append(RNG.normal(size=190), RNG.normal(1000, 1, size=10)),
    "half of them 0": np.append(np.zeros(80), RNG.exponential(size=20) * 1000),
    "constant": np.full(30, 7.0),
    "two numbers": np.repeat([0.0, 1e6], 20),
}


@pytest.mark.parametrize("values", SOUND.values(), ids=SOUND)
def test_tails_and_clusters_are_not_gross(values: np.ndarray) -> None:
    low, high = plausible_range(values)
    assert low <= values.min() and values.max() <= high


def test_the_report_names_a_gross_entry(tmp_path: Path) -> None:
    z, holes = correlated()
    z[7, 2] = 9999.0
    z[holes] = np.nan
    completed = Imputer(method="gaussian", random_state=0).fit(z).impute(z, draws=3)
    page = report(completed, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "has 9999 in row 8 far beyond all other numbers" in page
