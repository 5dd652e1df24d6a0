from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen._errors import AdviceError
from pyro_gen.data import as_tensor, read_table
from pyro_gen.data.problems import Problems

NAN = float("nan")
EXPECTED = torch.tensor([[1.5, 2.0], [NAN, -3e2], [4.0, NAN]], dtype=torch.float64)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


TEXTS = {
    "comma": "a,b\n1.5,2\n,-300\n4,\n",
    "semicolon": "a;b\n1.5;2\n;-300\n4;\n",
    "decimal comma": "a;b\n1,5;2\n;-300\n4;NA\n",
    "tab": "a\tb\n1.5\t2\nNaN\t-3e2\n4\t\n",
    "bar": "a|b\n1.5|2\n|-300\n4|\n",
    "marks": "a,b\n1.5,2\n?,-300\n4,null\n",
    "spaces": "a, b\n 1.5, 2\n, -300\n4 , ?\n",
    "quotes and windows": '"a","b"\r\n"1.5","2"\r\n"","-300"\r\n"4",\r\n',
    "blank lines around": "\n\na,b\n1.5,2\n,-300\n4,\n\n\n",
    "no last newline": "a,b\n1.5,2\n,-300\n4,",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_is_sniffed(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    table = read_table(path)
    assert table.columns == ("a", "b") and table.dropped == ()
    assert table.values.dtype == torch.float64 and same(table.values, EXPECTED)
    assert repr(table) == "Table(3 rows, 2 columns, 33.3% missing)"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_bytes("größe,µ\n1,2\n".encode(encoding))
    assert read_table(path).columns == ("größe", "µ")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    frame = pd.DataFrame({"a": [1.5, NAN, 4.0], "b": pd.array([2, -300, None], dtype="Int64")}, index=[7, 8, 9])
    frame.to_parquet(path)
    table = read_table(path)
    # The index is a column of the file, but no column of the table.
    assert table.columns == ("a", "b") and same(table.values, EXPECTED)
    (tmp_path / "broken.parquet").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"broken\.parquet: ") as error:
        read_table(tmp_path / "broken.parquet")
    assert "\n" not in str(error.value)


def test_one_column_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("flag\nTrue\nFalse\n\nTrue\n")
    with pytest.raises(ValueError, match=r"1 row without any observed value \(row 3 below"):
        read_table(path)
    table = read_table(path, drop_all_missing=True)
    assert table.values.tolist() == [[1.0], [0.0], [1.0]] and table.dropped == (3,)
    assert "1 row dropped" in repr(table)


def test_empty_rows_and_columns_are_taken_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("a,b\n1,\n,\n3,\n")
    table = read_table(path, allow_all_missing=True)
    assert same(table.values, torch.tensor([[1.0, NAN], [NAN, NAN], [3.0, NAN]]).double()) and table.dropped == ()
    table = read_table(path, allow_all_missing=True, drop_all_missing=True)
    assert same(table.values, torch.tensor([[1.0, NAN], [3.0, NAN]]).double()) and table.dropped == (2,)
    path.write_text("a,b\n,\n,\n")
    with pytest.raises(ValueError, match="no value is observed in the whole table"):
        read_table(path, allow_all_missing=True)


ERRORS = {
    "empty": ("", "the file is empty"),
    "blank": (" \n\n", "the file is empty"),
    "only a header": ("a,b\n", "column names but no rows"),
    "text": ("a,b\n1,2\n2,north\n3,south\n", "column 'b' holds text: 'north' in row 2"),
    "thousands": ("a;b\n1,234;2\n", "column 'a': is '1,234' in row 1 1234 or 1.234"),
    "date": ("a,day\n1,2024-05-01\n", "column 'day' holds dates: '2024-05-01' in row 1; make numbers"),
    "time": ("a,time\n1,\n2,12:30\n", "column 'time' holds text: '12:30' in row 2"),
    "empty rows": ("a,b\n1,2\n,\n3,4\n,NA\n", r"2 rows without any observed value \(row 2, 4 below the header\); drop"),
    "empty column": ("a,b\n1,\n2,\n", "column 'b' has no observed value"),
    "nothing": ("a,b\n,\n,\n", "no value is observed in the whole table"),
    "same names": ("a,b,a\n1,2,3\n", "duplicate column name 'a'"),
    "no name": ("a,,b\n0,1,2\n", "column 2 of 3 has no name"),
    "no header": ("1,2\n3,4\n", "first line holds only numbers"),
    "infinite": ("a,b\n1,2\n3,inf\n", "column 'b' holds an infinite value in row 2"),
    "long row": ("a,b\n1,2\n3,4,5\n", "Expected 2 fields in line 3, saw 3"),
    "all long rows": ("a,b\n1,2,3\n3,4,5\n", "more fields than the header, which has 2"),
    "binary": ("a,b\0\n", "neither a text file nor Parquet"),
}


# The errors that carry what to do: about a column, and about rows to leave out. All others are plain.
OF_COLUMNS = ("text", "thousands", "date", "time", "empty column", "infinite")
KINDS: dict[str, type[ValueError]] = {**dict.fromkeys(OF_COLUMNS, Problems), "empty rows": AdviceError}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_clear_line(name: str, tmp_path: Path) -> None:
    text, message = ERRORS[name]
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert error.value.__cause__ is None and type(error.value) is KINDS.get(name, ValueError)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.csv: no such file"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="is a folder"):
        read_table(tmp_path)


def test_parquet_errors(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    frames = [
        (pd.DataFrame({"a": [1.0], "city": ["Kyoto"]}), "column 'city' holds text: 'Kyoto' in row 1"),
        (pd.DataFrame({"day": pd.to_datetime(["2024-05-01"])}), "column 'day' holds Timestamp: '2024-05-01"),
        (pd.DataFrame({"a": pd.Series([], dtype=float)}), "no rows"),
    ]
    for frame, message in frames:
        frame.to_parquet(path)
        with pytest.raises(ValueError, match=message):
            read_table(path)


def test_as_tensor_takes_what_people_have() -> None:
    masked = np.ma.MaskedArray([[1, 2], [3, 4]], mask=[[False, True], [False, False]])
    readonly = np.arange(4.0).reshape(2, 2)
    readonly.flags.writeable = False
    cases = [
        ([[1, None], [3, 4]], [[1, NAN], [3, 4]]),
        ([["1.5", 2], [3, "4"]], [[1.5, 2], [3, 4]]),
        (masked, [[1, NAN], [3, 4]]),
        (np.array([[1, 2], [3, 4]], dtype=np.uint8), [[1, 2], [3, 4]]),
        (np.array([[True], [False]]), [[1], [0]]),
        (np.arange(4.0)[::-1], [3, 2, 1, 0]),
        (np.arange(2, dtype=np.longdouble), [0, 1]),
        (readonly, [[0, 1], [2, 3]]),
        (np.array([[[1, None]], [[2, 3]]], dtype=object), [[[1, NAN]], [[2, 3]]]),
        (pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [True, False]}), [[1, 1], [NAN, 0]]),
        (pd.DataFrame({"a": pd.Categorical([1, 2])}), [[1], [2]]),
        (pd.DataFrame({"a": pd.arrays.SparseArray([0.0, NAN])}), [[0], [NAN]]),
        (pd.Series([1, 2], name="a"), [1, 2]),
        (torch.tensor([[1, 2]]), [[1, 2]]),
        ([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], [[1, 2], [3, 4]]),
    ]
    for given, expected in cases:
        tensor = as_tensor(given)
        assert tensor.dtype == torch.get_default_dtype()
        assert same(tensor, torch.tensor(expected, dtype=tensor.dtype)), given


