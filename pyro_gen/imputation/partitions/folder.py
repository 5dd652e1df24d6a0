"""A data set of many files imputed into a folder, file by file and on whatever machine."""

import contextlib
import functools
import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_gen._files import PARTIAL, atomic, open_claimed, remove_abandoned
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.partitions.dataset import BATCH_ROWS, Partition, frame_of, survey
from pyro_gen.imputation.partitions.sample import fit_on_sample
from pyro_gen.imputation.stored import read_imputer, write_imputer
from pyro_gen.inference.progress import progress_bar

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["impute_partitions", "imputer_of"]

IMPUTER_FILE = "_imputer.pt"  # readers of data sets leave out what begins with an underscore
_ONE = threading.Lock()  # in a process: programs are run one at a time


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
        >>> import numpy as np, pandas as pd
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
    partitions, schema = survey(source, aside)
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
    if (target / IMPUTER_FILE).exists():
        _check_asked(target, asked)
    elif target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{target}: the folder is not empty, and what it holds is none of this; give another.")
    else:
        if not fitted:
            imputer = fit_on_sample(imputer, source, partitions, schema, aside)
        target.mkdir(parents=True, exist_ok=True)
        mine = target / f".{IMPUTER_FILE}.{uuid.uuid4().hex}{PARTIAL}"
        write_imputer(mine, imputer, asked)
        try:
            os.link(mine, target / IMPUTER_FILE)  # who is first has it: two runs on one folder impute by one imputer
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
    path = Path(target) / IMPUTER_FILE
    return _kept(path, path.stat().st_mtime_ns)


def _check_asked(target: Path, asked: dict[str, Any]) -> None:
    if read_imputer(target / IMPUTER_FILE)[1] != asked:
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


def _digest(imputer: Imputer) -> str:
    """What a fitted imputer has learnt, in a few letters."""
    known = (imputer.schema_, imputer.scaling_, imputer.weights_, imputer.spread_, imputer.seed_)
    found = hashlib.sha256(repr(known).encode())
    for name, program in imputer.programs_.items():
        found.update(name.encode())
        for value in program.state_dict().values():
            found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


@functools.lru_cache(maxsize=1)
def _kept(path: Path, changed: int) -> Imputer:
    return read_imputer(path)[0]


def _impute_file(
    source: Path, target: Path, partition: Partition, schema: "pa.Schema", draws: int, aside: Sequence[str]
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
            for number, batch in enumerate(file.iter_batches(batch_size=BATCH_ROWS)):
                frame = frame_of(pa.Table.from_batches([batch]), schema, source / partition.name)
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
