"""Rubin's rules: one estimate and one interval from the analyses of m completed tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import special

from pyro_gen.imputation.pooling.degrees_of_freedom import Array, barnard_rubin, checked_level, t_quantile, t_tail
from pyro_gen.imputation.pooling.wald import PooledTest, d1, d2, solved

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Pooled", "draws_needed", "pool"]


def pool(
    estimates: npt.ArrayLike,
    covariances: npt.ArrayLike,
    *,
    df_complete: float = math.inf,
    names: Sequence[str] | None = None,
) -> "Pooled":
    r"""Pools the estimates of m completed tables by Rubin's rules.

    Arguments:
        estimates: One row for each table, with shape :math:`(m, k)`, or :math:`(m)` for one parameter.
        covariances: Covariance matrices of the estimates with shape :math:`(m, k, k)`, or their variances (squared
            standard errors) alone, with the shape of ``estimates``.
        df_complete: The degrees of freedom that the analysis of a table without holes has: of a regression, rows less
            coefficients. Infinite takes the sample to be large.
        names: Names of the k parameters.

    Returns:
        The pooled estimates.

    Raises:
        ValueError: If there is only one table, shapes do not fit, an estimate or a variance is not finite, a variance
            is negative, or ``df_complete`` is not positive.

    Example:
        >>> pooled = pool([1.0, 2.0, 3.0], [0.5, 0.5, 0.5], names=["slope"])
        >>> pooled.qbar, pooled.t, pooled.df
        (array([2.]), array([1.83333333]), array([3.78125]))
        >>> print(pooled)
         term  estimate  std.error  statistic    df  p.value  conf.low  conf.high    fmi  lambda   riv
        slope         2      1.354      1.477 3.781   0.2177    -1.847      5.847 0.8077  0.7273 2.667
        3 draws: standard errors vary by up to 48% from one set of draws to the next; 184 draws make that 5%.
    """
    q = np.asarray(estimates, dtype=np.float64)
    u = np.asarray(covariances, dtype=np.float64)
    if q.ndim == 1:
        q, u = q[:, None], u[:, None] if u.shape == q.shape else u
    if q.ndim != 2 or q.size == 0:
        raise ValueError(f"estimates: got shape {np.shape(estimates)}, expected (m, k), or (m,) for one parameter.")
    m, k = q.shape
    if m == 1:
        raise ValueError("estimates: got those of 1 table; pooling needs at least 2, since it is about their spread.")
    if u.shape not in ((m, k), (m, k, k)):
        raise ValueError(
            f"covariances: got shape {np.shape(covariances)}, expected {(m, k, k)}, or {(m, k)} for variances alone."
        )
    labels = tuple(map(str, names)) if names is not None else tuple(f"q{i}" for i in range(k))
    if len(labels) != k:
        raise ValueError(f"names: got {len(labels)} names for {k} parameters.")
    variances = u if u.ndim == 2 else np.diagonal(u, axis1=1, axis2=2)
    for what, numbers, wrong in (
        ("estimate", q, ~np.isfinite(q)),
        ("variance", variances, ~(np.isfinite(variances) & (variances >= 0))),
        ("covariance", u, ~np.isfinite(u)),
    ):
        if wrong.any():
            draw, term = map(int, np.argwhere(wrong)[0][:2])
            raise ValueError(
                f"The {what} of {labels[term]!r} is {numbers[wrong][0]:g} in draw {draw}: that analysis has failed, "
                "mend it before pooling (to leave the draw out would bias the rest)."
            )
    if not df_complete > 0:
        raise ValueError(f"df_complete: got {df_complete}, expected a positive number, or math.inf.")
    return Pooled(labels, q, np.array(variances), u if u.ndim == 3 else None, float(df_complete))


def draws_needed(fmi: float, cv: float = 0.05) -> int:
    r"""How many draws make standard errors repeatable (von Hippel, 2020).

    Arguments:
        fmi: The fraction of missing information, in [0, 1].
        cv: The coefficient of variation that the standard error may have from one set of draws to the next.

    Returns:
        :math:`1 + \tfrac{1}{2} (\mathrm{FMI} / \mathrm{CV})^2`, rounded up, and at least 2.

    Example:
        >>> draws_needed(0.5), draws_needed(0.1), draws_needed(0.5, cv=0.1)
        (51, 3, 14)
    """
    if not 0 <= fmi <= 1:
        raise ValueError(f"fmi: got {fmi}, expected a fraction between 0 and 1.")
    if not cv > 0:
        raise ValueError(f"cv: got {cv}, expected a positive number.")
    return max(2, math.ceil(1 + 0.5 * (fmi / cv) ** 2 - 1e-9))  # less than rounding adds


@dataclass(frozen=True, eq=False)
class Pooled:
    r"""Pooled estimates of k parameters. Made by :func:`pool`; prints as a table.

    Arguments:
        names: Of the parameters.
        estimates: Of each table, with shape :math:`(m, k)`.
        variances: Of each table, with shape :math:`(m, k)`.
        covariances: Of each table, with shape :math:`(m, k, k)`, where known.
        dfcom: The degrees of freedom without missing values.
    """

    names: tuple[str, ...]
    estimates: Array = field(repr=False)
    variances: Array = field(repr=False)
    covariances: Array | None = field(repr=False)
    dfcom: float

    @property
    def m(self) -> int:
        """The number of draws."""
        return len(self.estimates)

    @property
    def qbar(self) -> Array:
        """The pooled estimates, with shape :math:`(k)`."""
        return np.asarray(self.estimates.mean(0))

    @property
    def ubar(self) -> Array:
        """The mean variance within tables, with shape :math:`(k)`."""
        return np.asarray(self.variances.mean(0))

    @property
    def b(self) -> Array:
        """The variance between tables, with shape :math:`(k)`."""
        return np.asarray(self.estimates.var(0, ddof=1))

    @property
    def t(self) -> Array:
        """The total variance, with shape :math:`(k)`."""
        return self.ubar + (1 + 1 / self.m) * self.b

    @property
    def covariance(self) -> Array:
        """The total covariance matrix, with shape :math:`(k, k)`."""
        u = self._matrices()
        return np.asarray(
            u.mean(0) + (1 + 1 / self.m) * np.cov(self.estimates, rowvar=False, ddof=1).reshape(u[0].shape)
        )

    @property
    def lambda_(self) -> Array:
        """The share of the total variance that is due to what is missing; 0 where all tables agree."""
        return np.divide((1 + 1 / self.m) * self.b, self.t, out=np.zeros(len(self.names)), where=self.b > 0)

    @property
    def riv(self) -> Array:
        """The relative increase in variance due to what is missing; 0 where all tables agree."""
        with np.errstate(divide="ignore"):
            return np.divide((1 + 1 / self.m) * self.b, self.ubar, out=np.zeros(len(self.names)), where=self.b > 0)

    @property
    def df(self) -> Array:
        """Barnard & Rubin's degrees of freedom."""
        return barnard_rubin(self.m, self.lambda_, self.dfcom)

    @property
    def fmi(self) -> Array:
        """The fraction of missing information."""
        # This is (riv + 2 / (df + 3)) / (riv + 1), and holds for riv = inf as well.
        return self.lambda_ + (1 - self.lambda_) * 2 / (self.df + 3)

    @property
    def standard_error(self) -> Array:
        """The square root of the total variance."""
        return np.sqrt(self.t)

    @property
    def statistic(self) -> Array:
        """Estimates over standard errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.qbar / self.standard_error

    @property
    def p_values(self) -> Array:
        """Two-sided, of the hypothesis that the parameter is zero."""
        return t_tail(np.abs(self.statistic), self.df) * 2

    def intervals(self, level: float = 0.95) -> Array:
        """Confidence intervals, with shape :math:`(k, 2)`.

        Arguments:
            level: The probability with which an interval is to contain its parameter.
        """
        half = t_quantile(0.5 + checked_level(level) / 2, self.df) * self.standard_error
        return np.stack([self.qbar - half, self.qbar + half], 1)

    def summary(self, level: float = 0.95) -> "pd.DataFrame":
        """A table with the column names of R's mice: one row for each parameter."""
        import pandas as pd

        low, high = self.intervals(level).T
        return pd.DataFrame(
            {
                "term": self.names,
                "estimate": self.qbar,
                "std.error": self.standard_error,
                "statistic": self.statistic,
                "df": self.df,
                "p.value": self.p_values,
                "conf.low": low,
                "conf.high": high,
                "fmi": self.fmi,
                "lambda": self.lambda_,
                "riv": self.riv,
            }
        )

    def draws_needed(self, cv: float = 0.05) -> int:
        r"""How many draws make all standard errors repeatable, see :func:`draws_needed`.

        The fraction of missing information is itself estimated, from m draws: what counts is the upper end of its 95%
        interval, :math:`\mathrm{logit}(\mathrm{FMI}) \pm 1.96 \sqrt{2 / m}` (von Hippel, 2020).

        Arguments:
            cv: The coefficient of variation allowed.
        """
        return draws_needed(self._highest_fmi(), cv)

    def enough(self, cv: float = 0.05) -> bool:
        """Whether there were enough draws for standard errors that are repeatable, see :meth:`draws_needed`."""
        return self.m >= self.draws_needed(cv)

    def test(
        self,
        terms: Sequence[str] | npt.ArrayLike | None = None,
        null: npt.ArrayLike = 0.0,
        *,
        method: str = "D1",
    ) -> PooledTest:
        """Tests several parameters, or linear combinations of them, at once.

        Arguments:
            terms: Names of parameters, a matrix with one row of k weights for each linear combination, or None for all
                parameters.
            null: Their values under the hypothesis.
            method: ``"D1"``, or ``"D2"``, which does not take the increase in variance to be the same in all
                directions, but is rougher for few draws.

        Raises:
            ValueError: If there are variances only, where the test needs covariances.

        Example:
            >>> estimates = [[1.0, 0.0], [1.2, 0.3], [0.8, -0.3], [1.1, 0.2]]
            >>> pooled = pool(estimates, [0.1 * np.eye(2)] * 4, names=["a", "b"])
            >>> print(pooled.test(["a", "b"]))
            D1: F(2, 12.6) = 3.25, p = 0.07266 (relative increase in variance 0.620)
            >>> pooled.test([[1.0, -1.0]], null=1.0).df1
            1
        """
        weights = self._weights(terms)
        q = self.estimates @ weights.T - np.broadcast_to(np.asarray(null, dtype=np.float64), len(weights))
        u = weights @ self._matrices() @ weights.T
        if method == "D1":
            return d1(q, u, df_complete=self.dfcom)
        if method == "D2":
            return d2([a @ solved(matrix, a) for a, matrix in zip(q, u, strict=True)], len(weights))
        raise ValueError(
            f"test(method={method!r}): choose one of 'D1', 'D2'; 'D3' and 'D4' need likelihoods, see "
            "pyro_gen.imputation.likelihood_ratio_test."
        )

    def __str__(self) -> str:
        table = self.summary().to_string(index=False, float_format=lambda value: f"{value:.4g}")
        spread = self._highest_fmi() * math.sqrt(0.5 / (self.m - 1))
        needed = "" if self.enough() else f"; {self.draws_needed()} draws make that 5%"
        vary = f"standard errors vary by up to {spread:.0%} from one set of draws to the next"
        return f"{table}\n{self.m} draws: {vary}{needed}."

    def _highest_fmi(self) -> float:
        fmi = float(np.nanmax(np.append(self.fmi, 0.0)))
        return float(special.expit(special.logit(min(fmi, 1.0)) + special.ndtri(0.975) * math.sqrt(2 / self.m)))

    def _matrices(self) -> Array:
        if self.covariances is not None:
            return self.covariances
        if len(self.names) > 1:
            raise ValueError(
                "The estimates came with variances alone; give pool() covariance matrices (m, k, k) for this."
            )
        return self.variances[:, :, None]

    def _weights(self, terms: Sequence[str] | npt.ArrayLike | None) -> Array:
        identity = np.eye(len(self.names))
        if terms is None:
            return identity
        wanted = [terms] if isinstance(terms, str) else terms
        if isinstance(wanted, Sequence) and all(isinstance(term, str) for term in wanted):
            for term in wanted:
                if term not in self.names:
                    raise ValueError(f"test: no parameter {term!r}; there are {', '.join(self.names)}.")
            weights = identity[[self.names.index(str(term)) for term in wanted]]
        else:
            weights = np.atleast_2d(np.asarray(wanted, dtype=np.float64))
        if weights.ndim != 2 or weights.shape[1] != len(self.names) or not len(weights):
            raise ValueError(
                f"test: got a matrix with shape {weights.shape}, expected one row of {len(self.names)} weights for "
                "each linear combination."
            )
        return weights
