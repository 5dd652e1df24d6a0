"""Columns whose values repeat since they were rounded: noise instead, so that no program gives single values a spike.

A density knows no bound at a value that many rows share: a component of a mixture that shrinks onto it wins nats for it
without predicting anything better, and stacking by log-densities would follow. Uniform noise as wide as the rounding
takes the spikes away, and makes the log-density a lower bound of the log-probability of the rounded value.

References:
    | A note on the evaluation of generative models (Theis, van den Oord & Bethge, 2016), section 3.1
    | https://arxiv.org/abs/1511.01844
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.data.atoms import at_atom, atoms_of
from pyro_gen.data.column import Column

__all__ = ["comparable", "dequantise"]

WIDEST_STEP = 0.5  # standard deviations: noise as wide adds 2% to the variance; coarser columns are left as they are
SHARED_ROWS, SHARED_DENSITY = 0.05, 2.0  # of a value that many rows share: which part of the rows, and its density


def dequantise(x: Tensor, columns: Sequence[Column], seed: int) -> Tensor:
    """Adds uniform noise to real columns of which every value is there twice on average, or more often.

    Arguments:
        x: A table on the working scale, where real columns are standardised, with shape :math:`(N, D)`.
        columns: Its columns.
        seed: Seeds the noise.

    Returns:
        The table, the noise as wide as the median step from one value of the column to the next; entries at the atom of
        their column stay there.

    Example:
        >>> x = torch.tensor([[-1.2], [-0.9], [-0.6], [0.9], [1.2]]).repeat(3, 1)
        >>> noise = dequantise(x, [Column("age", "real")], seed=0) - x
        >>> bool((noise.abs() <= 0.15).all()) and bool((noise != 0).any())
        True
    """
    with seeded(seed):
        noise = (torch.rand(x.shape, dtype=torch.float64) - 0.5).to(x)
    spread = x.masked_fill(at_atom(x, atoms_of(columns)), torch.nan)
    out = x.clone()
    for d, column in enumerate(columns):
        step = _step(spread[:, d])
        if column.kind == "real" and step <= WIDEST_STEP:
            out[:, d] += torch.where(torch.isnan(spread[:, d]), 0.0, step * noise[:, d])
            if column.atom is not None:  # steps are not all alike: what would cross the atom is mirrored back
                away = (x[:, d] - column.atom).sign()
                out[:, d] = column.atom + away * (out[:, d] - column.atom).abs()
    return out


def comparable(x: Tensor, columns: Sequence[Column]) -> Tensor:
    """Says at which columns densities of different programs can be compared.

    Not at real ones of a few coarse values. Nor where one row in twenty has the same value, and that makes it more than
    five times as dense as a normal column is at its peak: nats are won there by knowing numbers that are round.

    Arguments:
        x: A table before :func:`dequantise`, with shape :math:`(N, D)`.
        columns: Its columns.

    Returns:
        A mask with shape :math:`(D)`.
    """
    spread = x.masked_fill(at_atom(x, atoms_of(columns)), torch.nan)  # programs that are told of atoms score them apart
    fine = [column.kind != "real" or _fine(spread[:, d]) for d, column in enumerate(columns)]
    return torch.tensor(fine, device=x.device)


def _fine(values: Tensor) -> bool:
    step = _step(values)
    counts = values[~torch.isnan(values)].unique(return_counts=True)[1]
    share = float(counts.max() / counts.sum()) if len(counts) > 1 else 0.0
    return step <= WIDEST_STEP and not (share >= SHARED_ROWS and share > SHARED_DENSITY * step)


def _step(values: Tensor) -> float:
    """The median step from one value to the next, 0 where not every value is there twice on average."""
    values = values[~torch.isnan(values)]
    distinct = values.unique()
    return float(distinct.diff().median()) if 1 < len(distinct) <= len(values) / 2 else 0.0
