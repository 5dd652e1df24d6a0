"""Atoms of real columns: one number that many rows have exactly, as the 0 of rainfall, others being spread out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_gen.data.column import Column

__all__ = ["ROUNDING", "at_atom", "atoms_of"]

ROUNDING = 1e-9  # standard deviations that arithmetic may have moved the number by


def atoms_of(columns: Sequence[Column]) -> Tensor:
    """The atoms of columns, with shape :math:`(D)`, NaN where there is none."""
    return torch.tensor([torch.nan if c.atom is None else c.atom for c in columns], dtype=torch.float64)


def at_atom(x: Tensor, atoms: Tensor) -> Tensor:
    """Which entries :math:`(*, D)` are at the atoms :math:`(D)` of their columns.

    Example:
        >>> at_atom(torch.tensor([[0.0, 0.0], [torch.nan, 1.0]]), torch.tensor([0.0, torch.nan])).tolist()
        [[True, False], [False, False]]
    """
    return (x - atoms.to(x)).abs() <= ROUNDING
