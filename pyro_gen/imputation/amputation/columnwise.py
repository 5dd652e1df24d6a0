"""Mechanisms that treat each column by itself, see :mod:`pyro_gen.imputation.amputation`.

All of them share ``share`` and ``of``: with ``of="cells"`` the share of the observed cells of ``columns`` that go, of
each column by itself (under :class:`MCAR` of all of them together); with ``of="rows"`` the share of the rows that lose
at least one cell.
"""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, final

import numpy as np
import pandas as pd
import scipy.optimize

from pyro_gen.imputation.amputation.choices import choose, in_random_order, uniform
from pyro_gen.imputation.amputation.logistic import check_shape, combined, logits_of, probabilities, score
from pyro_gen.imputation.amputation.mechanism import Mechanism, check_share
from pyro_gen.imputation.columns import Bools, Floats, numbers_of, positions_of

__all__ = ["MAR", "MCAR", "MNAR", "Censoring", "HardSelfMasking", "SelfMasking"]

Columns = Sequence[Hashable]  # by name; those of arrays by number


@final
@dataclass(frozen=True, repr=False)
class MCAR(Mechanism):
    """Completely at random: any entry goes, whatever the table holds.

    Arguments:
        share: How many go.
        columns: The columns that lose entries; all of them if not given.
        of: Of what it is the share: ``"cells"`` or ``"rows"``.

    Example:
        >>> MCAR(0.2)
        MCAR(share=0.2)
    """

    share: float
    _: KW_ONLY
    columns: Columns | None = None
    of: str = "cells"

    def __post_init__(self) -> None:
        check_share(self.share, self.of)

    def draw(self, frame: pd.DataFrame, seen: Bools) -> Bools:
        targets = _losing(frame, seen, self.columns)
        shown = seen[:, targets]
        if self.of == "rows":
            chosen = rows_first(lambda share: np.where(shown, share, 0.0), 1.0, self.share)
        else:  # not column by column: their shares differ as it happens
            chosen = choose(np.where(shown, self.share, 0.0).ravel()).reshape(shown.shape)
        return _in_columns(chosen, targets, seen)


@dataclass(frozen=True, repr=False)
class _ByLogits(Mechanism):
    """Entries go by a logistic regression on a score of their row, of each column its own."""

    share: float
    _: KW_ONLY
    columns: Columns | None = None
    of: str = "cells"
    shape: str = "right"
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.share, self.of)
        check_shape(self.shape)

    def draw(self, frame: pd.DataFrame, seen: Bools) -> Bools:
        targets, scores = self._scored(frame, seen)
        logits, shown = logits_of(np.stack(scores, 1), self.shape, self.strength), seen[:, targets]
        if self.of == "rows":
            chosen = rows_first(lambda share: probabilities(logits, shown, share), 1.0, self.share)
        else:
            chosen = _choose_columns(probabilities(logits, shown, self.share))
        return _in_columns(chosen, targets, seen)

    @abstractmethod
    def _scored(self, frame: pd.DataFrame, seen: Bools) -> tuple[list[int], list[Floats]]:
        """The columns that lose entries, and the score (N) that decides about each of them."""


