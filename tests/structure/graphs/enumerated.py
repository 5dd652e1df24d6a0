"""All directed acyclic graphs of a few nodes, one by one, and their weights: what every engine must agree with."""

import itertools

import numpy as np

from pyro_gen.structure.graphs.scores import Families, graph_weights


def all_graphs(d: int) -> tuple[np.ndarray, np.ndarray]:
    """The graphs, (G, d, d), and the number of orders that each agrees with, (G,)."""
    blocks = []
    for order in itertools.permutations(range(d)):
        edges = list(itertools.combinations(order, 2))
        graphs = np.zeros((1 << len(edges), d, d), dtype=bool)
        for bit, (i, j) in enumerate(edges):
            graphs[:, i, j] = (np.arange(len(graphs)) >> bit) & 1
        blocks.append(graphs.reshape(len(graphs), d * d))
    found, orders = np.unique(np.packbits(np.concatenate(blocks), axis=1), axis=0, return_counts=True)
    return np.unpackbits(found, axis=1, count=d * d).reshape(-1, d, d).astype(bool), orders


def edge_probabilities(graphs: np.ndarray, log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """The probability of each edge, (d, d), and the log of the sum of all weights."""
    log_z = np.logaddexp.reduce(log_weights)
    return np.einsum("g,gij->ij", np.exp(log_weights - log_z), graphs), float(log_z)


def averaged(families: Families, graphs: np.ndarray) -> np.ndarray:
    """The log weight of each graph, summed over the equivalent sample sizes, (G,)."""
    return np.logaddexp.reduce(graph_weights(families, graphs), axis=0)


def mixed_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two categories and two numbers that depend on each other, and their numbers of levels."""
    generator = np.random.default_rng(seed)
    a = generator.integers(0, 2, n)
    b = np.where(generator.random(n) < 0.7, a, generator.integers(0, 3, n))
    x = generator.standard_normal(n) + a
    y = generator.standard_normal(n) + 0.8 * x - b
    return np.stack([a, x, b, y], 1), np.array([2, 0, 3, 0])


def category_rows(n: int, levels: np.ndarray, seed: int) -> np.ndarray:
    """Rows of categories of which each is close to the one before."""
    generator = np.random.default_rng(seed)
    columns = [generator.integers(0, levels[0], n)]
    for r in levels[1:]:
        columns.append(np.where(generator.random(n) < 0.6, columns[-1] % r, generator.integers(0, r, n)))
    return np.stack(columns, 1).astype(float)
