"""Numbers from outside: tables in files, and whatever can be made a tensor.

Errors here are for the person who has the file open in another window: they name the column, the row (counted from 1
below the header) and the value.
"""

import io
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_gen._errors import AdviceError, shown
from pyro_gen.data.problems import Problems

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table", "as_tensor", "read_table"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A table of numbers with holes.

    Attributes:
        values: The numbers, with shape (N, D), in float64: standardise before single precision takes digits away. NaN
            = not observed.
        columns: The D column names.
        dropped: Numbers of the rows that were left out because nothing was observed in them, counted from 1 below the
            header of the file.
        notes: What was assumed in reading the file, in sentences.
    """

    values: Tensor
    columns: tuple[str, ...]
    dropped: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        rows, columns = self.values.shape
        missing = torch.isnan(self.values).double().mean().item()
        dropped = f", {_count(len(self.dropped), 'row')} dropped" if self.dropped else ""
        return f"Table({_count(rows, 'row')}, {_count(columns, 'column')}, {missing:.1%} missing{dropped})"


def read_table(
    path: str | os.PathLike[str],
    *,
    drop_all_missing: bool = False,
    allow_all_missing: bool = False,
    decimal: str | None = None,
    missing: Sequence[str] = (),
) -> Table:
    r"""Reads a table of numbers from a CSV, TSV or Parquet file.

    Parquet is known by its first bytes. Anything else is text with a header line: the separator is the one of ``,``
    ``;`` tab ``|`` that cuts the header into most pieces, the encoding is UTF-8 or, by its mark, UTF-16, and Latin-1
    where the bytes are neither. Empty fields, ``NA``, ``NaN``, ``null``, ``?`` and the like are missing, and ``-`` and
    ``.`` beside numbers; True and False are 1 and 0. Decimal commas, thousands separators (``1.234,56``, ``1,250``,
    ``1'234``), percent signs and currencies are understood, as far as the file tells what they mean. A first column
    without a name is an index, and left out. What was assumed stands in :attr:`Table.notes`.

    Arguments:
        path: The file.
        drop_all_missing: Leave out rows in which nothing was observed, instead of raising; :attr:`Table.dropped` says
            which.
        allow_all_missing: Take columns, and rows that are not left out, in which nothing was observed as they are:
            for data to be measured by a trained program, where a column may happen to be empty. Data to train on needs
            some values in each.
        decimal: The decimal mark, ``"."`` or ``","``; left out, the numbers say it.
        missing: What stands for missing besides the usual marks: ``["999", "unknown"]``.

    Raises:
        ValueError: If the file is missing, empty, without rows or no table; if a column has no name, the name of
            another, text in it, infinite numbers, numbers that can be read in two ways, or no observed value; if a row
            has no observed value; if the whole table has none. All that is wrong with columns is said at once.

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
    path = Path(path)
    table = parsed(path, lambda raw: file_table(raw, decimal=decimal, missing=missing))
    columns = tuple(map(str, table.frame.columns))
    numbers = np.full((len(table.frame), len(columns)), np.nan)
    wrong: list[Exception] = []
    for i, (name, (_, series)) in enumerate(zip(columns, table.frame.items(), strict=True)):
        try:
            if name in table.problems:
                raise table.problems[name]
            if table.cells is not None and name in table.dates:
                written = table.cells.iloc[:, i].where(series.notna())
                row = int(written.notna().to_numpy().argmax())
                raise ValueError(
                    f"column {name!r} holds dates: {written.iloc[row]!r} in row {row + 1}; make numbers of them, such "
                    "as days since 1970, or leave the column out (only impute reads them as days)"
                )
            numbers[:, i] = _column_to_array(name, series)
            if not allow_all_missing and np.isnan(numbers[:, i]).all():
                raise ValueError(f"column {name!r} has no observed value; leave it out")
        except (TypeError, ValueError) as error:
            wrong.append(error)
    observed = ~np.isnan(numbers)
    if table.frame.isna().to_numpy().all():
        raise ValueError(f"{path}: no value is observed in the whole table.")
    if wrong:
        raise Problems(wrong, f"{path}: ")
    empty = (np.flatnonzero(~observed.any(1)) + 1).tolist()
    if empty and not (drop_all_missing or allow_all_missing):
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise AdviceError(
            f"{path}: {_count(len(empty), 'row')} without any observed value (row {shown} below the header); "
            "{drop_all_missing} leaves them out.",
            drop_all_missing=True,
        )
    if not drop_all_missing:
        empty = []
    values = torch.from_numpy(np.delete(numbers, [row - 1 for row in empty], 0))
    return Table(values, columns, tuple(empty), table.notes)


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
        if x.layout != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got a sparse one: give x.to_dense().")
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


@dataclass(frozen=True)
class FileTable:
    """A table of numbers, words, dates and booleans from a file.

    Attributes:
        frame: The table.
        notes: What was assumed in reading it, in sentences.
        problems: By name of the column, why it cannot be read as what it seems to be; such columns are text in
            ``frame``.
        cells: The cells as they stand in the file, where that is text.
        dates: By name of the column, how its dates stand in the file, as for ``strftime``.
        plain: The columns of which numbers and words stand in the file as they are written here.
    """

    frame: "pd.DataFrame"
    notes: tuple[str, ...] = ()
    problems: Mapping[str, AdviceError] = field(default_factory=dict)
    cells: "pd.DataFrame | None" = None
    dates: Mapping[str, str] = field(default_factory=dict)
    plain: frozenset[str] = frozenset()


def file_table(
    raw: bytes,
    *,
    encoding: str | None = None,
    separator: str | None = None,
    decimal: str | None = None,
    missing: Sequence[str] = (),
    numbers: Collection[str] = (),
) -> FileTable:
    """The table in the bytes of a file, Parquet or text.

    Arguments:
        raw: The bytes.
        encoding: Of text; left out, see :func:`~pyro_gen.data.delimited.decode`.
        separator: What separates columns, see :func:`~pyro_gen.data.delimited.read_cells`.
        decimal: The decimal mark, ``"."`` or ``","``; left out, the numbers say it.
        missing: What stands for missing besides the usual marks.
        numbers: Columns that are numbers even if they look like codes, with zeros in front.
    """
    import pandas as pd

    from pyro_gen.data import delimited
    from pyro_gen.data.notation import in_words, read_columns

    if decimal not in (None, ".", ","):
        raise ValueError(f"the decimal mark is . or a comma, got {decimal!r}")
    if is_parquet(raw):
        frame = _read_parquet(raw)
        if len(frame) == 0:
            raise ValueError("the table has column names but no rows")
        marks = [*missing, *(float(mark) for mark in missing if delimited.is_number(mark))]
        return FileTable(frame.mask(frame.isin(marks)) if marks else frame)
    text = delimited.decode(raw, encoding)
    cells, separator, notes = delimited.read_cells(text, separator)
    readings = read_columns(cells, separator=separator, decimal=decimal, missing=missing, numbers=numbers)
    frame = pd.DataFrame({name: reading.values for name, reading in readings.items()})
    frame.index = cells.index
    return FileTable(
        frame,
        (*notes, *in_words(readings)),
        {name: reading.problem for name, reading in readings.items() if reading.problem is not None},
        cells,
        {name: reading.format for name, reading in readings.items() if reading.format is not None},
        frozenset(name for name, reading in readings.items() if reading.plain or reading.kind == "text"),
    )


def _read_parquet(raw: bytes) -> "pd.DataFrame":
    import pyarrow.parquet

    from pyro_gen.data.delimited import check_names

    table = pyarrow.parquet.read_table(io.BytesIO(raw))
    check_names(table.column_names)
    frame: pd.DataFrame = table.to_pandas()  # without the index, where pandas wrote one
    check_names([str(column) for column in frame.columns])
    return frame


def _frame_to_array(frame: "pd.DataFrame") -> npt.NDArray[np.float64]:
    """The numbers of a DataFrame, with shape (N, D), NaN where missing; errors name the column."""
    from pyro_gen.data.delimited import check_names

    check_names([str(column) for column in frame.columns])
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


def refuse_no_table(who: str, x: Any) -> None:
    """Refuses the name of a file, and columns in a mapping, where a table in memory is needed.

    Raises:
        TypeError: It is one.
    """
    if isinstance(x, str | os.PathLike) or (isinstance(x, Mapping) and not hasattr(x, "shape")):  # which scipy's have
        raise TypeError(
            f"{who}: a data frame or an array is needed, and {shown(x)} was given: read a file by pandas.read_csv, or "
            "give it to pyro-gen on the command line; make columns a pandas.DataFrame."
        )


def as_numbers(x: Any, name: str) -> Tensor:
    """As :func:`as_tensor` of an array or list, but whole numbers and booleans stay what they are."""
    try:
        array = np.array(x)
    except ValueError:
        raise ValueError(f"{name}: {_different_lengths(x)}.") from None
    return torch.as_tensor(array) if array.dtype.kind in "biuf" else as_tensor(x, name)


def _different_lengths(rows: Sequence[Any]) -> str:
    """What is wrong with nested lists of which numpy makes no array."""
    lengths = [len(row) if isinstance(row, list | tuple) or getattr(row, "shape", None) else "no list" for row in rows]
    other = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    where = "" if other is None else f", {lengths[0]} in row 1 and {lengths[other]} in row {other + 1}"
    return f"rows of different lengths{where}, expected a table of numbers: pad shorter ones with NaN"


def _to_array(x: Any) -> npt.NDArray[Any]:
    """The numbers of an array or nested list, (N, *event), NaN where missing; errors name the column."""
    if isinstance(x, np.ma.MaskedArray):  # asarray would uncover what is masked
        x = np.ma.filled(x.astype(float), np.nan)
    try:
        array = np.asarray(x)
    except ValueError:
        raise ValueError(_different_lengths(x)) from None
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
