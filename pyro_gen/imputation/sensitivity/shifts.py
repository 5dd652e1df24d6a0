"""Shifts of what was imputed, by numbers or by draws of a prior."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_gen._errors import shown
from pyro_gen._random import mix, seeded
from pyro_gen.data.column import Column
from pyro_gen.imputation.sensitivity.moves import moved_levels, moved_numbers, prior

if TYPE_CHECKING:
    from pyro_gen.imputation.completed import Completed

__all__ = ["delta", "delta_prior"]


def delta(completed: "Completed", deltas: Mapping[str, Any], *, by: str | None = None, seed: int = 0) -> "Completed":
    r"""Shifts what was imputed; observed entries stay.

    Arguments:
        completed: The completed tables.
        deltas: For each column to shift, how far. For numbers in their unit; whole numbers stay whole (a part of a unit
            is the probability of another one), bounds hold, and positive numbers stay at or above the smallest one
            observed. For two levels and for ordered levels in log-odds, upwards. For levels without an order a mapping
            from levels to log-odds; others have 0. In place of a number, one for each draw with shape :math:`(m)`.
        by: A column of groups. What ``deltas`` has may then be a mapping from groups to shifts; others have 0.
        seed: Seeds the draws of levels and of parts of units. The caller's generators are left alone.

    Returns:
        The shifted tables, with the same formulas of derived columns; ``info["delta"]`` says what was done.

    Raises:
        ValueError: If there is no such column, group or level, a column has no hole, or a shift is not finite.

    Example:
        >>> import numpy as np
        >>> from pyro_gen.data.schema import Schema
        >>> from pyro_gen.imputation.completed import Completed
        >>> table = np.array([[120.0, 0.0], [np.nan, 1.0], [np.nan, 0.0]])
        >>> schema = Schema.infer(table, {"x0": "real", "x1": "binary"})
        >>> cells = torch.tensor([[125.0, 118.0], [131.0, 122.0]])
        >>> completed = Completed.from_cells(cells, np.isnan(table), schema=schema, like=table)
        >>> delta(completed, {"x0": {1: -10.0}}, by="x1")[0]
        array([[120.,   0.],
               [115.,   1.],
               [118.,   0.]])
    """
    if not isinstance(deltas, Mapping):
        raise TypeError(f'delta({shown(deltas)}): give a mapping from columns to shifts, {{"pressure": 5.0}} say.')
    shifts = [_shift(completed, name, value, by) for name, value in deltas.items()]
    counts = completed.drawn.level_counts([shift.index for shift in shifts if shift.column.discrete])
    posteriors = {index: count + prior(count) for index, count in counts.items()}

    holes = completed.holes

    def shifted(k: int) -> Tensor:
        cells = completed.drawn[k]
        groups = None if by is None else _groups(completed, by, completed.cells(k))
        with seeded(int(mix(mix(torch.tensor(seed)) + k)) & (2**63 - 1)):
            for shift in shifts:
                at = holes.at[shift.index]
                amount = shift.amount(k, None if groups is None else groups[holes.rows[at]], len(at))
                if shift.column.discrete:
                    p = torch.distributions.Dirichlet(posteriors[shift.index], validate_args=False).sample()
                    cells[at] = moved_levels(shift.column, cells[at], amount, p)
                else:
                    cells[at] = moved_numbers(shift.column, shift.floor, cells[at], amount)
        return cells

    done = {"deltas": dict(deltas), "by": by, "seed": seed}
    return completed.redrawn(shifted, {"delta": (*completed.info.get("delta", ()), done)})


def delta_prior(
    completed: "Completed", priors: Mapping[str, Any], *, by: str | None = None, seed: int = 0
) -> "Completed":
    r"""Shifts each draw by another draw of a prior for delta, so that pooled intervals contain what is not known of it.

    Arguments:
        completed: The completed tables.
        priors: As ``deltas`` of :func:`delta`, with a distribution of torch or Pyro in place of a number.
        by: A column of groups.
        seed: Seeds the draws of delta and those of :func:`delta`. The caller's generators are left alone.

    Returns:
        The shifted tables; ``info["delta"]`` has the draws of delta.

    Example:
        >>> import numpy as np
        >>> from pyro_gen.data.schema import Schema
        >>> from pyro_gen.imputation.completed import Completed
        >>> table = np.array([[120.0], [np.nan]])
        >>> schema = Schema.infer(table, {"x0": "real"})
        >>> completed = Completed.from_cells(torch.full((500, 1), 125.0), np.isnan(table), schema=schema, like=table)
        >>> shifted = delta_prior(completed, {"x0": torch.distributions.Normal(-5.0, 3.0)})
        >>> shifted.draws.values.mean().round(), shifted.draws.values.std().round()
        (np.float64(120.0), np.float64(3.0))
    """

    def drawn(prior: Any) -> Any:
        if isinstance(prior, Mapping):
            return {key: drawn(value) for key, value in prior.items()}
        if not isinstance(prior, torch.distributions.Distribution):
            return prior
        sample = prior.sample(torch.Size((completed.m,)))
        if sample.shape != (completed.m,):
            raise ValueError(f"delta_prior: expected distributions of one number, got one of shape {sample.shape[1:]}.")
        return sample.double().cpu()

    with seeded(seed):
        deltas = {name: drawn(prior) for name, prior in priors.items()}
    return delta(completed, deltas, by=by, seed=seed)


@dataclass(frozen=True)
class _Shift:
    """How far the imputations of one column go.

    Attributes:
        index: Of the column.
        column: What it is.
        floor: The smallest value that a shifted number can have.
        amounts: For all rows (key None), or for a group by its code: one shift a draw, (m) or, for levels without an
            order, (m, L).
    """

    index: int
    column: Column
    floor: float
    amounts: Mapping[float | None, Tensor]

    def amount(self, k: int, groups: Tensor | None, size: int) -> Tensor:
        """The shift of each hole in draw k, (C) or (C, L)."""
        if None in self.amounts:
            amount = self.amounts[None][k]
            return amount.expand(size, *amount.shape)
        assert groups is not None
        first = next(iter(self.amounts.values()))[k]
        out = torch.zeros(size, *first.shape, dtype=torch.float64)
        for code, amounts in self.amounts.items():
            out[groups == code] = amounts[k]
        return out


def _shift(completed: "Completed", name: str, value: Any, by: str | None) -> _Shift:
    """Reads what the user wrote for one column."""
    names = completed.schema.names
    if name not in names:
        raise ValueError(f"delta: no column {name!r}; there are {', '.join(names)}.")
    if name == by:
        raise ValueError(f"delta: column {name!r} cannot be shifted by its own groups.")
    if any(name == derived for derived, _ in completed.formulas):
        raise ValueError(f"delta: column {name!r} is derived from others; shift those.")
    index = names.index(name)
    column = completed.schema.columns[index]
    if not len(completed.holes.at[index]):
        raise ValueError(f"delta: column {name!r} has no missing entry to shift; leave it out.")
    observed = completed.holes.encoded[~torch.from_numpy(completed.missing[:, index]), index]
    floor, _ = column.limits
    if column.kind == "positive" and column.lower is None and len(observed):
        floor = float(observed.min())

    amounts: dict[float | None, Tensor] = {}
    if by is not None and isinstance(value, Mapping):
        if by not in names:
            raise ValueError(f"delta(by={by!r}): no such column; there are {', '.join(names)}.")
        for group, amount in value.items():
            amounts[_code(completed.schema.columns[names.index(by)], group, "by")] = _amount(completed, column, amount)
    else:
        amounts[None] = _amount(completed, column, value)
    return _Shift(index, column, floor, amounts)


def _amount(completed: "Completed", column: Column, value: Any) -> Tensor:
    """One shift a draw, (m), or (m, L) for levels without an order."""
    if column.kind == "nominal":
        if not isinstance(value, Mapping):
            raise ValueError(
                f"delta: column {column.name!r} has levels without an order; give a mapping from levels to log-odds, "
                f"such as {{{column.levels[0]!r}: 0.5}}."
            )
        amount = torch.zeros(completed.m, len(column.levels), dtype=torch.float64)
        for level, log_odds in value.items():
            amount[:, int(_code(column, level, "delta"))] = _numbers(completed, column, log_odds)
        return amount
    if isinstance(value, Mapping):
        raise ValueError(
            f"delta: column {column.name!r} is {column.kind}; give a number, or a mapping from groups to numbers with "
            "the column of the groups in by."
        )
    return _numbers(completed, column, value)


def _numbers(completed: "Completed", column: Column, value: Any) -> Tensor:
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64).cpu()
    except (TypeError, ValueError):
        numbers = torch.tensor(torch.nan)
    if numbers.shape not in ((), (completed.m,)) or not bool(numbers.isfinite().all()):
        raise ValueError(
            f"delta: expected for column {column.name!r} a finite number, or one for each of the {completed.m} draws; "
            f"got {shown(value)}."
        )
    return numbers.expand(completed.m)


def _code(column: Column, label: Any, where: str) -> float:
    if not column.discrete:
        return float(label)
    if label not in column.levels:
        raise ValueError(f"{where}: column {column.name!r} has no level {label!r}; it has {list(column.levels)}.")
    return float(column.levels.index(label))


def _groups(completed: "Completed", by: str, cells: Tensor) -> Tensor:
    """The group of each row in one draw: what was observed, or what was imputed, before the shift."""
    if by not in completed.schema.names:
        raise ValueError(f"delta(by={by!r}): no such column; there are {', '.join(completed.schema.names)}.")
    d = completed.schema.names.index(by)
    holes = completed.holes
    groups = holes.encoded[:, d].clone()
    at = holes.at[d]
    groups[holes.rows[at]] = cells[at]
    return groups
