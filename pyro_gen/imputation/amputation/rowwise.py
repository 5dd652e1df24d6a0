"""Mechanisms that treat rows as a whole, see :mod:`pyro_gen.imputation.amputation`."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, final

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_gen.imputation.amputation.choices import below, choose, in_random_order, uniform
from pyro_gen.imputation.amputation.logistic import check_shape, combined, logits_of, probabilities, standardised
from pyro_gen.imputation.amputation.mechanism import Mechanism, check_share
from pyro_gen.imputation.columns import Bools, Floats, as_frame, numbers_of, positions_of

__all__ = ["HolesOf", "Patterns"]


@final
@dataclass(frozen=True, repr=False)
class Patterns(Mechanism):
    """The columns of one of some patterns go together, by a logistic regression on other columns, as in mice.

    Arguments:
        patterns: Sequences of columns that go missing together.
        share: How many go: of the observed cells of all columns in ``patterns``, or of the rows.
        frequencies: One positive number for each pattern: how the rows are shared out among them; equal if not given.
        given: The columns that decide. Those outside of the pattern if not given, which is missing at random; naming
            columns of the pattern itself makes that not at random.
        of: Of what it is the share: ``"cells"`` or ``"rows"``.
        shape: ``"right"``, ``"left"``, ``"mid"`` or ``"tail"``: which scores go.
        strength: The factor of the standardised score in the logit; 0 is completely at random.
    """

    patterns: Sequence[Sequence[Hashable]]
    share: float
    _: KW_ONLY
    frequencies: Sequence[float] | None = None
    given: Sequence[Hashable] | None = None
    of: str = "cells"
    shape: str = "right"
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.share, self.of)
        check_shape(self.shape)
        if not len(self.patterns):
            raise ValueError("patterns=[]: give at least one.")
        shares = self._frequencies()
        if shares.shape != (len(self.patterns),) or not (shares > 0).all():
            raise ValueError(f"frequencies={self.frequencies}: give {len(self.patterns)} positive numbers.")

    def _frequencies(self) -> Floats:
        return np.ones(len(self.patterns)) if self.frequencies is None else np.array(self.frequencies, float)

    def draw(self, frame: pd.DataFrame, seen: Bools) -> Bools:
        patterns = [positions_of(frame, pattern, "patterns") for pattern in self.patterns]
        frequencies = self._frequencies()
        # Shares of the rows, rounded up or down at random, in random order.
        edges = np.floor(np.concatenate([[0.0], (frequencies / frequencies.sum()).cumsum()]) * len(frame) + uniform(1))
        group = np.zeros(len(frame), dtype=int)
        group[in_random_order(len(frame))] = np.searchsorted(edges[1:-1], np.arange(len(frame)), side="right")
        sets = np.zeros((len(patterns), frame.shape[1]), dtype=bool)
        for i, pattern in enumerate(patterns):
            sets[i, pattern] = True
        cells = (sets[group] & seen).sum(1)  # that a row would lose
        hit = cells > 0
        total = len(frame) if self.of == "rows" else int(seen[:, sets.any(0)].sum())
        reach = int(hit.sum()) if self.of == "rows" else int(cells.sum())
        if not reach or self.share * total > reach:
            raise ValueError(
                f"share={self.share} of the {self.of} cannot go by these patterns, at most "
                f"{reach / max(total, 1):.3g} of them can: give a smaller one, or patterns of more columns."
            )
        gone = np.zeros_like(seen)
        for i, pattern in enumerate(patterns):
            rows = np.flatnonzero((group == i) & hit)
            if not len(rows):
                continue
            outside = [d for d in range(frame.shape[1]) if d not in pattern]
            given = outside if self.given is None else positions_of(frame, self.given, "given")
            z = standardised(combined(frame, given)[rows])
            logits = logits_of(z, self.shape, self.strength)[:, None]
            p = probabilities(logits, np.ones((len(rows), 1), bool), self.share * total / reach)
            chosen = rows[choose(p[:, 0])]
            gone[chosen] |= sets[i]
        return gone


@final
@dataclass(frozen=True, repr=False, eq=False)
class HolesOf(Mechanism):
    """What is missing in another table: each row takes the holes of one of its rows.

    Arguments:
        table: A table with the same columns and holes of its own.
        nearest: Makes that conditional. Each row of the other table hands its holes to a random one of the ``nearest``
            rows, by the values that it has itself and in random order, each row being handed holes once; the holes then
            depend on values as they do in the other table, as far as its seen values tell. Takes time
            :math:`O(N^2 D)`.
    """

    table: pd.DataFrame | npt.NDArray[Any] = field(repr=False)
    nearest: int | None = None

    def __post_init__(self) -> None:
        as_frame(self.table, "HolesOf")
        if self.nearest is not None and self.nearest < 1:
            raise ValueError(f"nearest={self.nearest}: give at least one row.")

    def draw(self, frame: pd.DataFrame, seen: Bools) -> Bools:
        other = as_frame(self.table, "HolesOf")
        if list(frame.columns) != list(other.columns):
            raise ValueError(f"HolesOf: expected the columns {list(frame.columns)}, got {list(other.columns)}.")
        missing = other.isna().to_numpy()
        rounds = math.ceil(len(frame) / len(other))  # no row of the other is copied twice before all are copied once
        donors = np.concatenate([in_random_order(len(other)) for _ in range(rounds)])[: len(frame)]
        if self.nearest is None:
            return np.asarray(missing[donors])
        own, theirs, numeric = _common(frame, other)
        gone = np.zeros_like(missing, shape=frame.shape)
        rows = in_random_order(len(frame))  # in random order, so that ties of the distance are broken at random
        own = np.ascontiguousarray(own[rows].T)
        for free, donor in zip(range(len(frame), 0, -1), donors, strict=True):  # the first `free` rows are
            distance = np.zeros(free)
            for d in np.flatnonzero(~missing[donor]):
                mine, value = own[d, :free], theirs[donor, d]
                # Independent standardised numbers differ by 2 in mean square: so do another level and the unknown.
                apart = (mine - value) ** 2 if numeric[d] else 2.0 * (mine != value)
                distance += np.where(np.isnan(apart), 2.0, apart)
            k = min(self.nearest, free)
            at = np.argpartition(distance, k - 1)[:k][below(k)]
            gone[rows[at]] = missing[donor]
            rows[at], own[:, at] = rows[free - 1], own[:, free - 1]
        return gone


def _common(frame: pd.DataFrame, other: pd.DataFrame) -> tuple[Floats, Floats, Bools]:
    """Both tables on one scale: numbers standardised, codes of levels; and which columns are numbers."""
    values, numeric = [], []
    for i in range(frame.shape[1]):
        parts = [numbers_of(table.iloc[:, i]) for table in (frame, other)]
        as_numbers = all(is_numeric for _, is_numeric in parts)
        if as_numbers:
            both = np.concatenate([numbers for numbers, _ in parts])
            spread = np.nanstd(both) if not np.isnan(both).all() else 0.0
            both = both / (spread if spread > 0 else 1.0)
        else:
            texts = np.concatenate([table.iloc[:, i].to_numpy(dtype=object) for table in (frame, other)])
            codes = pd.factorize(texts)[0]
            both = np.where(codes < 0, np.nan, codes)
        values.append(both)
        numeric.append(as_numbers)
    joint = np.stack(values, 1)
    return joint[: len(frame)], joint[len(frame) :], np.array(numeric)
