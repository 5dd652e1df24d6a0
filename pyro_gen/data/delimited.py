"""Text files of rows and columns: what separates the columns, their names, the rows' labels, and the cells as text."""

import io
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

__all__ = ["RawTable", "check_names", "decode", "is_number", "read_cells"]

SEPARATORS = ",;\t|"


class RawTable(NamedTuple):
    """The cells of a file as they stand in it.

    Attributes:
        cells: The columns, all text; their index is that of the file where it has one.
        separator: What separates the columns.
        notes: What was assumed, in sentences.
    """

    cells: pd.DataFrame
    separator: str
    notes: tuple[str, ...]


def decode(raw: bytes, encoding: str | None = None) -> str:
    """The text in a file: by default UTF-8 or, by its mark, UTF-16, and Latin-1 where the bytes are neither."""
    if encoding is not None:
        try:
            return raw.decode(encoding).removeprefix("\ufeff")
        except LookupError:
            raise ValueError(f"there is no encoding {encoding!r}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"the bytes are not {encoding}: {error.reason} at byte {error.start}") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    if b"\0" in raw:
        raise ValueError("neither a text file nor Parquet")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def read_cells(text: str, separator: str | None = None) -> RawTable:
    """Cuts text into cells.

    Arguments:
        text: The text, with a header line.
        separator: What separates columns, a regular expression where it is longer than one character; left out, the one
            of ``,`` ``;`` tab ``|`` that cuts the header into most pieces, or what Excel's line ``sep=;`` says, or
            white space where all lines have as many words.

    Raises:
        ValueError: The separator does not cut the header, columns have no name or one name, or rows are too long.
    """
    # Blank lines around the table mean nothing; inside, they are rows of a one-column table.
    text = text.strip("\r\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")  # as old Macs end lines
    if (hint := re.match(r"sep=(.)\r?\n", text)) is not None:
        text, separator = text[hint.end() :], hint[1] if separator is None else separator
    notes: list[str] = []
    header = _first_record(text)
    pieces = {s: len(_fields(header, s)) for s in SEPARATORS}
    best = max(pieces, key=lambda s: pieces[s])
    if separator is not None:
        if len(_fields(header, separator)) == 1 and pieces[best] > 1:
            raise ValueError(
                f"the separator {separator!r} is not in the header, which {best!r} cuts into {pieces[best]} columns; "
                "give that one, or leave it out"
            )
    elif pieces[best] > 1 or not _words_alike(text):
        separator = best
    else:
        separator = r"\s+"
        notes.append("white space is taken for what separates the columns.")
    rows = _rows(text, separator, len(_fields(header, separator)))
    names = [str(name).strip() for name in rows.iloc[0]]
    cells = rows.iloc[1:].reset_index(drop=True)
    if len(cells) == 0:
        _check_header(names)
        raise ValueError("the table has column names but no rows")
    cells, more = _with_labels(cells, names)
    return RawTable(cells, separator, (*notes, *more))


def _with_labels(cells: pd.DataFrame, names: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The columns by their names; a first one without a name is the index, as pandas and R write it."""
    notes: list[str] = []
    while len(names) > 1 and not names[-1] and bool((cells.iloc[:, -1] == "").all()):
        names, cells = names[:-1], cells.iloc[:, :-1]  # as where each line ends with a separator
        notes = ["an empty column without a name at the end is left out."]
    labels = None
    if len(names) > 1 and (not names[0] or _counts_rows(names[0], cells.iloc[:, 0])):
        what = "has no name" if not names[0] else f"is called {names[0]!r}"
        notes.append(
            f"the first column {what}: it is taken for labels of the rows, neither used nor imputed; give it a name if "
            "it is data."
        )
        labels, cells, names = cells.iloc[:, 0], cells.iloc[:, 1:], names[1:]
    _check_header(names)
    cells = cells.set_axis(names, axis=1)
    if labels is not None:
        whole = labels.str.fullmatch(r"0|[1-9]\d{0,17}").all()
        cells.index = pd.Index((labels.astype(np.int64) if whole else labels).to_numpy())
    return cells, notes


def _counts_rows(name: str, cells: "pd.Series[Any]") -> bool:
    """Whether a column is an index that was saved twice, and has got a name on the way."""
    return name == "Unnamed: 0" and any(cells.tolist() == [str(i + n) for i in range(len(cells))] for n in (0, 1))


def _rows(text: str, separator: str, columns: int) -> pd.DataFrame:
    """All lines cut into cells, the header first."""
    by_c = len(separator) == 1 or separator == r"\s+"
    engine: dict[str, Any] = {"engine": "c", "low_memory": False} if by_c else {"engine": "python"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            rows: pd.DataFrame = pd.read_csv(
                io.StringIO(text),
                sep=separator,
                header=None,
                dtype=object,
                na_filter=False,
                index_col=False,
                skip_blank_lines=False,
                skipinitialspace=True,
                **engine,
            )
        except pd.errors.ParserWarning:  # pandas would cut the rows
            raise ValueError(f"rows have more fields than the header, which has {columns}") from None
        except pd.errors.ParserError as error:
            if re.search(rf"Expected {columns} fields in line 2\b", str(error)):
                raise ValueError(f"rows have more fields than the header, which has {columns}") from None
            raise
    return rows.fillna("")  # lines that are too short


def _first_record(text: str) -> str:
    """The header, which may have line ends in quotes."""
    end = text.find("\n")
    while end >= 0 and text.count('"', 0, end) % 2:
        end = text.find("\n", end + 1)
    return (text if end < 0 else text[:end]).rstrip("\r")


def _fields(header: str, separator: str) -> list[str]:
    """The pieces of a header; separators in quotes cut nothing."""
    if len(separator) > 1:
        return re.split(separator, header.strip())
    pieces = [""]
    for i, part in enumerate(header.split('"')):
        first, *others = [part] if i % 2 else part.split(separator)
        pieces[-1] += first
        pieces += others
    return pieces


def _words_alike(text: str) -> bool:
    """Whether all of the first lines have as many words, two or more."""
    counts = {len(line.split()) for line in text[:100_000].splitlines()[:100]}
    return '"' not in text[:100_000] and len(counts) == 1 and min(counts) > 1


def _check_header(names: Sequence[str]) -> None:
    check_names(names)
    if all(is_number(name) for name in names):
        raise ValueError("the first line holds only numbers: it should hold the column names")


def check_names(names: Sequence[str]) -> None:
    """Refuses columns without a name, and names that occur twice."""
    unnamed = [i for i, name in enumerate(names, 1) if not name]
    if unnamed:
        raise ValueError(f"column {unnamed[0]} of {len(names)} has no name")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"duplicate column name {repeated[0]!r}")


def is_number(text: str) -> bool:
    """Whether text is a number as Python writes it."""
    try:
        float(text)
    except ValueError:
        return False
    return True
