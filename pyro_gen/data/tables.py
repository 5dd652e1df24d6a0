"""Numbers from outside: tables in files, and whatever can be made a tensor.

Errors here are for the person who has the file open in another window: they name the column, the row (counted from 1
below the header) and the value.
"""

import csv
import io
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table", "as_tensor", "read_table"]

T = TypeVar("T")

# What pandas reads as missing besides NA, NaN, null, N/A and the like; "?" is the mark of the UCI repository.
_MISSING = ("?",)


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A table of numbers with holes.

    Attributes:
        values: The numbers, with shape (N, D), in float64: standardise before single precision takes digits away. NaN
            = not observed.
        columns: The D column names.
        dropped: Numbers of the rows that were left out because nothing was observed in them, counted from 1 below the
            header of the file.
    """

    values: Tensor
    columns: tuple[str, ...]
    dropped: tuple[int, ...] = ()

    def __repr__(self) -> str:
        rows, columns = self.values.shape
        missing = torch.isnan(self.values).double().mean().item()
        dropped = f", {_count(len(self.dropped), 'row')} dropped" if self.dropped else ""
        return f"Table({_count(rows, 'row')}, {_count(columns, 'column')}, {missing:.1%} missing{dropped})"


def read_table(
    path: str | os.PathLike[str], *, drop_all_missing: bool = False, allow_all_missing: bool = False
) -> Table:
    r"""Reads a table of numbers from a CSV, TSV or Parquet file.

    Parquet is known by its first bytes. Anything else is text with a header line: the separator is the one of ``,``
    ``;`` tab ``|`` that cuts the header into most pieces (with ``;``, decimal commas are understood), the encoding is
    UTF-8 or, by its mark, UTF-16, and Latin-1 where the bytes are neither. Empty fields, ``NA``, ``NaN``, ``null``,
    ``?`` and the like are missing; True and False are 1 and 0.

    Arguments:
        path: The file.
        drop_all_missing: Leave out rows in which nothing was observed, instead of raising; :attr:`Table.dropped` says
            which.
        allow_all_missing: Take columns, and rows that are not left out, in which nothing was observed as they are:
            for data to be measured by a trained program, where a column may happen to be empty. Data to train on needs
            some values in each.

    Raises:
        ValueError: If the file is missing, empty, without rows or no table; if a column has no name, the name of
            another, text in it, infinite numbers or no observed value; if a row has no observed value; if the whole
            table has none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weather.csv"
        >>> _ = path.write_text("wind;rain\n1,5;2\n;4\n")
        >>> table = read_table(path)
        >>> table
        Table(2 rows, 2 columns, 25.0% missing)
        >>> table.values
        tensor([[1.5000, 2.0000],
                [   nan, 4.0000]], dtype=torch.float64)
    """

    def parse(raw: bytes) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
        frame = frame_of(raw)
        return tuple(map(str, frame.columns)), _frame_to_array(frame)

    path = Path(path)
    columns, numbers = parsed(path, parse)
    missing = np.isnan(numbers)
    empty = (np.flatnonzero(missing.all(1)) + 1).tolist()
    if len(empty) == len(numbers):
        raise ValueError(f"{path}: no value is observed in the whole table.")
    if not allow_all_missing:
        for i in np.flatnonzero(missing.all(0)):
            raise ValueError(f"{path}: column {columns[i]!r} has no observed value; leave it out.")
    if empty and not (drop_all_missing or allow_all_missing):
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise ValueError(
            f"{path}: {_count(len(empty), 'row')} without any observed value (row {shown} below the header); "
            "drop_all_missing=True leaves them out."
        )
    if not drop_all_missing:
        empty = []
    values = torch.from_numpy(np.delete(numbers, [row - 1 for row in empty], 0))
    return Table(values, columns, tuple(empty))


def as_tensor(x: Any, name: str = "x", dtype: torch.dtype | None = None) -> Tensor:
    """Makes data a floating tensor, or says what is wrong with it.

    Arguments:
        x: A tensor, array (masked arrays too), pandas DataFrame or Series, or nested list of numbers; the first
            dimension counts data. NaN, None and pandas' NA = not observed.
        name: What to call it in errors.
        dtype: Of what is no floating tensor; by default torch's. Give ``torch.float64`` where the data is to be
            standardised: single precision has seven digits, of which large numbers that differ little need more.

    Returns:
        A tensor with the shape of ``x``. Floating tensors keep dtype and device and are not copied.

    Raises:
        TypeError: If ``x`` cannot be read as numbers at all, or is complex.
        ValueError: If ``x`` has text in it, is empty, has no first dimension, or has infinite values.

    Example:
        >>> as_tensor([[1, None], [2.5, 3]])
        tensor([[1.0000,    nan],
                [2.5000, 3.0000]])
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    pandas = sys.modules.get("pandas")  # whoever holds a DataFrame has imported it
    if isinstance(x, Tensor):
        if x.is_complex():
            raise TypeError(f"{name}: expected real numbers, got complex ones.")
        tensor = x if x.is_floating_point() else x.to(dtype)
    else:
        try:
            if pandas is not None and isinstance(x, pandas.DataFrame):
                array = _frame_to_array(x)
            elif pandas is not None and isinstance(x, pandas.Series):
                array = _frame_to_array(x.to_frame(x.name if x.name is not None else 0))[:, 0]
            else:
                array = _to_array(x)
        except ValueError as error:
            raise ValueError(f"{name}: {error}.") from None
        except TypeError as error:
            raise TypeError(f"{name}: {error}.") from None
        tensor = torch.tensor(array, dtype=dtype)
    if tensor.ndim == 0:
        raise ValueError(f"{name}: expected data of shape (N, *event), got one number.")
    if tensor.numel() == 0:
        raise ValueError(f"{name}: expected data of shape (N, *event), got the empty shape {tuple(tensor.shape)}.")
    infinite = torch.isinf(tensor)
    if infinite.any():
        where = infinite.nonzero()[0].tolist()
        raise ValueError(
            f"{name}: {int(infinite.sum())} infinite values, the first at index {where}; "
            "replace them, by NaN where the value is not known."
        )
    return tensor


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def parsed(path: Path, parse: Callable[[bytes], T]) -> T:
    """What a function makes of the bytes of a file.

    Arguments:
        path: The file.
        parse: The function.

    Raises:
        ValueError: The file is missing or empty, or the function raised one, whose first line is said of the file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}.")
    raw = path.read_bytes()
    if not raw.strip():
        raise ValueError(f"{path}: the file is empty.")
    try:
        return parse(raw)
    except ValueError as error:
        reason = str(error).strip().splitlines()[0].removeprefix("Error tokenizing data. C error: ").rstrip(".")
        raise ValueError(f"{path}: {reason}.") from None


def is_parquet(raw: bytes) -> bool:
    """Whether the bytes of a file are those of Parquet."""
    return raw[:4] == b"PAR1"


def decode(raw: bytes) -> str:
    """The text in a file: UTF-8 or, by its mark, UTF-16, and Latin-1 where the bytes are neither."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    if b"\0" in raw:
        raise ValueError("neither a text file nor Parquet")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def frame_of(raw: bytes, text: Callable[[bytes], str] = decode, separator: str | None = None) -> "pd.DataFrame":
    """The table in the bytes of a file, Parquet or text.

    Arguments:
        raw: The bytes.
        text: What makes text of them.
        separator: What separates columns, a regular expression where it is longer than one character; left out, the
            one of ``,`` ``;`` tab ``|`` that cuts the header into most pieces.
    """
    frame = _read_parquet(raw) if is_parquet(raw) else _read_text(text(raw), separator)
    if len(frame) == 0:
        raise ValueError("the table has column names but no rows")
    return frame


