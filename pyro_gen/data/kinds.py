"""How the kind of a column is found: as the user says, or by the rules of :meth:`~pyro_gen.data.Schema.infer`."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_gen._errors import AdviceError, InPython
from pyro_gen.data.cells import Cells, listed
from pyro_gen.data.column import DISCRETE, Column
from pyro_gen.data.gross import plausible_range

__all__ = ["given_kind", "inferred_kind", "moments"]


def _distinct(cells: Cells) -> list[Any]:
    """The levels that occur, in order: that of a category, or numbers by size before text by alphabet."""
    if cells.content == "boolean":
        return [False, True]
    if cells.content == "number":
        cells.numbers()  # none is infinite
    indices, values = cells.levels()
    seen = [values[i] for i in np.unique(indices)]
    return seen if cells.content == "category" else sorted(seen, key=lambda value: (isinstance(value, str), value))


def given_kind(cells: Cells, given: str | Column) -> Column:
    """The column as the user wants it."""
    name = cells.name
    if isinstance(given, Column):
        if given.name != name:
            raise ValueError(f"the override for column {name!r} is a column called {given.name!r}.")
        return replace(given, dates=True) if cells.content == "date" and given.kind == "real" else given
    if cells.content == "date":
        if given != "real":
            raise ValueError(
                f"column {name!r} holds dates, which are real, days since 1970, not {given}; leave its kind out."
            )
        return inferred_kind(cells)[0]
    if given == "bounded":
        python = f"Give Column({name!r}, 'bounded', lower=..., upper=...)"
        raise AdviceError(
            f"column {name!r}: 'bounded' by what? {{schema}}.",
            schema=InPython(python, {name: {"kind": "bounded", "lower": 0, "upper": 1}}),
        )
    if given not in DISCRETE:
        return _column(cells, given) if cells.content == "number" else Column(name, given)
    levels = _distinct(cells)
    ordered = cells.content == "category" and cells.series.cat.ordered
    if given == "ordinal" and not ordered and any(isinstance(level, str) for level in levels):
        column = f"Column({name!r}, 'ordinal', levels=(...))"
        python = f"Give {column}, the lowest first, or make it an ordered category"
        raise AdviceError(
            f"column {name!r}: which order have {listed(levels)}? {{schema}}.",
            schema=InPython(python, {name: {"kind": "ordinal", "levels": ["the lowest", "..."]}}),
        )
    return Column(name, given, tuple(levels))


def inferred_kind(cells: Cells) -> tuple[Column, str]:
    """The kind of a column and why, by the rules of Schema.infer."""
    name = cells.name
    if cells.content == "number":
        return _infer_numbers(cells)
    if cells.content == "date":
        days = cells.numbers()
        return Column(name, "real", integer=bool((days == np.rint(days)).all()), dates=True), "days since 1970"
    if cells.content == "mixed":
        row, value = cells.first(lambda value: isinstance(value, str))
        raise ValueError(
            f"column {name!r} holds text and numbers: {value!r} in row {row}; "
            "make it one of the two, or give it the kind binary, nominal or ordinal."
        )
    levels = tuple(_distinct(cells))
    if cells.content == "boolean":
        return Column(name, "binary", levels), "booleans"
    if cells.content == "category":
        ordered = bool(cells.series.cat.ordered)
        unseen = len(cells.series.cat.categories) - len(levels)
        note = f"{'an ordered' if ordered else 'a'} category" + (f", {unseen} of its levels never seen" * bool(unseen))
        kind = "binary" if len(levels) <= 2 - ordered else "ordinal" if ordered else "nominal"
        return Column(name, kind, levels), note
    rows = int((~cells.missing).sum())
    if (len(levels) == rows >= 5) or (len(levels) > 20 and 2 * len(levels) > rows):
        raise AdviceError(
            f"column {name!r}: {len(levels)} different texts in {rows} rows, the look of an identifier or of free "
            "text; leave the column out{ignore}, or give it a kind ({overrides}).",
            ignore=InPython("", [name]),
            overrides={name: "nominal"},
        )
    return Column(name, "binary" if len(levels) <= 2 else "nominal", levels), "text"


def _infer_numbers(cells: Cells) -> tuple[Column, str]:
    name, values = cells.name, cells.numbers()
    distinct = np.unique(values)
    low, high = float(distinct[0]), float(distinct[-1])
    whole = cells.whole(values)
    if len(distinct) == 1:
        return replace(_column(cells, "real"), lower=low, upper=high), f"always {low:g}"
    if whole and len(distinct) == 2 and (len(values) >= 5 or (low, high) == (0, 1)):
        levels = tuple(_distinct(cells))
        return Column(name, "binary", levels), "two whole numbers"
    low_end, high_end = plausible_range(values)
    values = values[(values >= low_end) & (values <= high_end)]  # a 9999 makes no ages skewed
    skewness = _skewness(values)
    zeros = float((values == 0).mean())
    if whole and low == 0 and high <= 1000 and len(distinct) > 2 and zeros >= 0.1 and skewness >= 0.5:
        return Column(
            name, "count"
        ), f"whole numbers from 0 to {high:g}, {zeros:.0%} of them 0, skewness {skewness:.1f}"
    if low > 0 and len(values) >= 20 and skewness > 1 and abs(logs := _skewness(np.log(values))) <= skewness / 2:
        note = f"all above 0, skewness {skewness:.1f}, of the logarithms {logs:.1f}"
        return _column(cells, "positive"), note
    if not whole:
        return _column(cells, "real"), f"numbers from {low:g} to {high:g}"
    note = f"{len(distinct)} different whole numbers from {low:g} to {high:g}"
    if len(distinct) <= 10:
        note += "; if they are levels, say 'ordinal' or 'nominal'"
    return _column(cells, "real"), note


def _column(cells: Cells, kind: str) -> Column:
    """A column of numbers with what can be read off them: whole, with some decimals, never negative."""
    values = cells.numbers()
    whole = cells.whole(values)
    return Column(
        cells.name,
        kind,
        integer=whole,
        decimals=None if whole or kind == "count" else cells.decimals(values),
        lower=0.0 if kind == "real" and values.min() >= 0 else None,
    )


def moments(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation; 1 in place of the latter where all are the same."""
    if values.min() == values.max():
        return float(values[0]), 1.0
    size = np.abs(values).max()  # squares of large numbers overflow
    return float((values / size).mean() * size), float((values / size).std() * size) or 1.0


def _skewness(values: npt.NDArray[np.float64]) -> float:
    loc, scale = moments(values)
    return float((((values - loc) / scale) ** 3).mean())
