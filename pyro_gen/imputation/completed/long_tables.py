"""Completed tables below each other, as R's mice has them, in memory and in files."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_gen._files import atomic

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["long_parts", "write_csv", "write_parquet"]


def long_parts(tables: Iterator[Any], names: Sequence[str], like: Any = None) -> Iterator["pd.DataFrame"]:
    """Completed tables one by one, each with the columns ``.imp`` and ``.id`` in front.

    Arguments:
        tables: The completed tables.
        names: Names of the columns, for arrays.
        like: The table with holes, which then comes first, as number 0.
    """
    parts = (_numbered(table, number, names) for number, table in enumerate(tables, start=1))
    if like is not None:
        first, holes = next(parts), _numbered(like, 0, names)
        derived = [name for name in first.columns if name not in holes.columns]
        yield holes.join(first[derived].iloc[:0].reindex(holes.index))
        yield first
    yield from parts


def _numbered(table: Any, number: int, names: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(table, columns=list(names))
    if taken := {".imp", ".id"} & set(frame.columns):
        raise ValueError(f"The table has a column {taken.pop()!r}, a name that this output needs; rename the column.")
    several = isinstance(frame.index, pd.MultiIndex)
    head = pd.DataFrame({".imp": number, ".id": np.arange(len(frame)) if several else np.asarray(frame.index)})
    return pd.concat([head, frame.reset_index(drop=True)], axis=1)


def write_csv(
    parts: Iterator["pd.DataFrame"],
    path: str | os.PathLike[str],
    written: "Callable[[pd.DataFrame], pd.DataFrame] | None" = None,
) -> None:
    """Writes parts of a long table as CSV, each as a function makes it of the part, where one is given."""
    with atomic(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        for number, part in enumerate(parts):
            (part if written is None else written(part)).to_csv(file, index=False, header=number == 0)


def write_parquet(parts: Iterator["pd.DataFrame"], path: str | os.PathLike[str], *, original: bool) -> None:
    """Writes parts of a long table as Parquet, each in row groups of its own.

    Arguments:
        parts: The parts.
        path: The file.
        original: Whether the first of them is the table with holes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    head = [next(parts) for _ in range(1 + original)]
    columns = pa.Schema.from_pandas(head[-1], preserve_index=False)  # types are those of completed tables
    repeated = [column.name for column in columns if not pa.types.is_floating(column.type)]
    with atomic(path) as partial, pq.ParquetWriter(partial, columns, use_dictionary=repeated) as writer:
        for part in itertools.chain(head, parts):
            writer.write_table(pa.Table.from_pandas(part, schema=columns, preserve_index=False))
