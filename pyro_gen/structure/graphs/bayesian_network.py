r"""The posterior over Bayesian networks of the columns of a table: exact up to 20 nodes, by chains over orders above.

The law of a graph G is uniform over the equivalent sample sizes :math:`\alpha`, and

.. math:: p(G \mid x) \propto \sum_\alpha \prod_i p(\Pi_i)\, p_\alpha(x_i \mid x_{\Pi_i}),

with scores as in :mod:`pyro_gen.structure.graphs.scores`. Each graph counts once, however many orders it agrees with.

References:
    | Being Bayesian about network structure (Friedman & Koller, 2003)
    | https://doi.org/10.1023/A:1020249912095
"""

from collections.abc import Hashable, Sequence
from graphlib import CycleError, TopologicalSorter

import numpy as np
import numpy.typing as npt

from pyro_gen.structure.graphs.base import GraphDraws
from pyro_gen.structure.graphs.missing import missing_draws
from pyro_gen.structure.graphs.search import EXACT_NODES, Search, exact_draws, order_draws

__all__ = ["EQUIVALENT_SAMPLE_SIZES", "bayesian_network_draws"]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

EQUIVALENT_SAMPLE_SIZES = (1.0, 2.0, 5.0, 10.0, 20.0)
PRIORS = ("sizes", "uniform")


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
    names: Sequence[Hashable] | None = None,
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
        names: What errors call the columns; their places by default.
        chains: The number of chains.
        draws: Graphs of each.
        seed: Seeds all that is random.

    Raises:
        ValueError: Edges that are required make a circle, are forbidden, or are more than ``max_parents``, or there are
            fewer than two rows or columns; or a column has values that are no categories, or numbers that do not vary.
    """
    x = np.asarray(values, dtype=np.float64)
    kinds = np.asarray(levels, dtype=np.int64)
    if prior not in PRIORS:
        raise ValueError(f"prior={prior!r}: there are {', '.join(PRIORS)}.")
    if x.ndim != 2 or min(x.shape) < 2 or x.shape[1] != len(kinds):
        raise ValueError(f"Expected 2 or more rows and columns, and levels for each; got {x.shape} and {len(kinds)}.")
    most = min(4, x.shape[1] - 1) if max_parents is None else max_parents
    must = _edges("required", required, x.shape[1])
    called = list(map(repr, range(x.shape[1]) if names is None else names))
    allowed = _allowed(kinds, _edges("forbidden", forbidden, x.shape[1]), must, most, called)
    acted = None if targets is None else np.asarray(targets, dtype=bool)
    if acted is not None and acted.shape != x.shape:
        raise ValueError(f"targets has shape {acted.shape}: expected that of the values, {x.shape}.")
    x = _standardised(x, kinds, acted, called)
    search = Search(kinds, allowed, must, acted, most, tuple(map(float, equivalent_sample_sizes)), prior)
    generator = np.random.default_rng(seed)
    if np.isnan(x).any():
        return missing_draws(search, x, chains, draws, generator)
    if len(kinds) <= EXACT_NODES:
        return exact_draws(search.families(x), search, chains, draws, generator)
    return order_draws(search, x, chains, draws, generator)[0]


def _edges(name: str, given: npt.ArrayLike | None, d: int) -> Bools:
    edges = np.zeros((d, d), dtype=bool) if given is None else np.asarray(given, dtype=bool)
    if edges.shape != (d, d):
        raise ValueError(f"{name} has shape {edges.shape}: expected ({d}, {d}), a row for each node that edges leave.")
    return edges


def _allowed(levels: npt.NDArray[np.int64], forbidden: Bools, required: Bools, most: int, names: list[str]) -> Bools:
    """Which edges may be, (d, d)."""
    d = len(levels)
    unsuited = (levels[:, None] == 0) & (levels > 0)
    for edges, why in (
        (forbidden, "is forbidden too"),
        (unsuited, "is from numbers to categories, which cannot be: require the other direction, or none"),
        (np.eye(d, dtype=bool), "is from a node to itself"),
    ):
        if (required & edges).any():
            i, j = np.argwhere(required & edges)[0]
            raise ValueError(f"The required edge from column {names[i]} to {names[j]} {why}.")
    if (required.sum(0) > most).any():
        node = int(required.sum(0).argmax())
        raise ValueError(
            f"{required[:, node].sum()} parents of column {names[node]} are required, and max_parents is {most}: raise "
            "it, or require fewer."
        )
    try:
        TopologicalSorter({j: np.flatnonzero(required[:, j]).tolist() for j in range(d)}).prepare()
    except CycleError as error:
        circle = " -> ".join(names[i] for i in reversed(error.args[1]))
        raise ValueError(f"The required edges go in a circle: columns {circle}.") from None
    allowed: Bools = ~(forbidden | unsuited | np.eye(d, dtype=bool))
    return allowed


def _standardised(x: Array, levels: npt.NDArray[np.int64], targets: Bools | None, names: list[str]) -> Array:
    """The same with numbers of mean 0 and variance 1 in the rows in which they were not set."""
    free = x if targets is None else np.where(targets, np.nan, x)
    numbers = levels == 0
    codes = x[:, ~numbers]
    wrong = ~(np.isnan(codes) | ((codes >= 0) & (codes < levels[~numbers]) & (codes == np.floor(codes))))
    if wrong.any():
        column = np.flatnonzero(~numbers)[wrong.any(0).argmax()]
        count = levels[column]
        raise ValueError(f"Column {names[column]} has {count} categories: expected 0 to {count - 1} or NaN.")
    seen = ~np.isnan(free)
    varies = np.nanmax(np.where(seen, free, -np.inf), axis=0) > np.nanmin(np.where(seen, free, np.inf), axis=0)
    if (numbers & ~varies).any():
        column = int((numbers & ~varies).argmax())
        where = "" if targets is None else " where it was not set"
        raise ValueError(f"Column {names[column]} does not vary{where} and tells nothing: leave it out.")
    scaled = x.copy()
    scaled[:, numbers] -= np.nanmean(free[:, numbers], axis=0)
    scaled[:, numbers] /= np.nanstd(free[:, numbers], axis=0)
    return scaled
