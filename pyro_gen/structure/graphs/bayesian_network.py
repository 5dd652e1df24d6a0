r"""The posterior over Bayesian networks of the columns of a table: exact up to 20 nodes, by chains over orders above.

The law of a graph G is uniform over the equivalent sample sizes :math:`\alpha`, and

.. math:: p(G \mid x) \propto \sum_\alpha \prod_i p(\Pi_i)\, p_\alpha(x_i \mid x_{\Pi_i}),

with scores as in :mod:`pyro_gen.structure.graphs.scores`. Each graph counts once, however many orders it agrees with.

References:
    | Being Bayesian about network structure (Friedman & Koller, 2003)
    | https://doi.org/10.1023/A:1020249912095
"""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

import numpy as np
import numpy.typing as npt
import torch

from pyro_gen.structure.graphs.base import GraphDraws
from pyro_gen.structure.graphs.cpdag import completed
from pyro_gen.structure.graphs.exact import OrderSums, order_weights
from pyro_gen.structure.graphs.modular import modular_sums
from pyro_gen.structure.graphs.scores import Families, SetScores, family_scores, graph_weights, parent_sets, set_prior

__all__ = ["EQUIVALENT_SAMPLE_SIZES", "bayesian_network_draws"]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

EQUIVALENT_SAMPLE_SIZES = (1.0, 2.0, 5.0, 10.0, 20.0)
EXACT_NODES = 20
MODULAR_NODES = 13  # up to which the sums count each graph once themselves
PRIORS = ("sizes", "uniform")
HOPELESS = 30.0  # nats below the best equivalent sample size
POOL = 5  # draws among which one is chosen


def bayesian_network_draws(
    values: npt.ArrayLike,
    levels: Sequence[int],
    *,
    max_parents: int | None = None,
    equivalent_sample_sizes: Sequence[float] = EQUIVALENT_SAMPLE_SIZES,
    prior: str = "sizes",
    forbidden: npt.ArrayLike | None = None,
    required: npt.ArrayLike | None = None,
    targets: npt.ArrayLike | None = None,
    chains: int = 4,
    draws: int = 500,
    seed: int = 0,
) -> GraphDraws:
    """Draws networks of columns from their posterior.

    Arguments:
        values: Categories as 0, 1, ..., and numbers, with shape (N, d).
        levels: The number of categories of each column, 0 of numbers.
        max_parents: The most parents of a node; 4 by default.
        equivalent_sample_sizes: The weights of priors in rows, over which is averaged.
        prior: ``"sizes"``: all numbers of parents are as probable; ``"uniform"``: all graphs are.
        forbidden: Edges from i to j that cannot be, with shape (d, d). Numbers are never parents of categories.
        required: Edges from i to j that must be, with shape (d, d).
        targets: Whether a column was set by intervention in a row, with shape (N, d).
        chains: The number of chains.
        draws: Graphs of each.
        seed: Seeds all that is random.

    Raises:
        ValueError: Edges that are required make a circle, are forbidden, or are more than ``max_parents``, or there are
            fewer than two rows or columns.
    """
    x = np.asarray(values, dtype=np.float64)
    kinds = np.asarray(levels, dtype=np.int64)
    if prior not in PRIORS:
        raise ValueError(f"prior={prior!r}: there are {', '.join(PRIORS)}.")
    if x.ndim != 2 or min(x.shape) < 2 or x.shape[1] != len(kinds):
        raise ValueError(f"Expected 2 or more rows and columns, and levels for each; got {x.shape} and {len(kinds)}.")
    most = min(4, x.shape[1] - 1) if max_parents is None else max_parents
    must = _edges("required", required, x.shape[1])
    allowed = _allowed(kinds, _edges("forbidden", forbidden, x.shape[1]), must, most)
    acted = None if targets is None else np.asarray(targets, dtype=bool)
    if acted is not None and acted.shape != x.shape:
        raise ValueError(f"targets has shape {acted.shape}: expected that of the values, {x.shape}.")
    x = _standardised(x, kinds, acted)
    known = must | must.T | ~(allowed | allowed.T) | (allowed ^ allowed.T)
    if acted is not None:
        known |= np.logical_or.reduce(acted[:, :, None] ^ acted[:, None, :], axis=0)

    sets = [parent_sets(i, np.flatnonzero(allowed[:, i]), must[:, i], most) for i in range(len(kinds))]
    families = family_scores(SetScores(x, kinds, equivalent_sample_sizes), sets, acted, prior)
    return _exact(families, equivalent_sample_sizes, known, prior, chains, draws, torch.Generator().manual_seed(seed))


