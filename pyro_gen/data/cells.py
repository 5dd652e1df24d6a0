"""The cells of a user's table, whatever its dtypes: read as numbers and codes, and filled where they were missing.

Errors name the column, and the row counted from 1.
"""

import functools
import math
import numbers
from collections import Counter
from collections.abc import Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyro_gen._errors import AdviceError, InPython
from pyro_gen.data.column import Column

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cells", "check_names", "columns_of", "listed"]


ROUNDED, MOST_DECIMALS = 5, 8  # numbers that say how a column is rounded; of more decimals none was on purpose


class Cells:
    """The cells of one column of a user's table.

    Attributes:
        name: The name of the column.
        series: The column.
        missing: Which cells were not observed, with shape (N,).
    """

    def __init__(self, name: str, series: "pd.Series[Any]") -> None:
        import pandas as pd

        self.name, self.series = name, series
        dtype: Any = series.dtype
        if dtype.kind == "m" or isinstance(dtype, pd.PeriodDtype):
            raise _dates(name)
        if dtype.kind == "c":
            raise TypeError(f"column {name!r} holds complex numbers, expected real ones.")
        if isinstance(dtype, pd.SparseDtype):
            raise TypeError(f"column {name!r} is sparse; make it dense (series.sparse.to_dense()).")
        self.missing: npt.NDArray[np.bool_] = series.isna().to_numpy(dtype=bool)
        if dtype.kind == "f" and not isinstance(dtype, np.dtype):  # 0/0 in a nullable column is NaN and not NA
            self.missing = self.missing | np.isnan(series.to_numpy(dtype=np.float64, na_value=np.nan))

    @functools.cached_property
    def content(self) -> str:
        """What is in the cells: category, boolean, number, date, text, mixed (text and numbers) or nothing."""
        import pandas as pd

        dtype: Any = self.series.dtype
        if self.missing.all():
            return "nothing"
        if isinstance(dtype, pd.CategoricalDtype):
            return "category"
        if dtype.kind == "b":
            return "boolean"
        if dtype.kind in "iuf":
            return "number"
        if dtype.kind == "M":
            return "date"
        if _is_text(dtype):
            return "text"
        types = {type(value) for value in self._seen()}
        if any(issubclass(t, date | time | timedelta | np.datetime64 | np.timedelta64) for t in types):
            raise _dates(self.name)
        booleans = {t for t in types if issubclass(t, bool | np.bool_)}
        numeric = {t for t in types if issubclass(t, numbers.Real | Decimal)} | booleans
        text = {t for t in types if issubclass(t, str)}
        if other := types - numeric - text:
            row, value = self.first(lambda value: type(value) in other)
            raise TypeError(
                f"column {self.name!r}: an argument must be a string, a number or a boolean, "
                f"and row {row} holds a {type(value).__name__}."
            )
        if text:
            return "mixed" if numeric else "text"
        return "boolean" if types == booleans else "number"

    def _seen(self) -> npt.NDArray[Any]:
        """What was observed, as objects."""
        return self.series.to_numpy(dtype=object)[~self.missing]

    def first(self, which: Any) -> tuple[int, Any]:
        """The first observed cell of which something holds: its row, from 1, and its value."""
        seen = self._seen()
        place = next(i for i, value in enumerate(seen) if which(value))
        return int(np.flatnonzero(~self.missing)[place]) + 1, seen[place]

    def numbers(self) -> npt.NDArray[np.float64]:
        """The observed numbers, in float64, all finite; of dates the days since 1970."""
        if self.content == "date":
            from pyro_gen.data.dates import as_days

            return as_days(self.series)[~self.missing]
        if isinstance(self.series.dtype, np.dtype) and self.series.dtype.kind == "O":
            values = self._seen().astype(np.float64)
        else:
            values = self.series.to_numpy(dtype=np.float64, na_value=np.nan)[~self.missing]
        infinite = np.isinf(values)
        if infinite.any():
            raise ValueError(
                f"column {self.name!r} holds an infinite value in row {self._row(infinite)}; "
                "replace it, by NaN where the value is not known."
            )
        return values

    def levels(self) -> tuple[npt.NDArray[np.intp], list[Any]]:
        """The observed cells as indices into a list of different values."""
        import pandas as pd

        if isinstance(self.series.dtype, pd.CategoricalDtype):
            codes = self.series.cat.codes.to_numpy()[~self.missing].astype(np.intp)
            return codes, self.series.cat.categories.tolist()
        indices, values = pd.factorize(self.series[~self.missing])
        return indices, [value.item() if isinstance(value, np.generic) else value for value in values]

    def whole(self, values: npt.NDArray[np.float64]) -> bool:
        """Whether the observed numbers are whole ones. Floats from 2^53 on always are, which says nothing."""
        return self.series.dtype.kind in "iu" or bool(
            (values == np.rint(values)).all() and np.abs(values).max() < 2.0**53
        )

    def decimals(self, values: npt.NDArray[np.float64]) -> int | None:
        """How many decimals five observed numbers or more all have; ``None`` where that is more than eight."""
        if len(values) < ROUNDED:
            return None
        dtype = np.float32 if getattr(self.series.dtype, "itemsize", 8) < 8 else np.float64
        for k in range(1, MOST_DECIMALS + 1):
            if np.abs(values).max() > 2.0**52 / 10.0**k:
                return None
            if (np.round(values, k).astype(dtype) == values.astype(dtype)).all():
                return k
        return None

    def _row(self, bad: npt.NDArray[np.bool_]) -> int:
        """The row, from 1, of the first observed cell that is marked."""
        return int(np.flatnonzero(~self.missing)[bad.argmax()]) + 1

    def encode(self, column: Column) -> npt.NDArray[np.float64]:
        """The cells as numbers, with shape (N,); NaN where missing."""
        encoded = np.full(len(self.series), np.nan)
        if self.content == "nothing":
            return encoded
        if (self.content == "date") != column.dates:
            raise AdviceError(
                f"column {column.name!r} is {'one of dates' if column.dates else column.kind} and holds "
                f"{'dates' if self.content == 'date' else self.content}; make it alike, or leave it out{{ignore}}.",
                ignore=InPython("", [column.name]),
            )
        if column.discrete:
            encoded[~self.missing] = self._codes(column)
            return encoded
        if self.content not in ("number", "date"):
            held = {"category": "categories", "boolean": "booleans"}.get(self.content, "text")
            row, value = self.first(lambda value: self.content != "mixed" or isinstance(value, str))
            raise ValueError(
                f"column {column.name!r} is {column.kind} and holds {held}: {value!r} in row {row}; "
                "make it numbers, or give it the kind binary, nominal or ordinal."
            )
        values = self.numbers()
        limits = ""
        if column.kind == "positive":
            bad, limits = values < 0, "above 0"
        elif column.kind == "count":
            bad, limits = (values < 0) | (values != np.rint(values)), "0, 1, 2, ..."
        elif column.kind == "bounded":
            bad = (values < column.lower) | (values > column.upper)  # type: ignore[operator]
            limits = f"from {column.lower:g} to {column.upper:g}"
        if limits and bad.any():
            raise ValueError(
                f"column {column.name!r} is {column.kind}, and {values[bad.argmax()]:.12g} in row {self._row(bad)} is "
                f"not: expected numbers {limits}. Correct it, or give the column another kind."
            )
        encoded[~self.missing] = values
        return encoded

    def _codes(self, column: Column) -> npt.NDArray[np.float64]:
        indices, values = self.levels()
        code_of = {level: float(code) for code, level in enumerate(column.levels)}
        codes = np.array([code_of.get(value, math.nan) for value in values])[indices]
        unseen = np.isnan(codes)
        if unseen.any():
            value = values[indices[unseen.argmax()]]
            # Two numbers are two levels only until a third is seen.
            out = "leave the cell empty" + ", or give the column another kind" * (self.content == "number")
            raise ValueError(
                f"column {column.name!r}: {value!r} in row {self._row(unseen)} is none of its levels, "
                f"{listed(column.levels)}; learn from a table that has it, or {out}."
            )
        return codes

    def fill(self, column: Column, values: npt.NDArray[np.float64], *, rounded: bool = True) -> "pd.Series[Any] | None":
        """The column with its holes filled, or None where it can stay as it is; by means if not ``rounded``."""
        import pandas as pd

        series = self.series
        dtype: Any = series.dtype
        values = values[self.missing]
        if np.isnan(values).any():
            row = int(np.flatnonzero(self.missing)[np.isnan(values).argmax()]) + 1
            raise ValueError(
                f"values has NaN for column {column.name!r} in row {row}, where the table has a hole to fill."
            )
        if isinstance(dtype, pd.CategoricalDtype) and column.discrete:
            return self._fill_category(column, values)
        if not self.missing.any():
            return None
        if column.dates:
            return self._fill_dates(column, values)
        holds = _holds(dtype, column)
        # The dtype of the numbers in an array, a nullable column or one of pyarrow's.
        inner = np.dtype(getattr(dtype, "numpy_dtype", dtype) if holds and dtype.kind in "iufb" else np.float64)
        new = _levels_of(column, values) if column.discrete else _within(column, values, inner, rounded)
        if not holds:  # nothing was observed here, and the dtype is what pandas makes of nothing
            cells = series.to_numpy(dtype=object, copy=True)
            cells[self.missing] = new
            return pd.Series(cells.tolist(), index=series.index)
        if dtype.kind in "iufb":
            new = new.astype(inner)
        elif column.integer:  # objects
            new = np.array([int(v) if v == int(v) else v for v in new.tolist()], dtype=object)
        array: Any = series.to_numpy(copy=True) if isinstance(dtype, np.dtype) else series.array.copy()
        array[self.missing] = new
        filled: pd.Series[Any] = pd.Series(array, index=series.index, dtype=dtype)
        return filled

    def _fill_dates(self, column: Column, values: npt.NDArray[np.float64]) -> "pd.Series[Any]":
        from pyro_gen.data.dates import from_days

        dtype: Any = self.series.dtype
        whole: pd.Series[Any] = self.series.astype(dtype if dtype.kind == "M" else "datetime64[us]").copy()
        new: Any = from_days(_within(column, values, np.dtype(np.float64), rounded=True), whole.dtype)
        whole.iloc[np.flatnonzero(self.missing)] = new.array
        return whole

    def _fill_category(self, column: Column, values: npt.NDArray[np.float64]) -> "pd.Series[Any]":
        import pandas as pd

        dtype: Any = self.series.dtype
        categories = self.series.cat.categories.tolist()
        if not set(column.levels) <= set(categories):
            unused = [category for category in categories if category not in column.levels]
            dtype = pd.CategoricalDtype([*column.levels, *unused], ordered=dtype.ordered)
        place = {category: i for i, category in enumerate(dtype.categories.tolist())}
        codes = self.series.cat.codes.to_numpy().astype(np.int64)
        codes[~self.missing] = np.array([place[category] for category in categories])[codes[~self.missing]]
        codes[self.missing] = np.array([place[level] for level in column.levels])[_rounded(column, values)]
        return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype), index=self.series.index)