def _read_text(text: str, separator: str | None = None) -> "pd.DataFrame":
    """A table in text; a separator of more than one character is a regular expression, as to pandas."""
    import pandas as pd

    # Blank lines around the table mean nothing; inside, they are rows of a one-column table.
    text = text.strip("\r\n")
    start = text[:1_000_000]
    headers = {s: _fields(start, s) for s in (",;\t|" if separator is None else [separator])}
    separator = max(headers, key=lambda s: len(headers[s]))
    names = [name.strip() for name in headers[separator]]
    _check_names(names)
    if all(_is_number(name) for name in names):
        raise ValueError("the first line holds only numbers: it should hold the column names")
    decimal = "," if separator == ";" and "," in start and "." not in start.split("\n", 1)[-1] else "."
    by_c = len(separator) == 1 or separator == r"\s+"
    engine: dict[str, Any] = {"engine": "c", "low_memory": False} if by_c else {"engine": "python"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame: pd.DataFrame = pd.read_csv(
                io.StringIO(text),
                sep=separator,
                decimal=decimal,
                na_values=_MISSING,
                index_col=False,
                skip_blank_lines=False,
                skipinitialspace=True,
                **engine,
            )
        except pd.errors.ParserWarning:  # pandas would cut the rows
            raise ValueError(f"rows have more fields than the header, which has {len(names)}") from None
    frame.columns = pd.Index(names)
    return frame


def _fields(text: str, separator: str) -> list[str]:
    """The fields of the first line."""
    if len(separator) == 1:
        return next(csv.reader(io.StringIO(text), delimiter=separator))
    return re.split(separator, text.splitlines()[0].strip())


def _read_parquet(raw: bytes) -> "pd.DataFrame":
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(raw))
    _check_names(table.column_names)
    frame: pd.DataFrame = table.to_pandas()  # without the index, where pandas wrote one
    _check_names([str(column) for column in frame.columns])
    return frame


