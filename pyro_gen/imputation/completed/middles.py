"""Middles of draws (m, C) of the missing entries of a column, each with shape (C).

References:
    | On a fast, robust estimator of the mode (Bickel & Frühwirth, 2006)
    | https://doi.org/10.1016/j.csda.2005.07.011
"""

import numpy as np
import numpy.typing as npt
from scipy import stats

from pyro_gen.data.column import Column

__all__ = ["half_sample_mode", "median", "mode"]

Array = npt.NDArray[np.float64]


def median(draws: Array, column: Column) -> Array:
    """Medians of numbers, the lower median of ordered levels, the most frequent of others."""
    if column.discrete and column.kind != "ordinal":
        return mode(draws, column)
    if column.discrete:  # between two levels there is none: the lower median
        return np.asarray(np.sort(draws, 0)[(len(draws) - 1) // 2])
    return np.asarray(np.median(draws, 0))


def mode(draws: Array, column: Column) -> Array:
    """The most frequent level or whole number; of other numbers the half-sample mode."""
    if column.discrete or column.integer:
        return np.asarray(stats.mode(draws, axis=0).mode, dtype=np.float64)
    return half_sample_mode(draws)


def half_sample_mode(draws: Array) -> Array:
    """The middle of the shortest half of the draws, of the shortest half of those, and so on."""
    x = np.sort(draws, 0)
    while (n := len(x)) > 3:
        half = (n + 1) // 2
        start = np.argmin(x[half - 1 :] - x[: n - half + 1], 0)
        x = np.take_along_axis(x, start + np.arange(half)[:, None], 0)
    if n < 3:
        return np.asarray(x.mean(0))
    left, right = x[1] - x[0], x[2] - x[1]
    return np.asarray(np.where(left < right, x[:2].mean(0), np.where(left > right, x[1:].mean(0), x[1])))
