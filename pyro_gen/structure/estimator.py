"""What estimators of structure share: a table of numbers with holes is read and checked; whether chains agree."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from pyro_gen.data.tables import refuse_no_table

__all__ = [
    "StructureEstimator",
    "as_matrix",
    "chains_agree",
    "r_hats",
    "refuse_constant",
    "with_probability",
]


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
    refuse_no_table(type(estimator).__name__, x)
    if isinstance(x, pd.DataFrame):
        x = x.infer_objects()
        for name, column in x.items():
            texts = column[column.map(lambda v: isinstance(v, str))]
            words = texts[pd.to_numeric(texts, errors="coerce").isna()]
            if len(words):
                raise ValueError(
                    f"{type(estimator).__name__}: column {name!r} holds words, {words.iloc[0]!r} say, and is to hold "
                    "numbers: leave it out."
                )
    values: npt.NDArray[np.float64] = validate_data(
        estimator, x, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2 if reset else 1
    )
    if reset:
        refuse_constant(estimator, getattr(estimator, "feature_names_in_", range(values.shape[1])), values)
    return values


def refuse_constant(estimator: BaseEstimator, names: Iterable[Any], values: npt.NDArray[np.float64]) -> None:
    """Refuses the first column of (N, D), NaN where an entry is missing, that does not vary."""
    for name, column in zip(names, values.T, strict=True):
        seen = column[~np.isnan(column)]
        if len(seen) == 0 or (seen == seen[0]).all():
            what = "has no number" if len(seen) == 0 else f"is {seen[0]:g} in every row"
            raise ValueError(f"{type(estimator).__name__}: column {name!r} {what} and tells nothing: leave it out.")


def with_probability(probabilities: Mapping[int, float], errors: Mapping[int, float] | None = None) -> str:
    """Numbers by falling probability, in words: those of .005 or more, with their errors."""
    likely = sorted(probabilities.items(), key=lambda item: -item[1])[:4]
    return ", ".join(
        f"{k} with probability {p:.2f}" + (f" +- {errors[k]:.2f}" if errors is not None and errors[k] >= 0.005 else "")
        for k, p in likely
        if p >= 0.005
    )


def r_hats(posterior: Any, names: Iterable[str]) -> dict[str, float]:
    """R-hat of what does not depend on labels, the greatest of each variable; 1 of what is the same in every draw.

    Arguments:
        posterior: ArviZ's InferenceData.
        names: The variables.
    """
    import arviz

    names = list(names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of chains that never change, whose R-hat is NaN: they agree
        found = arviz.rhat(posterior, var_names=names)
    return {name: float(np.nan_to_num(found[name].values, nan=1.0, posinf=np.inf).max()) for name in names}


def chains_agree(r_hat: dict[str, float], of: str = "") -> str:
    """The last sentence of a summary, of these variables by their names or as is said."""
    worst = max(r_hat.values())
    verdict = "the chains agree" if worst < 1.1 else "the chains do not agree yet: give more draws"
    figure = f"{worst:.2f}" if worst < 100 else "above 100"  # of chains that each stay where they are
    return f"R-hat of {of or ', '.join(name.replace('_', ' ') for name in r_hat)}: {figure}, {verdict}."
