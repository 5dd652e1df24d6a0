"""An imputer learnt from a sample of a data set of many files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.partitions.dataset import BATCH_ROWS, Partition, frame_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["fit_on_sample"]

SAMPLED_ROWS = 20_000  # to learn from, about
SAMPLED_GROUPS = 10  # row groups that they are taken from, at least


def fit_on_sample(
    imputer: Imputer, source: Path, partitions: Sequence[Partition], schema: "pa.Schema", aside: Sequence[str]
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
    chosen: list[tuple[Partition, int, int]] = []
    rows = 0
    for i in rng.permutation(len(groups)):
        if rows >= SAMPLED_ROWS and len(chosen) >= SAMPLED_GROUPS:
            break
        chosen.append(groups[i])
        rows += groups[i][2]
    parts = []
    for partition, group, length in chosen:
        path = source / partition.name
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group)
        if rows > SAMPLED_ROWS:
            table = table.take(np.sort(rng.permutation(length)[: max(1, round(length * SAMPLED_ROWS / rows))]))
        parts.append(frame_of(table, schema, path))
    sample = pd.concat(parts, ignore_index=True).drop(columns=list(aside))
    fresh = clone(imputer)
    if not isinstance(imputer.schema, Schema):
        given = dict(imputer.schema or {})
        found = Schema.infer(sample, given)
        given |= _all_levels(found, source, partitions, schema)
        fresh.set_params(schema=given)
    fitted: Imputer = fresh.fit(sample)
    return fitted


def _all_levels(found: Schema, source: Path, partitions: Sequence[Partition], schema: "pa.Schema") -> dict[str, Column]:
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
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(seen)):
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
