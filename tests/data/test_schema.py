import copy
import json
import math
import pickle
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from pyro_gen.data import Column, Scaling, Schema

NAN = float("nan")


def same_tensor(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def same_bits(a: pd.Series, b: pd.Series) -> bool:
    """Equal cell by cell as the dtype holds them: 0.0 is not -0.0, 2**53 is not 2**53 + 1, 1 is not 1.0."""
    if a.dtype != b.dtype:
        return False
    if isinstance(a.dtype, np.dtype) and a.dtype.kind != "O":
        return a.to_numpy().tobytes() == b.to_numpy().tobytes()
    left, right = a.astype(object).tolist(), b.astype(object).tolist()
    return [(type(v), repr(v)) for v in left] == [(type(v), repr(v)) for v in right]


def holes(series: pd.Series) -> np.ndarray:
    return series.isna().to_numpy(dtype=bool, copy=True)


# Inference

RNG = np.random.default_rng(0)
INFERRED = {
    "floats": ([1.5, None, -2.0], Column("a", "real")),
    "integers": ([3, -4, 10, 7], Column("a", "real", integer=True)),
    "whole floats": ([3.0, NAN, 10.0, 7.0], Column("a", "real", integer=True, lower=0.0)),
    "large floats": ([1e300, 2e200, 3.0], Column("a", "real", lower=0.0)),
    "zero and one": ([0, 1, 1], Column("a", "binary", (0, 1))),
    "two floats": ([1.0, 2.0, NAN, 2.0, 2.0, 1.0], Column("a", "binary", (1.0, 2.0))),
    "two of few": ([35, 62, 62], Column("a", "real", integer=True, lower=0.0)),
    "two halves": ([0.5, 1.5] * 5, Column("a", "real", lower=0.0, decimals=1)),
    "constant": ([2.5, 2.5, None], Column("a", "real", lower=2.5, upper=2.5)),
    "counts": ([0, 0, 0, 1, 0, 2, 5, 1, 0, 1], Column("a", "count")),
    "symmetric counts": ([0, 1, 1, 2, 2, 2, 3, 3, 4], Column("a", "real", integer=True, lower=0.0)),
    "dollars": ([0, 0, 0, 0, 20000, 30000, 80000], Column("a", "real", integer=True, lower=0.0)),
    "incomes": (np.exp(RNG.normal(10, 1, 200)), Column("a", "positive")),
    "whole incomes": (np.exp(RNG.normal(10, 1, 200)).round(), Column("a", "positive", integer=True)),
    "few incomes": (np.exp([1.0, 2.0, 3.0, 7.0]), Column("a", "real", lower=0.0)),
    "heights": (RNG.normal(170, 10, 200), Column("a", "real", lower=0.0)),
    "booleans": ([True, True, True], Column("a", "binary", (False, True))),
    "booleans with a hole": ([True, None, False], Column("a", "binary", (False, True))),
    "nullable booleans": (pd.array([True, None], dtype="boolean"), Column("a", "binary", (False, True))),
    "two texts": (["yes", None, "no"], Column("a", "binary", ("no", "yes"))),
    "one text": (["yes", None, "yes"], Column("a", "binary", ("yes",))),
    "texts": (["b", "c", NAN, "a", "a"], Column("a", "nominal", ("a", "b", "c"))),
    "string dtype": (pd.array(["b", "c", None, "a"], dtype="string"), Column("a", "nominal", ("a", "b", "c"))),
    "category": (pd.Categorical(["b", "a", "c"], categories=["c", "b", "a"]), Column("a", "nominal", ("c", "b", "a"))),
    "category of two": (pd.Categorical(["b", "a"], categories=["z", "b", "a"]), Column("a", "binary", ("b", "a"))),
    "ordered": (
        pd.Categorical(["lo", "hi", None], categories=["lo", "mid", "hi"], ordered=True),
        Column("a", "ordinal", ("lo", "hi")),
    ),
    "category of numbers": (pd.Categorical([3, 1, 2]), Column("a", "nominal", (1, 2, 3))),
    "intervals": (pd.cut([1.0, 5.0, 9.0], [0, 4, 8, 10]), None),
    "Int64": (pd.array([2**60, None, 3, 7], dtype="Int64"), Column("a", "real", integer=True, lower=0.0)),
    "Float64": (pd.array([1.5, None, 3], dtype="Float64"), Column("a", "real", lower=0.0)),
    "pyarrow": (pd.array([5, None, 3, 9], dtype="int64[pyarrow]"), Column("a", "real", integer=True, lower=0.0)),
    "pyarrow text": (pd.array(["x", None, "y"], dtype=pd.ArrowDtype(pa.string())), Column("a", "binary", ("x", "y"))),
    "objects of numbers": (np.array([1, None, 2.5, pd.NA], dtype=object), Column("a", "real", lower=0.0)),
    "decimals": ([Decimal("1.5"), None, Fraction(1, 4)], Column("a", "real", lower=0.0)),
}


@pytest.mark.parametrize("case", INFERRED.values(), ids=INFERRED)
def test_kinds_are_inferred(case: tuple) -> None:
    values, expected = case
    table = pd.DataFrame({"a": values})
    schema = Schema.infer(table)
    if expected is not None:
        assert schema.columns == (expected,)
        assert [type(level) for level in schema.columns[0].levels] == [type(level) for level in expected.levels]
    else:
        assert schema.columns[0].kind == "ordinal"
    assert schema.notes["a"] in schema.describe() and schema.describe().startswith("a: ")
    # The order of the rows does not matter.
    turned = Schema.infer(table.iloc[::-1])
    assert turned == schema and turned.notes == schema.notes


def test_descriptions() -> None:
    table = pd.DataFrame(
        {
            "visits": [0, 0, 0, 1, 0, 2, 5, 1, 0, 1],
            "party": range(1, 11),
            "sex": ["f", "m"] * 5,
            "grade": pd.Categorical(["a", "b"] * 5, categories=["b", "a", "c"], ordered=True),
            "share": np.linspace(0, 1, 10),
        }
    )
    schema = Schema.infer(table, {"share": Column("share", "bounded", lower=0, upper=1)})
    assert schema.describe().splitlines() == [
        "visits: count (whole numbers from 0 to 5, 50% of them 0, skewness 1.8)",
        "party: real, whole numbers, at least 0 (10 different whole numbers from 1 to 10; "
        "if they are levels, say 'ordinal' or 'nominal')",
        "sex: binary, f / m (text)",
        "grade: ordinal, b < a (an ordered category, 1 of its levels never seen)",
        "share: bounded, at least 0, at most 1 (as you said)",
    ]
    many = Schema((Column("a", "nominal", tuple(range(13))), Column("b", "nominal", tuple(range(12)))))
    assert many.describe().splitlines()[0].endswith("/ 11 / ...") and many.describe().endswith("/ 11")


def test_identifiers() -> None:
    names = [f"name {i}" for i in range(100)]
    for texts in (names, names[:5], [*names[:60], *names[:40]]):
        with pytest.raises(ValueError, match=r"column 'who': \d+ different texts .* leave the column out, or give it"):
            Schema.infer(pd.DataFrame({"who": texts}))
    schema = Schema.infer(pd.DataFrame({"who": names}), {"who": "nominal"})
    assert schema.columns[0].levels == tuple(sorted(names))
    # A category is meant as one, levels of which each are met twice are levels, and so are few.
    for texts in (pd.Categorical(names), names[:50] * 2, names[:4]):
        assert Schema.infer(pd.DataFrame({"who": texts})).columns[0].kind == "nominal"


def test_overrides() -> None:
    table = pd.DataFrame(
        {
            "n": [3, 1, 2, 2],
            "x": [0.5, 0.25, NAN, 1.0],
            "text": ["b", "a", None, "c"],
            7: [1.0, 2.0, 3.0, NAN],
            "mixed": ["a", 3, 1, None],
            "level": pd.Categorical(["b", "a", "c", "a"], categories=["c", "a", "b"], ordered=True),
        }
    )
    text = Column("text", "ordinal", ("c", "b", "a", "z"))
    given = {"n": "ordinal", "x": "positive", "text": text, 7: "count", "mixed": "nominal", "level": "nominal"}
    schema = Schema.infer(table, given)
    assert schema.columns == (
        Column("n", "ordinal", (1, 2, 3)),
        Column("x", "positive"),
        text,
        Column("7", "count"),
        Column("mixed", "nominal", (1, 3, "a")),
        Column("level", "nominal", ("c", "a", "b")),
    )
    assert schema.encode(table)[:, 4].tolist()[:3] == [2.0, 1.0, 0.0]
    assert Schema.infer(table[["n"]], {"n": "real"}).columns[0] == Column("n", "real", integer=True, lower=0.0)
    assert Schema.infer(table[["n"]], {"n": "positive"}).columns[0] == Column("n", "positive", integer=True)
    wrong = {
        "no such column, but 'n', 'x'": {"y": "real"},
        "column 'x': 'bounded' by what": {"x": "bounded"},
        "column 'text': which order have 'a', 'b', 'c'": {"text": "ordinal"},
        "column 'text' is real and holds text: 'b' in row 1": {"text": "real"},
        "column 'mixed' is count and holds text: 'a' in row 1": {"mixed": "count"},
        "column 'level' is positive and holds categories": {"level": "positive"},
        "column 'n': a binary column has 2 levels": {"n": "binary"},
        "column 'x' is count, and 0.5 in row 1 is not": {"x": "count"},
        "column 'x': kind 'float' is not one of": {"x": "float"},
        "a column called 'y'": {"x": Column("y", "real")},
        "column 'x' is bounded, and 1 in row 4 is not: .* from 0 to 0.5": {"x": Column("x", "bounded", (), 0, 0.5)},
        "column 'n': 3 in row 1 is none of its levels, 1, 2": {"n": Column("n", "binary", (1, 2))},
    }
    for message, override in wrong.items():
        with pytest.raises(ValueError, match=message):
            Schema.infer(table, {**given, **override} if "mixed" not in message else override)
    with pytest.raises(ValueError, match="column 'mixed' holds text and numbers: 'a' in row 1"):
        Schema.infer(table)


WRONG_TABLES = {
    "empty": ({"a": [1, 2], "b": [None, NAN], "c": [pd.NA, None]}, ValueError, "no observed value in column 'b', 'c'"),
    "no rows": ({"a": []}, ValueError, "no observed value in column 'a'"),
    "empty category": ({"a": pd.Categorical([None], categories=["x"])}, ValueError, "no observed value in column 'a'"),
    "spans": ({"a": pd.to_timedelta(["1h", None])}, ValueError, "column 'a' holds dates or times"),
    "periods": ({"a": pd.period_range("2020", periods=2, freq="D")}, ValueError, "column 'a' holds dates or times"),
    "objects": (
        {"a": np.array([None, pd.Timestamp(0).date()], dtype=object)},
        ValueError,
        "column 'a' holds dates or times",
    ),
    "infinite": ({"a": [1.0, NAN, -math.inf]}, ValueError, "column 'a' holds an infinite value in row 3"),
    "infinite object": ({"a": np.array([1.0, math.inf], dtype=object)}, ValueError, "column 'a' .* in row 2"),
    "infinite nullable": (
        {"a": pd.array([1.0, None, math.inf], dtype="Float64")},
        ValueError,
        "column 'a' holds an infinite value in row 3",
    ),
    "complex": ({"a": [1j, 2]}, TypeError, "column 'a' holds complex numbers"),
    "lists": ({"a": [None, [1, 2]]}, TypeError, "row 2 holds a list"),
    "bytes": ({"a": [b"x", None]}, TypeError, "row 1 holds a bytes"),
    "sparse": ({"a": pd.arrays.SparseArray([1.0, NAN])}, TypeError, "column 'a' is sparse; make it dense"),
}


@pytest.mark.parametrize("case", WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_wrong_tables(case: tuple) -> None:
    columns, error, message = case
    with pytest.raises(error, match=message) as caught:
        Schema.infer(pd.DataFrame(columns))
    assert "\n" not in str(caught.value)


def test_tables_that_are_none() -> None:
    for table in ([[1.0, 2.0]], torch.ones(2, 2), pd.Series([1.0])):
        with pytest.raises(TypeError, match="a pandas DataFrame or a two-dimensional array, got"):
            Schema.infer(table)
    with pytest.raises(TypeError, match=r"masked array; fill it with NaN"):
        Schema.infer(np.ma.masked_array([[1.0]], [[True]]))
    with pytest.raises(ValueError, match=r"rows and columns, got an array of shape \(3,\)"):
        Schema.infer(np.ones(3))
    with pytest.raises(ValueError, match="duplicate column names: 'a', '1'"):
        Schema.infer(pd.DataFrame(np.ones((2, 5)), columns=["a", "b", "a", 1, "1"]))
    with pytest.raises(ValueError, match="column 'x1' holds an infinite value in row 1"):
        Schema.infer(np.array([[0.0, math.inf]]))


# Encoding


def test_columns_are_matched_by_name() -> None:
    table = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"], "c": [1.0, NAN]}, index=["p", "q"])
    schema = Schema.infer(table)
    encoded = schema.encode(table)
    assert same_tensor(encoded, torch.tensor([[1.5, 0, 1], [2.5, 1, NAN]], dtype=torch.float64))
    turned = table[["c", "b", "a"]]
    assert same_tensor(schema.encode(turned), encoded)
    filled = schema.decode(torch.full((2, 3), 1.0), turned)
    assert list(filled.columns) == ["c", "b", "a"] and list(filled.index) == ["p", "q"]
    assert filled.loc["q", "c"] == 1 and filled.loc["p", "b"] == "x" and filled.loc["q", "a"] == 2.5
    wrong = {
        "lacks 'b'; expected the columns 'a', 'b', 'c'": table[["a", "c"]],
        "has also 'd'; expected": table.assign(d=1),
        "lacks 'a', 'c' and has also 'd', 'e'": pd.DataFrame({"d": [1], "b": ["x"], "e": [2]}),
    }
    for message, other in wrong.items():
        for method in (schema.encode, lambda t: schema.decode(torch.zeros(len(t), 3), t)):
            with pytest.raises(ValueError, match=message):
                method(other)
    with pytest.raises(ValueError, match="the table has 2 columns, expected 3: 'a', 'b', 'c'"):
        schema.encode(np.ones((4, 2)))
    # Of an array there is only the position.
    assert same_tensor(schema.encode(table.to_numpy(dtype=object)), encoded)


def test_names_that_are_no_text() -> None:
    table = pd.DataFrame([[1.5, NAN], [2.5, 3.5], [2.5, -1.0]])
    schema = Schema.infer(table)
    assert schema.names == ("0", "1")
    filled = schema.decode(torch.zeros(3, 2), table)
    assert filled.columns.equals(table.columns) and filled.iloc[0, 1] == 0


def test_what_new_data_may_hold() -> None:
    train = pd.DataFrame({"colour": ["red", "green", "blue", "red"], "n": [0, 1, 1, 0], "y": [0.5, 1.5, 2.5, 7.0]})
    schema = Schema.infer(train, {"y": "positive"})

    def new(**columns: object) -> pd.DataFrame:
        return pd.DataFrame({"colour": ["red"] * 3, "n": [0] * 3, "y": [1.0] * 3} | columns)

    wrong = {
        "column 'colour': 'violet' in row 3 is none of its levels, 'blue', 'green', 'red'; learn": {
            "colour": ["red", None, "violet"]
        },
        "column 'n': 2 in row 2 is none of its levels, 0, 1; .* or give the column another kind": {"n": [0, 2, 1]},
        "column 'n': '1' in row 1 is none": {"n": ["1", "0", "1"]},
        "column 'y' is positive, and -1.5 in row 2 is not: expected numbers above 0": {"y": [NAN, -1.5, 0.0]},
        "column 'y' holds an infinite value in row 1": {"y": [math.inf, 1.0, 1.0]},
        "column 'y' is positive and holds text: 'a lot' in row 2": {"y": [1.0, "a lot", None]},
        "column 'y' is positive and holds booleans": {"y": [True, False, True]},
        "column 'y' is positive and holds dates": {"y": pd.to_datetime(["2020-01-01"] * 3)},
    }
    for message, columns in wrong.items():
        with pytest.raises(ValueError, match=message):
            schema.encode(new(**columns))
    # Levels need not all occur; a category may have others that do not; booleans are 0 and 1.
    dtype = pd.CategoricalDtype(["violet", "red", "green"])
    table = new(colour=pd.Series(["green", None, "red"], dtype=dtype), n=[True, False, True])
    assert schema.encode(table)[:, :2].nan_to_num(-1).tolist() == [[1, 1], [-1, 0], [2, 1]]
    # Nothing observed, in whatever dtype pandas gives to nothing.
    for nothing in ([None] * 3, [NAN] * 3, pd.array([None] * 3, dtype="Int64"), pd.Categorical([None] * 3)):
        table = new(colour=nothing, n=nothing, y=nothing)
        assert schema.encode(table).isnan().all()
        filled = schema.decode(torch.tensor([[0.0, 1.0, 2.5]] * 3), table)
        assert filled["colour"].tolist() == ["blue"] * 3
        assert filled["n"].tolist() == [1] * 3
        assert filled["y"].tolist() == [2.0 if getattr(nothing, "dtype", None) == "Int64" else 2.5] * 3
    assert schema.encode(train[:0]).shape == (0, 3)
    assert schema.decode(torch.zeros(0, 3), train[:0]).equals(train[:0])


# Decoding

TYPES = {
    "float64": pd.array([-0.0, 0.0, 0.1, NAN, 5e-324, 1.7e308], dtype=np.float64),
    "float32": np.array([-0.0, 0.1, 3e38, NAN, 1e-45, 2.5], dtype=np.float32),
    "float16": np.array([-0.0, 0.1, 60000, NAN, 1, 2.5], dtype=np.float16),
    "Float64": pd.array([-0.0, 0.1, None, 2.5, None, 1e-300], dtype="Float64"),
    "Float32": pd.array([-0.0, 0.1, None, 2.5, None, 1e-30], dtype="Float32"),
    "Int64": pd.array([2**53 + 1, -(2**62) - 1, None, 3, None, 2**63 - 1], dtype="Int64"),
    "Int8": pd.array([127, -128, None, 3, None, 5], dtype="Int8"),
    "UInt8": pd.array([255, 0, None, 3, None, 5], dtype="UInt8"),
    "UInt64": pd.array([2**64 - 1, 2**53 + 1, None, 3, None, 5], dtype="UInt64"),
    "int64": np.array([2**53 + 1, -(2**62) - 1, 3, 4, 5, 2**63 - 1]),
    "bool": np.array([True, False, True, True, False, False]),
    "boolean": pd.array([True, False, None, True, None, False], dtype="boolean"),
    "string": pd.array(["b", "a", None, "c", None, ""], dtype="string"),
    "text": np.array(["b", "a", None, "c", NAN, ""], dtype=object),
    "texts": ["b", "a", None, "c", NAN, ""],
    "objects": np.array([1, 2.5, None, pd.NA, True, 2**70], dtype=object),
    "object booleans": np.array([True, None, False, NAN, pd.NA, True], dtype=object),
    "category": pd.Categorical(["b", "a", None, "c", "a", "b"], categories=["z", "c", "b", "a"]),
    "ordered": pd.Categorical(["b", "a", None, "c", "a", "b"], categories=["c", "b", "a"], ordered=True),
    "numbers": pd.Categorical([3, 1, None, 2, 2, 3], categories=[3, 1, 2]),
    "truths": pd.Categorical([True, None, False, True, True, None]),
    "intervals": pd.cut([1.0, 5.0, NAN, 9.0, 2.0, 3.0], [0, 4, 8, 10]),
    "int64[pyarrow]": pd.array([2**53 + 1, None, 3, 4, None, 2**63 - 1], dtype="int64[pyarrow]"),
    "float[pyarrow]": pd.array([-0.0, None, 0.1, 4, None, 1e30], dtype="float[pyarrow]"),
    "bool[pyarrow]": pd.array([True, None, False, True, None, False], dtype="bool[pyarrow]"),
    "string[pyarrow]": pd.array(["b", "a", None, "c", None, ""], dtype=pd.ArrowDtype(pa.string())),
}


@pytest.mark.parametrize("name", TYPES)
def test_dtypes_come_back(name: str) -> None:
    index = pd.Index([3, 3, 1, 2, 9, 9], name="id")
    table = pd.DataFrame({"a": pd.Series(TYPES[name])})
    if name in ("text", "objects", "object booleans"):
        table["a"] = pd.Series(TYPES[name], dtype=object)
    table.index = index
    before = table.copy(deep=True)
    schema = Schema.infer(table)
    encoded = schema.encode(table)
    assert encoded.shape == (6, 1) and encoded.dtype == torch.float64
    missing = holes(table["a"])
    assert encoded.isnan()[:, 0].tolist() == missing.tolist()
    # Far beyond what any dtype holds, on both sides, and in between; the observed entries are not even looked at.
    for value in (-1e300, -1.0, 0.4, 1.0, 1e300):
        values = torch.full((6, 1), NAN, dtype=torch.float64)
        values[torch.from_numpy(missing)] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            filled = schema.decode(values, table)
        assert filled["a"].dtype == table["a"].dtype and filled.index.equals(index) and filled.index.name == "id"
        assert same_bits(filled["a"][~missing], table["a"][~missing])
        assert not holes(filled["a"]).any()
        again = schema.encode(filled)[:, 0]
        assert again.isfinite().all()
        column = schema.columns[0]
        expected = round(value) if column.discrete or column.integer else value
        if column.discrete:
            expected = min(max(expected, 0), len(column.levels) - 1)
        expected = max(expected, column.limits[0])  # nothing below 0 where nothing negative was observed
        if abs(value) <= 1 and missing.any() and not (name.startswith("UInt") and value < 0):
            assert again[torch.from_numpy(missing)].tolist() == pytest.approx([expected] * missing.sum(), abs=1e-3)
    pd.testing.assert_frame_equal(table, before)


def test_same_bits_sees_what_equality_does_not() -> None:
    # The twin of the test above: what it must not let pass.
    assert not same_bits(pd.Series([0.0]), pd.Series([-0.0]))
    assert not same_bits(pd.Series(pd.array([2**53], dtype="Int64")), pd.Series(pd.array([2**53 + 1], dtype="Int64")))
    assert not same_bits(pd.Series([1], dtype=object), pd.Series([1.0], dtype=object))
    through_floats = pd.Series([2**53 + 1]).astype(float).astype("int64")
    assert not same_bits(pd.Series([2**53 + 1]), through_floats)


def test_not_a_number_in_a_nullable_column_is_a_hole() -> None:
    ratio = pd.Series([0.0, 1.0, 3.0], dtype="Float64") / pd.Series([0.0, 2.0, None], dtype="Float64")
    table = ratio.to_frame("a")
    schema = Schema.infer(table, {"a": "real"})
    assert schema.encode(table).isnan()[:, 0].tolist() == [True, False, True]
    filled = schema.decode(torch.full((3, 1), 0.25), table)["a"]
    assert filled.tolist() == [0.25, 0.5, 0.25] and filled.dtype == "Float64"


def test_levels_come_back_by_value() -> None:
    dtype = pd.CategoricalDtype(["c", "b", "a", "never"], ordered=True)
    train = pd.DataFrame({"a": pd.Series(["a", "b", "c", None], dtype=dtype)})
    schema = Schema.infer(train)
    codes = torch.tensor([[0.0], [1.0], [2.0], [1.0]])
    assert schema.decode(codes, train)["a"].tolist() == ["a", "b", "c", "b"]
    # Other codes for the same levels in the new table; a dtype that lacks one gets it, holes or no holes.
    for new, expected in (
        (pd.Series(["b", None, None, None], dtype=pd.CategoricalDtype(["x", "a", "b", "c"])), ["x", "a", "b", "c"]),
        (pd.Series(["b", None, None, None], dtype=pd.CategoricalDtype(["b", "x"])), ["c", "b", "a", "x"]),
        (pd.Series(["b", "b", "b", "b"], dtype=pd.CategoricalDtype(["b"])), ["c", "b", "a"]),
    ):
        filled = schema.decode(codes, new.to_frame("a"))["a"]
        assert filled.cat.categories.tolist() == expected and not filled.cat.ordered
        assert filled.tolist() == (["b", "b", "a", "b"] if new.isna().any() else ["b"] * 4)
    filled = schema.decode(codes, pd.DataFrame({"a": ["b", None, None, None]}, dtype=object))
    assert filled["a"].tolist() == ["b", "b", "a", "b"] and filled["a"].dtype == object


def test_limits_and_whole_numbers() -> None:
    table = pd.DataFrame({name: [1.0, NAN, NAN, NAN, NAN] for name in "abcdefg"})
    schema = Schema(
        (
            Column("a", "real", lower=-0.5, upper=2.5, integer=True),
            Column("b", "count", upper=3.5),
            Column("c", "positive"),
            Column("d", "positive", integer=True),
            Column("e", "bounded", lower=0.25, upper=2),
            Column("f", "real", lower=-1, upper=1.5),
            Column("g", "real"),
        )
    )
    values = torch.tensor([NAN, -7.0, 0.4, 1.7, 70.0], dtype=torch.float64)[:, None].expand(5, 7)
    filled = schema.decode(values, table)
    tiny = np.finfo(np.float64).tiny
    assert filled["a"].tolist() == [1, 0, 0, 2, 2]
    assert filled["b"].tolist() == [1, 0, 0, 2, 3]
    assert filled["c"].tolist() == [1, tiny, 0.4, 1.7, 70]
    assert filled["d"].tolist() == [1, 1, 1, 2, 70]
    assert filled["e"].tolist() == [1, 0.25, 0.4, 1.7, 2]
    assert filled["f"].tolist() == [1, -1, 0.4, 1.5, 1.5]
    assert filled["g"].tolist() == [1, -7, 0.4, 1.7, 70]
    assert not np.signbit(filled[["a", "b"]].to_numpy()).any()  # rounding -0.4 gives -0.0
    single = schema.decode(values, table.astype(np.float32))["c"]
    assert single.dtype == np.float32 and single[1] == np.finfo(np.float32).tiny > 0
    objects = schema.decode(values, table.astype(object))
    assert [type(v) for v in objects["d"]] == [float, int, int, int, int]
    assert [type(v) for v in objects["g"]] == [float] * 5


def test_wrong_values() -> None:
    table = pd.DataFrame({"a": [1.0, NAN], "b": [2.0, 3.5]})
    schema = Schema.infer(table)
    with pytest.raises(ValueError, match=r"values has shape \(2, 1\), expected \(2, 2\)"):
        schema.decode(torch.zeros(2, 1), table)
    with pytest.raises(ValueError, match=r"values has NaN for column 'a' in row 2, where the table has a hole"):
        schema.decode(torch.tensor([[1.0, 1.0], [NAN, NAN]]), table)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_arrays_of_numbers(dtype: type) -> None:
    array = np.array([[-0.0, NAN, 1], [0.1, 7.5, 0], [NAN, 2.5, 1]], dtype=dtype)
    schema = Schema.infer(array)
    assert schema.names == ("x0", "x1", "x2")
    assert schema.columns[2] == Column("x2", "binary", (0.0, 1.0))
    filled = schema.decode(torch.full((3, 3), 0.25), array)
    assert isinstance(filled, np.ndarray) and filled.dtype == dtype and filled[0, 1] == filled[2, 0] == 0.25
    seen = ~np.isnan(array)
    assert filled[seen].tobytes() == array[seen].tobytes()
    assert np.isnan(array).sum() == 2  # the user's own is not changed
    whole = np.arange(6).reshape(3, 2)
    copied = Schema.infer(whole).decode(torch.zeros(3, 2), whole)
    assert copied.dtype == whole.dtype and (copied == whole).all() and copied is not whole


def test_arrays_of_objects() -> None:
    array = np.array([["x", 1.5, True], [None, 2, None], ["y", pd.NA, False]], dtype=object)
    schema = Schema.infer(array)
    assert [c.kind for c in schema.columns] == ["binary", "real", "binary"]
    filled = schema.decode(torch.ones(3, 3), array)
    assert filled.dtype == object and filled.tolist() == [["x", 1.5, True], ["y", 2, True], ["y", 1.0, False]]
    texts = np.array([["x", "p"], ["y", "q"], ["x", "q"]])
    schema = Schema.infer(texts)
    assert schema.encode(texts).tolist() == [[0, 0], [1, 1], [0, 1]]
    assert schema.decode(torch.zeros(3, 2), texts).dtype == texts.dtype
    # Rows of which nothing was observed come as floats, whatever the levels.
    filled = schema.decode(torch.ones(2, 2), np.full((2, 2), NAN))
    assert filled.dtype == object and filled.tolist() == [["y", "q"]] * 2


def random_table(seed: int) -> pd.DataFrame:
    """A table of any dtypes and any holes, of some rows."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 40))
    make = [
        lambda: pd.Series(rng.standard_normal(rows) * 10.0 ** rng.integers(-3, 4)),
        lambda: pd.Series(rng.standard_normal(rows).astype(np.float32)),
        lambda: pd.Series(rng.integers(-(2**62), 2**62, rows), dtype="Int64"),
        lambda: pd.Series(rng.integers(0, 5, rows), dtype="UInt8"),
        lambda: pd.Series(rng.integers(0, 2, rows).astype(float)),
        lambda: pd.Series(rng.integers(0, 2, rows).astype(bool), dtype=rng.choice(["boolean", "object"])),
        lambda: pd.Series(rng.choice(["a", "b", "c"], rows), dtype=rng.choice(["object", "string", "category"])),
        lambda: pd.Series(pd.Categorical(rng.choice([3, 1, 2], rows), categories=[3, 9, 1, 2], ordered=True)),
        lambda: pd.Series(rng.poisson(1.0, rows).astype(float)),
        lambda: pd.Series(np.exp(2 * rng.standard_normal(rows))),
    ]
    columns = {}
    for i in range(int(rng.integers(1, 8))):
        series = make[rng.integers(len(make))]()
        hole = rng.random(rows) < rng.random()
        hole[rng.integers(rows)] = False
        columns[f"c{i}"] = series.mask(pd.Series(hole))
    names = rng.permutation(list(columns))
    return pd.DataFrame(columns)[names].set_axis(rng.permutation(rows) * 2, axis=0)


def test_round_trips_of_many_tables() -> None:
    for seed in range(60):
        table = random_table(seed)
        rng = np.random.default_rng(seed)
        schema = Schema.infer(table)
        encoded = schema.encode(table)
        values = torch.where(encoded.isnan(), torch.from_numpy(rng.standard_normal(encoded.shape) * 3), NAN)
        order = rng.permutation(table.columns)
        filled = schema.decode(values, table[order])
        assert list(filled.columns) == list(order) and filled.index.equals(table.index)
        assert filled.dtypes.equals(table[order].dtypes), seed
        for name in table:
            missing = holes(table[name])
            assert same_bits(filled[name][~missing], table[name][~missing]), seed
            assert not holes(filled[name]).any(), seed
        # What was imputed can be read back, and is complete.
        again = schema.encode(filled)
        assert same_tensor(torch.where(encoded.isnan(), NAN, again), encoded) and again.isfinite().all()
        scaling = Scaling.fit(schema, encoded)
        working = scaling.forward(encoded)
        assert torch.equal(working.isnan(), encoded.isnan()) and not working.isinf().any()
        torch.testing.assert_close(scaling.inverse(working), encoded, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_schemas_are_plain_data() -> None:
    table = random_table(3).assign(share=0.5, text="x")
    schema = Schema.infer(table, {"share": Column("share", "bounded", lower=0, upper=1)})
    through = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert through == schema and through.describe() == schema.describe()
    for other in (copy.copy(schema), copy.deepcopy(schema), pickle.loads(pickle.dumps(schema))):
        assert other == schema and other.describe() == schema.describe() and hash(other) == hash(schema)
    intervals = Schema.infer(pd.DataFrame({"a": pd.cut([1.0, 5.0, 9.0], [0, 4, 8, 10])}))
    assert pickle.loads(pickle.dumps(intervals)) == intervals
    with pytest.raises(TypeError, match=r"column 'a': the level \(0, 4\] of type Interval has no place in JSON"):
        intervals.to_dict()


def test_random_state_is_left_alone(untouched_rng: None) -> None:
    table = random_table(0)
    schema = Schema.infer(table)
    encoded = schema.encode(table)
    scaling = Scaling.fit(schema, encoded)
    schema.decode(scaling.inverse(scaling.forward(encoded).nan_to_num(0)), table)
