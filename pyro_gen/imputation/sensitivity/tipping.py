"""Where a conclusion tips: the smallest shift of what was imputed that changes it."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyro_gen.imputation.sensitivity.shifts import delta

if TYPE_CHECKING:
    import pandas as pd

    from pyro_gen.imputation.completed import Completed

__all__ = ["TippingPoint", "tipping_point"]


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
        >>> import numpy as np, torch
        >>> from pyro_gen.data.column import Column
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