def test_as_tensor_keeps_floating_tensors() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.ones(2, 2, dtype=dtype)
        assert as_tensor(x) is x


def test_as_tensor_does_not_alias_arrays() -> None:
    array = np.zeros((2, 2), dtype=np.float32)
    tensor = as_tensor(array)
    array += 1
    assert tensor.sum() == 0


VALUE_ERRORS = [
    ([[1, "a"], [2, "b"]], "x: column '1' holds text: 'a' in row 1"),
    (pd.DataFrame({"town": ["Bern", None]}), "x: column 'town' holds text: 'Bern' in row 1"),
    (pd.DataFrame({"day": pd.to_datetime(["2024-05-01"])}), "x: column 'day' holds Timestamp"),
    (pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), "x: duplicate column name 'a'"),
    ([[1, 2], [3]], "x: rows of different lengths, .*: pad shorter ones with NaN"),
    ([], r"x: .*empty shape \(0,\)"),
    (np.empty((0, 3)), r"empty shape \(0, 3\)"),
    (pd.DataFrame(index=[1, 2]), r"empty shape \(2, 0\)"),
    (torch.empty(3, 0), r"empty shape \(3, 0\)"),
    (3.0, "got one number"),
    ([[1.0, float("inf")]], r"x: 1 infinite values, the first at index \[0, 1\]"),
    (torch.tensor([1.0, -float("inf")]), "infinite"),
    ([[1e300]], "infinite"),  # in float32
    (pd.DataFrame({"a": [1.0, float("inf")]}), "column 'a' holds an infinite value in row 2"),
]


@pytest.mark.parametrize(("given", "message"), VALUE_ERRORS, ids=[message for _, message in VALUE_ERRORS])
def test_as_tensor_errors(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_tensor(given)


@pytest.mark.parametrize(
    "given", [torch.ones(2, dtype=torch.complex64), np.ones(2) * 1j, pd.DataFrame({"a": [1j]}), "abc", None, {"a": 1}]
)
def test_as_tensor_of_what_is_no_data(given: object) -> None:
    with pytest.raises(TypeError, match="training data: "):
        as_tensor(given, "training data")
