"""Tests of several parameters at once, from estimates and covariances (D1) or from chi-square statistics alone (D2)."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from pyro_gen.imputation.pooling.degrees_of_freedom import Array, df_of_d1

__all__ = ["PooledTest", "d1", "d2", "solved"]


@dataclass(frozen=True)
class PooledTest:
    """A test of several parameters at once, from m tables; prints itself in one line.

    Arguments:
        method: ``"D1"``, ``"D2"``, ``"D3"`` or ``"D4"``.
        statistic: Distributed as F under the hypothesis.
        df1: Degrees of freedom of the numerator: the number of parameters.
        df2: Degrees of freedom of the denominator.
        riv: The relative increase in variance due to what is missing.
    """

    method: str
    statistic: float
    df1: int
    df2: float
    riv: float

    @property
    def p_value(self) -> float:
        """The probability of a larger statistic under the hypothesis."""
        if math.isinf(self.df2):
            return float(stats.chi2.sf(self.df1 * self.statistic, self.df1))
        return float(stats.f.sf(self.statistic, self.df1, self.df2))

    def __str__(self) -> str:
        df2 = f"{self.df2:.1f}" if math.isfinite(self.df2) else "inf"
        result = f"F({self.df1}, {df2}) = {self.statistic:.2f}, p = {self.p_value:.4g}"
        return f"{self.method}: {result} (relative increase in variance {self.riv:.3f})"


def d1(estimates: npt.ArrayLike, covariances: npt.ArrayLike, *, df_complete: float = math.inf) -> PooledTest:
    r"""The pooled Wald test that k parameters are zero (Li, Raghunathan & Rubin, 1991).

    With a finite ``df_complete`` its degrees of freedom are Reiter's (2007); of one parameter they are Barnard &
    Rubin's, so that the test is the square of the t-test in :class:`Pooled`.

    Arguments:
        estimates: Less their values under the hypothesis, with shape :math:`(m, k)`.
        covariances: With shape :math:`(m, k, k)`.
        df_complete: The degrees of freedom without missing values.

    Raises:
        ValueError: If the mean covariance is singular, or if there are too few draws or too few ``df_complete`` for
            Reiter's approximation.

    References:
        | Li, Raghunathan & Rubin (1991), Reiter (2007), as above
    """
    q, u = np.asarray(estimates, dtype=np.float64), np.asarray(covariances, dtype=np.float64)
    if q.ndim != 2 or u.shape != (*q.shape, q.shape[-1]) or len(q) < 2:
        raise ValueError(f"d1: got shapes {q.shape} and {u.shape}, expected (m, k) and (m, k, k) with m of at least 2.")
    m, k = q.shape
    qbar, ubar = q.mean(0), u.mean(0)
    between = np.cov(q, rowvar=False, ddof=1).reshape(k, k)
    r = float((1 + 1 / m) * np.trace(solved(ubar, between)) / k)
    statistic = float(qbar @ solved(ubar, qbar) / (k * (1 + r)))
    return PooledTest("D1", statistic, k, df_of_d1(m, k, r, df_complete), r)


def d2(statistics: npt.ArrayLike, df: int) -> PooledTest:
    r"""Pools m chi-square statistics, of Wald or of likelihood-ratio tests (Li, Meng, Raghunathan & Rubin, 1991).

    It knows nothing of the estimates, and its level is off by some percent for few draws: use D1 where covariances are
    at hand.

    Arguments:
        statistics: With shape :math:`(m)`.
        df: Their degrees of freedom.

    Example:
        >>> print(d2([8.0, 10.0, 12.0, 9.0], 2))
        D2: F(2, 254.2) = 4.33, p = 0.01419 (relative increase in variance 0.091)
    """
    chi2 = np.asarray(statistics, dtype=np.float64)
    if chi2.ndim != 1 or len(chi2) < 2 or not (np.isfinite(chi2) & (chi2 >= 0)).all():
        raise ValueError("d2: expected at least 2 chi-square statistics, none of them negative or NaN.")
    m = len(chi2)
    r = float((1 + 1 / m) * np.sqrt(chi2).var(ddof=1))
    statistic = (float(chi2.mean()) / df - (m + 1) / (m - 1) * r) / (1 + r)
    return PooledTest("D2", statistic, df, df ** (-3 / m) * (m - 1) * (1 + 1 / r) ** 2 if r else math.inf, r)


def solved(matrix: Array, right: Array) -> Array:
    """The solution of a linear system, whose matrix is a covariance of estimates."""
    try:
        return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
    except np.linalg.LinAlgError:
        raise ValueError("The covariance of the estimates is singular: test fewer parameters.") from None
