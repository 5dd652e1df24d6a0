"""Edges of Gaussian graphical models beside scikit-learn's GraphicalLassoCV: 11 columns, 100 and 500 rows, 10 graphs.

A pair of columns has an edge with the probability .2 in half of the graphs, and .3 in the others; entries of the
precision are between .2 and .5 in size, of either sign, and the diagonal is .1 above the sum of its row. F1 is of edges
with a probability over one half, the stated errors are the sum of min(p, 1 - p). The same with a tenth of the cells
missing.
"""

import time
import warnings

import numpy as np
import numpy.typing as npt
from sklearn.covariance import GraphicalLassoCV

from pyro_gen.structure.graphs.gaussian_edges import gaussian_edges
from structure_parts import Bar, Result

COLUMNS, SETS, DENSITIES = 11, 5, (0.2, 0.3)
PAIRS = np.triu_indices(COLUMNS, 1)


def simulated(seed: int, density: float, n: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Rows (N, D), and which pairs have an edge."""
    rng = np.random.default_rng(seed)
    there = np.triu(rng.random((COLUMNS, COLUMNS)) < density, 1)
    size = rng.uniform(0.2, 0.5, there.shape) * rng.choice([-1, 1], there.shape)
    half = np.where(there, size, 0.0)
    k = half + half.T
    k += np.diag(np.abs(k).sum(1) + 0.1)
    x = rng.multivariate_normal(np.zeros(COLUMNS), np.linalg.inv(k), size=n)
    return x, there[PAIRS]


def f1(found: npt.NDArray[np.bool_], there: npt.NDArray[np.bool_]) -> float:
    return float(2 * (found & there).sum() / (found.sum() + there.sum()))


def lasso(x: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of penalties at which it does not converge
        fitted = GraphicalLassoCV().fit((x - x.mean(0)) / x.std(0))
    return np.asarray(fitted.precision_[PAIRS] != 0)


def run() -> Result:
    figures: dict[str, float] = {}
    bars = []
    whole = holed_errors = 0.0
    for n, floor in ((100, 0.8), (500, 0.98)):
        rows: dict[str, list[float]] = {}
        for density in DENSITIES:
            for seed in range(SETS):
                x, there = simulated(seed, density, n)
                start = time.process_time()
                p = gaussian_edges(x, draws=100, seed=seed).probabilities[PAIRS]
                seconds = time.process_time() - start
                x_holed = np.where(np.random.default_rng(seed).random(x.shape) < 0.1, np.nan, x)
                holed = gaussian_edges(x_holed, draws=50, chains=2, seed=seed).probabilities[PAIRS]
                measured = {
                    "F1": f1(p > 0.5, there),
                    f"F1 at density {density}": f1(p > 0.5, there),
                    "F1 of GraphicalLassoCV": f1(lasso(x), there),
                    "errors": float(((p > 0.5) != there).sum()),
                    "stated errors": float(np.minimum(p, 1 - p).sum()),
                    "errors, a tenth missing": float(((holed > 0.5) != there).sum()),
                    "seconds of a processor": seconds,
                }
                for name, value in measured.items():
                    rows.setdefault(name, []).append(value)
        means = {name: float(np.mean(values)) for name, values in rows.items()}
        for name, value in means.items():
            print(f"    {n} rows, {name}: {value:.3g}", flush=True)
            figures[f"{n} rows, {name}"] = value
        bars.append(Bar(f"F1 of edges, {n} rows", means["F1"], floor))
        bars.append(Bar(f"above GraphicalLassoCV, {n} rows", means["F1"] - means["F1 of GraphicalLassoCV"], 0.0))
        whole += means["errors"]
        holed_errors += means["errors, a tenth missing"]
    bars.append(Bar("errors with a tenth missing, over those without", holed_errors / whole, 1.5, least=False))
    return Result(figures, bars, packages=("scikit-learn",))
