"""Draws of a table's missing entries from several programs: which program makes which, with what random numbers.

A draw depends on its number and on the row alone: it is the same by itself as among others, in any batch, and on any
machine. So draws can be made when they are asked for, and memory does not grow with their number.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyro_gen._random import WEYL, mix
from pyro_gen.data.scaling import Scaling
from pyro_gen.imputation.stacking.linear_pool import CENTRE_DRAWS, LinearPool, allocated

__all__ = ["NUMBERS_WORKED_ON", "Draws", "row_seeds"]

NUMBERS_WORKED_ON = 2**22  # at a time, of rows or draws of rows
NUMBERS_KEPT = 2**24  # of draws that are made at once


class Draws:
    """Draws of the missing entries of a table, made when they are asked for.

    As many as :data:`NUMBERS_KEPT` allows are made at once and kept until others are asked for: all of a small table,
    one of a large one.

    Arguments:
        pool: What makes them.
        scaling: The way to the scale of the programs.
        encoded: The table, with shape :math:`(N, D)`.
        draws: How many draws there are.
        seed: The seed of all rows.
    """

    def __init__(self, pool: LinearPool, scaling: Scaling, encoded: Tensor, draws: int, seed: int) -> None:
        self.pool, self.scaling, self.encoded = pool, scaling, encoded
        self.owners = allocated(pool.weights, draws)
        self.rows = torch.isnan(encoded).any(1).nonzero()[:, 0]
        self.seeds = row_seeds(encoded, seed)[self.rows]
        self.at_once = min(draws, max(1, NUMBERS_KEPT // max(1, int(torch.isnan(encoded).sum()))))
        self._block, self._kept = -1, encoded.new_empty(0, 0)
        self._centre: Tensor | None = None

    def __call__(self, k: int) -> Tensor:
        """The missing entries of draw k, row by row, with shape :math:`(C)`."""
        block, place = divmod(k, self.at_once)
        if block != self._block:
            self._kept, self._block = self.made(self.blocks[block], self.scaling.inverse), block
        return self._kept[place]

    @property
    def blocks(self) -> list[range]:
        """Which draws are made at once."""
        every = range(len(self.owners))
        return [every[first : first + self.at_once] for first in every[:: self.at_once]]

    def made(self, wanted: range, take: Callable[[Tensor], Tensor]) -> Tensor:
        """The missing entries of some draws, with shape (S, C), as ``take`` has them of rows on the working scale."""
        if self.pool.spread < 1 and self._centre is None:  # once for all draws
            parts = self._working(NUMBERS_WORKED_ON // (CENTRE_DRAWS * self.encoded.shape[1]))
            centres = [self.pool.centre(x, seeds)[x.isnan()] for _, x, seeds in parts]
            self._centre = torch.cat([self.encoded.new_empty(0), *centres])
        made, done = [self.encoded.new_empty(len(wanted), 0)], 0
        size = NUMBERS_WORKED_ON // (len(wanted) * self.encoded.shape[1])
        for rows, x, seeds in self._working(size):
            missing = torch.isnan(x)
            first, done = done, done + int(missing.sum())
            centre = x.new_empty(0) if self._centre is None else self._centre[first:done]
            working = self.pool.complete(x, centre, self.owners, seeds, wanted)
            made.append(take(working)[:, torch.isnan(self.encoded[rows])])
        return torch.cat(made, 1)

    def _working(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Which rows have holes, these on the scale of the programs, and their seeds, so many at a time."""
        size = max(1, size)
        for rows, seeds in zip(self.rows.split(size), self.seeds.split(size), strict=True):
            yield rows, self.scaling.forward(self.scaling.plausible(self.encoded[rows])), seeds


def row_seeds(encoded: Tensor, seed: int) -> Tensor:
    """A seed for each row, made from what it holds: the same by itself and in any batch; rows alike get different ones.

    Arguments:
        encoded: Rows with shape :math:`(N, D)`.
        seed: The seed of all rows.

    Returns:
        Integers with shape :math:`(N)`.
    """
    counters = WEYL * torch.arange(1, encoded.shape[1] + 1, device=encoded.device)
    keys = torch.empty(len(encoded), dtype=torch.int64, device=encoded.device)
    for rows in torch.arange(len(encoded)).split(max(1, NUMBERS_WORKED_ON // encoded.shape[1])):
        bits = encoded[rows].double().nan_to_num(nan=-1.7976931348623157e308) + 0.0  # -0.0 becomes 0.0
        keys[rows] = mix(bits.contiguous().view(torch.int64) ^ mix(counters)).sum(1)
    order = torch.argsort(keys, stable=True)
    ordered = keys[order]
    first = torch.searchsorted(ordered, ordered)
    repeats = torch.empty_like(keys)
    repeats[order] = torch.arange(len(keys), device=keys.device) - first  # how many like it came before
    return mix(keys + mix(torch.full_like(keys, seed) * WEYL + 1) + mix(repeats * WEYL))
