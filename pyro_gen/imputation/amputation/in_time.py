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

from collections.abc import Hashable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.optimize
import scipy.special

from pyro_gen.imputation.amputation.choices import below, choose, in_random_order, uniform
from pyro_gen.imputation.amputation.logistic import check_shape, logits_of, score
from pyro_gen.imputation.amputation.mechanism import Mechanism, check_share
from pyro_gen.imputation.columns import Bools, Floats, positions_of

__all__ = ["Dropout", "Gaps"]


@final
@dataclass(frozen=True, repr=False)
class Gaps(Mechanism):
    """Runs of successive rows, which are the times of a series, go missing.

    Arguments:
        share: How many entries go, of each of ``columns``.
        length: How long gaps are on average, in rows.
        columns: The columns that lose entries; all of them if not given.
        of: ``"cells"``: each column has gaps of its own. ``"rows"``: all of them have the same.
    """

    share: float
    _: KW_ONLY
    length: float = 10.0
    columns: Sequence[Hashable] | None = None
    of: str = "cells"

    def __post_init__(self) -> None:
        check_share(self.share, self.of)
        if not self.length >= 1:
            raise ValueError(f"length={self.length}: give a mean length of at least 1.")

    def draw(self, frame: pd.DataFrame, seen: Bools) -> Bools:
        targets = range(frame.shape[1]) if self.columns is None else positions_of(frame, self.columns, "columns")
        gone = np.zeros_like(seen)
        for together in [list(targets)] if self.of == "rows" else [[d] for d in targets]:
            rows = np.flatnonzero(seen[:, together].any(1))
            gone[rows[_runs(len(rows), self.share, self.length)][:, None], together] = True
        return gone


@final
@dataclass(frozen=True, repr=False)
class Dropout(Mechanism):
    """Who leaves at some visit does not come back: at random, by the value at the visit before.

    Arguments:
        share: How many go, of all cells of the visits (met on average), or of the rows.
        visits: The columns that are visits, in the order of time; all of them if not given. The first one stays.
        of: Of what it is the share: ``"cells"`` or ``"rows"``.
        shape: ``"right"``, ``"left"``, ``"mid"`` or ``"tail"``: after which values they leave.
        strength: The factor s of the standardised value in the logit; 0 is completely at random.
    """

    share: float
    _: KW_ONLY
    visits: Sequence[Hashable] | None = None
    of: str = "cells"
    shape: str = "right"
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.share, self.of)
        check_shape(self.shape)

    def draw(self, frame: pd.DataFrame, seen: Bools) -> Bools:
        visits = list(range(frame.shape[1])) if self.visits is None else positions_of(frame, self.visits, "visits")
        if len(visits) < 2:
            raise ValueError("Dropout: give at least two visits, of which the first stays.")
        before = np.stack([score(frame.iloc[:, d]) for d in visits[:-1]], 1)
        logits = logits_of(before, self.shape, self.strength)
        lost = np.cumsum(seen[:, visits[:0:-1]], 1)[:, ::-1]  # entries from each visit on, but the first

        def leaving(intercept: float) -> Floats:
            """The probability that a row leaves at each visit, (N, V - 1)."""
            hazard = scipy.special.expit(logits + intercept)
            stays = np.cumprod(1 - hazard, 1)
            leaves: Floats = hazard * np.concatenate([np.ones((len(hazard), 1)), stays[:, :-1]], 1)
            return leaves

        def share(intercept: float) -> float:
            p = leaving(intercept)
            if self.of == "rows":
                return float((p * (lost > 0)).sum() / len(p))
            return float((p * lost).sum() / seen[:, visits].sum())

        far = 40.0 + float(np.abs(logits).max())  # where all leave at once, or nobody does
        if self.share > (most := share(far)):
            raise ValueError(
                f"share={self.share} of the {self.of} cannot go by dropout, at most {most:.3g} of them can: give a "
                "smaller one."
            )
        if not self.share:
            return np.zeros_like(seen)
        p = leaving(scipy.optimize.brentq(lambda b: share(b) - self.share, -far, far, xtol=1e-12))
        rows = np.flatnonzero(choose(p.sum(1)))
        if len(rows) == len(frame):  # one stays to the end
            rows = np.delete(rows, below(len(rows)))
        # When they leave, given that they do: by evenly spread uniform numbers, so that shares of cells are met.
        u = (in_random_order(len(rows)) + uniform(1)) / max(1, len(rows))
        ends = p[rows].cumsum(1)
        first = (u[:, None] * ends[:, -1:] < ends).argmax(1) + 1
        gone = np.zeros_like(seen)
        gone[rows[:, None], visits] = np.arange(len(visits)) >= first[:, None]
        return gone


def _runs(size: int, share: float, length: float) -> Bools:
    """Runs in a series, with shape (size)."""
    gone = np.zeros(size, dtype=bool)
    missing = min(int(size * share + uniform(1)[0]), size - 1)
    if missing < 1:
        return gone
    count = max(1, int(missing / length + uniform(1)[0]))
    if count > size - missing:
        raise ValueError(
            f"share={share} cannot go in gaps of {length:g} on average, which need seen entries between them: "
            "give longer gaps, or a smaller share."
        )
    lengths = np.stack([_cut(missing, count), _cut(size - missing, count)], 1).ravel()
    gone[:] = np.repeat(np.arange(2 * count) % 2 == 0, lengths)
    return np.roll(gone, below(size))


def _cut(total: int, parts: int) -> npt.NDArray[np.int64]:
    """Cuts a whole number into positive ones, all ways equally likely."""
    edges = np.sort(in_random_order(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], edges, [total]]))
