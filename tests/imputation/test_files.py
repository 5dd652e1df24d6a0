"""Tables of numbers and words in files: what pandas reads comes in, with holes as holes and types as they are."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyro_gen.imputation.files import read_mixed_table, with_observed_columns, write_table


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, check_dtype: bool = True) -> None:
    """Equal frames; None and NaN among words are the same hole, which pandas before 3 tells apart with a warning."""

    def with_none(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{str(n): c.where(c.notna(), None) for n, c in frame.items() if c.dtype == object})

    pd.testing.assert_frame_equal(with_none(found), with_none(expected), check_dtype=check_dtype)


@pytest.fixture
def people() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "naïve name": ["Åsa", "Zoë", None, "Bob; Jr"],
            "height": [1.83, np.nan, 1.75, 1.6],
            "age": [31.0, 44.0, np.nan, 7.0],
            "smokes": pd.array([True, None, False, True], dtype="boolean"),
        }
    )


@pytest.mark.parametrize("encoding", [None, "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-32", "utf-16-le"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_and_separators(tmp_path: Path, people: pd.DataFrame, encoding: str | None, separator: str) -> None:
    path = tmp_path / "people.txt"
    people.to_csv(path, sep=separator, encoding=encoding or "latin-1", index=False)
    guessed = encoding in (None, "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252")  # without being told
    for told in [None, encoding] if guessed else [encoding]:
        found = read_mixed_table(path, encoding=told)
        assert_same(found, people, check_dtype=False)
        assert found["smokes"].dtype == "boolean"
        assert_same(read_mixed_table(path, encoding=told, separator=separator), found)


def test_separators_that_cannot_be_guessed(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    for text, separator in (("a  b word\n1   2 x\nNA 4 y\n", r"\s+"), ("a::b::word\n1::2::x\n::4::y\n", "::")):
        path.write_text(text)
        found = read_mixed_table(path, separator=separator)
        expected = pd.DataFrame({"a": [1.0, np.nan], "b": [2, 4], "word": ["x", "y"]})
        assert_same(found, expected, check_dtype=False)
    path.write_text("a b,c\n1 2,3\n")
    assert list(read_mixed_table(path).columns) == ["a b", "c"]


def test_decimal_commas_beside_words_with_points(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("name;weight;note\nDr. No;81,5;1,5 or so\nMr. X;-3e2;2\n;?;\n")
    found = read_mixed_table(path)
    assert found["weight"].tolist()[:2] == [81.5, -300.0] and np.isnan(found["weight"][2])
    assert found["note"].tolist()[:2] == ["1,5 or so", "2"]
    # Where the comma separates columns, it is none of a number.
    path.write_text('name,weight\nx,"81,5"\ny,"1,25"\n')
    assert found["name"].isna().tolist() == [False, False, True]


def test_parquet_keeps_its_types(tmp_path: Path, people: pd.DataFrame) -> None:
    table = people.assign(
        grade=pd.Categorical(["b", None, "a", "b"], categories=["b", "a"], ordered=True),
        visits=pd.array([1, None, 3, 4], dtype="Int64"),
    )
    table.to_parquet(tmp_path / "any.name")
    found = read_mixed_table(tmp_path / "any.name")
    assert_same(found, table)
    assert found["grade"].cat.ordered and list(found["grade"].cat.categories) == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        ("a,b\n", "the table has column names but no rows"),
        ("a,a\n1,x\n", "duplicate column name 'a'"),
        ("a,,c\n1,2,3\n", "column 2 of 3 has no name"),
        ("1,2\n3,4\n", "the first line holds only numbers"),
        ("a,b\n1,x,3\n2,y,4\n", "rows have more fields than the header, which has 2"),
        ("a,b\n1,2\n1,2,3\n", "Expected 2 fields in line 3, saw 3"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="^" + str(path)) as error:
        read_mixed_table(path)
    assert message in str(error.value) and "\n" not in str(error.value) and str(error.value).endswith(".")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_mixed_table(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        read_mixed_table(tmp_path)
    path = tmp_path / "t.csv"
    path.write_bytes("a,b\né,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"the bytes are not utf-8: .* at byte 4"):
        read_mixed_table(path, encoding="utf-8")
    with pytest.raises(ValueError, match="there is no encoding 'klingon'"):
        read_mixed_table(path, encoding="klingon")
    path.write_bytes(b"\0\1\2")
    with pytest.raises(ValueError, match="neither a text file nor Parquet"):
        read_mixed_table(path)
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"t\.csv"):
        read_mixed_table(path)


def test_columns_without_a_value() -> None:
    table = pd.DataFrame({"a": [1.0, np.nan], "b": [np.nan, np.nan], "c": [None, None], "d": ["x", None]})
    with pytest.raises(ValueError, match=r"columns 'b', 'c' have no observed value: .* drop_empty=True leaves"):
        with_observed_columns(table)
    with pytest.raises(ValueError, match=r"column 'b' has no observed value: .* drop_empty=True leaves it out"):
        with_observed_columns(table.drop(columns="c"))
    assert list(with_observed_columns(table, drop_empty=True).columns) == ["a", "d"]
    with pytest.raises(ValueError, match="no value is observed in the whole table"):
        with_observed_columns(table[["b", "c"]], drop_empty=True)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_one_table_comes_back_as_it_was_written(tmp_path: Path, people: pd.DataFrame, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    write_table(people, path)
    assert_same(read_mixed_table(path), people, check_dtype=suffix == ".parquet")
