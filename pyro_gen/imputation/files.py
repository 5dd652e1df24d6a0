"""Tables of numbers and words, with holes, from files and into files."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_gen._files import atomic
from pyro_gen.data.tables import decode, frame_of, is_parquet, parsed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_mixed_table", "with_observed_columns", "write_table"]


def read_mixed_table(
    path: str | os.PathLike[str], *, encoding: str | None = None, separator: str | None = None
) -> "pd.DataFrame":
    r"""Reads a table of numbers, words, categories and booleans from a CSV, TSV or Parquet file.

    Parquet is known by its first bytes. Anything else is text with a header line. Empty fields, ``NA``, ``NaN``,
    ``null``, ``?`` and the like are missing. Numbers with decimal commas are understood where the comma does not
    separate columns.

    Arguments:
        path: The file.
        encoding: Any that Python knows; by default UTF-8 or, by its mark, UTF-16, and Latin-1 where the bytes are
            neither.
        separator: What separates columns, a regular expression where it is longer than one character; by default the
            one of ``,`` ``;`` tab ``|`` that cuts the header into most pieces.

    Raises:
        ValueError: If the file is missing, empty, without rows or no table, or not of this encoding; if a column has
            no name, or the name of another.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = path.write_text("height;sex\n1,83;m\n;f\n")
        >>> print(read_mixed_table(path).to_string())
           height sex
        0    1.83   m
        1     NaN   f
    """

    def text(raw: bytes) -> str:
        return decode(raw) if encoding is None else _decode_as(raw, encoding)

    def parse(raw: bytes) -> "pd.DataFrame":
        frame = frame_of(raw, text, separator)
        return frame if is_parquet(raw) else _with_numbers_and_booleans(frame)

    return parsed(Path(path), parse)


def _decode_as(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ValueError(f"there is no encoding {encoding!r}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the bytes are not {encoding}: {error.reason} at byte {error.start}") from None


def _with_numbers_and_booleans(frame: "pd.DataFrame") -> "pd.DataFrame":
    """What pandas leaves as objects: numbers with decimal commas, and True and False with holes between them."""
    import pandas as pd

    for name in frame.columns:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column.dtype):  # booleans are numeric to pandas
            continue
        seen = column.dropna()
        if len(seen) == 0:
            continue
        if seen.map(lambda value: isinstance(value, bool)).all():
            frame[name] = column.astype("boolean")
        elif seen.astype(str).str.fullmatch(r"[-+]?\d+(,\d+)?([eE][-+]?\d+)?").all():
            frame[name] = pd.to_numeric(column.astype("object").str.replace(",", ".", regex=False))
    return frame


def with_observed_columns(frame: "pd.DataFrame", *, drop_empty: bool = False) -> "pd.DataFrame":
    """A table without the columns that have no observed value.

    Arguments:
        frame: A table.
        drop_empty: Leave such columns out, instead of raising.

    Raises:
        ValueError: No value is observed in some column, or in the whole table.
    """
    empty = [str(column) for column, hollow in frame.isna().all().items() if hollow]
    if len(empty) == frame.shape[1]:
        raise ValueError("no value is observed in the whole table.")
    if empty and not drop_empty:
        shown = ", ".join(map(repr, empty[:5])) + (f", ... ({len(empty)} in all)" if len(empty) > 5 else "")
        which, them = (f"column {shown} has", "it") if len(empty) == 1 else (f"columns {shown} have", "them")
        raise ValueError(
            f"{which} no observed value: nothing can be learnt of {them}; drop_empty=True leaves {them} out."
        )
    return frame.loc[:, [str(column) not in empty for column in frame.columns]]


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
