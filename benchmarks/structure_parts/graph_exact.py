"""Exact posterior over networks of 20 nodes: in-degree up to 3, 1,000 rows, all of it in CPU seconds.

The network is random, with three levels a node and tables that a Dirichlet law of weight .7 each draws. The time is
that of scores of all sets of up to three parents at five equivalent sample sizes, sums over all orders, the best graph
and 10,000 weighted draws at each of those that have a chance, and classes of 2,000 of them.
"""

import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from pyro_gen.structure.graphs.bayesian_network import bayesian_network_draws
from pyro_gen.structure.graphs.cpdag import completed, distance
from structure_parts import Bar, Result

NODES, LEVELS, MOST, ROWS = 20, 3, 3, 1000


def random_rows(d: int, levels: int, most: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, d) of a random network, and its graph (d, d)."""
    generator = np.random.default_rng(seed)
    graph, x = np.zeros((d, d), dtype=bool), np.zeros((n, d))
    order = generator.permutation(d)
    for place, i in enumerate(order):
        parents = generator.choice(order[:place], min(place, generator.integers(0, most + 1)), replace=False)
        graph[parents, i] = True
        table = generator.dirichlet(np.full(levels, 0.7), levels ** len(parents))
        state = x[:, parents].astype(int) @ levels ** np.arange(len(parents))
        x[:, i] = np.minimum((table[state].cumsum(1) < generator.random((n, 1))).sum(1), levels - 1)
    return x, graph


def run() -> Result:
    torch.set_num_threads(1)
    x, graph = random_rows(NODES, LEVELS, MOST, ROWS, 0)
    start = time.process_time()
    found = bayesian_network_draws(x, [LEVELS] * NODES, max_parents=MOST)
    seconds = time.process_time() - start
    truth = completed(graph)
    pattern, stated = found.representative()
    off = ~np.eye(NODES, dtype=bool)
    figures = {
        "CPU seconds": seconds,
        "distance": int(distance(pattern, truth)),
        "stated distance": stated,
        "AUROC": float(roc_auc_score(truth[off], found.patterns.mean((0, 1))[off])),
        "details": {str(k): v for k, v in found.details.items()},
    }
    print("   ", figures, flush=True)
    return Result(figures, [Bar("20 nodes, exact: CPU seconds", seconds, 15.0, least=False)])
