"""Draws of the missing entries of a table, held in memory or made when they are asked for."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_gen.data.column import Column
from pyro_gen.imputation.completed.holed_table import HoledTable

__all__ = ["DrawnCells"]

SPOOLED_BYTES = 2**27  # of all draws, that are held in memory where all are needed at once; more go to disk

Array = npt.NDArray[np.float64]


class DrawnCells:
    r"""Draws of the missing entries of a table.

    Arguments:
        holes: The table.
        cells: The draws as :meth:`Schema.encode` has them, with shape :math:`(m, C)` (kept, not copied), or a function
            that makes those of draw k, with shape :math:`(C)`, each time that they are asked for.
        m: How many draws there are.

    Attributes:
        holes: As given.
        m: As given.
        held: The draws where they are in memory, else None.
    """

    def __init__(self, holes: HoledTable, cells: Tensor | Callable[[int], Tensor], m: int) -> None:
        if m < 1:
            raise ValueError(f"draws: got {m} of them, expected at least 1.")
        self.holes, self.m = holes, m
        self.held = holes.checked(cells) if isinstance(cells, Tensor) else None
        self._make = None if isinstance(cells, Tensor) else cells

    def __len__(self) -> int:
        return self.m

    def __iter__(self) -> Iterator[Tensor]:
        return (self[k] for k in range(self.m))

    def __getitem__(self, k: int) -> Tensor:
        """The missing entries of draw k, float64 with shape :math:`(C)`: a copy."""
        if not isinstance(k, Integral):
            raise TypeError(f"draw {k!r}: give the number of a draw, completed[0] say, which is a whole table.")
        if not -self.m <= k < self.m:
            raise IndexError(f"draw {k}: there are {self.m} draws, 0 to {self.m - 1}.")
        k %= self.m
        if self._make is None:
            assert self.held is not None
            return self.holes.settled(self.held[k])
        return self.holes.settled(self.holes.checked(self._make(k)[None])[0])

    def replaced(self, make: Callable[[int], Tensor]) -> "DrawnCells":
        """Other draws, made by a function of their number: when they are asked for, as these, or at once."""
        if self.held is None:
            return DrawnCells(self.holes, make, self.m)
        return DrawnCells(self.holes, torch.stack([make(k) for k in range(self.m)]), self.m)

    def level_counts(self, columns: Sequence[int]) -> dict[int, Tensor]:
        """For discrete columns, in how many draws a hole has which level, (C of the column, L)."""
        at = self.holes.at
        levels = {d: torch.arange(len(self.holes.schema.columns[d].levels)) for d in columns}
        counts = {d: torch.zeros(len(at[d]), len(codes), dtype=torch.float64) for d, codes in levels.items()}
        for drawn in self if columns else ():
            for d, count in counts.items():
                count += drawn[at[d], None] == levels[d]
        return counts

    def mean(self) -> Tensor:
        """The mean of each missing entry over the draws, of levels the most frequent one, with shape :math:`(C)`."""
        total = torch.zeros(self.holes.count, dtype=torch.float64)
        for drawn in self:
            total += drawn
        summary = total / self.m
        columns = self.holes.schema.columns
        for d, count in self.level_counts([d for d, column in enumerate(columns) if column.discrete]).items():
            summary[self.holes.at[d]] = count.argmax(1).double()
        return summary

    def summarised(self, summarise: Callable[[Array, Column], Array]) -> Tensor:
        """What a function makes of all draws (m, c) of some entries of a column, with shape :math:`(C)`."""
        size = self.holes.count
        summary = torch.empty(size, dtype=torch.float64)
        with tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES) as file:
            for drawn in self:
                file.write(drawn.numpy().tobytes())
            length = max(1, SPOOLED_BYTES // (16 * self.m))
            for first in range(0, size, length):
                part = slice(first, min(first + length, size))
                draws = np.empty((self.m, part.stop - first))
                for k in range(self.m):
                    file.seek(8 * (k * size + first))
                    draws[k] = np.frombuffer(file.read(draws[k].nbytes))
                for d, column in enumerate(self.holes.schema.columns):
                    at = (self.holes.columns[part] == d).nonzero()[:, 0]
                    if len(at):
                        summary[first + at] = torch.from_numpy(summarise(draws[:, at.numpy()], column))
        return summary
