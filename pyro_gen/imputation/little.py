"""Little's test of whether holes in a table fall completely at random.

References:
    | A test of missing completely at random for multivariate data with missing values (Little, 1988)
    | https://doi.org/10.1080/01621459.1988.10478722
"""

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.stats

from pyro_gen.imputation.columns import Floats, as_frame, numbers_of

__all__ = ["LittleTest", "little_test"]


class LittleTest(NamedTuple):
    """What :func:`little_test` found.

    Attributes:
        statistic: Little's :math:`d^2`.
        df: The degrees of freedom of its chi-square distribution where holes fall completely at random.
        p_value: The probability of a statistic at least as large if they do.
    """

    statistic: float
    df: int
    p_value: float


def little_test(table: pd.DataFrame | npt.NDArray[Any]) -> LittleTest:
    r"""Tests whether values are missing completely at random (MCAR), by Little's test.

    If so, rows with different patterns of holes have the same means. With :math:`\bar y_j` the mean over the
    :math:`n_j` rows of pattern j of the columns :math:`o_j` that are seen in it, and :math:`\hat\mu, \hat\Sigma` the
    maximum-likelihood estimates under a Gaussian, by EM (:math:`\hat\Sigma` times :math:`n / (n - 1)`, as in Little's
    paper; R's naniar leaves the factor out),

    .. math::
        d^2 = \sum_j n_j \, (\bar y_j - \hat\mu_{o_j})^\top \hat\Sigma_{o_j o_j}^{-1} (\bar y_j - \hat\mu_{o_j})
        \;\sim\; \chi^2\Big(\sum_j |o_j| - D\Big) .

    Columns of levels take part by one indicator for each level but one; the Gaussian is then an approximation that
    patterns of many rows do not mind. Columns of one value, and rows without any, take no part.

    A small p-value says that the holes are not completely at random. A large one does not say that they are: only means
    are compared, and nothing can be seen of a value's own effect on its absence.

    Arguments:
        table: A data frame or an array with shape :math:`(N, D)`; NaN, None and pandas' NA are missing.

    Raises:
        TypeError: The table is neither a data frame nor an array.
        ValueError: All rows have the same holes, two columns are never seen together, or columns depend on one another
            linearly.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(500, 2))
        >>> x[x[:, 0] > 1, 1] = np.nan  # the second is missing where the first is large
        >>> little_test(x).p_value < 1e-6
        True
    """
    frame = as_frame(table, "table")
    y, names = _indicators(frame)
    y = y[~np.isnan(y).all(1)]
    shown = ~np.isnan(y)
    together = shown.T.astype(float) @ shown
    if not together.all():
        a, b = np.argwhere(together == 0)[0]
        raise ValueError(
            f"Little's test: columns {names[a]!r} and {names[b]!r} are never seen in the same row: leave one out."
        )
    patterns, which = np.unique(shown, axis=0, return_inverse=True)
    if len(patterns) < 2:
        raise ValueError("Little's test: all rows have the same holes; it compares rows whose holes differ.")
    groups = [(np.flatnonzero(pattern), y[which.ravel() == j][:, pattern]) for j, pattern in enumerate(patterns)]
    mean, covariance = _gaussian_em(groups, y.shape[1])
    covariance = covariance * len(y) / (len(y) - 1)
    statistic = 0.0
    for columns, rows in groups:
        apart = rows.mean(0) - mean[columns]
        statistic += len(rows) * float(apart @ np.linalg.solve(covariance[np.ix_(columns, columns)], apart))
    df = int(patterns.sum()) - y.shape[1]
    return LittleTest(statistic, df, float(scipy.stats.chi2.sf(statistic, df)))


def _indicators(frame: pd.DataFrame) -> tuple[Floats, list[Hashable]]:
    """Standardised numbers, and indicators of all levels but the last, NaN where missing; the column of each."""
    columns: list[Floats] = []
    names: list[Hashable] = []
    for i in range(frame.shape[1]):
        values, numeric = numbers_of(frame.iloc[:, i])
        present = np.unique(values[~np.isnan(values)])
        if len(present) < 2:
            continue
        if numeric:
            columns.append((values - np.nanmean(values)) / np.nanstd(values))
        else:
            columns += [np.where(np.isnan(values), np.nan, values == level) for level in present[:-1]]
        names += [frame.columns[i]] * (len(columns) - len(names))
    if not columns:
        raise ValueError("Little's test: no column has two different values.")
    return np.stack(columns, 1), names


def _gaussian_em(groups: list[tuple[npt.NDArray[np.int64], Floats]], dim: int) -> tuple[Floats, Floats]:
    """Maximum-likelihood mean and covariance of a Gaussian, of rows sorted by what is seen in them."""
    n = sum(len(rows) for _, rows in groups)
    mean, covariance = np.zeros(dim), np.eye(dim)
    holes = [np.setdiff1d(np.arange(dim), seen) for seen, _ in groups]
    for _ in range(5000):
        filled, spread = [], np.zeros((dim, dim))
        for (seen, rows), lost in zip(groups, holes, strict=True):
            x = np.empty((len(rows), dim))
            x[:, seen] = rows
            if len(lost):
                slope = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, lost)])
                x[:, lost] = mean[lost] + (rows - mean[seen]) @ slope
                spread[np.ix_(lost, lost)] += len(rows) * (
                    covariance[np.ix_(lost, lost)] - covariance[np.ix_(lost, seen)] @ slope
                )
            filled.append(x)
        x = np.concatenate(filled)
        before = mean, covariance
        mean = x.mean(0)
        covariance = ((x - mean).T @ (x - mean) + spread) / n
        if np.linalg.eigvalsh(covariance)[0] < 1e-10:
            raise ValueError(
                "Little's test: some columns depend on one another linearly (or there are fewer rows than columns): "
                "leave columns out."
            )
        if max(np.abs(mean - before[0]).max(), np.abs(covariance - before[1]).max()) < 1e-6:
            return mean, covariance
    raise ValueError("Little's test: EM does not settle, too few rows have columns in common: leave columns out.")
