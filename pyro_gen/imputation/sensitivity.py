r"""What if what is missing differs from what is seen: shifts of the imputations, and the point where a conclusion tips.

Imputation given what was observed takes missing entries to be as observed ones in rows alike. No data can show whether
they are. A sensitivity analysis says how they might differ and looks at what becomes of the conclusion.

**Delta adjustment.** An imputed number becomes :math:`x + \delta` in its own unit. Of an imputed level the *log-odds*
are shifted: for an ordered column with probabilities :math:`p` of the levels,

.. math:: \mathrm{logit} \, q(x > l) = \mathrm{logit} \, p(x > l) + \delta \quad \text{for all } l ,

which for two levels is the shift of the log-odds of the second; for levels without an order
:math:`q(x = l) \propto p(x = l) \, e^{\delta_l}`. A draw keeps its level where it can: with :math:`F` the cumulative
probabilities, a draw of level l takes a uniform point between :math:`F_p(l - 1)` and :math:`F_p(l)`, which falls into a
level under :math:`F_q`; without an order it stays with probability :math:`\min(1, q_l / p_l)` and otherwise takes a
level whose probability has grown. So marginals become :math:`q`, and the dependence on the other entries of the row
remains.

The :math:`p` of a hole is known by its m draws only. Were their shares taken for it, rare levels would be moved too
little (never drawn, they could not be moved at all), and with a pseudo-count for each level too much: at
:math:`p = 0.02` and m = 20 a shift by 1 would give 0.084 instead of 0.053. So :math:`p` is drawn, for each draw anew,
from its posterior given the counts: a Dirichlet distribution, whose prior has the mean and the spread that the column's
holes show (by moments). Then the shifted levels are distributed as they should be over the holes of a column, as far as
its probabilities are Dirichlet-distributed over them.

The shift is marginal: it changes the shifted column alone, by exactly delta. Chained imputation with a shift inside its
loop feeds it back through the other columns, and what is realised is larger than delta (van Buuren, section 9.2).

The random numbers of a draw depend on the seed and the number of the draw alone, so that the tables for two values of
delta differ by delta and by nothing else, and a tipping point can be found by bisection.

References:
    | Flexible Imputation of Missing Data, section 9.2 (van Buuren, 2018)
    | https://stefvanbuuren.name/fimd/sec-sensitivity.html
    | Multiple Imputation for Nonresponse in Surveys, section 6.2 (Rubin, 1987)
    | The prevention and treatment of missing data in clinical trials (National Research Council, 2010), chapter 5
    | https://doi.org/10.17226/12955
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_gen._random import mix, seeded
from pyro_gen.data.column import Column

if TYPE_CHECKING:
    import pandas as pd

    from pyro_gen.imputation.completed import Completed

__all__ = ["TippingPoint", "delta", "delta_prior", "tipping_point"]

LEAST, MOST = 0.1, 1e6  # what a prior for the probabilities of levels may weigh, in draws


# ----------------------------------------------------------------------------------------------------------------------
# Shifts


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
    shifts = [_shift(completed, name, value, by) for name, value in deltas.items()]
    counts = completed._level_counts([shift.index for shift in shifts if shift.column.discrete])
    posteriors = {index: count + _prior(count) for index, count in counts.items()}

    def shifted(k: int) -> Tensor:
        cells = completed._drawn(k)
        groups = None if by is None else _groups(completed, by, completed.cells(k))
        with seeded(int(mix(mix(torch.tensor(seed)) + k)) & (2**63 - 1)):
            for shift in shifts:
                at = completed._at[shift.index]
                amount = shift.amount(k, None if groups is None else groups[completed._rows[at]], len(at))
                if shift.column.discrete:
                    p = torch.distributions.Dirichlet(posteriors[shift.index], validate_args=False).sample()
                    cells[at] = _moved_levels(shift.column, cells[at], amount, p)
                else:
                    cells[at] = _moved_numbers(shift, cells[at], amount)
        return cells

    if completed._make is not None:
        cells: Tensor | Callable[[int], Tensor] = shifted
    else:
        cells = torch.stack([shifted(k) for k in range(completed.m)])
    done = {"deltas": dict(deltas), "by": by, "seed": seed}
    return completed._with(cells, info={"delta": (*completed.info.get("delta", ()), done)})


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
    if any(name == derived for derived, _ in completed._derived):
        raise ValueError(f"delta: column {name!r} is derived from others; shift those.")
    index = names.index(name)
    column = completed.schema.columns[index]
    if not len(completed._at[index]):
        raise ValueError(f"delta: column {name!r} has no missing entry to shift; leave it out.")
    observed = completed._encoded[~torch.from_numpy(completed.missing[:, index]), index]
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
    numbers = torch.as_tensor(value, dtype=torch.float64).cpu()
    if numbers.shape not in ((), (completed.m,)) or not bool(numbers.isfinite().all()):
        raise ValueError(
            f"delta: expected for column {column.name!r} a finite number, or one for each of the {completed.m} draws; "
            f"got {value!r}."
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
    groups = completed._encoded[:, d].clone()
    at = completed._at[d]
    groups[completed._rows[at]] = cells[at]
    return groups


# ----------------------------------------------------------------------------------------------------------------------
# Moves: values (C) by how far, (C) or (C, L)


def _moved_numbers(shift: _Shift, values: Tensor, amount: Tensor) -> Tensor:
    moved = values + amount
    if shift.column.integer:
        # Up with the probability of the part of a unit: so that the mean moves by delta, and not in steps.
        moved = (moved + torch.rand_like(moved)).floor()
    inside = moved.clamp(shift.floor, shift.column.limits[1])
    return torch.where(amount == 0, values, inside)


def _moved_levels(column: Column, values: Tensor, amount: Tensor, p: Tensor) -> Tensor:
    p = p.clamp_min(1e-12)
    p = p / p.sum(1, keepdim=True)
    noise = torch.rand(len(values), 2, dtype=torch.float64)
    if column.kind == "nominal":
        moved = _recast(values.long(), p, _tilted(p, amount), noise)
        return torch.where((amount == 0).all(1), values, moved.double())
    moved = _slid(values.long(), p, _slid_cumulative(p, amount), noise[:, 0])
    return torch.where(amount == 0, values, moved.double())


def _prior(counts: Tensor) -> Tensor:
    """The Dirichlet prior (L) of the probabilities of holes, by moments from counts (C, L) of their m draws."""
    levels, m = counts.shape[1], float(counts[0].sum())
    mean = (counts.sum(0) + 1 / levels) / (counts.sum() + 1)
    if m == 1:  # one draw does not show how holes differ
        return mean * MOST
    binomial = float((mean * (1 - mean)).sum())
    spread = float((counts / m - mean).square().sum(1).mean())
    # The correlation of two draws of a hole: 0 where holes are alike, 1 where they are certain.
    correlation = (spread - binomial / m) / (binomial * (1 - 1 / m)) if binomial else 0.0
    return mean * min(max(1 / max(correlation, 1e-12) - 1, LEAST), MOST)


def _slid_cumulative(p: Tensor, amount: Tensor) -> Tensor:
    """Cumulative probabilities (C, L - 1) of levels whose cumulative log-odds were shifted up."""
    return (torch.logit(p.cumsum(1)[:, :-1].clamp(1e-300, 1 - 1e-16)) - amount[:, None]).sigmoid()


def _slid(levels: Tensor, p: Tensor, cumulative: Tensor, noise: Tensor) -> Tensor:
    """Levels that follow the new cumulative probabilities where the old ones followed p, in the same order."""
    own = levels[:, None]
    below = (p.cumsum(1) - p).gather(1, own)[:, 0]
    point = below + noise * p.gather(1, own)[:, 0]
    return (cumulative < point[:, None]).sum(1)


def _tilted(p: Tensor, amount: Tensor) -> Tensor:
    return (p.log() + amount).softmax(1)


def _recast(levels: Tensor, p: Tensor, q: Tensor, noise: Tensor) -> Tensor:
    """Levels that follow q where the old ones followed p, as many of them the same as can be."""
    own = levels[:, None]
    stays = noise[:, 0] < (q / p).gather(1, own)[:, 0]
    grown = (q - p).clamp_min(0).cumsum(1)
    other = (grown < (noise[:, 1] * grown[:, -1])[:, None]).sum(1)
    return torch.where(stays, levels, other)


# ----------------------------------------------------------------------------------------------------------------------
# Where a conclusion tips


@dataclass(frozen=True)
class TippingPoint:
    """Where a conclusion changes. Made by :func:`tipping_point`; prints itself in one line.

    Arguments:
        term: The parameter that the conclusion is about.
        column: The column whose imputations are shifted.
        delta: The smallest shift that changes the conclusion, for several groups that of each; None where none did.
        level: Of the intervals.
        path: One row for each shift that was tried: the shift (one column for each group), ``estimate``, ``conf.low``,
            ``conf.high``, ``p.value``, and whether the conclusion ``changed``.
    """

    term: str
    column: str
    delta: float | dict[Any, float] | None
    level: float
    path: "pd.DataFrame" = field(repr=False)

    def __str__(self) -> str:
        start = self.path.iloc[0]
        low, high = float(start["conf.low"]), float(start["conf.high"])
        says = "excludes" if _conclusion(low, high) else "contains"
        what = f"{self.term}: the {self.level:.0%} interval {low:.3g} to {high:.3g} {says} 0"
        if self.delta is None:
            return f"{what}, and none of the shifts of {self.column} that were tried changes that."
        far = (
            f"{self.delta:.4g}"
            if isinstance(self.delta, float)
            else ", ".join(f"{value:.4g} for {group}" for group, value in self.delta.items())
        )
        return f"{what}; a shift of {self.column} by {far} changes that."


def tipping_point(
    completed: "Completed",
    analysis: Callable[[Any], Any],
    term: str,
    column: str,
    *,
    bracket: tuple[float, float] | None = None,
    grid: Sequence[float] | Mapping[Any, Sequence[float]] | None = None,
    by: str | None = None,
    level: float = 0.95,
    steps: int = 8,
    tolerance: float | None = None,
    df_complete: float | None = None,
    seed: int = 0,
) -> TippingPoint:
    r"""The smallest shift of a column's imputations that changes what the pooled interval of a parameter says.

    It says that the parameter is above 0, below 0, or that it may be 0.

    Arguments:
        completed: The completed tables.
        analysis: As for :meth:`Completed.fit`.
        term: The parameter.
        column: The column to shift, see :func:`delta`.
        bracket: How far to look, from one shift to another with 0 between them or at an end. It is gone through in
            ``steps`` on each side, and bisection finds the place between two of them; a conclusion that changes there
            and back between two steps is missed.
        grid: In place of the bracket the shifts to try; or a mapping from groups to shifts, all combinations of which
            are tried. Groups that it does not have are not shifted. The nearest to 0 is the tipping point.
        by: With such a mapping, the column of the groups.
        level: Of the intervals.
        steps: Of the bracket, on each side of 0.
        tolerance: How closely to find the place; left out, a thousandth of the bracket.
        df_complete: As in :meth:`Analyses.pool`.
        seed: As in :func:`delta`.

    Returns:
        The tipping point, and all that was tried on the way.

    Raises:
        ValueError: If there is no such term, not exactly one of ``bracket`` and ``grid``, or 0 is outside the bracket.

    Example:
        >>> import numpy as np
        >>> from pyro_gen.data.schema import Schema
        >>> from pyro_gen.imputation.completed import Completed
        >>> table = np.array([[0.5], [2.0], [3.5], [np.nan], [np.nan]])
        >>> schema = Schema((Column("x0", "real"),))  # which may be below 0
        >>> cells = torch.tensor([[1.8, 2.2], [2.2, 1.8]])
        >>> completed = Completed.from_cells(cells, np.isnan(table), schema=schema, like=table)
        >>> def mean(t):
        ...     return t.mean(), 0.25
        >>> tip = tipping_point(completed, mean, "mean", "x0", bracket=(-10.0, 0.0))
        >>> print(tip)
        mean: the 95% interval 1.02 to 2.98 excludes 0; a shift of x0 by -2.559 changes that.
        >>> round((0.5 * 1.959964 - 2.0) / 0.4, 3)  # two of the five are shifted
        -2.55
    """
    if (bracket is None) == (grid is None):
        raise ValueError("tipping_point: give either a bracket to search or a grid of shifts.")
    path: list[dict[str, Any]] = []
    groups = list(grid) if isinstance(grid, Mapping) else None
    if (groups is None) != (by is None):
        raise ValueError("tipping_point: by goes with a grid that maps groups to shifts.")
    keys = ["delta"] if groups is None else [str(group) for group in groups]

    def tried(*amounts: float) -> bool:
        """Whether the conclusion is another one than without a shift."""
        if any(amounts):
            shift = amounts[0] if groups is None else dict(zip(groups, amounts, strict=True))
            pooled = delta(completed, {column: shift}, by=by, seed=seed).fit(analysis).pool(df_complete)
        else:
            pooled = completed.fit(analysis).pool(df_complete)
        if term not in pooled.names:
            raise ValueError(f"tipping_point: the analysis has no term {term!r}; it has {', '.join(pooled.names)}.")
        found = pooled.summary(level).iloc[pooled.names.index(term)]
        row = {name: float(found[name]) for name in ("estimate", "conf.low", "conf.high", "p.value")}
        start = path[0] if path else row
        changed = _conclusion(row["conf.low"], row["conf.high"]) != _conclusion(start["conf.low"], start["conf.high"])
        path.append(dict(zip(keys, amounts, strict=True)) | row | {"changed": changed})
        return changed

    tried(*[0.0] * len(keys))
    if bracket is not None:
        low, high = map(float, bracket)
        if not low <= 0 <= high or low == high:
            raise ValueError(f"tipping_point(bracket={bracket}): expected two shifts with 0 between them or at an end.")
        close = (high - low) / 1000 if tolerance is None else tolerance
        found = [
            end for end in (_first(tried, low, steps, close), _first(tried, high, steps, close)) if end is not None
        ]
        best: float | dict[Any, float] | None = min(found, key=abs, default=None)
    else:
        assert grid is not None
        shifts = [list(map(float, values)) for values in (grid.values() if isinstance(grid, Mapping) else [grid])]
        tips = [point for point in itertools.product(*shifts) if any(point) and tried(*point)]
        nearest = min(tips, key=lambda point: math.hypot(*point), default=None)
        point = None if nearest is None else dict(zip(groups or keys, nearest, strict=True))
        best = point if point is None or groups else point["delta"]

    import pandas as pd

    return TippingPoint(term, column, best, level, pd.DataFrame(path))


def _conclusion(low: float, high: float) -> int:
    return 1 if low > 0 else -1 if high < 0 else 0


def _first(changed: Callable[[float], bool], end: float, steps: int, close: float) -> float | None:
    """The first place on the way from 0 to ``end`` at which something has changed."""
    if end == 0:
        return None
    before = 0.0
    for step in range(1, steps + 1):
        after = end * step / steps
        if changed(after):
            while abs(after - before) > close:
                middle = (before + after) / 2
                before, after = (before, middle) if changed(middle) else (middle, after)
            return after
        before = after
    return None
