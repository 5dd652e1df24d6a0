"""Tables of numbers and words, with holes, from files and into files."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_gen._errors import AdviceError
from pyro_gen._files import atomic
from pyro_gen.data.column import DISCRETE, Column
from pyro_gen.data.problems import Problems
from pyro_gen.data.schema import Schema
from pyro_gen.data.tables import FileTable, file_table, parsed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_written", "read_file", "read_mixed_table", "usable", "with_observed_columns", "write_table"]


def read_mixed_table(
    path: str | os.PathLike[str],
    *,
    encoding: str | None = None,
    separator: str | None = None,
    decimal: str | None = None,
    missing: Sequence[str] = (),
    numbers: Collection[str] = (),
) -> "pd.DataFrame":
    r"""Reads a table of numbers, words, dates and booleans from a CSV, TSV or Parquet file.

    See :func:`read_file`, which also says what was assumed, and what is wrong: here the first problem is raised.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = path.write_text("height;sex\n1,83;m\n;f\n")
        >>> print(read_mixed_table(path).to_string())
           height sex
        0    1.83   m
        1     NaN   f
    """
    table = read_file(path, encoding=encoding, separator=separator, decimal=decimal, missing=missing, numbers=numbers)
    if table.problems:
        raise Problems(list(table.problems.values()), f"{path}: ")
    return table.frame


def read_file(
    path: str | os.PathLike[str],
    *,
    encoding: str | None = None,
    separator: str | None = None,
    decimal: str | None = None,
    missing: Sequence[str] = (),
    numbers: Collection[str] = (),
) -> FileTable:
    """Reads a table from a CSV, TSV or Parquet file, and says what was assumed in reading it.

    Parquet is known by its first bytes. Anything else is text with a header line. Empty fields, ``NA``, ``NaN``,
    ``null``, ``?`` and the like are missing; ``-``, ``.`` and the like beside numbers. Decimal commas, thousands
    separators, percent signs and currencies are understood, as far as the file tells what they mean; so are dates. A
    first column without a name is the index of the table.

    Arguments:
        path: The file.
        encoding: Any that Python knows; by default UTF-8 or, by its mark, UTF-16, and Latin-1 where the bytes are
            neither.
        separator: What separates columns, a regular expression where it is longer than one character; by default the
            one of ``,`` ``;`` tab ``|`` that cuts the header into most pieces.
        decimal: The decimal mark, ``"."`` or ``","``; by default the numbers say it.
        missing: What stands for missing besides the usual marks.
        numbers: Columns that are numbers even if they look like codes, with zeros in front.

    Raises:
        ValueError: If the file is missing, empty, without rows or no table, or not of this encoding; if a column has
            no name, or the name of another; if the separator is not in the header.
    """
    options: dict[str, Any] = {"encoding": encoding, "separator": separator, "decimal": decimal}
    return parsed(Path(path), lambda raw: file_table(raw, missing=missing, numbers=numbers, **options))


def usable(
    table: FileTable, overrides: Mapping[str, str | Column], *, ignore: Sequence[str] = (), drop_empty: bool = False
) -> "tuple[pd.DataFrame, Schema | None]":
    """The columns of a file to impute, and what they are, where there is something to impute.

    Arguments:
        table: What was read.
        overrides: Kinds of columns by name, as in :meth:`Schema.infer`.
        ignore: Columns that are not used.
        drop_empty: Leave columns without any observed value out.

    Raises:
        ValueError: Some columns cannot be used: all that is wrong with them is said at once.
    """
    used = table.frame.drop(columns=list(ignore))
    refused = [
        name
        for name in table.problems
        if name in used.columns and getattr(kind := overrides.get(name), "kind", kind) not in DISCRETE
    ]
    wrong: list[str | Exception] = [table.problems[name] for name in refused]
    if used.isna().to_numpy().all():
        return with_observed_columns(used), None  # which raises
    try:
        used = with_observed_columns(used, drop_empty=drop_empty)
    except ValueError as error:
        wrong.append(error)
        used = with_observed_columns(used, drop_empty=True)
    schema, others = None, used.drop(columns=refused)
    if others.shape[1] and (wrong or used.isna().to_numpy().any()):
        try:
            schema = Schema.infer(others, {c: kind for c, kind in overrides.items() if c in others.columns})
        except Problems as error:
            wrong += error.each
        except (TypeError, ValueError) as error:
            wrong.append(error)
    if wrong:
        raise Problems(wrong)
    return used, schema


def as_written(table: FileTable) -> "Callable[[pd.DataFrame], pd.DataFrame]":
    """What makes of a completed table what is to stand in a file of text: as in the file that it comes from.

    Numbers and dates that were observed stand there as in the file, ``1.50`` and ``24.12.2024``; those imputed as the
    others, whole where all are. Numbers with decimal commas, thousands separators or units become plain ones.
    """
    import numpy as np
    import pandas as pd

    cells = table.cells
    if cells is None:
        return lambda frame: frame
    numbers = [c for c in table.plain if pd.api.types.is_numeric_dtype(table.frame[c].dtype)]
    written = {name: cells[name].str.strip().to_numpy(dtype=object) for name in (*numbers, *table.dates)}
    holes = {name: table.frame[name].isna().to_numpy() for name in written}
    whole = {name for name in numbers if all(c.lstrip("+-").isdigit() for c in written[name][~holes[name]])}

    def text(name: str, values: "pd.Series[Any]") -> list[str]:
        if name in table.dates:
            return list(values.dt.strftime(table.dates[name]))
        return [str(int(v)) if name in whole and v == np.rint(v) else repr(float(v)) for v in values]

    def render(frame: "pd.DataFrame") -> "pd.DataFrame":
        rendered = {}
        for name in frame.columns:
            values = frame[name]
            if name in written and (name in table.dates) == (values.dtype.kind == "M"):
                now = written[name].copy()
                now[holes[name]] = text(name, values[holes[name]]) if values[holes[name]].notna().all() else ""
                values = pd.Series(now, index=frame.index)
            rendered[name] = values
        return pd.DataFrame(rendered)

    return render


def with_observed_columns(frame: "pd.DataFrame", *, drop_empty: bool = False) -> "pd.DataFrame":
    """A table without the columns that have no observed value.

    Arguments:
        frame: A table.
        drop_empty: Leave such columns out, instead of raising.

    Raises:
        ValueError: No value is observed in some column, or in the whole table.
    """
    empty = [str(column) for column, no_value in frame.isna().all().items() if no_value]
    if len(empty) == frame.shape[1]:
        raise ValueError("no value is observed in the whole table.")
    if empty and not drop_empty:
        shown = ", ".join(map(repr, empty[:5])) + (f", ... ({len(empty)} in all)" if len(empty) > 5 else "")
        which, them = (f"column {shown} has", "it") if len(empty) == 1 else (f"columns {shown} have", "them")
        raise AdviceError(
            f"{which} no observed value: nothing can be learnt of {them}; {{drop_empty}} leaves {them} out.",
            drop_empty=True,
        )
    hollow = set(empty)
    return frame.loc[:, [str(column) not in hollow for column in frame.columns]]


def write_table(frame: "pd.DataFrame", path: str | os.PathLike[str]) -> None:
    """Writes one table, without an index that only counts its rows.

    Arguments:
        frame: The table.
        path: The file; a name that ends in .parquet makes it Parquet, any other CSV.
    """
    import pandas as pd

    with atomic(path) as partial:
        if partial.suffix == ".parquet":
            frame.to_parquet(partial)
        else:
            frame.to_csv(partial, index=not isinstance(frame.index, pd.RangeIndex))
