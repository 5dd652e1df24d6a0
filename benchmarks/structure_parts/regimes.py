"""Change points: the Nile and eight simulated series, beside PELT of ruptures; states of a series and their number.

ruptures gives one segmentation and no probability. It is run by PELT with ``jump=1`` (by default it looks at every
fifth step alone) and penalties of 2 log T a change (twice that for two parameters), by the cost of a mean and of a mean
and a variance; for the first, the series are divided by the standard deviation of their noise, from their differences.
The series have 300 steps, changes with probability 1/75 at each, and segments with means N(0, 2^2) and standard
deviations between .5 and 1.5. A change is recalled where one is found within five steps; a change that is found is
right where there is one within five.

States: six simulated series of two states and six of three, T = 200, staying with probability .95, means 2.5
standard deviations apart, a fifth of the steps not seen; beside hmmlearn, which takes no NaN and sees the rest as one
series, its number of states by the Bayesian information criterion, the best of five starts each.
"""

import math
import time
import warnings
from typing import Any

import numpy as np

import pyro_gen as pg
from pyro_gen.structure import find_regimes
from structure_parts import Bar, Result

SERIES, STEPS, NEAR = 8, 300, 5
STATE_SERIES, STATE_STEPS, MOST = 6, 200, 4


def simulated(seed: int) -> tuple[np.ndarray, list[int]]:
    """A series, and before which steps it changes."""
    rng = np.random.default_rng(seed)
    change = rng.random(STEPS) < 1 / 75
    change[0] = False
    segment = change.cumsum()
    means, deviations = rng.normal(0, 2, segment.max() + 1), rng.uniform(0.5, 1.5, segment.max() + 1)
    return rng.normal(means[segment], deviations[segment]), np.flatnonzero(change).tolist()


def pelt(x: np.ndarray, cost: str) -> list[int]:
    import ruptures

    noise = np.median(np.abs(np.diff(x))) / (0.6745 * math.sqrt(2))
    parameters = {"l2": 1, "normal": 2}[cost]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the small number that it adds to variances
        model = ruptures.Pelt(model=cost, min_size=2, jump=1).fit((x / noise).reshape(-1, 1))
        return [int(t) for t in model.predict(pen=2 * parameters * math.log(len(x)))[:-1]]


def near(these: list[int], those: list[int]) -> int:
    """How many of these have one of those within five steps."""
    return sum(any(abs(a - b) <= NEAR for b in those) for a in these)


def changes() -> tuple[dict[str, Any], list[Bar]]:
    nile = pg.data.load("nile").train[0].double().numpy()
    found = find_regimes(nile, "change points", probability=1 / 50)
    nile_figures: dict[str, Any] = {
        "P(1899)": float(found.change_probabilities_[28]),
        "changes expected in 1897 to 1901": float(found.change_probabilities_[26:31].sum()),
        "P(one change)": found.number_probabilities_[1],
    }
    bars = [
        Bar("Nile: |P(1899) - .75|", abs(nile_figures["P(1899)"] - 0.75), 0.02, False),
        Bar("Nile: |P(one change) - .71|", abs(nile_figures["P(one change)"] - 0.71), 0.02, False),
    ]
    segmentations: dict[str, list[list[int]]] = {"ours, the most probable": []}
    truth, expected, seconds = [], [], 0.0
    for seed in range(SERIES):
        x, true = simulated(seed)
        truth.append(true)
        started = time.process_time()
        one = find_regimes(x, "change points", probability=1 / 75)
        seconds += time.process_time() - started
        segmentations["ours, the most probable"].append((np.flatnonzero(np.diff(one.labels_)) + 1).tolist())
        expected.append(sum(k * p for k, p in one.number_probabilities_.items()))
        try:
            for cost in ("l2", "normal"):
                segmentations.setdefault(f"PELT, {cost}", []).append(pelt(x, cost))
        except ImportError:
            continue
    if len(segmentations) > 1:
        nile_figures |= {f"PELT, {cost}": [1871 + t for t in pelt(nile, cost)] for cost in ("l2", "normal")}
    print(f"    Nile: {nile_figures}")
    number = sum(map(len, truth))
    table: dict[str, Any] = {}
    for name, each in segmentations.items():
        count = sum(map(len, each))
        recall = sum(map(near, truth, each)) / number
        precision = sum(map(near, each, truth)) / max(count, 1)
        table[name] = {"recall": recall, "precision": precision, "changes a series": count / SERIES}
        print(f"    {name:28s} recall {recall:.2f}  precision {precision:.2f}  {count / SERIES:.2f} changes a series")
    ours = table["ours, the most probable"]
    ours["expected number"], ours["CPU seconds a series"] = sum(expected) / SERIES, seconds / SERIES
    print(f"    expected number {ours['expected number']:.2f}, true {number / SERIES:.2f}")
    bars.append(Bar("expected number of changes, off the true one", abs(sum(expected) - number) / SERIES, 0.5, False))
    for name, of_rival in table.items():
        if name.startswith("PELT"):
            bars.append(Bar(f"recall, less that of {name}", ours["recall"] - of_rival["recall"], -0.03))
    return {"nile": nile_figures, "simulated": table, "true number": number / SERIES}, bars


