"""The number of factors: 10 tables of 150 rows, 15 columns and three factors; rivals choose from 0 to 7.

Loadings are standard normal, noise variances between 0.5 and 5, uniform in logarithms. Rivals are scikit-learn's
FactorAnalysis by AIC, by BIC and by 5-fold cross-validation, and PCA with Minka's choice.
"""

import multiprocessing
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.model_selection import cross_val_score

from pyro_gen.structure import Factors
from structure_parts import Bar, Result

SETS, ROWS, COLUMNS, NUMBER, MOST = 10, 150, 15, 3, 7
PROCESSES = 3

Table = npt.NDArray[np.float64]


def simulated(seed: int) -> Table:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(COLUMNS, NUMBER))
    noise = np.sqrt(0.5 * 10 ** rng.random(COLUMNS))
    x = rng.normal(size=(ROWS, NUMBER)) @ w.T + noise * rng.normal(size=(ROWS, COLUMNS))
    return np.asarray((x - x.mean(0)) / x.std(0))


def by_penalty(x: Table, penalty: float) -> int:
    def loss(k: int) -> float:
        parameters = COLUMNS * k - k * (k - 1) / 2 + COLUMNS
        fitted = FactorAnalysis(k, max_iter=5000, tol=1e-4).fit(x)
        return -2 * len(x) * float(fitted.score(x)) + penalty * parameters

    return min(range(MOST + 1), key=loss)


RIVALS: dict[str, Callable[[Table], int]] = {
    "FactorAnalysis by AIC": lambda x: by_penalty(x, 2.0),
    "FactorAnalysis by BIC": lambda x: by_penalty(x, float(np.log(len(x)))),
    "FactorAnalysis by cross-validation": lambda x: max(
        range(MOST + 1), key=lambda k: cross_val_score(FactorAnalysis(k, max_iter=5000), x).mean()
    ),
    "PCA, mle": lambda x: PCA("mle", svd_solver="full").fit(x).n_components_,
}


def one(seed: int) -> tuple[dict[str, int], float, float, float]:
    """The number that each chooses, the probability of the right one and its error, and our seconds of a processor."""
    torch.set_num_threads(1)
    x = simulated(seed)
    start = time.process_time()
    found = Factors(MOST, draws=50, random_state=seed).fit(x)
    seconds = time.process_time() - start
    chosen = {"ours": found.n_factors_} | {name: int(choose(x)) for name, choose in RIVALS.items()}
    p, error = found.number_probabilities_.get(NUMBER, 0.0), found.number_errors_.get(NUMBER, 0.0)
    print(f"    {seed}: {NUMBER} with probability {p:.3f} +- {error:.3f}; {chosen}", flush=True)
    return chosen, p, error, seconds


def run() -> Result:
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        found = pool.map(one, range(SETS), chunksize=1)
    right = {name: sum(chosen[name] == NUMBER for chosen, *_ in found) for name in found[0][0]}
    figures = {
        "right of 10": right,
        "probability of three, by set": [p for _, p, _, _ in found],
        "its Monte Carlo error": [error for _, _, error, _ in found],
        "median seconds of a processor, of a fit": float(np.median([seconds for *_, seconds in found])),
    }
    for name, value in right.items():
        print(f"    {name}: {value} of {SETS}")
    return Result(figures, [Bar("number of factors right, of 10", right["ours"], 9)], packages=("scikit-learn",))
