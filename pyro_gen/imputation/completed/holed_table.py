"""A table with holes: where they are, what may stand in them, and the table with them filled."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_gen.data.schema import Schema

__all__ = ["Formula", "HoledTable"]

Formula = tuple[str, Callable[[Any], Any]]  # the name of a derived column, and what it is in a completed table


class HoledTable:
    """A table and where it has holes. The C missing entries have a number, row by row.

    Arguments:
        table: A data frame or an array; a copy of it is kept.
        schema: What its columns are.
        missing: Where it has holes, with shape :math:`(N, D)`.

    Attributes:
        table: As given.
        schema: As given.
        missing: As given.
        rows: The row of each missing entry, with shape :math:`(C)`.
        columns: The column of each missing entry, with shape :math:`(C)`.
        at: For each column the numbers of its missing entries.
    """

    def __init__(self, table: Any, schema: Schema, missing: Tensor) -> None:
        if tuple(missing.shape) != (len(table), len(schema.columns)):
            raise ValueError(
                f"missing: got shape {tuple(missing.shape)}, expected {(len(table), len(schema.columns))} for this "
                "table."
            )
        self.table, self.schema = table.copy(), schema
        self.missing: npt.NDArray[np.bool_] = missing.numpy()
        self.rows, self.columns = missing.nonzero(as_tuple=True)
        self.at = [(self.columns == d).nonzero()[:, 0] for d in range(len(schema.columns))]

    @property
    def count(self) -> int:
        """The number C of missing entries."""
        return len(self.rows)

    @cached_property
    def encoded(self) -> Tensor:
        """The table on the encoded scale, with shape :math:`(N, D)`, NaN in the holes."""
        return self.schema.encode(self.table).cpu()

    @property
    def is_frame(self) -> bool:
        """Whether the table is a data frame, whose columns have names."""
        return hasattr(self.table, "columns")

    def checked(self, cells: Tensor) -> Tensor:
        """Draws (m, C) of the missing entries, if none is left open; not copied."""
        if cells.ndim != 2 or cells.shape[1] != self.count:
            raise ValueError(f"cells: got shape {tuple(cells.shape)}, expected (m, {self.count}): one for each hole.")
        cells = cells.detach().cpu()
        finite = cells.isfinite().all(0)
        if not bool(finite.all()):
            name = self.schema.names[int(self.columns[int(finite.int().argmin())])]
            raise ValueError(f"draws: column {name!r} has holes that are not filled by a finite number.")
        return cells

    def settled(self, cells: Tensor) -> Tensor:
        """Missing entries (C) as their columns can have them, see :meth:`Column.settled`; a copy, float64."""
        cells = cells.to(torch.float64, copy=True)
        for column, at in zip(self.schema.columns, self.at, strict=True):
            cells[at] = torch.from_numpy(column.settled(cells[at].numpy()))
        return cells

    def filled(self, cells: Tensor, formulas: tuple[Formula, ...] = (), *, rounded: bool = True) -> tuple[Any, Tensor]:
        """The table with its holes filled by (C) and all derived columns in it, and its missing entries after that."""
        values = self.encoded.clone()
        values[self.rows, self.columns] = cells
        table = self.schema.decode(values, self.table, rounded=rounded)
        added: dict[str, Any] = {}
        for name, formula in formulas:
            column = formula(table)
            if name not in self.schema.names:
                added[name] = column
            else:
                d = self.schema.names.index(name)
                encoded = self.schema.encode(table[list(self.table.columns)].assign(**{name: column}))
                at = torch.from_numpy(self.missing[:, d])
                values[at, d] = encoded[at, d].cpu()
                if bool(values[:, d].isnan().any()):
                    raise ValueError(f"derive: the formula of {name!r} gives missing values in a completed table.")
                table = self.schema.decode(values, self.table, rounded=rounded)
            table = table.assign(**added)
        return table, values[self.rows, self.columns]
