"""What estimators of structure share: a table of numbers with holes is read and checked, and scaled."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

__all__ = ["StructureEstimator", "as_matrix"]


class StructureEstimator(BaseEstimator):  # type: ignore[misc]
    """A scikit-learn estimator whose input may have holes."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def as_matrix(estimator: BaseEstimator, x: Any, *, reset: bool) -> npt.NDArray[np.float64]:
    """Rows of numbers, NaN where an entry is missing, with shape (N, D).

    Arguments:
        estimator: Whose ``n_features_in_`` and ``feature_names_in_`` are set, or compared with.
        x: A data frame, an array or a sequence of rows.
        reset: Whether they are set: the data are fitted.

    Raises:
        ValueError: The rows are no numbers, infinite, or others than those fitted; to fit, there is one row only, or a
            column does not vary.
    """
    values: npt.NDArray[np.float64] = validate_data(
        estimator, x, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2 if reset else 1
    )
    if reset:
        names = getattr(estimator, "feature_names_in_", range(values.shape[1]))
        for name, column in zip(names, values.T, strict=True):
            seen = column[~np.isnan(column)]
            if len(seen) == 0 or (seen == seen[0]).all():
                what = "has no number" if len(seen) == 0 else f"is {seen[0]:g} in every row"
                raise ValueError(f"{type(estimator).__name__}: column {name!r} {what} and tells nothing: leave it out.")
    return values
