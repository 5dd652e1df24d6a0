r"""Data sets of many Parquet files, larger than memory: learnt from a sample, imputed file by file.

Programs learn from rows out of some row groups, drawn at random, for a few ten thousand rows say what there is to say.
Then each file is completed by itself, a batch of rows at a time, on as many machines as there are. Each row has a seed,
made of the file it lies in, its batch, and what it holds: whoever completes a file, and how often, writes the same.

A file is written under another name and takes its own when it is whole. So what has its name is finished: whoever
starts again after a crash goes on with what is left.

The engine is Dask: its scheduler gives the tasks of a worker that dies to the others, it runs on a laptop's processes
and on the queues of clusters alike, and it is Python through and through, where Ray brings daemons of its own.
"""

import contextlib
import functools
import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import clone

from pyro_gen._files import PARTIAL, atomic, open_claimed, remove_abandoned
from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.stored import read_imputer, write_imputer
from pyro_gen.inference.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["impute_partitions", "imputer_of"]

SAMPLE = 20_000  # rows to learn from, about
SAMPLED_GROUPS = 10  # row groups that they are taken from, at least
BATCH = 2**17  # rows that are completed at a time
KEPT = "_imputer.pt"  # readers of data sets leave out what begins with an underscore
_ONE = threading.Lock()  # in a process: programs are run one at a time


class _Partition(NamedTuple):
    """One file of a data set.

    Attributes:
        name: Its path inside the folder.
        rows: How many it has.
        first: The number of its first row in the data set.
    """

    name: str
    rows: int
    first: int


def impute_partitions(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    imputer: Imputer | None = None,
    *,
    draws: int | None = None,
    ignore: Sequence[str] = (),
    client: Any = None,
    progress: bool | Callable[[float], None] = False,
) -> list[Path]:
    """Imputes a folder of Parquet files, which need not fit into memory together.

    Arguments:
        source: The folder. All files in it that end in .parquet belong to the data set, those in folders inside it too,
            and have the same columns.
        target: The folder to write, which may hold finished files of an earlier run that was cut off: these stay. Each
            file has the name of the one it comes from, and all completed tables in it, with their number in the column
            ``.imp`` and that of the row, counted through the data set, in ``.id``. Besides it holds the imputer.
        imputer: What to impute with, fitted or not: what is not is fitted on a sample. Left out, ``Imputer()``.
        draws: The number of draws; left out, that of the imputer.
        ignore: Columns (names, dates) to hand on, as the last, neither used nor imputed.
        client: A ``dask.distributed.Client`` whose workers see both folders; left out, the files are imputed in this
            process, one after the other.
        progress: Whether to show a progress bar, or a function to be called with the share of the files that is done.

    Returns:
        The files of the data set that was written, in order.

    Raises:
        ValueError: If there is no such folder, or no Parquet file in it; if files differ in their columns, hold what
            the imputer cannot know, or cannot be read; if ``target`` holds something else.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
        >>> (folder / "in").mkdir()
        >>> for i in range(2):
        ...     a = rng.normal(size=200)
        ...     b = np.where(rng.random(200) < 0.3, np.nan, a + rng.normal(size=200))
        ...     pd.DataFrame({"a": a, "b": b}).to_parquet(folder / "in" / f"{i}.parquet")
        >>> imputer = Imputer("gaussian", draws=3, random_state=0)
        >>> written = impute_partitions(folder / "in", folder / "out", imputer)
        >>> [path.name for path in written], pd.read_parquet(folder / "out").shape
        (['0.parquet', '1.parquet'], (1200, 4))
    """
    source, target = Path(source), Path(target)
    aside = list(dict.fromkeys(ignore))
    partitions, schema = _survey(source, aside)
    if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
        raise ValueError(f"{target}: the folder to write cannot be the data set, or lie in it; give another.")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: is a file, expected a folder.")
    imputer = Imputer() if imputer is None else imputer
    draws = imputer.draws if draws is None else draws
    if draws < 1:
        raise ValueError(f"impute_partitions(draws={draws}): give a positive number.")
    fitted = hasattr(imputer, "programs_")
    options = {name: value for name, value in imputer.get_params().items() if name not in ("draws", "progress")}
    asked = {
        "partitions": [list(partition) for partition in partitions],
        "columns": str(schema.remove_metadata()),
        "draws": draws,
        "ignore": aside,
        "imputer": _digest(imputer) if fitted else repr(sorted(options.items())),
    }
    if (target / KEPT).exists():
        _check_asked(target, asked)
    elif target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{target}: the folder is not empty, and what it holds is none of this; give another.")
    else:
        if not fitted:
            imputer = _fit(imputer, source, partitions, schema, aside)
        target.mkdir(parents=True, exist_ok=True)
        mine = target / f".{KEPT}.{uuid.uuid4().hex}{PARTIAL}"
        write_imputer(mine, imputer, asked)
        try:
            os.link(mine, target / KEPT)  # who is first has it: two runs on one folder impute by one imputer
        except FileExistsError:
            _check_asked(target, asked)
        finally:
            mine.unlink()
    with progress_bar("imputing", progress) as tick:
        # Workers may have another current folder.
        where = source.absolute(), target.absolute()
        tasks = [(*where, p, schema, draws, aside) for p in partitions if not (target / p.name).exists()]
        for done, _ in enumerate(_completed(tasks, client), start=len(partitions) - len(tasks) + 1):
            tick(done / len(partitions), "")
    remove_abandoned(target)  # by workers that died
    return [target / partition.name for partition in partitions]


