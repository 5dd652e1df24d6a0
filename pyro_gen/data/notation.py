"""Columns of text as what they mean: numbers in the notations of the world, dates, booleans, holes.

The difficulty is ``1,250``: twelve hundred and fifty in London, one and a quarter in Berlin. So each cell is read both
ways, with a decimal point and with a decimal comma. A column in which one way fails for some cell says itself what it
means; one in which both give the same says it too; any other is read as the rest of the file is. Where nothing in the
file tells, the column is a problem, and the user is asked: a guess would be wrong by a factor of a thousand.

Errors name the column, and the row counted from 1 below the header.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_gen._errors import AdviceError, InPython
from pyro_gen.data.dates import read_dates
from pyro_gen.data.delimited import is_number as is_a_number

__all__ = ["Reading", "in_words", "read_columns"]

# What stands for "not observed" in any column: what pandas takes for it, the mark of the UCI repository, that of MySQL,
# and what Excel writes where a formula fails.
ALWAYS_MISSING = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
        *("NA", "NULL", "NaN", "NAN", "NaT", "None", "n/a", "nan", "null", "?", "\\N"),
        *("#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#NULL!", "#NV"),
    )
)
TIME_OF_DAY = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d{1,6})?)?( ?[AaPp]\.?[Mm]\.?)?")
# What does so only beside numbers, dates or booleans: beside words it may be a level.
MISSING_BESIDE_NUMBERS = frozenset(
    ("-", "--", "---", "–", "—", ".", "..", "...", "…", "*", "n.a.", "n.d.", "k.A.", "na", "n/d", "(null)", "missing")
)

SPACES = " \u00a0\u202f\u2009"
CURRENCIES = r"(?:[A-Z]{1,2})?[$€£¥₹₽₩₺]|CHF|EUR|USD|GBP|JPY|SFr\.|Fr\."
NUMBER = re.compile(
    rf"(?P<open>\()?(?P<sign>[-+−]?)(?P<before>{CURRENCIES})?[{SPACES}]?(?P<sign2>[-+−]?)"
    rf"(?P<body>[\d.,][\d.,'’{SPACES}]*?)(?P<exponent>[eE][-+]?\d+)?"
    rf"[{SPACES}]?(?P<after>%|{CURRENCIES})?(?P<sign3>-?)(?P<close>\))?"
)
BODIES = {  # with groups of thousands; those of India, too
    ".": re.compile(
        rf"(?:\d+|[1-9]\d{{0,2}}([,'’{SPACES}])\d{{3}}(?:\1\d{{3}})*|[1-9]\d?(?:,\d\d)+,\d{{3}})(?:\.\d*)?|\.\d+"
    ),
    ",": re.compile(rf"(?:\d+|[1-9]\d{{0,2}}([.'’{SPACES}])\d{{3}}(?:\1\d{{3}})*)(?:,\d*)?|,\d+"),
}
GROUPED_BY_POINTS = re.compile(r"[-+]?[1-9]\d{0,2}(?:\.\d{3})+")
MAX_NUMERIC_LEVELS = 12  # different whole numbers of two digits beside words that may be levels all the same


@dataclass
class Reading:
    """What a column of text was read as.

    Attributes:
        name: The name of the column.
        kind: ``"number"``, ``"boolean"``, ``"date"``, ``"text"`` or ``"nothing"``.
        values: The column: floats or whole numbers, nullable booleans, dates, text. Holes are missing.
        notes: What was assumed: what was done, as a phrase, and an example of it.
        problem: Why the column cannot be read without asking.
        plain: Whether numbers stand in the file as they are written here, digits and decimal point.
        format: How dates stand in the file, as for ``strftime``.
    """

    name: str
    kind: str
    values: "pd.Series[Any]"
    notes: dict[str, str] = field(default_factory=dict)
    problem: AdviceError | None = None
    plain: bool = False
    format: str | None = None


def read_columns(
    raw: "pd.DataFrame",
    *,
    separator: str = ",",
    decimal: str | None = None,
    missing: Sequence[str] = (),
    numbers: Collection[str] = (),
) -> dict[str, Reading]:
    """Reads the columns of a file.

    Arguments:
        raw: The cells, all text.
        separator: What separated the columns in the file: where it was the comma, a comma in a number separates
            thousands unless some number says otherwise.
        decimal: The decimal mark, ``"."`` or ``","``; left out, the numbers say it.
        missing: What stands for missing besides the usual marks; numbers mean all cells of that value.
        numbers: Columns that are numbers even if they look like codes, with zeros in front.

    Returns:
        The readings, by name of the column, in the order of the file.

    Example:
        >>> raw = pd.DataFrame({"income": ["1.250", "12.000,50", "-"], "share": ["5%", "12%", ""]})
        >>> found = read_columns(raw, separator=";")
        >>> found["income"].values.tolist(), found["share"].values.tolist()
        ([1250.0, 12000.5, nan], [5.0, 12.0, nan])
    """
    cells = np.ascontiguousarray(raw.to_numpy(dtype=object).T)
    names = [str(name) for name in raw.columns]
    columns = [_Column(name, cells[i], missing, name in numbers) for i, name in enumerate(names)]
    told = {mark for column in columns if (mark := column.decimal) is not None}
    return {column.name: column.read(_Marks(separator, told, decimal)) for column in columns}


@dataclass(frozen=True)
class _Marks:
    """What is known of the decimal mark of a file."""

    separator: str
    told: set[str]  # by columns that can be read in one way only
    given: str | None

    def of(self, ambiguous_commas: bool) -> str | None:
        """The decimal mark of a column that can be read in two ways, or None where nothing tells."""
        if self.given is not None:
            return self.given
        if len(self.told) == 1:
            return next(iter(self.told))
        if self.told or self.separator == ";":
            return None
        return "." if self.separator == "," or not ambiguous_commas else None


class _Column:
    """One column of text.

    Attributes:
        decimal: The decimal mark that its numbers can only have, None where they do not tell.
    """

    def __init__(self, name: str, cells: npt.NDArray[Any], missing: Sequence[str], is_number: bool) -> None:
        self.name, self.sure = name, is_number
        self.codes, uniques = pd.factorize(cells)
        self.texts = [text.strip() for text in uniques]
        marks = set(missing)
        self.hole = np.array([t in ALWAYS_MISSING or t in marks for t in self.texts], dtype=bool)
        self.given = [float(mark) for mark in missing if is_a_number(mark)]
        self.marks: dict[str, int] = {}  # that are missing beside numbers, with how many rows have them
        self.decimal: str | None = None
        self.numbers: dict[str, list[float | None]] = {}  # of the cells that are no holes, by decimal mark
        self.plain = False
        self.units: list[str] = []
        self._look()

    @property
    def seen(self) -> list[str]:
        return [text for text, hole in zip(self.texts, self.hole, strict=True) if not hole]

    def _look(self) -> None:
        weak = np.array([text in MISSING_BESIDE_NUMBERS for text in self.texts], dtype=bool) & ~self.hole
        if not self._look_for_numbers() and weak.any():
            self.hole |= weak
            seen = self.seen
            if not seen or self._look_for_numbers() or _are_booleans(seen) or read_dates(seen) is not None:
                self.marks = {self.texts[i]: int((self.codes == i).sum()) for i in np.flatnonzero(weak)}
            else:
                self.hole &= ~weak
                self._look_for_numbers()
        if self.numbers and self.codes_like:
            self.numbers = {}
        if self.numbers:
            fine = [mark for mark, values in self.numbers.items() if None not in values]
            self.decimal = fine[0] if len(fine) == 1 else None

    def _look_for_numbers(self) -> bool:
        """Reads the cells both ways, if all are numbers in some way."""
        seen = self.seen
        self.numbers, self.plain, self.units = {}, False, []
        if not seen:
            return False
        joined = "\n".join(seen)
        if joined.isascii() and "_" not in joined:
            try:
                values = [float(text) for text in seen]
            except ValueError:
                pass
            else:
                self.plain = True
                if all(GROUPED_BY_POINTS.fullmatch(text) for text in seen if "." in text):
                    by_comma: list[float | None] = [float(text.replace(".", "")) for text in seen]
                else:
                    by_comma = [None]
                self.numbers = {".": [*values], ",": by_comma}
                return True
        found = [_parsed(text) for text in seen]
        if any(cell is None for cell in found):
            return False
        cells = [cell for cell in found if cell is not None]
        self.numbers = {mark: [cell.value(mark) for cell in cells] for mark in BODIES}
        self.units = [cell.unit for cell in cells]
        return True

    @property
    def codes_like(self) -> bool:
        """Whether there are digits that are no number: with zeros in front, or too many for 64 bits."""
        return not self.sure and any(self._is_code(text) for text in self.seen)

    @staticmethod
    def _is_code(text: str) -> bool:
        return text.isdigit() and ((text[0] == "0" and len(text) > 2) or len(text) > 18)

    def row(self, text: str) -> int:
        """The first row, from 1, that has a cell."""
        return int((self.codes == self.texts.index(text)).argmax()) + 1

    def read(self, marks: _Marks) -> Reading:
        """The column as what it means."""
        seen = self.seen
        if not seen:
            return self._done("nothing", [])
        if self.numbers:
            return self._read_numbers(marks)
        if _are_booleans(seen):
            return self._done("boolean", [text.lower() == "true" for text in seen])
        if (dates := read_dates(seen)) is not None:
            if dates.bad is not None:
                problem = f"{dates.bad!r} in row {self.row(dates.bad)} {dates.why}"
                return self._asks(
                    f"{problem}; correct it, or leave the column out{{ignore}}.", ignore=InPython("", [self.name])
                )
            reading = self._done("date", dates.values)
            reading.format = dates.format
            reading.notes["read as dates, which count as days since 1970"] = f"{seen[0]} is {dates.values[0]:%Y-%m-%d}"
            return reading
        reading = self._text(self._why_no_numbers())
        if self.codes_like and all(_parsed(text) is not None for text in seen):
            code = next(text for text in seen if self._is_code(text))
            reading.notes["taken for codes, not numbers"] = f"{code} in row {self.row(code)}"
        if all(TIME_OF_DAY.fullmatch(text) for text in seen):
            how = f"{seen[0]} in row {self.row(seen[0])}; give hours since midnight as numbers if their order counts"
            reading.notes["times of day are taken for words"] = how
        for mark in MISSING_BESIDE_NUMBERS.intersection(seen):
            reading.notes[f"{mark!r} is a value beside words"] = f"row {self.row(mark)}; say so if it means missing"
        return reading

    def _read_numbers(self, marks: _Marks) -> Reading:
        seen = self.seen
        points, commas = self.numbers["."], self.numbers[","]
        differs = next((i for i, (p, c) in enumerate(zip(points, commas, strict=False)) if p != c), None)
        mark = self.decimal
        if marks.given is not None:
            mark = marks.given
            if None in (found := self.numbers[mark]):
                bad = seen[found.index(None)] if len(found) == len(seen) else next(t for t in seen if "." in t)
                return self._asks(
                    f"{bad!r} in row {self.row(bad)} is no number with {mark!r} for the decimal mark; correct it, or "
                    "name the other mark."
                )
        elif mark is None and None in points:
            one, other = seen[points.index(None)], seen[commas.index(None)]
            return self._asks(
                f"{one!r} in row {self.row(one)} has a decimal comma and {other!r} in row {self.row(other)} a decimal "
                "point; write numbers alike."
            )
        elif mark is None and differs is None:
            mark = "."
        elif mark is None:
            mark = marks.of(ambiguous_commas=not self.plain)
        if mark is None:
            assert differs is not None
            return self._asks(
                f"is {seen[differs]!r} in row {self.row(seen[differs])} {points[differs]:.12g} or "
                f"{commas[differs]:.12g}? Nothing in the file tells; name the decimal mark "
                "({decimal} or {decimal_}).",
                decimal=".",
                decimal_=",",
            )
        if len(units := set(self.units)) > 1 and ("%" in units or len(units - {""}) > 1):
            one = seen[next(i for i, unit in enumerate(self.units) if unit != self.units[0])]
            return self._asks(
                f"{seen[0]!r} in row {self.row(seen[0])} and {one!r} in row {self.row(one)} have different units; "
                "write them alike."
            )
        values: list[float] = [value for value in self.numbers[mark] if value is not None]
        plain = self.plain and (mark == "." or differs is None)
        kept: list[float | None] = [None if value in self.given else value for value in values]
        reading = self._done("number", kept, mark)
        reading.plain = plain
        if not plain:
            reading.notes = {**_notes(seen, values, mark), **reading.notes}
        return reading

    def _text(self, problem: AdviceError | None) -> Reading:
        reading = self._done("text", self.seen)
        reading.problem = problem
        return reading

    def _asks(self, problem: str, **arguments: Any) -> Reading:
        return self._text(self._problem(problem, **arguments))

    def _problem(self, problem: str, **arguments: Any) -> AdviceError:
        return AdviceError(f"column {self.name!r}: {problem}", **arguments)

    def _why_no_numbers(self) -> AdviceError | None:
        """Says what keeps a column of numbers from being one, if it would be without a few cells."""
        seen = self.seen
        numbers = [i for i, text in enumerate(seen) if _parsed(text) is not None]
        if self.codes_like or 2 * len(numbers) <= len(seen):
            return None
        rows = np.bincount(self.codes, minlength=len(self.texts))[~self.hole]
        short = all(re.fullmatch(r"\d{1,2}", seen[i]) for i in numbers) and len(numbers) <= MAX_NUMERIC_LEVELS
        if short or 2 * rows[numbers].sum() <= rows.sum():
            return None
        word = seen[min(set(range(len(seen))) - set(numbers))]
        return self._problem(
            f"numbers, and {word!r} in row {self.row(word)}; say that it stands for missing ({{missing}}), or make all "
            "of it levels ({overrides}).",
            missing=[word],
            overrides=InPython("nominal", {self.name: "nominal"}),
        )

    def _done(self, kind: str, values: Sequence[Any], mark: str = ".") -> Reading:
        """A reading of the cells that are no holes, which come once each; numbers with their decimal mark."""
        dtypes = {"number": np.float64, "date": "datetime64[us]"}
        each: Any = np.full(len(self.texts), None, dtype=object)
        each[~self.hole] = np.array([*values, None], dtype=object)[:-1]
        column: Any = self._narrow(each, mark) if kind == "number" else pd.Series(each[self.codes])
        if kind == "boolean":
            column = column.astype("boolean") if self.hole.any() else column.astype(bool)
        elif kind == "date":
            column = pd.to_datetime(column).astype(dtypes[kind])
        elif kind == "text":
            column = column.astype("str" if pd.__version__ >= "3" else object)
        reading = Reading(self.name, kind, column)
        if kind == "text":
            reading.values = column.where(pd.Series(~self.hole[self.codes]))
        elif kind == "nothing":
            reading.values = pd.Series(np.full(len(self.codes), np.nan))
        for mark, rows in self.marks.items():
            count = f"{rows} row{'s' if rows > 1 else ''}"
            reading.notes[f"taken for missing: {mark!r}"] = f"{count}, the first of them row {self.row(mark)}"
        return reading

    def _narrow(self, each: npt.NDArray[Any], mark: str) -> "pd.Series[Any]":
        """Numbers as pandas would have them: integers where all are, and none is missing."""
        numbers = np.array([np.nan if value is None else value for value in each], dtype=np.float64)
        large = np.nanmax(np.abs(numbers), initial=0) >= 2.0**53  # floats lose digits
        whole = not any(m in text for text in self.seen for m in (mark, "e", "E"))
        if large and self.plain and all(text.lstrip("+-").isdigit() for text in self.seen):
            integers = np.array([pd.NA if v is None else int(t) for v, t in zip(each, self.texts, strict=True)])
            exact: pd.Series[Any] = pd.Series(integers[self.codes]).astype("Int64")
            return exact if exact.isna().any() else exact.astype(np.int64)
        column: pd.Series[Any] = pd.Series(numbers[self.codes])
        return column.astype(np.int64) if whole and not large and not column.isna().any() else column


@dataclass(frozen=True)
class _Cell:
    """The parts of a number: a sign, digits with marks between them, an exponent, a unit."""

    negative: bool
    body: str
    exponent: str
    unit: str

    def value(self, mark: str) -> float | None:
        """The number, if it is one with this decimal mark."""
        if not BODIES[mark].fullmatch(self.body):
            return None
        whole, _, fraction = self.body.partition(mark)
        value = float(re.sub(r"\D", "", whole) + "." + fraction + "0" + self.exponent)
        return -value if self.negative else value


def _parsed(text: str) -> _Cell | None:
    found = NUMBER.fullmatch(text)
    if found is None or not any(pattern.fullmatch(found["body"]) for pattern in BODIES.values()):
        return None
    signs = found["sign"] + found["sign2"] + found["sign3"] + ("-" if found["open"] else "")
    units = [unit for unit in (found["before"], found["after"]) if unit]
    if len(signs) > 1 or len(units) > 1 or (found["open"] is None) != (found["close"] is None):
        return None
    return _Cell(signs in ("-", "−"), found["body"], found["exponent"] or "", units[0] if units else "")


def _notes(seen: Sequence[str], values: Sequence[float], mark: str) -> dict[str, str]:
    """What numbers had that they are read without, each with an example."""
    group = f"[{re.escape('.' if mark == ',' else ',')}'’{SPACES}]"
    looks: dict[str, Callable[[str], Any]] = {
        "read without thousands separators": lambda text: re.search(rf"\d{group}\d", text),
        "read with a decimal comma": lambda text: mark == "," and "," in text,
        "read without percent signs": lambda text: "%" in text,
        "read without currencies": lambda text: re.search(CURRENCIES, text),
        "read as negative": lambda text: text.endswith(("-", ")")) or "−" in text,
    }
    notes: dict[str, str] = {}
    for phrase, holds in looks.items():
        example = next((i for i, text in enumerate(seen) if holds(text)), None)
        if example is not None:
            notes[phrase] = f"{seen[example]} is {values[example]:.15g}"
    return notes


def _are_booleans(seen: Sequence[str]) -> bool:
    return {text.lower() for text in seen} <= {"true", "false"}


def in_words(readings: Mapping[str, Reading]) -> list[str]:
    """What was assumed in reading columns, a sentence for each way of writing."""
    by_phrase: dict[str, list[tuple[str, str]]] = {}
    for name, reading in readings.items():
        for phrase, example in reading.notes.items():
            by_phrase.setdefault(phrase, []).append((name, example))
    sentences = []
    for phrase, found in by_phrase.items():
        names = ", ".join(repr(name) for name, _ in found[:5]) + (f", ... ({len(found)} in all)" * (len(found) > 5))
        sentences.append(f"column{'s' if len(found) > 1 else ''} {names}: {phrase} ({found[0][1]}).")
    return sentences
