"""Numbers, dates and holes as people write them: read right where the file tells, asked about where it does not."""

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen.data import Schema, notation, read_table
from pyro_gen.data.dates import as_days, from_days
from pyro_gen.imputation.files import as_written, read_file


def grouped(mark: str, group: str, digits: int = 2) -> Callable[[float], str]:
    """Writes numbers with a decimal mark and groups of thousands."""
    return lambda v: f"{v:,.{digits}f}".translate(str.maketrans({",": group, ".": mark}))


NOTATIONS: dict[str, Callable[[float], str]] = {
    "plain": lambda v: f"{v:.2f}",
    "shortest": repr,
    "exponent": lambda v: f"{v:.15e}",
    "plus": lambda v: f"{v:+.2f}",
    "United States": grouped(".", ","),
    "Germany": grouped(",", "."),
    "Germany, no groups": grouped(",", ""),
    "Switzerland": grouped(".", "'"),
    "Switzerland, typeset": grouped(".", "’"),
    "France": grouped(",", " "),
    "France, typeset": grouped(",", "\u202f"),
    "Sweden": grouped(",", "\u00a0"),
    "spaces and points": grouped(".", " "),
    "dollars": lambda v: f"{'-' * (v < 0)}${abs(v):,.2f}",
    "bookkeepers": lambda v: f"({-v:,.2f})" if v < 0 else f"{v:,.2f}",
    "euros": lambda v: grouped(",", ".")(v) + " €",
    "francs": lambda v: "CHF " + grouped(".", "'")(v),
    "percent": lambda v: f"{v:.2f}%",
    "percent, German": lambda v: grouped(",", ".")(v) + " %",
    "typeset minus": lambda v: f"{v:.2f}".replace("-", "−"),
    "minus behind": lambda v: f"{abs(v):.2f}" + "-" * (v < 0),
    "exponent, German": lambda v: f"{v:.15e}".replace(".", ","),
    "padded": lambda v: f" {v:.2f} ",
}
HOLES = ("", "NA", "-", ".", "?", "n/a", "--", "#N/A", "NULL")


def numbers(seed: int, rows: int = 12) -> np.ndarray:
    """Numbers of all sizes in hundredths, a third of them below 0."""
    rng = np.random.default_rng(seed)
    return (np.exp(rng.uniform(-3, 15, rows)) * rng.choice([1, 1, -1], rows)).round(2)


def tables() -> Iterator[tuple[str, str, np.ndarray]]:
    """The text of a table in each notation, with each separator and each mark of a hole, and what it means."""
    for seed, ((name, write), separator) in enumerate(itertools.product(NOTATIONS.items(), ",;\t|")):
        truth = np.stack([numbers(2 * seed), numbers(2 * seed + 1)], 1)
        whole = (np.abs(truth[:, :1]).round() + 2000).clip(0, 999_999)  # ambiguous by itself: 2,000
        hole = HOLES[seed % len(HOLES)]
        truth[seed % 12, 0] = np.nan
        file = io.StringIO()
        rows = csv.writer(file, delimiter=separator)
        rows.writerow(["a", "b", "whole"])
        for (a, b), (n,) in zip(truth.tolist(), whole.tolist(), strict=True):
            count = write(n).removesuffix(",00").removesuffix(".00") if "exp" not in name else str(int(n))
            rows.writerow([hole if np.isnan(a) else write(a), write(b), count])
        yield f"{name}, cut by {separator!r}", file.getvalue(), np.hstack([truth, whole])


def misread(tmp_path: Path) -> list[str]:
    """The tables of which some cell is not read as what it is."""
    wrong = []
    for name, text, truth in tables():
        path = tmp_path / "t.csv"
        path.write_text(text, encoding="utf-8")
        table = read_file(path)
        found = table.frame.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        if table.problems or not np.array_equal(found, truth, equal_nan=True):
            wrong.append(name)
            continue
        through = read_table(path).values.numpy()
        if not np.array_equal(through, truth, equal_nan=True):
            wrong.append(f"{name} by read_table")
    return wrong


def test_every_notation_is_read_as_what_it_means(tmp_path: Path) -> None:
    assert misread(tmp_path) == []


@pytest.mark.parametrize("mark", [".", ","])
def test_the_twin_that_knows_one_decimal_mark_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    """Whole numbers with groups, taken for fractions where commas or points are always decimal marks."""
    monkeypatch.setattr(notation._Marks, "of", lambda self, ambiguous_commas: mark)
    wrong = misread(tmp_path)
    typical = "United States, cut by ','" if mark == "," else "Germany, cut by ';'"
    assert typical in wrong and len(wrong) < 40


