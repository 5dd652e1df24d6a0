r"""Likelihood-ratio tests of nested models, from m completed tables: D3 and D4.

In table l the log-likelihood :math:`\ell_l` has its maximum at :math:`\hat\theta_l`, and at :math:`\hat\theta^0_l`
under a hypothesis with k parameters less. With a bar for the mean over tables, and
:math:`d_l(\theta, \theta^0) = 2 (\ell_l(\theta) - \ell_l(\theta^0))`,

.. math::
    \bar d = \overline{d_l(\hat\theta_l, \hat\theta^0_l)} , \qquad
    \text{D3: } \tilde d = \overline{d_l(\bar\theta, \bar\theta^0)} , \qquad
    \text{D4: } \tilde d = 2 \Big( \max_\theta \overline{\ell_l(\theta)} - \max_{\theta^0}
    \overline{\ell_l(\theta^0)} \Big) ,

tables that differ move the maxima apart, so that :math:`r = \frac{m + 1}{k (m - 1)} (\bar d - \tilde d)`, or 0 where
that is negative, estimates the relative increase in variance due to what is missing, and :math:`\tilde d / (k (1 + r))`
is nearly distributed as F with k degrees of freedom in the numerator.

D3 takes the mean of the parameters, and depends on how they are written: it wants a scale on which estimates are nearly
normal. The two maxima of D4 are those of a model fitted to all tables stacked, and do not. Neither needs covariances,
and both are made for large samples.

References:
    | Performing likelihood ratio tests with multiply-imputed data sets (Meng & Rubin, 1992)
    | https://doi.org/10.1093/biomet/79.1.103
    | Multiple improvements of multiple imputation likelihood ratio tests (Chan & Meng, 2022)
    | https://arxiv.org/abs/1711.08822
    | Pooling methods for likelihood ratio tests in multiply imputed data sets (Grund, Lüdtke & Robitzsch, 2023)
    | https://doi.org/10.1037/met0000556
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_gen.imputation.pooling.degrees_of_freedom import Array, df_of_li
from pyro_gen.imputation.pooling.wald import PooledTest

__all__ = ["d3", "d4", "likelihood_ratio_test"]

OPTIMISATION_ERROR = (
    1e-6  # relative: how far below 0 rounding, and the ends of two optimisations, bring a likelihood ratio
)


def likelihood_ratio_test(
    tables: Iterable[Any],
    full: Callable[[Any], Any],
    null: Callable[[Any], Any],
    *,
    method: str = "D3",
) -> PooledTest:
    r"""Compares two nested models by their likelihoods.

    Arguments:
        tables: The m completed tables, such as a :class:`~pyro_gen.imputation.Completed`.
        full: Fits the larger model to a table. It returns a result of statsmodels, with ``params`` and
            ``model.loglike(params)``; or a pair of the estimates, a vector, and a function that gives the
            log-likelihood of *that table* in nats at any such vector. Parameters that it does not get, such as the
            residual variance of a linear regression, it has to maximise over (statsmodels' does).
        null: Fits the smaller model, in the same manner: by maximum likelihood both, with the same terms left out of
            the likelihood, and the smaller one being the larger one with k of its parameters fixed.
        method: ``"D3"``, or ``"D4"``, for which the models are fitted to all tables stacked as well: data frames or
            arrays, whose log-likelihood is a sum over rows (no random effects across rows, no partial likelihood).

    Returns:
        The test of the hypothesis that the smaller model holds.

    Raises:
        TypeError: If a model returns something else, or tables cannot be stacked.
        ValueError: If there is only one table, models are not nested, have other parameters in one table than in
            another, or a likelihood that is not finite or no function of the parameters alone.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> tables = [rng.normal(0.3, 1.0, 50) for _ in range(5)]
        >>> normal = lambda x, mean: -0.5 * ((x - mean) ** 2).sum()
        >>> full = lambda x: ([x.mean()], lambda theta: normal(x, theta[0]))
        >>> null = lambda x: ([], lambda theta: normal(x, 0.0))
        >>> print(likelihood_ratio_test(tables, full, null))
        D3: F(1, 26.1) = 2.63, p = 0.1168 (relative increase in variance 0.643)
        >>> print(likelihood_ratio_test(tables, full, null, method="D4"))
        D4: F(1, 26.1) = 2.63, p = 0.1168 (relative increase in variance 0.643)
    """
    if method not in ("D3", "D4"):
        raise ValueError(f"likelihood_ratio_test(method={method!r}): choose one of 'D3', 'D4'.")
    kept, fits = [], []
    for table in tables:
        fits.append((_fitted(full, table), _fitted(null, table)))
        if method == "D4":
            kept.append(table)
    m = len(fits)
    if m < 2:
        raise ValueError(
            f"likelihood_ratio_test: got {m} table; pooling needs at least 2, for it is about their spread."
        )
    larger, smaller = zip(*fits, strict=True)
    k = _size(larger, "full") - _size(smaller, "null")
    if k < 1:
        raise ValueError(
            f"likelihood_ratio_test: the full model has {_size(larger, 'full')} parameters and the null model "
            f"{_size(smaller, 'null')}; the null model has to be the one with fewer."
        )
    own = [_ratio(a.value, b.value) for a, b in fits]
    if method == "D3":
        theta, theta0 = (np.mean([fit.params for fit in model], 0) for model in (larger, smaller))
        return d3(own, [2 * (a.at(theta) - b.at(theta0)) for a, b in fits], k)
    stacked = _stacked(kept)
    return d4(own, _ratio(_fitted(full, stacked).value / m, _fitted(null, stacked).value / m), k)


def d3(statistics: npt.ArrayLike, at_mean: npt.ArrayLike, df: int) -> PooledTest:
    r"""The pooled likelihood-ratio test of Meng & Rubin (1992), from likelihood-ratio statistics.

    Where the estimate of the relative increase in variance is negative it is taken to be 0 (mice leaves it).

    Arguments:
        statistics: :math:`d_l(\hat\theta_l, \hat\theta^0_l)`, each table at its own estimates, with shape :math:`(m)`.
        at_mean: :math:`d_l(\bar\theta, \bar\theta^0)`, each table at the mean estimates, with shape :math:`(m)`.
        df: The number k of parameters that the hypothesis fixes.

    Example:
        >>> print(d3([8.0, 10.0, 12.0, 9.0], [7.5, 9.0, 11.0, 8.5], 2))
        D3: F(2, 12.5) = 2.77, p = 0.1009 (relative increase in variance 0.625)
    """
    own, mean = np.asarray(statistics, dtype=np.float64), np.asarray(at_mean, dtype=np.float64)
    if own.ndim != 1 or own.shape != mean.shape or len(own) < 2:
        raise ValueError(f"d3: got shapes {own.shape} and {mean.shape}, expected (m,) twice, with m of at least 2.")
    if not (np.isfinite(own).all() and np.isfinite(mean).all()):
        raise ValueError("d3: some likelihood-ratio statistics are not finite.")
    r = _increase(own, float(mean.mean()), df)
    return PooledTest("D3", float(mean.mean()) / (df * (1 + r)), df, df_of_li(len(own), df, r), r)


def d4(statistics: npt.ArrayLike, stacked: float, df: int) -> PooledTest:
    r"""The pooled likelihood-ratio test of Chan & Meng (2022), from likelihood-ratio statistics.

    Arguments:
        statistics: Of each table, at its own estimates, with shape :math:`(m)`.
        stacked: That of all tables stacked, divided by m.
        df: The number k of parameters that the hypothesis fixes.

    Example:
        >>> print(d4([8.0, 10.0, 12.0, 9.0], 9.0, 2))
        D4: F(2, 40.6) = 2.77, p = 0.07459 (relative increase in variance 0.625)
    """
    own = np.asarray(statistics, dtype=np.float64)
    if own.ndim != 1 or len(own) < 2:
        raise ValueError(f"d4: got statistics with shape {own.shape}, expected (m,) with m of at least 2.")
    if not (np.isfinite(own).all() and math.isfinite(stacked)):
        raise ValueError("d4: some likelihood-ratio statistics are not finite.")
    r = _increase(own, stacked, df)
    df2 = df * (len(own) - 1) * (1 + 1 / r) ** 2 if r else math.inf
    return PooledTest("D4", stacked / (df * (1 + r)), df, df2, r)


def _increase(own: Array, joint: float, k: int) -> float:
    """The relative increase in variance."""
    m = len(own)
    return max(0.0, (m + 1) / (k * (m - 1)) * (float(own.mean()) - joint))


# ----------------------------------------------------------------------------------------------------------------------
# Models


@dataclass(frozen=True)
class _Fit:
    """A model fitted to one table: its estimates, and its log-likelihood as a function of them."""

    params: Array
    log_likelihood: Callable[[Array], Any]

    @property
    def value(self) -> float:
        return self.at(self.params)

    def at(self, params: Array) -> float:
        value = float(self.log_likelihood(params))
        if not math.isfinite(value):
            raise ValueError(
                f"The log-likelihood is {value} at the parameters {params}: that model has not been fitted."
            )
        return value


def _fitted(model: Callable[[Any], Any], table: Any) -> _Fit:
    result = model(table)
    if isinstance(result, tuple | list) and len(result) == 2 and callable(result[1]):
        return _Fit(np.atleast_1d(np.asarray(result[0], dtype=np.float64)), result[1])
    log_likelihood = getattr(getattr(result, "model", None), "loglike", None)
    if not (hasattr(result, "params") and callable(log_likelihood)):
        raise TypeError(
            f"The model returned {type(result).__name__}, expected a result of statsmodels, with params and "
            "model.loglike(params), or a pair (params, log_likelihood) with a function of params."
        )
    # Of several equations, as in a multinomial regression, statsmodels' functions take the parameters one by one.
    fit = _Fit(np.asarray(result.params, dtype=np.float64).ravel(order="F"), log_likelihood)
    known = float(result.llf)
    if not abs(fit.value - known) <= OPTIMISATION_ERROR * (1 + abs(known)):
        raise ValueError(
            f"The result's log-likelihood is {known:.6g}, and model.loglike(params) {fit.value:.6g}: it has parameters "
            "besides these; return (params, log_likelihood) of all of them."
        )
    return fit


def _size(fits: Iterable[_Fit], name: str) -> int:
    sizes = {fit.params.shape for fit in fits}
    if len(sizes) > 1 or len(next(iter(sizes))) > 1:
        raise ValueError(
            f"likelihood_ratio_test: the {name} model has params of shapes {sorted(sizes)}, expected one vector of the "
            "same length in all tables: does each table have all levels?"
        )
    return int(next(iter(sizes))[0])


def _ratio(full: float, null: float) -> float:
    statistic = 2 * (full - null)
    if statistic < -OPTIMISATION_ERROR * (1 + abs(full)):
        raise ValueError(
            f"likelihood_ratio_test: the null model has a log-likelihood of {null:.6g}, the full model one of "
            f"{full:.6g}: they are not nested, or an optimisation has not converged."
        )
    return max(statistic, 0.0)


def _stacked(tables: list[Any]) -> Any:
    import pandas as pd

    if isinstance(tables[0], pd.DataFrame):
        return pd.concat(tables, ignore_index=True)
    if isinstance(tables[0], np.ndarray):
        return np.concatenate(tables)
    raise TypeError(f'method="D4" stacks data frames or arrays, and not {type(tables[0]).__name__}: use "D3".')
