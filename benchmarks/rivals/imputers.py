"""The rivals of ``benchmarks/imputation.py``: what fills a table of numbers today.

Each takes a table with NaN for what is missing, and a seed, and gives its point predictions of the missing cells, in
the order of ``x[np.isnan(x)]``, and its draws of them, (draw, cell), or ``None`` where it makes but one imputation.
The two Gaussian ones are written out below with plug-in parameters, as they mostly are; the others are imported where
they are called, so that a package that is not there, or does not run, takes only itself out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

Filled = tuple[np.ndarray, np.ndarray | None]
DRAWS = 200  # where a draw is cheap
CHAINS = 100  # where each draw is a run of its own
MICEFOREST_TABLES = 10


def mean(x: np.ndarray, seed: int) -> Filled:
    return np.broadcast_to(np.nanmean(x, 0), x.shape)[np.isnan(x)], None


def marginal(x: np.ndarray, seed: int, draws: int = DRAWS) -> Filled:
    """Draws from what is seen in the same column, whatever else is in the row."""
    missing, rng = np.isnan(x), np.random.default_rng(seed)
    filled = np.broadcast_to(x, (draws, *x.shape)).copy()
    for d, column in enumerate(x.T):
        seen = column[~np.isnan(column)]
        filled[:, missing[:, d], d] = rng.choice(seen, (draws, missing[:, d].sum()))
    return mean(x, seed)[0], filled[:, missing]


def nearest(x: np.ndarray, seed: int) -> Filled:
    from sklearn.impute import KNNImputer

    return KNNImputer(n_neighbors=10, weights="distance").fit_transform(x)[np.isnan(x)], None


def _chained(x: np.ndarray, seed: int, estimator: Any, **options: Any) -> np.ndarray:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it always says so
        return IterativeImputer(estimator, random_state=seed, **options).fit_transform(x)[np.isnan(x)]


def ridge(x: np.ndarray, seed: int, iterations: int = 20) -> Filled:
    from sklearn.linear_model import BayesianRidge

    return _chained(x, seed, BayesianRidge(), max_iter=iterations), None


def ridge_draws(x: np.ndarray, seed: int, draws: int = CHAINS) -> Filled:
    """``sample_posterior``: as many chains as draws, and the mean of the draws."""
    from sklearn.linear_model import BayesianRidge

    runs = [_chained(x, draws * seed + s, BayesianRidge(), sample_posterior=True) for s in range(draws)]
    return np.mean(runs, 0), np.stack(runs)


def trees(x: np.ndarray, seed: int, depth: int | None = None) -> Filled:
    """The ``missForest`` of scikit-learn users."""
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(n_estimators=100, max_depth=depth, random_state=seed)
    return _chained(x, seed, forest, max_iter=10), None


# ----------------------------------------------------------------------------------------------------------------------
# A Gaussian with full covariance by EM, and the same on normal scores


def conditionals(x: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (N, D) and covariances (N, D, D) of rows given what is seen in them; seen entries vary not at all."""
    seen = ~np.isnan(x)
    m = seen.astype(float)
    # All rows at once: the identity stands in for what is not seen.
    among = sigma * m[:, :, None] * m[:, None, :] + np.eye(x.shape[1]) * (1 - m)[:, None, :]
    across = sigma * m[:, None, :]
    weights = np.linalg.solve(among, across.transpose(0, 2, 1)).transpose(0, 2, 1)
    means = mu + np.einsum("nij,nj->ni", weights, np.where(seen, x - mu, 0.0))
    covariances = (sigma - weights @ across.transpose(0, 2, 1)) * ((1 - m)[:, :, None] * (1 - m)[:, None, :])
    return np.where(seen, x, means), covariances