def _check_names(names: Sequence[str]) -> None:
    unnamed = [i for i, name in enumerate(names, 1) if not name]
    if unnamed:
        raise ValueError(f"column {unnamed[0]} of {len(names)} has no name (a row index saved with the table?)")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"duplicate column name {repeated[0]!r}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _frame_to_array(frame: "pd.DataFrame") -> npt.NDArray[np.float64]:
    """The numbers of a DataFrame, with shape (N, D), NaN where missing; errors name the column."""
    _check_names([str(column) for column in frame.columns])
    columns = [_column_to_array(str(name), series) for name, series in frame.items()]
    return np.stack(columns, 1) if columns else np.empty((len(frame), 0))


def _column_to_array(name: str, series: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    import pandas as pd

    if pd.api.types.is_complex_dtype(series.dtype):
        raise TypeError(f"column {name!r} holds complex numbers, expected real ones")
    if pd.api.types.is_numeric_dtype(series.dtype):  # booleans are numeric to pandas, dates are not
        numbers = series.to_numpy(dtype=float, na_value=np.nan)
    else:
        numbers = np.full(len(series), np.nan)
        for row in np.flatnonzero(series.notna()):
            value = series.iloc[row]
            try:
                numbers[row] = float(value)
            except (TypeError, ValueError):
                kind = "text" if isinstance(value, str) else type(value).__name__
                raise ValueError(
                    f"column {name!r} holds {kind}: {str(value)!r} in row {row + 1}; "
                    "encode it as numbers or leave the column out"
                ) from None
    infinite = np.isinf(numbers)
    if infinite.any():
        raise ValueError(f"column {name!r} holds an infinite value in row {int(infinite.argmax()) + 1}")
    return numbers


def _to_array(x: Any) -> npt.NDArray[Any]:
    """The numbers of an array or nested list, (N, *event), NaN where missing; errors name the column."""
    if isinstance(x, np.ma.MaskedArray):  # asarray would uncover what is masked
        x = np.ma.filled(x.astype(float), np.nan)
    try:
        array = np.asarray(x)
    except ValueError:
        raise ValueError("rows of different lengths, expected a rectangular table of numbers") from None
    if array.dtype.kind == "c":
        raise TypeError("expected real numbers, got complex ones")
    if array.dtype.kind in "biuf":
        return np.asarray(array, dtype=np.float64 if array.dtype.itemsize > 8 else None, order="C")
    if array.ndim == 0:
        raise TypeError(f"expected a tensor, an array, a DataFrame or nested lists of numbers, got {type(x).__name__}")
    if array.size == 0:
        return np.empty(array.shape)
    import pandas as pd

    # As objects, because numpy turns all of [[1, "a"]] into text.
    objects = np.asarray(x, dtype=object)
    return _frame_to_array(pd.DataFrame(objects.reshape(len(objects), -1))).reshape(objects.shape)