def _edges(name: str, given: npt.ArrayLike | None, d: int) -> Bools:
    edges = np.zeros((d, d), dtype=bool) if given is None else np.asarray(given, dtype=bool)
    if edges.shape != (d, d):
        raise ValueError(f"{name} has shape {edges.shape}: expected ({d}, {d}), a row for each node that edges leave.")
    return edges


def _allowed(levels: npt.NDArray[np.int64], forbidden: Bools, required: Bools, most: int) -> Bools:
    """Which edges may be, (d, d)."""
    d = len(levels)
    unsuited = (levels[:, None] == 0) & (levels > 0)
    for edges, why in (
        (forbidden, "is forbidden too"),
        (unsuited, "is from numbers to categories, which cannot be"),
        (np.eye(d, dtype=bool), "is from a node to itself"),
    ):
        if (required & edges).any():
            i, j = np.argwhere(required & edges)[0]
            raise ValueError(f"The required edge from column {i} to {j} {why}.")
    if (required.sum(0) > most).any():
        node = int(required.sum(0).argmax())
        raise ValueError(f"{required[:, node].sum()} parents of column {node} are required: max_parents is {most}.")
    try:
        TopologicalSorter({j: np.flatnonzero(required[:, j]).tolist() for j in range(d)}).prepare()
    except CycleError as error:
        circle = " -> ".join(map(str, reversed(error.args[1])))
        raise ValueError(f"The required edges go in a circle: columns {circle}.") from None
    allowed: Bools = ~(forbidden | unsuited | np.eye(d, dtype=bool))
    return allowed


def _standardised(x: Array, levels: npt.NDArray[np.int64], targets: Bools | None) -> Array:
    """The same with numbers of mean 0 and variance 1 in the rows in which they were not set."""
    free = x if targets is None else np.where(targets, np.nan, x)
    numbers = levels == 0
    scaled = x.copy()
    scaled[:, numbers] -= np.nanmean(free[:, numbers], axis=0)
    scaled[:, numbers] /= np.nanstd(free[:, numbers], axis=0)
    return scaled


def _exact(
    families: Families,
    sizes: Sequence[float],
    known: Bools,
    prior: str,
    chains: int,
    draws: int,
    generator: torch.Generator,
) -> GraphDraws:
    d, n = len(families.sets), chains * draws
    modular = d <= MODULAR_NODES
    sums = [OrderSums(families, e) for e in range(len(sizes))]
    log_z = np.array([s.log_z for s in sums])
    pools, edges, bests = {}, np.zeros((len(sizes), d, d)), []
    for e in np.flatnonzero(log_z > log_z.max() - HOPELESS).tolist():
        graphs, orders = sums[e].draw(POOL * n, generator)
        log_weights = order_weights(graphs, orders)
        share = np.exp(log_weights - log_weights.max())
        pools[e] = graphs, share / share.sum()
        if modular:
            log_z[e], edges[e] = modular_sums(families, e)
        else:
            log_z[e] += np.log(np.exp(log_weights).mean())
            edges[e] = np.einsum("n,nij->ij", pools[e][1], graphs)
        bests.append(sums[e].best()[0])
    posterior = np.exp(log_z - np.logaddexp.reduce(log_z))
    posterior[[e not in pools for e in range(len(sizes))]] = 0.0
    posterior /= posterior.sum()
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    taken = []
    for e, number in zip(pools, rng.multinomial(n, posterior[list(pools)]), strict=True):
        graphs, share = pools[e]
        taken.append(graphs[rng.choice(len(graphs), number, p=share)])
    drawn = rng.permutation(np.concatenate(taken)).reshape(chains, draws, d, d)
    candidates = np.stack(bests)
    best = candidates[np.logaddexp.reduce(graph_weights(families, candidates), axis=0).argmax()]
    return GraphDraws(
        probabilities=np.einsum("e,eij->ij", posterior, edges),
        graphs=drawn,
        patterns=completed(drawn, known),
        best=best,
        best_pattern=completed(best, known),
        log_evidence=_evidence(families, log_z, prior) if modular else None,
        details={
            "method": "exact",
            "equivalent sample sizes": dict(zip(map(float, sizes), posterior.tolist(), strict=True)),
        },
    )


def _evidence(families: Families, log_z: Array, prior: str) -> float:
    d = len(families.sets)
    flat = Families(families.sets, [set_prior(sets.sum(1), d, prior)[None] for sets in families.sets])
    return float(np.logaddexp.reduce(log_z) - np.log(len(log_z)) - modular_sums(flat, 0)[0])
