"""A table as engines of graphs take it: numbers and categories, edges by names of columns, what was set in rows."""

from collections.abc import Hashable, Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["Columns", "as_columns", "as_edges", "as_targets", "check_edges"]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

WHOLE_LEVELS = 10  # the most different whole numbers that are taken for categories
MOST_LEVELS = 50


class Columns(NamedTuple):
    """D columns of N rows.

    Attributes:
        names: What they are called.
        values: Numbers, and categories as 0, 1, ..., NaN where an entry is missing, with shape (N, D).
        levels: The categories of each column, in order; none of numbers.
    """

    names: list[Hashable]
    values: Array
    levels: list[list[Any]]

    @property
    def sizes(self) -> list[int]:
        """The number of categories of each column, 0 of numbers."""
        return [len(levels) for levels in self.levels]


def as_columns(x: Any, categories: str | Iterable[Hashable] = "auto") -> Columns:
    """Reads a table.

    Arguments:
        x: A data frame, or rows of numbers with shape (N, D).
        categories: The columns of numbers that are categories all the same, by name, of an array by their places;
            ``"auto"`` are those with at most ten different values, all of them whole. Words, booleans and categories of
            pandas always are.

    Raises:
        ValueError: There is one row or column only, a column does not vary, has infinite numbers, or more than fifty
            categories, or as many as half of the rows; or a name is of no column.
    """
    frame = x if isinstance(x, pd.DataFrame) else pd.DataFrame(np.asarray(x))
    if frame.shape[0] < 2 or frame.shape[1] < 2:
        raise ValueError(f"A graph of columns needs two rows and two columns or more, and this has {frame.shape}.")
    if not frame.columns.is_unique:
        raise ValueError(f"Two columns are called {frame.columns[frame.columns.duplicated()][0]!r}: rename one.")
    names: list[Hashable] = list(frame.columns)
    chosen = None if isinstance(categories, str) else list(categories)
    if isinstance(categories, str) and categories != "auto":
        raise ValueError(f'categories={categories!r}: give names of columns, or "auto".')
    _known(chosen or [], names)
    values, levels = [], []
    for place, name in enumerate(names):
        column = frame.iloc[:, place]
        numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan) if numeric else np.zeros(0)
        seen = np.unique(numbers[~np.isnan(numbers)])
        if np.isinf(seen).any():
            raise ValueError(f"Column {name!r} has an infinite number: take such rows away, or leave the entry empty.")
        few = len(seen) <= WHOLE_LEVELS and bool((seen == np.round(seen)).all())
        if numeric and not (few if chosen is None else name in chosen):
            found: list[Any] = []
            codes = numbers
        else:
            words = column.astype(object)
            found = sorted(words.dropna().unique(), key=lambda v: (type(v).__name__, v))
            codes = words.map({level: i for i, level in enumerate(found)}).to_numpy(dtype=np.float64, na_value=np.nan)
            _check_levels(name, found, len(frame))
        different = len(found) if found else len(seen)
        if different < 2:
            what = f"is {(found or seen.tolist())[0]!r} in every row" if different else "has no value"
            raise ValueError(f"Column {name!r} {what} and tells nothing: leave it out.")
        values.append(codes)
        levels.append(found)
    return Columns(names, np.stack(values, 1), levels)


def _check_levels(name: Hashable, found: list[Any], rows: int) -> None:
    if len(found) > 2 and len(found) > min(MOST_LEVELS, rows // 2):
        raise ValueError(
            f"Column {name!r} has {len(found)} categories in {rows} rows, {found[0]!r} for one, too many to tell of "
            "other columns: put them into fewer, or leave the column out."
        )


def _known(given: Iterable[Hashable], names: Sequence[Hashable], what: str = "") -> None:
    if unknown := [name for name in given if name not in names]:
        shown = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
        raise ValueError(f"{what}There is no column {unknown[0]!r}: they are {shown}.")


def as_edges(what: str, pairs: Iterable[Sequence[Hashable]], names: Sequence[Hashable]) -> Bools:
    """Edges by the names of their ends, as booleans with shape (D, D), [i, j] from i to j.

    Arguments:
        what: What the caller calls them.
        pairs: Pairs of names.
        names: Those of all columns.

    Raises:
        ValueError: A pair is none, has a name of no column, or one name twice.
    """
    edges = np.zeros((len(names), len(names)), dtype=bool)
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"{what}: {pair!r} is no pair of columns.")
        _known(pair, names)
        if pair[0] == pair[1]:
            raise ValueError(f"{what}: {pair[0]!r} has no edge to itself: give two columns.")
        edges[names.index(pair[0]), names.index(pair[1])] = True
    return edges


def check_edges(forbidden: Bools, required: Bools, names: Sequence[Hashable], directed: bool) -> None:
    """Refuses an edge that is forbidden and required, and directed ones that go in a circle.

    Raises:
        ValueError: There is such an edge, or a circle.
    """
    both = required & forbidden if directed else (required | required.T) & (forbidden | forbidden.T)
    if both.any():
        i, j = np.argwhere(both)[0]
        raise ValueError(f"The edge of {names[i]!r} and {names[j]!r} is forbidden and required: choose one.")
    if directed:
        above = {j: np.flatnonzero(required[:, j]).tolist() for j in range(len(names))}
        try:
            TopologicalSorter(above).prepare()
        except CycleError as error:
            circle = " -> ".join(repr(names[i]) for i in reversed(error.args[1]))
            raise ValueError(f"The required edges go in a circle, {circle}: leave one out.") from None


def as_targets(targets: Any, columns: Columns) -> Bools | None:
    """Which entries were set by intervention, with shape (N, D); nothing where none were.

    Arguments:
        targets: Nothing; a name of a column for each row, or none (None, NaN or an empty word) where nothing was set;
            or booleans with shape (N, D).
        columns: The table.

    Raises:
        ValueError: They are as many as no rows, have a name of no column, or a column was set in all rows.
    """
    if targets is None:
        return None
    given = np.asarray(targets, dtype=object)
    n, d = columns.values.shape
    if given.shape == (n,):
        each = [None if pd.isna(name) or name == "" else name for name in given]
        _known({name for name in each if name is not None}, columns.names, "targets: ")
        mask = np.array([[name == column for column in columns.names] for name in each])
    elif given.shape == (n, d):
        mask = given.astype(bool)
    else:
        raise ValueError(f"targets has shape {given.shape}: give a column for each of {n} rows, or {(n, d)} booleans.")
    if (always := mask.all(0)).any():
        raise ValueError(
            f"Column {columns.names[int(always.argmax())]!r} was set in all rows, so that they cannot tell what it "
            "depends on: leave it out, or forbid the edges to it."
        )
    return mask
