"""Chains over orders for 50 nodes: in-degree up to 3, 1,000 rows, CPU seconds and R-hat at defaults.

The network is random as in ``graph_exact``, with two levels a node.
"""

import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from pyro_gen.structure.graphs.bayesian_network import bayesian_network_draws
from pyro_gen.structure.graphs.cpdag import completed, distance
from structure_parts import Bar, Result
from structure_parts.graph_exact import random_rows

NODES, LEVELS, MOST, ROWS = 50, 2, 3, 1000


def run() -> Result:
    torch.set_num_threads(1)
    x, graph = random_rows(NODES, LEVELS, MOST, ROWS, 0)
    start = time.process_time()
    found = bayesian_network_draws(x, [LEVELS] * NODES, max_parents=MOST)
    seconds = time.process_time() - start
    r_hat, truth = found.r_hat(), completed(graph)
    pattern, stated = found.representative()
    off = ~np.eye(NODES, dtype=bool)
    figures = {
        "CPU seconds": seconds,
        "R-hat": r_hat,
        "edges": int(graph.sum()),
        "distance": int(distance(pattern, truth)),
        "stated distance": stated,
        "AUROC": float(roc_auc_score(truth[off], found.patterns.mean((0, 1))[off])),
        "details": {str(k): v for k, v in found.details.items()},
    }
    print("   ", figures, flush=True)
    bars = [
        Bar("50 nodes, chains over orders: CPU seconds", seconds, 30.0, least=False),
        Bar("50 nodes: R-hat of the log score", r_hat["log_score"], 1.05, least=False),
        Bar("50 nodes: R-hat of edges, the greatest", r_hat["edge"], 1.05, least=False),
    ]
    return Result(figures, bars)