@final
@dataclass(frozen=True, repr=False)
class MAR(_ByLogits):
    """At random: entries go by a logistic regression on other columns, which are and stay fully observed.

    Arguments:
        share: How many go.
        columns: The columns that lose entries; all but the ``given`` ones if not given.
        given: The columns that decide. If not given: all fully observed columns outside of ``columns``, or, where these
            are not given either, a random half of the fully observed columns.
        of: Of what it is the share: ``"cells"`` or ``"rows"``.
        shape: ``"right"``, ``"left"``, ``"mid"`` or ``"tail"``: which scores go.
        strength: The factor of the standardised score in the logit; 0 is completely at random.
    """

    _: KW_ONLY
    given: Columns | None = None

    def _scored(self, frame: pd.DataFrame, seen: Bools) -> tuple[list[int], list[Floats]]:
        columns, given = self._roles(frame, seen)
        targets = _observed(columns, seen)
        return targets, [combined(frame, given) for _ in targets]

    def _roles(self, frame: pd.DataFrame, seen: Bools) -> tuple[list[int], list[int]]:
        """Which columns lose entries, and which ones decide about it."""
        everything = range(frame.shape[1])
        full = [d for d in everything if seen[:, d].all()]
        columns = None if self.columns is None else positions_of(frame, self.columns, "columns")
        if self.given is not None:
            given = positions_of(frame, self.given, "given")
        elif columns is not None:
            given = [d for d in full if d not in columns]
        else:
            given = [full[i] for i in in_random_order(len(full))[: max(1, len(full) // 2)]]
        columns = [d for d in everything if d not in given] if columns is None else columns
        for d in given:
            if d in columns:
                raise ValueError(
                    f"column {frame.columns[d]!r} is among columns and given: at random it cannot be both."
                )
            if d not in full:
                raise ValueError(
                    f"given: column {frame.columns[d]!r} has missing entries, so nothing depends on it alone."
                )
        if not given or not columns:
            raise ValueError(
                "MAR needs a fully observed column apart from those that lose entries, and there is none: give another "
                "mechanism, or other columns."
            )
        return columns, given


@final
@dataclass(frozen=True, repr=False)
class MNAR(_ByLogits):
    """Not at random: entries go by a logistic regression on all columns, what goes missing included.

    Arguments:
        share: How many go.
        columns: The columns that lose entries; all of them if not given.
        of: Of what it is the share: ``"cells"`` or ``"rows"``.
        shape: ``"right"``, ``"left"``, ``"mid"`` or ``"tail"``: which scores go.
        strength: The factor of the standardised score in the logit; 0 is completely at random.
    """

    def _scored(self, frame: pd.DataFrame, seen: Bools) -> tuple[list[int], list[Floats]]:
        targets = _losing(frame, seen, self.columns)
        return targets, [combined(frame, range(frame.shape[1])) for _ in targets]


@final
@dataclass(frozen=True, repr=False)
class SelfMasking(_ByLogits):
    """Not at random: entries go by a logistic regression on their own value.

    Arguments:
        share: How many go.
        columns: The columns that lose entries; all of them if not given.
        of: Of what it is the share: ``"cells"`` or ``"rows"``.
        shape: ``"right"``, ``"left"``, ``"mid"`` or ``"tail"``: which values go.
        strength: The factor of the standardised value in the logit; 0 is completely at random.
    """

    def _scored(self, frame: pd.DataFrame, seen: Bools) -> tuple[list[int], list[Floats]]:
        targets = _losing(frame, seen, self.columns)
        return targets, [score(frame.iloc[:, d]) for d in targets]


@final
@dataclass(frozen=True, repr=False)
class HardSelfMasking(Mechanism):
    """Not at random: every entry above mean + ``offset`` * standard deviation of its column goes, as in not-MIWAE.

    Arguments:
        columns: The columns that lose entries; the first half of them if not given.
        offset: How far above its mean a value goes, in standard deviations.
    """

    _: KW_ONLY
    columns: Columns | None = None
    offset: float = 0.0

    def draw(self, frame: pd.DataFrame, seen: Bools) -> Bools:
        first_half = frame.columns[: max(1, frame.shape[1] // 2)]
        targets = _losing(frame, seen, list(first_half) if self.columns is None else self.columns)
        gone = np.zeros_like(seen)
        for d in targets:
            values, numeric = numbers_of(frame.iloc[:, d])
            if not numeric:
                raise ValueError(f"column {frame.columns[d]!r} holds no numbers, so none lies above its mean.")
            present = values[seen[:, d]]
            gone[:, d] = values > present.mean() + self.offset * present.std()
        return gone


@final
@dataclass(frozen=True, repr=False)
class Censoring(Mechanism):
    """Not at random: entries beyond a quantile of their column go, with the probability that gives the share.

    Arguments:
        share: How many go; of cells at most as many as lie beyond the quantile.
        quantile: Between 0 and 1.
        side: ``"above"`` or ``"below"`` the quantile.
        columns: The columns that lose entries; all of them if not given.
        of: Of what it is the share: ``"cells"`` or ``"rows"``.
    """

    share: float
    _: KW_ONLY
    quantile: float = 0.5
    side: str = "above"
    columns: Columns | None = None
    of: str = "cells"

    def __post_init__(self) -> None:
        check_share(self.share, self.of)
        if self.side not in ("above", "below"):
            raise ValueError(f'side={self.side!r}: give "above" or "below".')
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile={self.quantile}: give a number between 0 and 1.")

    def draw(self, frame: pd.DataFrame, seen: Bools) -> Bools:
        targets = _losing(frame, seen, self.columns)
        beyond = np.stack([self._beyond(frame.iloc[:, d]) for d in targets], 1)
        sizes = beyond.sum(0) / seen[:, targets].sum(0)
        reach = float(sizes.min())
        if self.of == "cells" and self.share > reach:
            raise ValueError(
                f"share={self.share} of the cells cannot be censored where only {reach:.3g} of them lie beyond the "
                "quantile: give a smaller one, or another quantile."
            )

        def at(share: float) -> Floats:
            return np.where(beyond, np.minimum(share / sizes, 1.0), 0.0)

        if self.of == "rows":
            return _in_columns(rows_first(at, reach, self.share), targets, seen)
        return _in_columns(_choose_columns(at(self.share)), targets, seen)

    def _beyond(self, series: "pd.Series[Any]") -> Bools:
        """Which values lie beyond the quantile; of equal ones at the edge, some at random."""
        values, numeric = numbers_of(series)
        if not numeric:
            raise ValueError(
                f"column {series.name!r} holds no numbers and so has no quantiles: leave it out of columns."
            )
        present = np.flatnonzero(~np.isnan(values))
        order = present[np.lexsort((uniform(len(present)), values[present]))]
        edge = round(self.quantile * len(order))
        beyond = np.zeros(len(values), dtype=bool)
        beyond[order[edge:] if self.side == "above" else order[:edge]] = True
        if not beyond.any():
            raise ValueError(f"column {series.name!r}: none of {len(order)} values lies beyond the quantile.")
        return beyond


# ----------------------------------------------------------------------------------------------------------------------
# What they share


def _losing(frame: pd.DataFrame, seen: Bools, columns: Columns | None) -> list[int]:
    """The numbers of the columns that lose entries: those given, or all, as far as anything is observed in them."""
    return _observed(range(frame.shape[1]) if columns is None else positions_of(frame, columns, "columns"), seen)


def _observed(columns: Sequence[int], seen: Bools) -> list[int]:
    """Those columns in which something is observed."""
    targets = [d for d in columns if seen[:, d].any()]
    if not targets:
        raise ValueError("ampute: nothing is observed in the columns that are to lose entries.")
    return targets


def _in_columns(chosen: Bools, targets: list[int], seen: Bools) -> Bools:
    """Entries of some columns, (N, T), as entries of the whole table, (N, D)."""
    gone = np.zeros_like(seen)
    gone[:, targets] = chosen
    return gone


def _choose_columns(p: Floats) -> Bools:
    """Chooses entries, each with its probability and column by column, so that each loses its share."""
    return np.stack([choose(column) for column in p.T], 1)


def rows_first(at: Callable[[float], Floats], most: float, wanted: float) -> Bools:
    """Cells such that the right share of the rows loses some: rows first, then cells given that at least one goes.

    Arguments:
        at: The probabilities of cells, (N, T), as a function of the share of the cells.
        most: The largest share for which there are any.
        wanted: The share of the rows.
    """

    def touched(share: float) -> Floats:
        return np.asarray(1 - np.prod(1 - at(share), 1))

    reach = float(touched(most).mean())
    if wanted > reach + 1e-9:
        raise ValueError(
            f"share={wanted} of the rows cannot lose a cell, at most {reach:.3g} of them can: give a smaller "
            "one, or more columns."
        )
    share = most
    if wanted < reach:
        share = scipy.optimize.brentq(lambda share: touched(share).mean() - wanted, 0.0, most, xtol=1e-12)
    p, rows = at(share), choose(touched(share))
    # The first cell of a row that goes, given that one does, then each of those behind it independently.
    first = p * np.concatenate([np.ones((len(p), 1)), np.cumprod(1 - p, 1)[:, :-1]], 1)
    edges = first.cumsum(1)
    start = (uniform(len(p), 1) * edges[:, -1:] < edges).argmax(1)[:, None]
    places = np.arange(p.shape[1])
    gone: Bools = ((places == start) | ((places > start) & (uniform(*p.shape) < p))) & rows[:, None]
    return gone
