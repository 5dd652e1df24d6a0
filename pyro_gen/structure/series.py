"""One or several series, as estimators of structure are given them: tables of steps, with an index of times."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator

from pyro_gen.structure.estimator import as_matrix

__all__ = ["SeriesData", "in_words", "read_series"]


class SeriesData(NamedTuple):
    """Series, their steps one after the other.

    Attributes:
        values: All steps with shape (S, D), NaN where an entry is missing.
        lengths: How many steps each series has.
        times: The index of each.
        columns: The names of the D columns.
        several: Whether a list of series was given, though it be of one.
    """

    values: npt.NDArray[np.float64]
    lengths: list[int]
    times: list[pd.Index]
    columns: list[str]
    several: bool

    def split(self, steps: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """What has an entry for each step, (S, *), as one array for each series."""
        return np.split(steps, np.cumsum(self.lengths)[:-1])

    def shaped(self, steps: npt.NDArray[Any]) -> Any:
        """The same: an array of one series, a list of several."""
        return self.split(steps) if self.several else steps


def read_series(estimator: BaseEstimator, x: Any, *, reset: bool) -> SeriesData:
    """Reads one series, (T, D), or a list of series of one length or of many.

    A series is an array, a data frame, or a pandas Series, whose index is that of time; so is an array of shape (T) in
    a list.

    Arguments:
        estimator: Whose ``n_features_in_`` and ``feature_names_in_`` are set, or compared with.
        x: The series.
        reset: Whether they are set: the data are fitted.

    Raises:
        ValueError: As of :func:`as_matrix`; a series in a list has one step only or other columns than the first; or
            times are not in order.
    """
    name = type(estimator).__name__
    several = _is_list_of_series(x)
    if isinstance(x, list | tuple) and not several and len({np.size(row) for row in x}) > 1:
        raise ValueError(f"{name}: rows have different lengths: give series of different lengths as a list of arrays.")
    parts = [_as_table(one) if several or isinstance(one, pd.Series) else one for one in (x if several else [x])]
    if several and (short := [i for i, one in enumerate(parts) if len(one) < 2]):
        raise ValueError(f"{name}: series {short[0]} has {len(parts[short[0]])} step: give 2 or more, or leave it out.")
    if several and len({tuple(one.columns) for one in parts}) > 1:
        shapes = ", ".join(str(list(one.columns)) for one in parts[:3])
        raise ValueError(f"{name}: all series have the same columns, and these have {shapes}.")
    together = pd.concat(parts, ignore_index=True) if several else parts[0]
    if several and all(isinstance(c, int) for c in together.columns):
        together = together.to_numpy()  # whose columns have no names
    values = np.array(as_matrix(estimator, together, reset=reset))  # of pandas it may be read-only
    times = [one.index if isinstance(one, pd.DataFrame) else pd.RangeIndex(len(values)) for one in parts]
    for i, index in enumerate(times):
        if not index.is_monotonic_increasing and not isinstance(index, pd.RangeIndex):
            which = f"series {i}" if several else "the series"
            raise ValueError(f"{name}: the index of {which} is not in order: sort it by time.")
    columns = [str(c) for c in getattr(estimator, "feature_names_in_", range(values.shape[1]))]
    return SeriesData(values, [len(index) for index in times], times, columns, several)


def _is_list_of_series(x: Any) -> bool:
    """A list of arrays or frames, or an array (N, T, D); a list of lists is a table, as in scikit-learn."""
    if isinstance(x, list | tuple):
        return len(x) > 0 and all(hasattr(one, "__len__") and hasattr(one, "shape") and len(one.shape) for one in x)
    return getattr(x, "ndim", 0) == 3


def _as_table(one: Any) -> pd.DataFrame:
    if isinstance(one, pd.Series):
        return one.to_frame(0 if one.name is None else one.name)
    if isinstance(one, pd.DataFrame):
        return one
    values = np.asarray(one)
    return pd.DataFrame(values.reshape(len(values), -1))


def in_words(time: Any) -> str:
    """A time of an index, a day without its midnight."""
    return str(time.date() if isinstance(time, pd.Timestamp) and time == time.normalize() else time)