def columns_of(table: Any) -> "dict[str, pd.Series[Any]]":
    """The columns of a table by their names."""
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        check_names([str(name) for name in table.columns])
        return {str(name): series for name, series in table.items()}
    if isinstance(table, np.ma.MaskedArray):
        raise TypeError("the table is a masked array; fill it with NaN first (table.astype(float).filled(np.nan)).")
    if not isinstance(table, np.ndarray):
        raise TypeError(f"a table is a pandas DataFrame or a two-dimensional array, got {type(table).__name__}.")
    if table.ndim != 2:
        raise ValueError(f"a table has rows and columns, got an array of shape {table.shape}.")
    dtype = object if table.dtype.kind == "U" else table.dtype  # pandas would look into objects and make text of some
    return {f"x{i}": pd.Series(table[:, i], dtype=dtype) for i in range(table.shape[1])}


def check_names(names: Sequence[str]) -> None:
    """Refuses names that occur twice."""
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"duplicate column names: {listed(repeated)}; rename them.")


def listed(things: Any, most: int = 12) -> str:
    """Says in words what there is, and how much more."""
    shown = [repr(thing) for thing in things]
    return ", ".join(shown[:most]) + (f", ... ({len(shown)} in all)" if len(shown) > most else "")


def _dates(name: str) -> AdviceError:
    return AdviceError(
        f"column {name!r} holds dates or times; make numbers of them, such as days since a date, or leave it out"
        "{ignore}.",
        ignore=InPython("", [name]),
    )


