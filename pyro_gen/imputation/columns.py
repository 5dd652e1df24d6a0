"""What mechanisms of missingness share: columns of a table as numbers and scores, random choices among entries."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.special
import torch

__all__ = [
    "SHAPES",
    "Bools",
    "Floats",
    "as_frame",
    "below",
    "choose",
    "combined",
    "in_random_order",
    "logistic",
    "normal",
    "numbers_of",
    "positions_of",
    "score",
    "standardised",
    "uniform",
]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "right": lambda z: z,
    "left": lambda z: -z,
    "mid": lambda z: -np.abs(z),
    "tail": lambda z: np.abs(z),
}


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


# ----------------------------------------------------------------------------------------------------------------------
# Randomness, from torch's generators


def uniform(*shape: int) -> Floats:
    """Uniform numbers in [0, 1)."""
    numbers: Floats = torch.rand(shape, dtype=torch.float64).numpy()
    return numbers


def normal(*shape: int) -> Floats:
    """Standard normal numbers."""
    numbers: Floats = torch.randn(shape, dtype=torch.float64).numpy()
    return numbers


def below(n: int) -> int:
    """A whole number from 0 to n - 1."""
    return int(torch.randint(n, ()))


def in_random_order(n: int) -> npt.NDArray[np.int64]:
    """The whole numbers from 0 to n - 1, in random order."""
    order: npt.NDArray[np.int64] = torch.randperm(n).numpy()
    return order


def choose(probabilities: Floats) -> Bools:
    """Chooses entries of a vector, each with its probability, by systematic sampling in random order."""
    order = in_random_order(len(probabilities))
    steps = np.floor(np.concatenate([[0.0], probabilities[order].cumsum()]) + uniform(1))
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order] = np.diff(steps) > 0
    return chosen


# ----------------------------------------------------------------------------------------------------------------------
# Scores, and the probabilities that they make


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
    standardised: Floats = np.nan_to_num((values - present.mean()) / present.std())
    return standardised


def combined(frame: pd.DataFrame, columns: Sequence[int]) -> Floats:
    """A random linear combination of columns, with unit variance."""
    if len(columns) == 1:  # which needs no sign of its own: "right" means high values
        return score(frame.iloc[:, columns[0]])
    total = np.zeros(len(frame))
    for j in columns:
        total += float(normal()) * score(frame.iloc[:, j])
    return standardised(total)


def logistic(logits: Floats, shown: Bools, share: float) -> Floats:
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
    probabilities: Floats = scipy.special.expit(logits + (low + high) / 2) * shown
    return probabilities
