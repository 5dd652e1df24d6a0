"""Networks from data: asia, sachs and insurance beside hill climbing, GES and PC, with and without missing cells.

Four samples of 1,000 rows of each network; distances are structural Hamming distances of completed graphs, and AUROC
is of their entries. Hill climbing is pgmpy's, at the best of its scores for each network, with one hash seed, on which
its answer depends; GES (BDeu) and PC (G-square test) are causal-learn's. GES takes minutes for a sample of insurance
and is left out there. With missing cells the first sample of each network has a tenth of them hidden at random.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from pyro_gen.data.bif import NetworkTables, draw_rows, network_file, read_bif
from pyro_gen.structure.graphs.base import GraphDraws
from pyro_gen.structure.graphs.bayesian_network import bayesian_network_draws
from pyro_gen.structure.graphs.cpdag import completed, distance
from structure_parts import Bar, Result

SAMPLES, ROWS, HIDDEN = 4, 1000, 0.1
SCORES = ("k2", "bdeu", "bic-d")
DISTANCE = {"asia": 2.75, "sachs": 1.0, "insurance": 28.0}
AUROC = {"asia": 0.95, "sachs": 0.99}
WITHOUT_GES = ("insurance",)


def truth_of(network: NetworkTables) -> np.ndarray:
    names = list(network.parents)
    graph = np.zeros((len(names), len(names)), dtype=bool)
    for j, name in enumerate(names):
        graph[[names.index(parent) for parent in network.parents[name]], j] = True
    return completed(graph)


def auroc(truth: np.ndarray, probability: np.ndarray) -> float:
    off = ~np.eye(len(truth), dtype=bool)
    return float(roc_auc_score(truth[off], probability[off]))


def described(found: GraphDraws, truth: np.ndarray) -> dict[str, Any]:
    pattern, stated = found.representative()
    adjacent = found.patterns | found.patterns.swapaxes(-1, -2)
    return {
        "distance": int(distance(pattern, truth)),
        "stated distance": stated,
        "distance of the best graph": int(distance(found.best_pattern, truth)),
        "distance of draws": float(distance(found.patterns, truth).mean()),
        "AUROC": auroc(truth, found.patterns.mean((0, 1))),
        "AUROC of adjacencies": auroc(truth | truth.T, adjacent.mean((0, 1))),
    }


def climbers(score: str) -> Callable[[np.ndarray], np.ndarray]:
    from pgmpy.estimators import HillClimbSearch

    def search(x: np.ndarray) -> np.ndarray:
        frame = pd.DataFrame(x.astype(int), columns=[str(i) for i in range(x.shape[1])]).astype("category")
        found = HillClimbSearch(frame).estimate(scoring_method=score, max_indegree=4, show_progress=False)
        graph = np.zeros((x.shape[1], x.shape[1]), dtype=bool)
        for i, j in found.edges():
            graph[int(i), int(j)] = True
        return completed(graph)

    return search


def of_marks(marks: np.ndarray) -> np.ndarray:
    """Causal-learn's marks [i, j], at i of the edge to j: -1 a tail, 1 a head; two heads are taken as a line."""
    return np.asarray((marks == -1) | ((marks == 1) & (marks.T == 1)))


def rivals(name: str) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    try:
        found |= {f"hill climbing, {score}": climbers(score) for score in SCORES}
    except ImportError:
        print("    pgmpy is not installed: left out")
    try:
        from causallearn.search.ConstraintBased.PC import pc
        from causallearn.search.ScoreBased.GES import ges
    except ImportError:
        print("    causal-learn is not installed: left out")
        return found
    found["PC"] = lambda x: of_marks(pc(x.astype(int), indep_test="gsq", show_progress=False).G.graph)
    if name not in WITHOUT_GES:
        found["GES"] = lambda x: of_marks(ges(x.astype(int), score_func="local_score_BDeu")["G"].graph)
    return found


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    value = call()
    return value, time.process_time() - start


def compare(name: str) -> tuple[dict[str, Any], list[Bar], list[dict[str, Any]]]:
    network = read_bif(network_file(name))
    truth, levels = truth_of(network), [len(values) for values in network.levels.values()]
    rows: list[dict[str, Any]] = []
    others: dict[str, list[dict[str, float]]] = {rival: [] for rival in rivals(name)}
    x = draw_rows(network, ROWS, 0).numpy().astype(float)
    x[np.random.default_rng(0).random(x.shape) < HIDDEN] = np.nan
    found, seconds = timed(lambda: bayesian_network_draws(x, levels, chains=2))
    holed = described(found, truth) | {"CPU seconds": seconds, "R-hat": found.r_hat()}
    print("   ", name, "a tenth missing", holed, flush=True)
    for seed in range(SAMPLES):
        x = draw_rows(network, ROWS, seed).numpy().astype(float)
        found, seconds = timed(lambda x=x, seed=seed: bayesian_network_draws(x, levels, seed=seed))
        rows.append(described(found, truth) | {"CPU seconds": seconds})
        if found.log_scores is not None:
            rows[-1]["R-hat"] = found.r_hat()
        for rival, search in rivals(name).items():
            pattern, seconds = timed(lambda x=x, search=search: search(x))
            one = {"distance": int(distance(pattern, truth)), "AUROC": auroc(truth, pattern.astype(float))}
            others[rival].append(one | {"CPU seconds": seconds})
        print("   ", name, seed, rows[-1], {r: o[-1]["distance"] for r, o in others.items()}, flush=True)
    mean = statistics.mean(row["distance"] for row in rows)
    figures = {"samples": rows, "a tenth missing, the first sample": holed, "rivals": others}
    bars = [Bar(f"{name}: distance, mean of {SAMPLES} samples", mean, DISTANCE[name], least=False)]
    if others:
        best = min(statistics.mean(o["distance"] for o in of_rival) for of_rival in others.values())
        bars.append(Bar(f"{name}: distance beside the best rival", mean, best, least=False))
    if name in AUROC:
        bars.append(Bar(f"{name}: AUROC of edges", statistics.mean(r["AUROC"] for r in rows), AUROC[name]))
    whole = max(rows[0]["distance"], 1)
    bars.append(Bar(f"{name}: distance with a tenth missing", holed["distance"], 1.5 * whole, least=False))
    return figures, bars, rows


def run() -> Result:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    every: list[dict[str, Any]] = []
    for name in DISTANCE:
        figures[name], more, rows = compare(name)
        bars += more
        every += rows
    real, stated = (statistics.mean(row[what] for row in every) for what in ("distance", "stated distance"))
    bars.append(Bar("all samples: stated over real distance, less 1", abs(stated / real - 1), 0.3, least=False))
    return Result(figures, bars, ("pgmpy", "causal-learn"))