def _is_text(dtype: Any) -> bool:
    import pandas as pd

    return isinstance(dtype, pd.StringDtype) or dtype.kind == "U"  # the latter is pyarrow's


# How codes become cells


def _rounded(column: Column, values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    return np.rint(values).clip(0, len(column.levels) - 1).astype(np.intp)


def _levels_of(column: Column, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Levels in place of their codes, as objects."""
    levels = np.empty(len(column.levels), dtype=object)
    levels[:] = column.levels
    return levels[_rounded(column, values)]


def _within(column: Column, values: npt.NDArray[np.float64], dtype: Any, rounded: bool) -> npt.NDArray[np.float64]:
    """Numbers within the limits of the column, and of the dtype that is to hold them."""
    lower, upper = column.limits
    values = column.rounded(values) if rounded else values
    if dtype.kind in "iu":
        values = np.rint(values)
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        largest = float(most) if int(float(most)) == most else float(np.nextafter(float(most), 0))
        lower, upper = max(lower, float(least)), min(upper, largest)
    else:
        lower, upper = max(lower, float(np.finfo(dtype).min)), min(upper, float(np.finfo(dtype).max))
    if column.kind == "positive" and dtype.kind == "f":
        lower = max(lower, float(np.finfo(dtype).tiny))
    if dtype.kind in "iu":
        lower, upper = float(np.ceil(lower)), float(np.floor(upper))
    return values.clip(lower, upper) + 0.0  # no -0


def _holds(dtype: Any, column: Column) -> bool:
    """Whether a dtype that is no category can hold the values of a column."""
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        return True
    if not column.discrete:
        return bool(dtype.kind in "iuf")
    if _is_text(dtype):
        return all(isinstance(level, str) for level in column.levels)
    if not all(isinstance(level, numbers.Real) for level in column.levels):
        return False
    if dtype.kind == "b":
        return set(column.levels) <= {0, 1}
    return dtype.kind == "f" or (dtype.kind in "iu" and all(level == int(level) for level in column.levels))