def em(x: np.ndarray, ridge: float, iterations: int, tolerance: float = 1e-4) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance by maximum likelihood, with ``ridge`` added to the variances."""
    mu, sigma = np.nanmean(x, 0), np.diag(np.nanvar(x, 0))
    for _ in range(iterations):
        means, covariances = conditionals(x, mu, sigma)
        before, mu = sigma, means.mean(0)
        sigma = (means - mu).T @ (means - mu) / len(x) + covariances.mean(0) + ridge * np.eye(len(mu))
        if abs(sigma - before).max() < tolerance:
            break
    return mu, sigma


def _conditional_draws(means: np.ndarray, covariances: np.ndarray, missing: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    factors = np.linalg.cholesky(covariances + np.eye(means.shape[1]) * np.where(missing, 1e-9, 1.0)[:, None, :])
    return np.stack(
        [(means + np.einsum("nij,nj->ni", factors, rng.standard_normal(means.shape)))[missing] for _ in range(DRAWS)]
    )


def gaussian(x: np.ndarray, seed: int, ridge: float = 1e-3, iterations: int = 100) -> Filled:
    missing = np.isnan(x)
    means, covariances = conditionals(x, *em(x, ridge, iterations))
    return means[missing], _conditional_draws(means, covariances, missing, seed)


def copula(x: np.ndarray, seed: int, ridge: float = 1e-3, iterations: int = 100) -> Filled:
    missing = np.isnan(x)
    scores, sorted_columns = np.full_like(x, np.nan), []
    for d, column in enumerate(x.T):
        seen = column[~missing[:, d]]
        scores[~missing[:, d], d] = ndtri(rankdata(seen) / (len(seen) + 1))
        sorted_columns.append(np.sort(seen))
    means, covariances = conditionals(scores, *em(scores, ridge, iterations))
    of_column = np.nonzero(missing)[1]

    def back(z: np.ndarray) -> np.ndarray:
        """Scores of missing cells, (draw, cell), to quantiles of their columns."""
        values = np.empty_like(z)
        for d, ordered in enumerate(sorted_columns):
            ranks = np.arange(1, len(ordered) + 1) / (len(ordered) + 1)
            values[:, of_column == d] = np.interp(ndtr(z[:, of_column == d]), ranks, ordered)
        return values

    draws = back(_conditional_draws(means, covariances, missing, seed))
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)  # the means without the noise of the draws
    deviations = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2)[missing].clip(0.0))
    point = weights @ back(means[missing] + nodes[:, None] * deviations) / weights.sum()
    return point, draws


# ----------------------------------------------------------------------------------------------------------------------
# Packages that may not be there


def miceforest(x: np.ndarray, seed: int, tables: int = MICEFOREST_TABLES) -> Filled:
    import miceforest as mf
    import pandas as pd

    frame = pd.DataFrame(x, columns=[f"x{d}" for d in range(x.shape[1])])
    kernel = mf.ImputationKernel(frame, num_datasets=tables, random_state=seed)
    kernel.mice(5, num_threads=1)
    draws = np.stack([kernel.complete_data(k).to_numpy()[np.isnan(x)] for k in range(tables)])
    return draws.mean(0), draws


def hyperimpute(x: np.ndarray, seed: int) -> Filled:
    import pandas as pd
    from hyperimpute.plugins.imputers import Imputers

    frame = pd.DataFrame(x, columns=[f"x{d}" for d in range(x.shape[1])])
    return Imputers().get("hyperimpute", random_state=seed).fit_transform(frame).to_numpy()[np.isnan(x)], None


IMPUTERS: dict[str, Callable[..., Filled]] = {
    "mean": mean,
    "marginal": marginal,
    "KNN": nearest,
    "ridge": ridge,
    "ridge, draws": ridge_draws,
    "ExtraTrees": trees,
    "Gaussian EM": gaussian,
    "copula EM": copula,
    "miceforest": miceforest,
    "HyperImpute": hyperimpute,
}
FOREIGN = ("miceforest", "HyperImpute")  # may live in an environment of their own


# ----------------------------------------------------------------------------------------------------------------------
# mice's three Gaussian regressions, for one incomplete x and a complete y, many tables at once


def regressions(x: np.ndarray, y: np.ndarray, method: str, draws: int, seed: int) -> np.ndarray:
    """Completes x, (run, n) with NaN, from y by ``norm.predict``, ``norm.nob`` or ``norm``: (draw, run, n)."""
    rng = np.random.default_rng(seed)
    seen = ~np.isnan(x)
    count = seen.sum(-1)
    design = np.stack([np.ones_like(y), y], -1)
    seen_design = design * seen[..., None]
    inverse = np.linalg.inv(seen_design.transpose(0, 2, 1) @ seen_design)
    beta = np.einsum("rij,rnj,rn->ri", inverse, seen_design, np.where(seen, x, 0.0))
    squares = (np.where(seen, x - np.einsum("rni,ri->rn", design, beta), 0.0) ** 2).sum(-1)
    completed = []
    for _ in range(draws):
        coefficients, sigma = beta, np.zeros(len(x))
        if method == "norm.nob":
            sigma = np.sqrt(squares / (count - 3))  # mice counts the intercept twice
        elif method == "norm":
            sigma = np.sqrt(squares / rng.chisquare(count - 2))
            noise = np.einsum("rij,rj->ri", np.linalg.cholesky(inverse), rng.standard_normal(beta.shape))
            coefficients = beta + sigma[:, None] * noise
        predicted = np.einsum("rni,ri->rn", design, coefficients)
        completed.append(np.where(seen, x, predicted + sigma[:, None] * rng.standard_normal(x.shape)))
    return np.stack(completed)
