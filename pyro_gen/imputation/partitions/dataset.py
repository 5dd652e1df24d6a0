"""Data sets of many Parquet files: which files there are, and the columns that they have in common."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["BATCH_ROWS", "Partition", "frame_of", "survey"]

BATCH_ROWS = 2**17  # that are read at a time


class Partition(NamedTuple):
    """One file of a data set.

    Attributes:
        name: Its path inside the folder.
        rows: How many it has.
        first: The number of its first row in the data set.
    """

    name: str
    rows: int
    first: int


def survey(source: Path, aside: list[str]) -> tuple[list[Partition], "pa.Schema"]:
    """The files of a data set, and their common columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not source.is_dir():
        raise ValueError(f"{source}: {'is a file, expected a folder' if source.exists() else 'no such folder'}.")
    names = sorted(path.relative_to(source) for path in source.rglob("*.parquet") if path.is_file())
    names = [name for name in names if not any(part.startswith(("_", ".")) for part in name.parts)]
    if not names:
        raise ValueError(f"{source}: no Parquet file (*.parquet) in this folder.")
    partitions: list[Partition] = []
    common, rows = None, 0
    for name in names:
        try:
            metadata = pq.read_metadata(source / name)
            found = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{source / name}: not a Parquet file ({str(error).splitlines()[0].rstrip('.')})."
            ) from None
        partitions.append(Partition(name.as_posix(), metadata.num_rows, rows))
        rows += metadata.num_rows
        _check_columns(found, common, source / name, source / names[0])
        try:
            common = found if common is None else pa.unify_schemas([common, found], promote_options="permissive")
        except (pa.ArrowException, NotImplementedError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise ValueError(
                f"{source / name}: columns are of another type than in the files before it ({reason}); make them alike."
            ) from None
    assert common is not None
    index = (common.pandas_metadata or {}).get("index_columns", [])
    aside += [name for name in index if isinstance(name, str) and name not in aside]
    if unknown := [name for name in aside if name not in common.names]:
        raise ValueError(f"ignore: the data set has no column {unknown[0]!r}, but {', '.join(common.names)}.")
    if not rows:
        raise ValueError(f"{source}: the files have no rows.")
    return [partition for partition in partitions if partition.rows], common.remove_metadata()


def _check_columns(found: "pa.Schema", common: "pa.Schema | None", name: Path, first: Path) -> None:
    if repeated := {column for column in found.names if found.names.count(column) > 1}:
        raise ValueError(f"{name}: duplicate column names: {', '.join(sorted(repeated))}; rename them.")
    if common is not None and set(found.names) != set(common.names):
        lacking = [column for column in common.names if column not in found.names]
        surplus = [column for column in found.names if column not in common.names]
        problems = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"has also {', '.join(surplus)}"] * bool(surplus)
        raise ValueError(
            f"{name}: {' and '.join(problems)}, which is not so in {first}; all files need the same columns."
        )


def frame_of(table: "pa.Table", schema: "pa.Schema", path: Path) -> "pd.DataFrame":
    """Rows of a file as a data frame, with the columns that all files have in common."""
    import pyarrow as pa

    try:
        frame: pd.DataFrame = table.select(schema.names).cast(schema).to_pandas(ignore_metadata=True)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0].rstrip('.')}.") from None
    return frame
