r"""Holes in time: gaps in a series, and subjects who leave and do not come back.

**Gaps.** Along the rows a column is now seen and now missing: of M entries, :math:`n` go, in :math:`k` runs that are
:math:`n / k` long on average. All ways to cut n entries into k runs, and the others into the k stretches between them,
are equally likely, which makes the lengths of runs nearly geometric, those of a Markov chain. They lie on a circle that
is turned at random and cut open, so that every entry goes with the same probability, and a run may be cut by the ends.

**Dropout.** Of the columns, which are visits in the order of time, a row loses all from some visit on. At visit t it
leaves, if it is still there, with the hazard

.. math:: \sigma\big(b + s \, h(z_{n, t - 1})\big) ,

where z is the standardised value at the visit before, which is still observed: dropout is at random. The first visit
stays.

References:
    | Drop-outs and repeated measures: informative drop-out in longitudinal data analysis (Diggle & Kenward, 1994)
    | https://doi.org/10.2307/2986113
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.optimize
import scipy.special

from pyro_gen.imputation.columns import (
    SHAPES,
    Bools,
    Floats,
    below,
    choose,
    in_random_order,
    positions_of,
    score,
    uniform,
)

__all__ = ["dropout", "gaps"]


def gaps(frame: pd.DataFrame, seen: Bools, options: dict[str, Any]) -> Bools:
    """Which entries go, in runs along the rows: of each column by itself, or of all columns in the same rows."""
    names = options["columns"]
    targets = list(range(frame.shape[1])) if names is None else positions_of(frame, names, "columns")
    gone = np.zeros_like(seen)
    if options["of"] == "rows":
        rows = np.flatnonzero(seen[:, targets].any(1))
        gone[rows[_runs(len(rows), options)][:, None], targets] = True
        return gone
    for d in targets:
        rows = np.flatnonzero(seen[:, d])
        gone[rows[_runs(len(rows), options)], d] = True
    return gone


def _runs(size: int, options: dict[str, Any]) -> Bools:
    """Runs in a series."""
    share, length = options["proportion"], options["length"]
    gone = np.zeros(size, dtype=bool)
    missing = min(int(size * share + uniform(1)[0]), size - 1)
    if missing < 1:
        return gone
    count = max(1, int(missing / length + uniform(1)[0]))
    if count > size - missing:
        raise ValueError(
            f"proportion={share} cannot go in gaps of {length:g} on average, which need seen entries between them: "
            "give longer gaps, or a smaller proportion."
        )
    lengths = np.stack([_cut(missing, count), _cut(size - missing, count)], 1).ravel()
    gone[:] = np.repeat(np.arange(2 * count) % 2 == 0, lengths)
    return np.roll(gone, below(size))


def _cut(total: int, parts: int) -> npt.NDArray[np.int64]:
    """Cuts a whole number into positive ones, all ways equally likely."""
    edges = np.sort(in_random_order(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], edges, [total]]))


def dropout(frame: pd.DataFrame, seen: Bools, options: dict[str, Any]) -> Bools:
    """Which entries go, where what is missing once is missing to the end."""
    names = options["columns"]
    visits = list(range(frame.shape[1])) if names is None else positions_of(frame, names, "columns")
    if len(visits) < 2:
        raise ValueError("dropout: give at least two visits, of which the first stays.")
    before = np.stack([score(frame.iloc[:, d]) for d in visits[:-1]], 1)
    logits = options["strength"] * SHAPES[options["shape"]](before)
    lost = np.cumsum(seen[:, visits[:0:-1]], 1)[:, ::-1]  # entries from each visit on, but the first

    def leaving(intercept: float) -> Floats:
        """The probability that a row leaves at each visit, (N, V - 1)."""
        hazard = scipy.special.expit(logits + intercept)
        stays = np.cumprod(1 - hazard, 1)
        leaves: Floats = hazard * np.concatenate([np.ones((len(hazard), 1)), stays[:, :-1]], 1)
        return leaves

    def share(intercept: float) -> float:
        p = leaving(intercept)
        if options["of"] == "rows":
            return float((p * (lost > 0)).sum() / len(p))
        return float((p * lost).sum() / seen[:, visits].sum())

    far = 40.0 + float(np.abs(logits).max())  # where all leave at once, or nobody does
    wanted = options["proportion"]
    if wanted > (most := share(far)):
        raise ValueError(
            f"proportion={wanted} of the {options['of']} cannot go by dropout, at most {most:.3g} of them can: give a "
            "smaller one."
        )
    if not wanted:
        return np.zeros_like(seen)
    p = leaving(scipy.optimize.brentq(lambda b: share(b) - wanted, -far, far, xtol=1e-12))
    rows = np.flatnonzero(choose(p.sum(1)))
    if len(rows) == len(frame):  # one stays to the end
        rows = np.delete(rows, below(len(rows)))
    # When they leave, given that they do: by uniform numbers that are spread evenly, so that shares of cells are met.
    u = (in_random_order(len(rows)) + uniform(1)) / max(1, len(rows))
    ends = p[rows].cumsum(1)
    first = (u[:, None] * ends[:, -1:] < ends).argmax(1) + 1
    gone = np.zeros_like(seen)
    gone[rows[:, None], visits] = np.arange(len(visits)) >= first[:, None]
    return gone