def imputer_of(target: str | os.PathLike[str]) -> Imputer:
    """The imputer by which a folder was imputed.

    Arguments:
        target: A folder that :func:`impute_partitions` wrote.
    """
    path = Path(target) / KEPT
    return _kept(path, path.stat().st_mtime_ns)


def _check_asked(target: Path, asked: dict[str, Any]) -> None:
    if read_imputer(target / KEPT)[1] != asked:
        raise ValueError(f"{target}: holds imputations of something else, or other ones; give an empty folder.")


def _completed(tasks: Sequence[tuple[Any, ...]], client: Any) -> Any:
    """Yields when a file is finished."""
    if client is None:
        for task in tasks:
            yield _impute_file(*task)
        return
    from dask import distributed

    futures = [client.submit(_impute_file, *task, pure=False) for task in tasks]
    as_completed: Any = distributed.as_completed  # which has no types
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        client.cancel(futures)


# ----------------------------------------------------------------------------------------------------------------------
# What there is


def _survey(source: Path, aside: list[str]) -> tuple[list[_Partition], "pa.Schema"]:
    """The files of a data set, and their common columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not source.is_dir():
        raise ValueError(f"{source}: {'is a file, expected a folder' if source.exists() else 'no such folder'}.")
    names = sorted(path.relative_to(source) for path in source.rglob("*.parquet") if path.is_file())
    names = [name for name in names if not any(part.startswith(("_", ".")) for part in name.parts)]
    if not names:
        raise ValueError(f"{source}: no Parquet file (*.parquet) in this folder.")
    partitions: list[_Partition] = []
    common, rows = None, 0
    for name in names:
        try:
            metadata = pq.read_metadata(source / name)
            found = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{source / name}: not a Parquet file ({str(error).splitlines()[0].rstrip('.')})."
            ) from None
        partitions.append(_Partition(name.as_posix(), metadata.num_rows, rows))
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


def _frame(table: "pa.Table", schema: "pa.Schema", path: Path) -> "pd.DataFrame":
    import pyarrow as pa

    try:
        frame: pd.DataFrame = table.select(schema.names).cast(schema).to_pandas(ignore_metadata=True)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0].rstrip('.')}.") from None
    return frame


# ----------------------------------------------------------------------------------------------------------------------
# Learning


def _fit(
    imputer: Imputer, source: Path, partitions: Sequence[_Partition], schema: "pa.Schema", aside: Sequence[str]
) -> Imputer:
    """Fits a copy of an imputer on rows from some row groups."""
    import pandas as pd
    import pyarrow.parquet as pq

    seed = imputer.random_state
    rng = np.random.default_rng(seed if isinstance(seed, int) else None)
    groups = []
    for partition in partitions:
        metadata = pq.read_metadata(source / partition.name)
        groups += [(partition, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
    chosen: list[tuple[_Partition, int, int]] = []
    rows = 0
    for i in rng.permutation(len(groups)):
        if rows >= SAMPLE and len(chosen) >= SAMPLED_GROUPS:
            break
        chosen.append(groups[i])
        rows += groups[i][2]
    parts = []
    for partition, group, length in chosen:
        path = source / partition.name
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group)
        if rows > SAMPLE:
            table = table.take(np.sort(rng.permutation(length)[: max(1, round(length * SAMPLE / rows))]))
        parts.append(_frame(table, schema, path))
    sample = pd.concat(parts, ignore_index=True).drop(columns=list(aside))
    fresh = clone(imputer)
    if not isinstance(imputer.schema, Schema):
        given = dict(imputer.schema or {})
        found = Schema.infer(sample, given)
        given |= _all_levels(found, source, partitions, schema)
        fresh.set_params(schema=given)
    fitted: Imputer = fresh.fit(sample)
    return fitted


def _all_levels(
    found: Schema, source: Path, partitions: Sequence[_Partition], schema: "pa.Schema"
) -> dict[str, Column]:
    """Columns of text or categories of which the sample has not all levels, with all of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = [
        column
        for column in found.columns
        if column.discrete
        and (pa.types.is_dictionary(kind := schema.field(column.name).type) or pa.types.is_string(kind))
    ]
    seen: dict[str, dict[Any, None]] = {column.name: dict.fromkeys(column.levels) for column in words}
    for partition in partitions if words else ():
        with pq.ParquetFile(source / partition.name) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=list(seen)):
                for name, known in seen.items():
                    known.update(dict.fromkeys(batch[name].unique().to_pylist()))
    completed = {}
    for column in words:
        levels: list[Any] = [level for level in seen[column.name] if level is not None]
        if len(levels) == len(column.levels):
            continue
        if column.kind == "ordinal":
            raise ValueError(
                f"column {column.name!r}: the level {levels[-1]!r} is not among those of the sample learnt from, "
                f"{', '.join(map(str, column.levels))}, and its place is not known; give the column by schema=, with "
                "all its levels."
            )
        completed[column.name] = Column(column.name, "nominal" if len(levels) > 2 else "binary", tuple(sorted(levels)))
    return completed