def states_of(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1000 * count + seed)
    moves = np.where(rng.random(STATE_STEPS) < 0.95, 0, rng.integers(1, count, STATE_STEPS) if count > 2 else 1)
    z = (rng.integers(count) + moves.cumsum()) % count
    x = 2.5 * z + rng.normal(size=STATE_STEPS)
    x[rng.random(STATE_STEPS) < 0.2] = np.nan
    return x, z


def by_bic(x: np.ndarray) -> int | None:
    """hmmlearn's number of states, or nothing where it is not there."""
    try:
        from hmmlearn.hmm import GaussianHMM
    except ImportError:
        return None
    table = x[~np.isnan(x)].reshape(-1, 1)
    scores = []
    for k in range(1, MOST + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fits = [GaussianHMM(k, n_iter=200, random_state=seed).fit(table) for seed in range(5)]
        best = max(model.score(table) for model in fits)
        scores.append(best - 0.5 * (k * k - 1 + 2 * k) * math.log(len(table)))
    return int(np.argmax(scores)) + 1


def states() -> tuple[dict[str, Any], list[Bar]]:
    right: dict[str, int] = {"ours": 0}
    probability, agree, seconds = [], [], 0.0
    for count in (2, 3):
        for seed in range(STATE_SERIES):
            x, z = states_of(count, seed)
            count_there = len(np.unique(z))
            started = time.process_time()
            found = find_regimes(x, max_states=MOST, seed=seed)
            seconds += time.process_time() - started
            right["ours"] += found.n_regimes_ == count_there
            probability.append(found.number_probabilities_[count_there])
            if found.n_regimes_ == count_there == count:
                agree.append(float((found.labels_ == z).mean()))
            if (chosen := by_bic(x)) is not None:
                right["hmmlearn, BIC"] = right.get("hmmlearn, BIC", 0) + (chosen == count_there)
    total = 2 * STATE_SERIES
    figures = {
        "number of states right": {name: f"{n} of {total}" for name, n in right.items()},
        "mean probability of the true number": float(np.mean(probability)),
        "steps in the right state, where the number is right": float(np.mean(agree)),
        "CPU seconds a series": seconds / total,
    }
    for name, figure in figures.items():
        print(f"    {name}: {figure}")
    bars = [
        Bar("states: number right, share", right["ours"] / total, 0.9),
        # Over-confident chances would be higher than the share that is right.
        Bar(
            "states: share right less mean probability of the truth", right["ours"] / total - np.mean(probability), -0.1
        ),
    ]
    return figures, bars


def run() -> Result:
    (of_changes, first), (of_states, second) = changes(), states()
    return Result({"changes": of_changes, "states": of_states}, first + second, ("ruptures", "hmmlearn"))