def test_the_twin_by_pandas_is_caught(tmp_path: Path) -> None:
    """What the file of this notation was read as before: 1,250 as 1.25."""
    (tmp_path / "t.csv").write_text('city,people\nA,"1,250"\nB,"2,300"\nC,\n')
    found = read_file(tmp_path / "t.csv")
    assert found.frame["people"].tolist()[:2] == [1250.0, 2300.0]
    assert found.notes == ("column 'people': read without thousands separators (1,250 is 1250).",)
    assert pd.read_csv(tmp_path / "t.csv", decimal=",")["people"].tolist()[:2] == [1.25, 2.3]


READ = {
    "thousands in a comma file": ('a,b\n"1,250",x\n"980",y\n', "a", [1250, 980]),
    "a fraction among them": ('a,b\n"1,250",x\n"0,980",y\n', "a", [1.25, 0.98]),
    "by another column": ("a;b\n1.250;1,5\n2.500;2\n", "a", [1250, 2500]),
    "by another column, points": ("a;b\n1,250;1.5\n2,500;2\n", "a", [1250, 2500]),
    "by itself": ("a;b\n1.250;x\n1.250.000;y\n", "a", [1250, 1250000]),
    "points of a comma file": ("a,b\n1.250,x\n2.500,y\n", "a", [1.25, 2.5]),
    "points between tabs": ("a\tb\n1.250\tx\n2.500\ty\n", "a", [1.25, 2.5]),
    "India": ('a,b\n"12,34,567",x\n"1,00,000.5",y\n', "a", [1234567, 100000.5]),
    "a hint of Excel": ("sep=;\na;b\n1,5;x\n", "a", [1.5]),
    "white space": ("a b\n1 2\n3 4\n", "b", [2, 4]),
    "old Macs": ("a,b\r1.5,x\r2,y\r", "a", [1.5, 2]),
    "an end to each line": ("a,b,\n1,2,\n3,4,\n", "b", [2, 4]),
    "true and false": ("a,b\nTRUE,1\nfalse,2\n-,3\n", "a", [True, False, None]),
    "months of two digits": ("a,b\n01,1\n12,2\n", "a", [1, 12]),
    "post codes": ("a,b\n01234,1\n98765,2\n", "a", ["01234", "98765"]),
    "long ids": ("a,b\n12345678901234567890,1\n2,2\n", "a", ["12345678901234567890", "2"]),
    "integers that floats round": ("a,b\n9007199254740993,1\n,2\n", "a", [9007199254740993, None]),
    "words with a dash": ("a,b\nyes,1\n-,2\nno,3\n", "a", ["yes", "-", "no"]),
    "few levels": ("a,b\n1,1\n2,2\n3,4\n4+,4\n", "a", ["1", "2", "3", "4+"]),
    "telephones": ("a,b\n+41 44 123 45 67,1\n044/12,2\n", "a", ["+41 44 123 45 67", "044/12"]),
    "versions": ("a,b\n1.2.3,1\n1.2,2\n1.3,3\n1.1,4\n1.0.1,5\n1.5.1,6\n", "a", ["1.2.3"]),
    "addresses": ("a,b\n127.0.0.1,1\n10.0.0.1,2\n", "a", ["127.0.0.1", "10.0.0.1"]),
}


@pytest.mark.parametrize(("text", "column", "expected"), READ.values(), ids=READ)
def test_what_a_file_tells(tmp_path: Path, text: str, column: str, expected: list[object]) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    found = read_file(tmp_path / "t.csv")
    assert not found.problems
    values = [None if pd.isna(v) else v for v in found.frame[column].tolist()]
    assert values[: len(expected)] == expected


PROBLEMS = {
    "thousands or fractions": ("a;b\n1.250;1\n2.500;2\n", "is '1.250' in row 1 1.25 or 1250?", "decimal="),
    "commas between tabs": ("a\tb\n7\t1\n1,250\t2\n", "is '1,250' in row 2 1250 or 1.25?", "decimal="),
    "two marks": ("a;b\n1;1\n1,5;1\n2.5;2\n", "'1,5' in row 2 has a decimal comma and '2.5' in row 3", "alike"),
    "units": ("a,b\n12%,1\n0.3,2\n", "'12%' in row 1 and '0.3' in row 2 have different units", "alike"),
    "currencies": ("a,b\n$12,1\n€3,2\n", "'$12' in row 1 and '€3' in row 2 have different units", "alike"),
    "a word": ("a,b\n1.5,1\n2.5,1\nlots,2\n", "numbers, and 'lots' in row 3", "missing=['lots']"),
    "no such day": ("a,b\n2024-02-29,1\n2023-02-29,2\n", "'2023-02-29' in row 2 is no date", "leave the column out"),
    "which month": (
        "a,b\n03/04/2024,1\n05/06/2024,2\n",
        "'03/04/2024' in row 1 may be the 3rd of month 4",
        "2024-04-03",
    ),
}


