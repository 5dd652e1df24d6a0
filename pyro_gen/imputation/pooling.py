r"""Pooling: one estimate, and one honest interval, from the analyses of m completed tables.

Each completed table k is analysed as if it had been observed, which gives an estimate :math:`\hat Q_k` and its variance
:math:`U_k`. Rubin's rules make one of them:

.. math::
    \bar Q = \frac{1}{m} \sum_k \hat Q_k , \quad
    \bar U = \frac{1}{m} \sum_k U_k , \quad
    B = \frac{1}{m - 1} \sum_k (\hat Q_k - \bar Q)^2 , \quad
    T = \bar U + \left( 1 + \tfrac{1}{m} \right) B .

The interval is :math:`\bar Q \pm t_\nu \sqrt T`. With the share :math:`\lambda = (1 + 1/m) B / T` of the variance that
comes from what is missing, and :math:`\nu_c` degrees of freedom had nothing been missing, Barnard & Rubin's are

.. math::
    \frac{1}{\nu} = \frac{\lambda^2}{m - 1} + \frac{\nu_c + 3}{(1 - \lambda) \, \nu_c \, (\nu_c + 1)} ,

and the fraction of missing information, the share of what the whole data would have told that is lost, is
:math:`\lambda + (1 - \lambda) \, 2 / (\nu + 3)`. The rules are right where imputations are *proper*, that is, where
their spread contains the uncertainty of the parameters that made them.

**Several parameters at once.** D1 is the Wald test of :math:`Q = Q_0` for a vector of k parameters, with the increase
in variance :math:`r = (1 + 1/m) \, \mathrm{tr}(B \bar U^{-1}) / k` taken to be the same in all directions. D2 needs
only the m chi-square statistics, and is rougher. D3 and D4 compare likelihoods:
:mod:`pyro_gen.imputation.likelihood_ratio`.

**How many draws.** Another m draws give another standard error; its coefficient of variation is about
:math:`\mathrm{FMI} \sqrt{1 / (2 (m - 1))}`, so :math:`m = 1 + \tfrac{1}{2} (\mathrm{FMI} / \mathrm{CV})^2` draws make
it repeatable to within CV.

**Stacking posteriors.** Where the analyses are themselves Bayesian, the posterior given what was observed is the
mixture of the m posteriors, with no approximation by a t-distribution. With m draws its variance is
:math:`\bar U + \frac{m - 1}{m} B`, where Rubin's rules, which allow for m being finite, have
:math:`\bar U + \frac{m + 1}{m} B`: from about a hundred draws on they agree.

References:
    | Multiple Imputation for Nonresponse in Surveys (Rubin, 1987)
    | https://doi.org/10.1002/9780470316696
    | Small-sample degrees of freedom with multiple imputation (Barnard & Rubin, 1999)
    | https://doi.org/10.1093/biomet/86.4.948
    | Large-sample significance levels from multiply imputed data using moment-based statistics and an F reference
      distribution (Li, Raghunathan & Rubin, 1991)
    | https://doi.org/10.1080/01621459.1991.10475152
    | Significance levels from repeated p-values with multiply-imputed data (Li, Meng, Raghunathan & Rubin, 1991)
    | https://www.jstor.org/stable/24303994
    | Small-sample degrees of freedom for multi-component significance tests with multiple imputation for missing data
      (Reiter, 2007)
    | https://doi.org/10.1093/biomet/asm028
    | How many imputations do you need? A two-stage calculation using a quadratic rule (von Hippel, 2020)
    | https://arxiv.org/abs/1608.05406
    | A note on Bayesian inference after multiple imputation (Zhou & Reiter, 2010)
    | https://doi.org/10.1198/tast.2010.09109
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Pooled",
    "PooledTest",
    "StackedPosterior",
    "barnard_rubin",
    "d1",
    "d2",
    "draws_needed",
    "pool",
    "pool_correlations",
    "stack_posteriors",
]

Array = npt.NDArray[np.float64]


# ----------------------------------------------------------------------------------------------------------------------
# Rubin's rules


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
        return _t_tail(np.abs(self.statistic), self.df) * 2

    def intervals(self, level: float = 0.95) -> Array:
        """Confidence intervals, with shape :math:`(k, 2)`.

        Arguments:
            level: The probability with which an interval is to contain its parameter.
        """
        half = _t_quantile(0.5 + _checked(level) / 2, self.df) * self.standard_error
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
    ) -> "PooledTest":
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
            return d2([a @ _solved(matrix, a) for a, matrix in zip(q, u, strict=True)], len(weights))
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


# ----------------------------------------------------------------------------------------------------------------------
# Several parameters at once


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
    r = float((1 + 1 / m) * np.trace(_solved(ubar, between)) / k)
    statistic = float(qbar @ _solved(ubar, qbar) / (k * (1 + r)))
    return PooledTest("D1", statistic, k, _df_of_d1(m, k, r, df_complete), r)


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


def df_of_li(m: int, k: int, r: float) -> float:
    """Degrees of freedom of the denominator for a large sample (Li, Raghunathan & Rubin, 1991)."""
    t = k * (m - 1)
    if r == 0:
        return math.inf
    return 4 + (t - 4) * (1 + (1 - 2 / t) / r) ** 2 if t > 4 else t * (1 + 1 / k) * (1 + 1 / r) ** 2 / 2


def _df_of_d1(m: int, k: int, r: float, df_complete: float) -> float:
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


def _solved(matrix: Array, right: Array) -> Array:
    try:
        return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
    except np.linalg.LinAlgError:
        raise ValueError("The covariance of the estimates is singular: test fewer parameters.") from None


# ----------------------------------------------------------------------------------------------------------------------
# Other quantities


def pool_correlations(
    correlations: npt.ArrayLike, n: int, *, level: float = 0.95, names: Sequence[str] | None = None
) -> "pd.DataFrame":
    r"""Pools correlations by Fisher's z: :math:`\mathrm{atanh}(r)` is nearly normal with variance :math:`1 / (n - 3)`.

    Arguments:
        correlations: Of each table, with shape :math:`(m)` or :math:`(m, k)`.
        n: The number of rows of a table.
        level: Of the intervals.
        names: Of the k correlations.

    Returns:
        One row for each correlation: term, estimate and interval as correlations, statistic, degrees of freedom and
        p-value of the hypothesis that it is zero, fmi, lambda and riv on the scale of z.

    Example:
        >>> pool_correlations([0.50, 0.55, 0.45, 0.52], 103)[["estimate", "conf.low", "conf.high"]].round(3)
           estimate  conf.low  conf.high
        0     0.506     0.308      0.662
    """
    r = np.asarray(correlations, dtype=np.float64)
    if not (np.abs(r) < 1).all():
        raise ValueError("correlations: expected numbers between -1 and 1, both excluded.")
    if n <= 3:
        raise ValueError(f"n: got {n}, expected more than 3 rows.")
    out = pool(np.arctanh(r), np.full(r.shape, 1 / (n - 3)), names=names).summary(level).drop(columns="std.error")
    scaled = ["estimate", "conf.low", "conf.high"]
    out[scaled] = np.tanh(out[scaled])
    return out


@dataclass(frozen=True, eq=False)
class StackedPosterior:
    """The mixture of the posteriors of m tables, each of the same weight. Made by :func:`stack_posteriors`.

    Arguments:
        names: Of the k parameters.
        draws: All draws, with shape :math:`(S, k)`.
        weights: Of the draws, with shape :math:`(S)`; their sum is 1.
        means: Of the single posteriors, with shape :math:`(m, k)`.
        variances: Of the single posteriors, with shape :math:`(m, k)`.
    """

    names: tuple[str, ...]
    draws: Array = field(repr=False)
    weights: Array = field(repr=False)
    means: Array = field(repr=False)
    variances: Array = field(repr=False)

    @property
    def mean(self) -> Array:
        """The mean of the mixture, with shape :math:`(k)`."""
        return self.weights @ self.draws

    @property
    def sd(self) -> Array:
        """The standard deviation of the mixture, with shape :math:`(k)`."""
        return np.sqrt(self.weights @ (self.draws - self.mean) ** 2)

    def quantile(self, q: float) -> Array:
        """The smallest draws with at least a share q of the mixture at or below them, with shape :math:`(k)`."""
        order = np.argsort(self.draws, 0, kind="stable")
        below = np.cumsum(self.weights[order], 0)
        rows = np.minimum((below < q - 1e-12).sum(0), len(self.draws) - 1)
        columns = np.arange(len(self.names))
        return np.asarray(self.draws[order[rows, columns], columns])

    def summary(self, level: float = 0.95) -> "pd.DataFrame":
        """One row for each parameter: mean, sd, median and central interval, and Rubin's standard error beside them.

        Where sd is much below it, there are too few tables for stacking.
        """
        import pandas as pd

        m, tail = len(self.means), (1 - _checked(level)) / 2
        rubin = self.variances.mean(0) + (1 + 1 / m) * self.means.var(0, ddof=1) if m > 1 else self.variances[0]
        return pd.DataFrame(
            {
                "term": self.names,
                "mean": self.mean,
                "sd": self.sd,
                "median": self.quantile(0.5),
                "conf.low": self.quantile(tail),
                "conf.high": self.quantile(1 - tail),
                "rubin.std.error": np.sqrt(rubin),
            }
        )

    def __str__(self) -> str:
        return self.summary().to_string(index=False, float_format=lambda value: f"{value:.4g}")


def stack_posteriors(posteriors: Sequence[Any], *, names: Sequence[str] | None = None) -> StackedPosterior:
    r"""Pools Bayesian analyses of m completed tables by stacking their draws: the mixture of the m posteriors.

    It keeps skewness and several modes, which Rubin's rules replace by a t-distribution. It needs many tables, about a
    hundred: with m of them its variance lacks :math:`2 B / m` of Rubin's.

    Arguments:
        posteriors: For each table the draws of its posterior, with shape :math:`(S_k, k)` or :math:`(S_k)`; a table
            with more draws weighs no more than the others.
        names: Of the k parameters.

    Returns:
        The mixture.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> posterior = stack_posteriors([rng.normal(shift, 1.0, 500) for shift in rng.normal(size=200)], names=["mu"])
        >>> posterior.summary().round(1)
          term  mean   sd  median  conf.low  conf.high  rubin.std.error
        0   mu   0.0  1.4     0.0      -2.7        2.7              1.4
    """
    parts = [np.asarray(draws, dtype=np.float64) for draws in posteriors]
    parts = [part[:, None] if part.ndim == 1 else part for part in parts]
    if not parts or any(part.ndim != 2 or len(part) < 2 or part.shape[1] != parts[0].shape[1] for part in parts):
        raise ValueError(
            "posteriors: expected arrays of at least 2 draws of the same k parameters, (S, k), one for each table; got "
            f"shapes {[np.shape(draws) for draws in posteriors][:5]}."
        )
    if not all(np.isfinite(part).all() for part in parts):
        raise ValueError("posteriors: some draws are not finite.")
    k = parts[0].shape[1]
    labels = tuple(map(str, names)) if names is not None else tuple(f"q{i}" for i in range(k))
    if len(labels) != k:
        raise ValueError(f"names: got {len(labels)} names for {k} parameters.")
    return StackedPosterior(
        labels,
        np.concatenate(parts),
        np.concatenate([np.full(len(part), 1 / (len(parts) * len(part))) for part in parts]),
        np.stack([part.mean(0) for part in parts]),
        np.stack([part.var(0, ddof=1) for part in parts]),
    )


# ----------------------------------------------------------------------------------------------------------------------
# Student's t with degrees of freedom that may be infinite


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a probability between 0 and 1, such as 0.95.")
    return level


def _t_tail(x: Array, df: Array) -> Array:
    finite = np.where(np.isfinite(df), df, 1.0)
    return np.asarray(np.where(np.isfinite(df), stats.t.sf(x, finite), stats.norm.sf(x)))


def _t_quantile(q: float, df: Array) -> Array:
    finite = np.where(np.isfinite(df), df, 1.0)
    return np.asarray(np.where(np.isfinite(df), stats.t.ppf(q, finite), stats.norm.ppf(q)))
