"""Probabilities that are logistic in the table: scores of rows, their shapes, and intercepts by bisection.

The formula and its symbols: :mod:`pyro_gen.imputation.amputation`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.special

from pyro_gen.imputation.amputation.choices import normal
from pyro_gen.imputation.columns import Bools, Floats, numbers_of

__all__ = ["combined", "logits_of", "probabilities", "score", "standardised"]

SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "right": lambda z: z,
    "left": lambda z: -z,
    "mid": lambda z: -np.abs(z),
    "tail": lambda z: np.abs(z),
}


def check_shape(shape: str) -> None:
    """Refuses the name of an unknown shape."""
    if shape not in SHAPES:
        raise ValueError(f"shape={shape!r}: give one of {', '.join(SHAPES)}.")


def logits_of(scores: Floats, shape: str, strength: float) -> Floats:
    """Logits but for the intercepts, with the shape of the scores."""
    return strength * SHAPES[shape](scores)


def score(series: "pd.Series[Any]") -> Floats:
    """A column as one standardised number a row, 0 where it is missing; levels get random ones."""
    values, numeric = numbers_of(series)
    present = ~np.isnan(values)
    if not numeric:
        weights = normal(int(values[present].max(initial=0)) + 1)
        values = np.where(present, weights[np.where(present, values, 0).astype(int)], np.nan)
    return standardised(values)


def standardised(values: Floats) -> Floats:
    """Zero mean and unit variance over what is there; 0 where nothing is, or all is the same."""
    present = values[~np.isnan(values)]
    # The difference, not the standard deviation: the one of a constant need not be 0 in floating point.
    if not len(present) or present.min() == present.max():
        return np.zeros_like(values)
    found: Floats = np.nan_to_num((values - present.mean()) / present.std())
    return found


def combined(frame: pd.DataFrame, columns: Sequence[int]) -> Floats:
    """A random linear combination of columns, with unit variance."""
    if len(columns) == 1:  # which needs no sign of its own: "right" means high values
        return score(frame.iloc[:, columns[0]])
    total = np.zeros(len(frame))
    for j in columns:
        total += float(normal()) * score(frame.iloc[:, j])
    return standardised(total)


def probabilities(logits: Floats, shown: Bools, share: float) -> Floats:
    """Probabilities of the entries shown, (N, T); the intercepts, by bisection, give every column the same mean."""
    if share <= 0:
        return np.zeros(logits.shape)
    target = scipy.special.logit(min(share, 1 - 1e-12))
    low, high = target - logits.max(0), target - logits.min(0)
    counts = shown.sum(0)
    for _ in range(60):
        middle = (low + high) / 2
        mean = (scipy.special.expit(logits + middle) * shown).sum(0) / counts
        low, high = np.where(mean < share, middle, low), np.where(mean < share, high, middle)
    found: Floats = scipy.special.expit(logits + (low + high) / 2) * shown
    return found
