"""What a report is about, read off the completed tables in one pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema

if TYPE_CHECKING:
    from pyro_gen.imputation.completed import Completed

__all__ = ["Array", "Filled", "Summary", "spread_out", "summarise"]

SHOWN_ENTRIES = 4000  # of a column, that are kept for its picture

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Filled:
    """A column with holes.

    Attributes:
        index: Its place in the table.
        column: What it holds.
        count: The number of missing entries.
        observed: The observed entries, or some of them, with shape (n).
        imputed: The draws of the missing entries, or of some of them, with shape (m, k).
        observed_mean: The mean of all observed entries.
        commonest: The code that is observed most often, where there are levels.
        observed_share: Its share of all observed entries.
    """

    index: int
    column: Column
    count: int
    observed: Array
    imputed: Array
    observed_mean: float
    commonest: int
    observed_share: float


@dataclass(frozen=True)
class Summary:
    """What the page is about.

    Attributes:
        schema: The columns.
        missing: Where nothing was observed, with shape (N, D).
        filled: The columns with holes, from the one with most on.
        means: The mean of each column over the rows, in each draw, on the encoded scale, with shape (m, D).
        variances: The squared standard errors of these means, with shape (m, D).
        counts: Of each column with holes that has levels, in the order of ``filled``: how many rows have the level that
            is observed most often, in each draw, with shape (m, columns).
        info: What the imputer said.
    """

    schema: Schema
    missing: Array
    filled: tuple[Filled, ...]
    means: Array
    variances: Array
    counts: Array
    info: Mapping[str, Any]

    @property
    def draws(self) -> int:
        return len(self.means)

    @property
    def rows(self) -> int:
        return len(self.missing)


def summarise(completed: "Completed", progress: Callable[[float], None]) -> Summary:
    """One pass over the draws, one at a time: the memory it takes does not grow with their number."""
    schema, missing = completed.schema, np.asarray(completed.missing)
    table = completed[0]
    if hasattr(table, "columns"):  # derived columns are no part of the schema
        known = set(schema.names)
        table = table.loc[:, [str(name) in known for name in table.columns]]
    values = schema.encode(table).numpy()
    counts = missing.sum(0)
    order = [int(d) for d in np.argsort(-counts, kind="stable") if counts[d]]
    shown = {d: spread_out(np.flatnonzero(missing[:, d])) for d in order}
    imputed: dict[int, list[Array]] = {d: [] for d in order}
    seen = {d: values[~missing[:, d], d] for d in order}
    commonest = {d: int(np.bincount(seen[d].astype(int)).argmax()) for d in order if schema.columns[d].discrete}
    means, variances, having = [], [], []
    for k in range(len(completed)):
        values[missing] = completed.cells(k).numpy()
        means.append(values.mean(0))
        variances.append(values.var(0, ddof=1) / len(values))
        having.append([int((values[:, d] == level).sum()) for d, level in commonest.items()])
        for d in order:
            imputed[d].append(values[shown[d], d])
        progress(0.5 * (k + 1) / len(completed))
    filled = []
    for d in order:
        level, drawn = commonest.get(d, 0), np.stack(imputed[d])
        average, share = float(seen[d].mean()), float((seen[d] == level).mean())
        filled.append(Filled(d, schema.columns[d], int(counts[d]), spread_out(seen[d]), drawn, average, level, share))
    each = np.stack(means), np.stack(variances), np.array(having)
    return Summary(schema, missing, tuple(filled), *each, completed.info)


def spread_out(rows: Array, most: int = SHOWN_ENTRIES) -> Array:
    """No more than so many, evenly spread."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]
