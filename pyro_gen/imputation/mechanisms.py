"""Mechanisms of missingness: which entries of a table go, see :func:`pyro_gen.imputation.ampute`."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.optimize

from pyro_gen.imputation.columns import (
    SHAPES,
    Bools,
    Floats,
    below,
    choose,
    combined,
    in_random_order,
    logistic,
    numbers_of,
    positions_of,
    score,
    standardised,
    uniform,
)

__all__ = ["by_columns", "by_patterns", "like_another"]


# ----------------------------------------------------------------------------------------------------------------------
# Mechanisms that treat each column by itself


def by_columns(mechanism: str, frame: pd.DataFrame, seen: Bools, options: dict[str, Any]) -> Bools:
    """Which entries go, by a mechanism that treats each column by itself."""
    targets, given = _roles(mechanism, frame, seen, options)
    targets = [d for d in targets if seen[:, d].any()]
    if not targets:
        raise ValueError("ampute: nothing is observed in the columns that are to lose entries.")
    gone = np.zeros_like(seen)
    if mechanism == "self_hard":
        for d in targets:
            values, numeric = numbers_of(frame.iloc[:, d])
            if not numeric:
                raise ValueError(f"column {frame.columns[d]!r} holds no numbers, so none lies above its mean.")
            present = values[seen[:, d]]
            gone[:, d] = values > present.mean() + options["offset"] * present.std()
        return gone
    shown = seen[:, targets]
    if mechanism == "mcar":
        most = 1.0

        def at(share: float) -> Floats:
            return np.where(shown, share, 0.0)

    elif mechanism == "quantile":
        tails = np.stack([_tail(frame.iloc[:, d], options) for d in targets], 1)
        sizes = tails.sum(0) / shown.sum(0)
        most = float(sizes.min())

        def at(share: float) -> Floats:
            return np.where(tails, np.minimum(share / sizes, 1.0), 0.0)

    else:
        scores = [
            score(frame.iloc[:, d]) if mechanism == "self" else combined(frame, given or range(frame.shape[1]))
            for d in targets
        ]
        logits = options["strength"] * SHAPES[options["shape"]](np.stack(scores, 1))
        most = 1.0

        def at(share: float) -> Floats:
            return logistic(logits, shown, share)

    if options["of"] == "rows":
        gone[:, targets] = _rows(at, most, options["proportion"])
        return gone
    if options["proportion"] > most:
        raise ValueError(
            f"proportion={options['proportion']} of the cells cannot be censored where only {most:.3g} of them lie in "
            "the tail: give a smaller one, or another quantile."
        )
    probabilities = at(options["proportion"])
    if mechanism == "mcar":
        gone[:, targets] = choose(probabilities.ravel()).reshape(shown.shape)
    else:
        gone[:, targets] = np.stack([choose(column) for column in probabilities.T], 1)
    return gone


def _roles(
    mechanism: str, frame: pd.DataFrame, seen: Bools, options: dict[str, Any]
) -> tuple[list[int], list[int] | None]:
    """Which columns lose entries, and which ones decide about it (None: as the mechanism has it)."""
    everything = list(range(frame.shape[1]))
    targets = None if options["columns"] is None else positions_of(frame, options["columns"], "columns")
    if mechanism == "self_hard":
        return targets or everything[: max(1, len(everything) // 2)], None
    if mechanism != "mar":
        return targets or everything, None
    full = [d for d in everything if seen[:, d].all()]
    if options["given"] is not None:
        given = positions_of(frame, options["given"], "given")
    elif targets is not None:
        given = [d for d in full if d not in targets]
    else:
        given = [full[i] for i in in_random_order(len(full))[: max(1, len(full) // 2)]]
    targets = [d for d in everything if d not in given] if targets is None else targets
    for d in given:
        if d in targets:
            raise ValueError(f"column {frame.columns[d]!r} is among columns and given: at random, it cannot be both.")
        if d not in full:
            raise ValueError(f"given: column {frame.columns[d]!r} has missing entries, so nothing depends on it alone.")
    if not given or not targets:
        raise ValueError(
            "mar needs a fully observed column apart from those that lose entries, and there is none: give another "
            "mechanism, or other columns."
        )
    return targets, given


def _tail(series: "pd.Series[Any]", options: dict[str, Any]) -> Bools:
    """Which values lie beyond the quantile; of equal ones at the edge, some at random."""
    values, numeric = numbers_of(series)
    if not numeric:
        raise ValueError(f"column {series.name!r} holds no numbers and so has no quantiles: leave it out of columns.")
    present = np.flatnonzero(~np.isnan(values))
    high = options["shape"] == "right"
    order = present[np.lexsort((uniform(len(present)), values[present]))]
    edge = round(options["quantile"] * len(order))
    tail = np.zeros(len(values), dtype=bool)
    tail[order[edge:] if high else order[:edge]] = True
    if not tail.any():
        raise ValueError(f"column {series.name!r}: none of {len(order)} values lies beyond the quantile.")
    return tail


def _rows(at: Callable[[float], Floats], most: float, proportion: float) -> Bools:
    """Cells such that the right share of the rows loses some: rows first, then cells given that at least one goes."""

    def touched(share: float) -> Floats:
        return np.asarray(1 - np.prod(1 - at(share), 1))

    reach = float(touched(most).mean())
    if proportion > reach + 1e-9:
        raise ValueError(
            f"proportion={proportion} of the rows cannot lose a cell, at most {reach:.3g} of them can: give a smaller "
            "one, or more columns."
        )
    share = most
    if proportion < reach:
        share = scipy.optimize.brentq(lambda share: touched(share).mean() - proportion, 0.0, most, xtol=1e-12)
    p, rows = at(share), choose(touched(share))
    # The first cell of a row that goes, given that one does, then each of those behind it independently.
    first = p * np.concatenate([np.ones((len(p), 1)), np.cumprod(1 - p, 1)[:, :-1]], 1)
    edges = first.cumsum(1)
    start = (uniform(len(p), 1) * edges[:, -1:] < edges).argmax(1)[:, None]
    places = np.arange(p.shape[1])
    gone: Bools = ((places == start) | ((places > start) & (uniform(*p.shape) < p))) & rows[:, None]
    return gone


# ----------------------------------------------------------------------------------------------------------------------
# Mechanisms that treat rows as a whole


def by_patterns(frame: pd.DataFrame, seen: Bools, options: dict[str, Any]) -> Bools:
    """Which entries go, where columns go together."""
    patterns = [positions_of(frame, pattern, "patterns") for pattern in options["patterns"]]
    if not patterns:
        raise ValueError("patterns=[]: give at least one.")
    frequencies = np.ones(len(patterns)) if options["frequencies"] is None else np.array(options["frequencies"], float)
    if frequencies.shape != (len(patterns),) or not (frequencies > 0).all():
        raise ValueError(f"frequencies={options['frequencies']}: give {len(patterns)} positive numbers.")
    # Shares of the rows, rounded up or down at random, in random order.
    edges = np.floor(np.concatenate([[0.0], (frequencies / frequencies.sum()).cumsum()]) * len(frame) + uniform(1))
    group = np.zeros(len(frame), dtype=int)
    group[in_random_order(len(frame))] = np.searchsorted(edges[1:-1], np.arange(len(frame)), side="right")
    sets = np.zeros((len(patterns), frame.shape[1]), dtype=bool)
    for i, pattern in enumerate(patterns):
        sets[i, pattern] = True
    cells = (sets[group] & seen).sum(1)  # that a row would lose
    hit = cells > 0
    wanted = options["proportion"]
    total = len(frame) if options["of"] == "rows" else int(seen[:, sets.any(0)].sum())
    reach = int(hit.sum()) if options["of"] == "rows" else int(cells.sum())
    if not reach or wanted * total > reach:
        raise ValueError(
            f"proportion={wanted} of the {options['of']} cannot go by these patterns, at most "
            f"{reach / max(total, 1):.3g} of them can: give a smaller one, or patterns of more columns."
        )
    gone = np.zeros_like(seen)
    for i, pattern in enumerate(patterns):
        rows = np.flatnonzero((group == i) & hit)
        if not len(rows):
            continue
        outside = [d for d in range(frame.shape[1]) if d not in pattern]
        given = outside if options["given"] is None else positions_of(frame, options["given"], "given")
        z = standardised(combined(frame, given)[rows])
        logits = options["strength"] * SHAPES[options["shape"]](z)
        chosen = rows[choose(logistic(logits[:, None], np.ones((len(rows), 1), bool), wanted * total / reach)[:, 0])]
        gone[chosen] |= sets[i]
    return gone


def like_another(frame: pd.DataFrame, other: pd.DataFrame, nearest: int | None) -> Bools:
    """Which entries go, where another table says it."""
    if list(frame.columns) != list(other.columns):
        raise ValueError(f"like: expected the columns {list(frame.columns)}, got {list(other.columns)}.")
    if nearest is not None and nearest < 1:
        raise ValueError(f"nearest={nearest}: give at least one row.")
    missing = other.isna().to_numpy()
    rounds = math.ceil(len(frame) / len(other))  # no row of `like` is copied twice before all are copied once
    donors = np.concatenate([in_random_order(len(other)) for _ in range(rounds)])[: len(frame)]
    if nearest is None:
        return np.asarray(missing[donors])
    own, theirs, numeric = _common(frame, other)
    gone = np.zeros_like(missing, shape=frame.shape)
    rows = in_random_order(len(frame))  # in random order, so that ties of the distance are broken at random
    own = np.ascontiguousarray(own[rows].T)
    for free, donor in zip(range(len(frame), 0, -1), donors, strict=True):  # the first `free` rows are
        distance = np.zeros(free)
        for d in np.flatnonzero(~missing[donor]):
            mine, value = own[d, :free], theirs[donor, d]
            # Two independent standardised numbers differ by 2 in mean square: what another level and the unknown count.
            apart = (mine - value) ** 2 if numeric[d] else 2.0 * (mine != value)
            distance += np.where(np.isnan(apart), 2.0, apart)
        k = min(nearest, free)
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