def _digest(imputer: Imputer) -> str:
    """What a fitted imputer has learnt, in a few letters."""
    known = (imputer.schema_, imputer.scaling_, imputer.weights_, imputer.spread_, imputer.seed_)
    found = hashlib.sha256(repr(known).encode())
    for name, program in imputer.programs_.items():
        found.update(name.encode())
        for value in program.state_dict().values():
            found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# Imputing, on whatever machine


@functools.lru_cache(maxsize=1)
def _kept(path: Path, changed: int) -> Imputer:
    return read_imputer(path)[0]


def _impute_file(
    source: Path, target: Path, partition: _Partition, schema: "pa.Schema", draws: int, aside: Sequence[str]
) -> str:
    """Writes all draws of one file, if nobody has."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = target / partition.name
    if path.exists():
        return partition.name
    fields = [schema.field(name) for name in schema.names if name not in aside]
    fields += [schema.field(name) for name in aside]
    written = pa.schema([(".imp", pa.int64()), (".id", pa.int64()), *fields])
    with _ONE, contextlib.ExitStack() as stack:
        whole_file = stack.enter_context(open_claimed(stack.enter_context(atomic(path))))
        imputer = imputer_of(target)
        file = stack.enter_context(pq.ParquetFile(source / partition.name))
        first = partition.first
        with pq.ParquetWriter(whole_file, written) as writer:
            for number, batch in enumerate(file.iter_batches(batch_size=BATCH)):
                frame = _frame(pa.Table.from_batches([batch]), schema, source / partition.name)
                frame.index = pd.RangeIndex(first, first + len(frame))
                first += len(frame)
                try:
                    completed = imputer.impute(
                        frame.drop(columns=list(aside)), draws, part=f"{partition.name}:{number}"
                    )
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{source / partition.name}, from row {frame.index[0]} on: {error}") from None
                whole = completed.derive(**{name: lambda _, name=name, frame=frame: frame[name] for name in aside})
                for long in whole.long_parts():
                    writer.write_table(pa.Table.from_pandas(long, schema=written, preserve_index=False))
    return partition.name
