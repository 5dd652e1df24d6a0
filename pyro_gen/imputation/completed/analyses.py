"""Analyses of completed tables, read from whatever a function of the user's returns."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_gen._errors import shown
from pyro_gen.imputation.pooling.rubin import Pooled, pool

__all__ = ["Analyses", "analyses_of"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Analyses:
    """The results of one analysis of m completed tables. Made by :meth:`Completed.fit`.

    Arguments:
        names: Of the k parameters.
        estimates: With shape :math:`(m, k)`.
        covariances: Covariance matrices with shape :math:`(m, k, k)`, or variances with shape :math:`(m, k)`.
        df_complete: The degrees of freedom of the analysis of a table without holes.
    """

    names: tuple[str, ...]
    estimates: Array = field(repr=False)
    covariances: Array = field(repr=False)
    df_complete: float

    def pool(self, df_complete: float | None = None) -> Pooled:
        """Makes one result of them by Rubin's rules, see :func:`pyro_gen.imputation.pooling.rubin.pool`.

        Arguments:
            df_complete: The degrees of freedom of the analysis of a table without holes; left out, what the results
                said, or infinite where they said nothing.
        """
        df = self.df_complete if df_complete is None else df_complete
        return pool(self.estimates, self.covariances, df_complete=df, names=self.names)


def analyses_of(tables: Iterable[Any], analysis: Callable[[Any], Any], groups: int) -> Analyses:
    """Analyses each table, see :meth:`Completed.fit`."""
    if not callable(analysis):
        raise TypeError(f"The analysis is {shown(analysis)}: give a function of a completed table.")
    results = [_result(analysis, table, groups) for table in tables]
    first = results[0]
    for k, result in enumerate(results):
        if result.names != first.names or result.covariance.shape != first.covariance.shape:
            raise ValueError(
                f"The analysis gives the parameters {_listed(result.names)} in draw {k} but {_listed(first.names)} "
                "in draw 0; make them the same, for instance by naming all levels."
            )
    return Analyses(
        first.names,
        np.stack([result.params for result in results]),
        np.stack([result.covariance for result in results]),
        min(result.df for result in results),
    )


@dataclass(frozen=True)
class _Result:
    names: tuple[str, ...]
    params: Array
    covariance: Array
    df: float = math.inf


def _result(analysis: Callable[[Any], Any], table: Any, groups: int) -> _Result:
    """Runs an analysis of one table and reads its result, of whatever shape."""
    result = analysis(table)
    if isinstance(result, tuple | list) and len(result) == 2:
        return _parsed(_names(result[0]) or _own_name(analysis, result[0]), result[0], result[1], math.inf)
    if hasattr(result, "params") and callable(getattr(result, "cov_params", None)):
        exogenous = getattr(getattr(result, "model", None), "exog_names", None) or ()
        names = _names(result.params) or tuple(map(str, exogenous))
        df = float(getattr(result, "df_resid", math.inf))
        return _parsed(names, result.params, result.cov_params(), df if df > 0 else math.inf)
    if hasattr(result, "coef_"):
        return _jackknife(analysis, result, table, groups)
    raise TypeError(
        f"The analysis returned {type(result).__name__}, expected (params, cov), a fitted result with params and "
        "cov_params(), or a fitted scikit-learn estimator with coef_."
    )


def _parsed(names: tuple[str, ...], params: Any, covariance: Any, df: float) -> _Result:
    q, u = np.asarray(params, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if q.ndim > 1:
        raise ValueError(f"The analysis returned params with shape {q.shape}, expected a vector; return (params, cov).")
    q = np.atleast_1d(q)
    u = np.atleast_1d(u)
    if u.shape not in ((len(q),), (len(q), len(q))):
        raise ValueError(f"The analysis returned {len(q)} params and a covariance with shape {u.shape}.")
    return _Result(names if len(names) == len(q) else tuple(f"q{i}" for i in range(len(q))), q, u, df)


def _names(params: Any) -> tuple[str, ...]:
    """The labels of a pandas Series (lists have an index too, but a method)."""
    index = getattr(params, "index", None)
    return () if index is None or callable(index) else tuple(map(str, index))


def _own_name(analysis: Callable[[Any], Any], params: Any) -> tuple[str, ...]:
    """What one number is called: as the function that gives it."""
    if np.ndim(params):
        return ()
    name = str(getattr(analysis, "__name__", ""))
    return (name if name.isidentifier() else "parameter",)


def _jackknife(analysis: Callable[[Any], Any], estimator: Any, table: Any, groups: int) -> _Result:
    r"""Coefficients with the covariance :math:`\frac{G-1}{G} \sum_g (q_{-g} - \bar q)(q_{-g} - \bar q)^T`."""
    names, params = _coefficients(estimator)
    n = len(table)
    count = min(groups, n)
    if count < 2:
        raise ValueError(f"fit(groups={groups}): the jackknife of {n} rows needs at least 2 groups.")
    group = np.random.default_rng(0).permutation(n) % count
    parts = []
    for left_out in range(count):
        kept = np.flatnonzero(group != left_out)
        part_names, part = _coefficients(analysis(table.iloc[kept] if hasattr(table, "iloc") else table[kept]))
        if part_names != names:
            raise ValueError(
                f"The estimator has the coefficients {_listed(names)}, but {_listed(part_names)} with some rows left "
                "out; return (params, cov) instead."
            )
        parts.append(part)
    apart = np.stack(parts) - np.mean(parts, 0)
    df = max(1, min(count - 1, n - len(params)))
    return _Result(names, params, (count - 1) / count * apart.T @ apart, float(df))


def _coefficients(estimator: Any) -> tuple[tuple[str, ...], Array]:
    """Intercepts and coefficients of a linear scikit-learn estimator, with their names."""
    coef = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64))
    features = [str(name) for name in getattr(estimator, "feature_names_in_", [f"x{i}" for i in range(coef.shape[1])])]
    if getattr(estimator, "fit_intercept", True):
        intercept = np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64).reshape(-1, 1), (len(coef), 1))
        coef, features = np.concatenate([intercept, coef], 1), ["intercept", *features]
    if len(coef) == 1:
        return tuple(features), coef[0]
    classes = getattr(estimator, "classes_", range(len(coef)))
    return tuple(f"{level}:{name}" for level in classes for name in features), coef.reshape(-1)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
