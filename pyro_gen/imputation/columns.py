"""Columns of any table as numbers, found by name."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["Bools", "Floats", "as_frame", "numbers_of", "positions_of"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def as_frame(table: Any, name: str) -> pd.DataFrame:
    """A table as a data frame, whose columns have different names."""
    if isinstance(table, np.ndarray) and table.ndim == 2:
        table = pd.DataFrame(table)
    elif not isinstance(table, pd.DataFrame):
        got = f"an array of shape {table.shape}" if isinstance(table, np.ndarray) else type(table).__name__
        raise TypeError(f"{name}: expected a data frame or an array of shape (rows, columns), got {got}.")
    if table.empty:
        raise ValueError(f"{name}: expected rows and columns, got shape {table.shape}.")
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"{name}: duplicate column name {repeated[0]!r}.")
    frame: pd.DataFrame = table
    return frame


def positions_of(frame: pd.DataFrame, names: Sequence[Hashable], what: str) -> list[int]:
    """The numbers of some columns, each once."""
    if isinstance(names, str):
        raise TypeError(f"{what}={names!r}: give a sequence of columns, such as [{names!r}].")
    found: dict[Hashable, int] = {name: i for i, name in enumerate(frame.columns)}
    for name in names:
        if name not in found:
            raise ValueError(f"{what}: the table has no column {name!r}.")
    positions = [found[name] for name in names]
    if len(set(positions)) < len(positions) or not positions:
        raise ValueError(f"{what}={list(names)}: give at least one column, and each once.")
    return positions


def numbers_of(series: "pd.Series[Any]") -> tuple[Floats, bool]:
    """The values of a column as numbers (NaN = missing), or codes of its levels; and whether they are numbers."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes = series.cat.codes.to_numpy().astype(float)
        return np.where(codes < 0, np.nan, codes), bool(series.cat.ordered)
    if pd.api.types.is_numeric_dtype(series.dtype):
        numbers = series.to_numpy(dtype=float, na_value=np.nan)
        if np.isinf(numbers).any():
            raise ValueError(f"column {series.name!r} holds infinite values: replace them, or make them missing.")
        return numbers, True
    numbers = np.full(len(series), np.nan)
    present = series.notna().to_numpy()
    try:
        numbers[present] = [float(value) for value in series[present]]
    except (TypeError, ValueError):
        codes = pd.factorize(series)[0].astype(float)
        return np.where(codes < 0, np.nan, codes), False
    return numbers, True
