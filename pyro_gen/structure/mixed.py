"""Tables of numbers and categories: which columns are which, and categories as numbers."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from pyro_gen.data.tables import refuse_no_table
from pyro_gen.structure.estimator import as_matrix, refuse_constant

__all__ = ["MixedTable"]


class MixedTable:
    """Columns of a table that an estimator was fitted to, by their dtypes in pandas.

    Categories, words and booleans are categories; all else are numbers. An array has numbers alone.

    Attributes:
        levels: The categories of each such column by name, in order.

    Raises:
        ValueError: Nearly every row has a word of its own in a column.
    """

    def __init__(self, estimator: BaseEstimator, x: Any) -> None:
        refuse_no_table(type(estimator).__name__, x)
        self._estimator = estimator
        self.levels: dict[str, list[Any]] = {}
        if isinstance(x, pd.DataFrame):
            x = x.infer_objects()  # numbers may stand in columns of objects
            for name in x.columns[[not _is_number(dtype) for dtype in x.dtypes]]:
                self.levels[name] = sorted(x[name].dropna().unique(), key=lambda v: (type(v).__name__, v))
                if len(self.levels[name]) > max(2, len(x) // 2):
                    raise ValueError(
                        f"{type(estimator).__name__}: column {name!r} has {len(self.levels[name])} different words in "
                        f"{len(x)} rows and tells of no cluster: leave it out."
                    )

    def split(self, x: Any, *, reset: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Numbers (N, D), NaN where missing, and categories as 0, 1, ... with shape (N, C), -1 where missing.

        Arguments:
            x: The table.
            reset: Whether it is the one that is fitted.

        Raises:
            ValueError: There is no column of numbers, a column does not vary, or it has a category that was not fitted.
        """
        who = type(self._estimator).__name__
        if not self.levels:
            values = as_matrix(self._estimator, x, reset=reset)
            return values, np.zeros((len(values), 0), dtype=np.int64)
        if not isinstance(x, pd.DataFrame):
            raise ValueError(f"{who}: it was fitted to a data frame with categories: give one with the same columns.")
        validate_data(self._estimator, x, reset=reset, skip_check_array=True)
        x = x.infer_objects()
        if reset and len(x) < 2:
            raise ValueError(f"{who}: found 1 row: a minimum of 2 is required.")
        rest = [name for name in x.columns if name not in self.levels]
        if not rest:
            raise ValueError(
                f"{who}: all columns are categories: give it a column of numbers too, or fit "
                "pg.models.CategoricalMixture to them."
            )
        values = x[rest].to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isinf(values).any():
            raise ValueError(f"{who}: a number is infinity: take such rows away, or leave the entry empty.")
        codes = np.stack([self._codes(x[name]) for name in self.levels], 1)
        if reset:
            refuse_constant(self._estimator, rest, values)
            for name, column in zip(self.levels, codes.T, strict=True):
                if len(seen := np.unique(column[column >= 0])) == 1:
                    word = self.levels[name][int(seen[0])]
                    raise ValueError(
                        f"{who}: column {name!r} is {word!r} in every row and tells nothing: leave it out."
                    )
            refuse_constant(self._estimator, list(self.levels), np.where(codes < 0, np.nan, codes))
        return values, codes

    def _codes(self, column: "pd.Series[Any]") -> npt.NDArray[np.int64]:
        levels = self.levels[column.name]  # type: ignore[index]
        words = column.astype(object)
        strange = words[words.notna() & ~words.isin(levels)]
        if len(strange):
            raise ValueError(
                f"{type(self._estimator).__name__}: column {column.name!r} has {strange.iloc[0]!r}, which is none "
                f"of the categories that it was fitted to: {', '.join(map(str, levels[:8]))}."
            )
        codes = words.map({level: i for i, level in enumerate(levels)}).astype(float).fillna(-1)
        return np.asarray(codes, dtype=np.int64)


def _is_number(dtype: Any) -> bool:
    return bool(pd.api.types.is_numeric_dtype(dtype)) and not bool(pd.api.types.is_bool_dtype(dtype))