@pytest.mark.parametrize(("text", "cell", "option"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_a_file_does_not_tell_is_asked(tmp_path: Path, text: str, cell: str, option: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    (problem,) = read_file(tmp_path / "t.csv").problems.values()
    said = str(problem)
    assert said.startswith("column 'a': ") and cell in said and option in said
    with pytest.raises(ValueError, match="column 'a'"):
        read_table(tmp_path / "t.csv")


def test_options_answer(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a;b\n1.250;1\n2.500;2\n")
    assert read_file(path, decimal=",").frame["a"].tolist() == [1250, 2500]
    assert read_table(path, decimal=".").values[:, 0].tolist() == [1.25, 2.5]
    path.write_text("a;b\n1.25;1\n2,5;2\n")
    (problem,) = read_file(path, decimal=",").problems.values()
    assert "'1.25' in row 1 is no number with ',' for the decimal mark" in str(problem)
    path.write_text("a,b\n1.5,x\n-999,lots\nlots,-999\n-999.0,y\n")
    frame = read_file(path, missing=["-999", "lots"]).frame
    assert frame["a"].isna().tolist() == [False, True, True, True] and frame["b"].isna().sum() == 2
    path.write_text("a,b\n007,1\n010,2\n")
    assert read_file(path, numbers=["a"]).frame["a"].tolist() == [7, 10]
    pd.DataFrame({"a": [1.5, -999.0], "b": ["x", "lots"]}).to_parquet(tmp_path / "t.parquet")
    assert read_file(tmp_path / "t.parquet", missing=["-999", "lots"]).frame.isna().sum().tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"the decimal mark is \. or a comma, got 'x'"):
        read_file(path, decimal="x")


@pytest.mark.parametrize("separator", [";", "\t", "~", ":"])
def test_a_separator_that_is_wrong(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,2,3\n")
    with pytest.raises(ValueError, match="is not in the header, which ',' cuts into 3 columns; give that one"):
        read_file(path, separator=separator)
    path.write_text("a\n1\n")
    assert read_file(path, separator=separator).frame["a"].tolist() == [1]


DATES = {
    "%Y-%m-%d": "2024-03-01", "%d.%m.%Y": "01.03.2024", "%d.%m.%y": "01.03.24", "%Y/%m/%d": "2024/03/01",
    "%d-%b-%Y": "01-Mar-2024", "%d%b%Y": "01Mar2024", "%b %d, %Y": "Mar 01, 2024",
    "%Y-%m-%d %H:%M:%S": "2024-03-01 12:30:15", "%Y-%m-%dT%H:%M": "2024-03-01T12:30",
    "%d.%m.%Y %H:%M": "01.03.2024 12:30", "%Y-%m-%d %H:%M:%S.%f": "2024-03-01 12:30:15.250000",
}  # fmt: skip


@pytest.mark.parametrize("form", DATES)
def test_dates_are_days_and_come_back_as_they_were(tmp_path: Path, form: str) -> None:
    stamps = pd.Series([pd.Timestamp(t) for t in ("2024-03-01 12:30:15.25", "1999-12-31 01:02:03", "2024-03-02")])
    texts = stamps.dt.strftime(form).tolist()
    assert texts[0] == DATES[form]
    rows = [[texts[0], "1"], ["", "2"], [texts[1], "-"], [texts[2], "4"]]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([["day", "n"], *rows])
    found = read_file(tmp_path / "t.csv")
    expected = pd.to_datetime(pd.Series(texts), format=form)
    assert found.frame["day"].dropna().tolist() == expected.tolist() and found.dates == {"day": form}
    schema = Schema.infer(found.frame)
    encoded = schema.encode(found.frame)
    days = (expected - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
    assert encoded[[0, 2, 3], 0].tolist() == days.tolist() and encoded[1, 0].isnan()
    filled = schema.decode(torch.where(encoded.isnan(), 19000.25, encoded), found.frame)
    assert filled["day"].drop(1).tolist() == expected.tolist()
    # 19000 days are 2022-01-08, and whole days are imputed where only whole ones were seen.
    assert filled["day"][1] == pd.Timestamp("2022-01-08 06:00" if "%H" in form else "2022-01-08")
    text = as_written(found)(filled)
    assert text["day"].drop(1).tolist() == texts and text["n"].tolist() == ["1", "2", "19000", "4"]


def test_dates_with_zones_and_of_other_types() -> None:
    for dtype in ("datetime64[ns]", "datetime64[s]", "datetime64[us, UTC]", "datetime64[us, Europe/Zurich]"):
        day = pd.Series(pd.to_datetime(["2024-06-01 10:00", "2024-06-03 22:00"])).astype("datetime64[us]")
        zoned = day.dt.tz_localize("UTC").astype(dtype) if "," in dtype else day.astype(dtype)
        table = pd.DataFrame({"day": zoned.reindex([0, 1, 2]), "x": [1.0, 2.0, 3.0]})
        schema = Schema.infer(table)
        assert schema.columns[0].dates and as_days(zoned).tolist() == [19875 + 10 / 24, 19877 + 22 / 24]
        filled = schema.decode(torch.tensor([[0.0, 0.0], [0.0, 0.0], [19876.5, 0.0]]), table)
        assert filled["day"].dtype == table["day"].dtype and filled["day"][:2].tolist() == zoned.tolist()
        assert as_days(filled["day"])[2] == 19876.5
        assert Schema.from_dict(schema.to_dict()) == schema
        # What is beyond the type comes to its end.
        assert from_days(np.array([1e300, -1e300]), table["day"].dtype).notna().all()


def test_dates_are_not_taken_for_numbers_nor_numbers_for_dates() -> None:
    table = pd.DataFrame({"day": pd.to_datetime(["2024-06-01", "2024-06-03"]), "x": [1.5, 2.0]})
    schema = Schema.infer(table)
    with pytest.raises(ValueError, match="column 'day' is one of dates and holds number"):
        schema.encode(table.assign(day=[1.0, 2.0]))
    with pytest.raises(ValueError, match="column 'x' is real and holds dates"):
        schema.encode(table.assign(x=table["day"]))
    with pytest.raises(ValueError, match=r"column 'day' holds dates, which are real, .* not nominal"):
        Schema.infer(table, {"day": "nominal"})
    assert Schema.infer(table, {"day": "real"}).columns[0].dates
    nothing = table.assign(day=[None, None])
    assert schema.encode(nothing)[:, 0].isnan().all()
    assert schema.decode(torch.zeros(2, 2).double(), nothing)["day"].tolist() == [pd.Timestamp(0)] * 2


def test_observed_cells_of_a_completed_table_are_those_of_the_file(tmp_path: Path) -> None:
    """Byte for byte where numbers are plain, and else of the same value."""
    for name, text, truth in tables():
        path = tmp_path / "t.csv"
        path.write_text(text, encoding="utf-8")
        found = read_file(path)
        schema = Schema.infer(found.frame)
        encoded = schema.encode(found.frame)
        written = as_written(found)(schema.decode(torch.where(encoded.isnan(), 7.25, encoded), found.frame))
        again = io.StringIO(written.to_csv(index=False))
        cells = pd.read_csv(again, dtype=str)
        seen = ~np.isnan(truth)
        assert np.array_equal(cells.to_numpy(dtype=float)[seen], truth[seen]), name
        assert cells.to_numpy(dtype=float)[~seen].tolist() == [7.25]
        if name.startswith(("plain", "shortest", "exponent,", "plus")) and "German" not in name:
            raw = pd.read_csv(path, sep=name[-2] if "\\t" not in name else "\t", dtype=str)
            assert (cells.to_numpy()[seen] == raw.to_numpy()[seen]).all(), name


@pytest.mark.parametrize("times", [["12:30", "7:05", ""], ["12:30:15", "23:59:59"], ["9:15 am", "12:30 PM", "?"]])
def test_times_of_day_are_words_and_said_to_be(times: list[str]) -> None:
    reading = notation.read_columns(pd.DataFrame({"at": times}))["at"]
    assert reading.kind == "text"
    said = reading.notes["times of day are taken for words"]
    assert said.startswith(f"{times[0]} in row 1; give hours since midnight")


@pytest.mark.parametrize("words", [["12:30", "noon"], ["1:2", "2:1"], ["12:30", "12:30-13:00"]])
def test_other_words_are_no_times(words: list[str]) -> None:
    reading = notation.read_columns(pd.DataFrame({"at": words}))["at"]
    assert reading.kind == "text" and not reading.notes
