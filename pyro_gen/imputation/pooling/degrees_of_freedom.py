"""Degrees of freedom of pooled estimates, and Student's t with degrees of freedom that may be infinite."""

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["Array", "barnard_rubin", "checked_level", "df_of_d1", "df_of_li", "t_quantile", "t_tail"]

Array = npt.NDArray[np.float64]


def barnard_rubin(m: int, lambda_: npt.ArrayLike, df_complete: float = math.inf) -> Array:
    r"""The degrees of freedom of a pooled estimate.

    Arguments:
        m: The number of draws.
        lambda_: The share of the total variance that is due to what is missing.
        df_complete: The degrees of freedom without missing values.

    Returns:
        :math:`\nu`, with the shape of ``lambda_``.

    Example:
        >>> barnard_rubin(5, [0.0, 0.5], 20.0)
        array([18.26086957,  5.81314879])
    """
    share = np.asarray(lambda_, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        if math.isinf(df_complete):
            return np.asarray((m - 1) / share**2)
        observed = (1 - share) * (df_complete + 1) * df_complete
        return np.asarray((m - 1) * observed / ((df_complete + 3) * (m - 1) + share**2 * observed))


def df_of_li(m: int, k: int, r: float) -> float:
    """Degrees of freedom of the denominator for a large sample (Li, Raghunathan & Rubin, 1991)."""
    t = k * (m - 1)
    if r == 0:
        return math.inf
    return 4 + (t - 4) * (1 + (1 - 2 / t) / r) ** 2 if t > 4 else t * (1 + 1 / k) * (1 + 1 / r) ** 2 / 2


def df_of_d1(m: int, k: int, r: float, df_complete: float) -> float:
    """Degrees of freedom of the denominator of D1."""
    if k == 1:
        return float(barnard_rubin(m, r / (1 + r), df_complete))
    if math.isinf(df_complete):
        return df_of_li(m, k, r)
    t = k * (m - 1)
    if t <= 4:
        raise ValueError(
            f"D1: {m} draws are too few to test {k} parameters with df_complete = {df_complete:g}; "
            f"make at least {4 // k + 2} draws."
        )
    a = r * t / (t - 2)
    complete = (df_complete + 1) / (df_complete + 3) * df_complete
    c1, c2 = complete - 2 * (1 + a), complete - 4 * (1 + a)
    if c2 <= 0:
        raise ValueError(
            f"D1: df_complete = {df_complete:g} is too few for a relative increase in variance of {r:.3g}; use D2."
        )
    # Reiter's four brackets, on one denominator.
    brackets = (
        a**2 * c1 / ((1 + a) ** 2 * c2)
        + 8 * a**2 * c1 / ((1 + a) * c2**2)
        + 4 * a**2 / ((1 + a) * c2)
        + 4 * a**2 / (c2 * c1)
        + 16 * a**2 * c1 / c2**3
        + 8 * a**2 / c2**2
    )
    return 4 + 1 / (1 / c2 + brackets / (t - 4))


def checked_level(level: float) -> float:
    """The probability of an interval, if it is one."""
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a probability between 0 and 1, such as 0.95.")
    return level


def t_tail(x: Array, df: Array) -> Array:
    """The probability of more than x."""
    finite = np.where(np.isfinite(df), df, 1.0)
    return np.asarray(np.where(np.isfinite(df), stats.t.sf(x, finite), stats.norm.sf(x)))


def t_quantile(q: float, df: Array) -> Array:
    """The quantile of the probability q."""
    finite = np.where(np.isfinite(df), df, 1.0)
    return np.asarray(np.where(np.isfinite(df), stats.t.ppf(q, finite), stats.norm.ppf(q)))
