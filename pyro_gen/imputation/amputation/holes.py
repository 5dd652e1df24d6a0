"""Holes in a table, where a mechanism has them, and types that have a place for them."""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_gen._random import seeded
from pyro_gen.imputation.amputation.choices import below
from pyro_gen.imputation.amputation.mechanism import Mechanism
from pyro_gen.imputation.columns import Bools, as_frame

__all__ = ["ampute"]

TableT = TypeVar("TableT", pd.DataFrame, npt.NDArray[Any])


def ampute(table: TableT, mechanism: Mechanism, *, seed: int = 0) -> TableT:
    r"""Makes holes in a table, by a known mechanism.

    No column loses its last value: where the mechanism would take all, one of them, at random, stays.

    Arguments:
        table: A data frame or an array with shape :math:`(N, D)`; NaN, None and pandas' NA are missing.
        mechanism: Which entries go: one of :mod:`pyro_gen.imputation.amputation`, such as ``MCAR(0.2)``.
        seed: Seeds weights and draws; the caller's generators are left alone.

    Returns:
        A table of the same type with more holes, all other cells as they were; index and columns too. Columns that get
        their first hole change their type where it has no place for one: integers become floating point (nullable
        Int64 where that would round them), booleans pandas' nullable boolean; arrays of integers or booleans become
        floating point, of text objects.

    Raises:
        TypeError: The table is neither a data frame nor an array, or the mechanism is none.
        ValueError: An unknown column, or a share that cannot be met.

    Example:
        >>> from pyro_gen.imputation import MAR
        >>> table = pd.DataFrame({"age": range(100), "sex": ["f", "m"] * 50})
        >>> holes = ampute(table, MAR(0.2, columns=["sex"]))
        >>> holes.isna().sum().to_dict()
        {'age': 0, 'sex': 20}
    """
    if not isinstance(mechanism, Mechanism):
        raise TypeError(
            f"mechanism={mechanism!r}: expected a mechanism of pyro_gen.imputation, such as MCAR(0.2) or MAR(0.2)."
        )
    frame = as_frame(table, "table")
    seen = frame.notna().to_numpy()
    with seeded(seed):
        gone = mechanism.draw(frame, seen) & seen
        for d in np.flatnonzero(seen.any(0) & ~(seen & ~gone).any(0)):
            rows = np.flatnonzero(seen[:, d])
            gone[rows[below(len(rows))], d] = False
    return _with_holes(table, gone)


def _with_holes(table: TableT, gone: Bools) -> TableT:
    if isinstance(table, np.ndarray):
        kind = table.dtype.kind
        array = table.astype(float if kind in "iub" else object) if kind not in "fO" else table.copy()
        array[gone] = np.nan
        return array
    frame = table.copy()
    for i in np.flatnonzero(gone.any(0)).tolist():
        series: pd.Series[Any] = frame.iloc[:, i]
        if series.dtype == bool:
            series = series.astype("boolean")
        elif isinstance(series.dtype, np.dtype) and series.dtype.kind in "iu":
            exact = int(series.min()) >= -(2**53) and int(series.max()) <= 2**53
            series = series.astype(float if exact else "Int64")
        frame.isetitem(i, series.mask(gone[:, i]).array)
    return frame
