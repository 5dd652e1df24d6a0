r"""Networks of columns with missing entries, by data augmentation: graphs, parameters and entries are drawn in turn.

Given complete data a graph is drawn from its posterior; given both, the parameters of each node are drawn from theirs
(tables of Dirichlet laws; intercept, slopes and variance of numbers from a normal-Wishart law in each state of the
categories above), and then each missing entry from its law given its row,

.. math:: p(x_j \mid x_{-j}) \propto p(x_j \mid x_{\Pi_j}) \prod_{c : j \in \Pi_c} p(x_c \mid x_{\Pi_c}),

exactly: over the categories of a column, or by the normal law of a number. Chains start at entries that are drawn among
those seen in the column.

References:
    | The calculation of posterior distributions by data augmentation (Tanner & Wong, 1987)
    | https://doi.org/10.1080/01621459.1987.10478458
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyro_gen.structure.graphs.base import GraphDraws
from pyro_gen.structure.graphs.cpdag import completed
from pyro_gen.structure.graphs.search import Search, exact_draws, order_draws

__all__ = ["Laws", "Line", "Table", "missing_draws"]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

SUMMED_NODES = 12  # up to which graphs are drawn exactly in each round
BURN_IN, ROUNDS, SWEEPS = 10, 15, 3
EACH = 34  # graphs given one completion, above which there are more rounds


class Table(NamedTuple):
    """Probabilities of a column of categories, logs, (states of the parents, levels)."""

    log_probability: Array


class Line(NamedTuple):
    """Of a column of numbers in each state of its categorical parents: (q,), (q, numeric parents), (q,)."""

    intercept: Array
    slopes: Array
    variance: Array


def missing_draws(search: Search, values: Array, chains: int, draws: int, generator: np.random.Generator) -> GraphDraws:
    """Draws graphs of columns with missing entries, NaN, as ``draws`` of each chain.

    Arguments:
        search: Where.
        values: Numbers standardised, with shape (N, d).
        chains: The number of chains, each with entries of its own.
        draws: Graphs of each chain.
        generator: Draws all that is random.
    """
    count = max(ROUNDS, -(-draws // EACH))
    each = -(-draws // count)
    visited, bests, completions = [], [], []
    for _ in range(chains):
        x = _filled(values, generator)
        orders, rounds = None, []
        for t in range(BURN_IN + count):
            if len(search.levels) <= SUMMED_NODES:
                found = exact_draws(search.families(x), search, 1, each, generator)
            else:
                found, orders = order_draws(search, x, 1, each, generator, orders)
            if t >= BURN_IN:
                rounds.append(found)
                completions.append(x.copy())
                bests.append(found.best)
            _impute(search, x, np.isnan(values), found.graphs[0, -1], generator)
        visited.append(rounds)
    graphs = np.stack([np.concatenate([r.graphs[0] for r in rounds])[-draws:] for rounds in visited])
    patterns = np.stack([np.concatenate([r.patterns[0] for r in rounds])[-draws:] for rounds in visited])
    scores = np.stack(
        [
            np.concatenate([_weights(search, x, r.graphs[0]) for x, r in zip(xs, rounds, strict=True)])[-draws:]
            for xs, rounds in zip(np.array(completions).reshape(chains, count, *values.shape), visited, strict=True)
        ]
    )
    together = [found for rounds in visited for found in rounds]
    # The best graph: of those of all rounds, the one of the highest mean weight over the last entries of each chain.
    candidates = np.unique(np.stack(bests), axis=0)
    k = np.mean([_weights(search, x, candidates) for x in completions[count - 1 :: count]], axis=0).argmax()
    return GraphDraws(
        probabilities=np.mean([found.probabilities for found in together], axis=0),
        graphs=graphs,
        patterns=patterns,
        best=candidates[k],
        log_scores=scores,
        details={
            "method": f"{together[0].details['method']}, missing entries drawn",
            "equivalent sample sizes": {
                size: float(np.mean([found.details["equivalent sample sizes"][size] for found in together]))
                for size in search.sizes
            },
            "missing": int(np.isnan(values).sum()),
        },
        best_pattern=completed(candidates[k], search.known),
    )


def _weights(search: Search, x: Array, graphs: Bools) -> Array:
    """The log weight of each graph (G, d, d), summed over equivalent sample sizes, (G,)."""
    total: Array = np.logaddexp.reduce(search.weights_of(x, graphs), axis=0)
    return total


def _filled(values: Array, generator: np.random.Generator) -> Array:
    """The same with entries that are drawn among those seen in the column."""
    x = values.copy()
    for column in x.T:
        holes = np.isnan(column)
        column[holes] = generator.choice(column[~holes], holes.sum())
    return x


def _impute(search: Search, x: Array, holes: Bools, graph: Bools, generator: np.random.Generator) -> None:
    """Draws the equivalent sample size, parameters, and then missing entries a few times over, in place."""
    weights = search.weights_of(x, graph[None])[:, 0]
    size = float(generator.choice(search.sizes, p=np.exp(weights - np.logaddexp.reduce(weights))))
    laws = Laws(search, x, graph, size, generator)
    for _ in range(SWEEPS):
        for j in generator.permutation(np.flatnonzero(holes.any(0))).tolist():
            laws.draw(x, j, np.flatnonzero(holes[:, j]))


class Laws:
    """The law of each node given its parents, of drawn parameters.

    Arguments:
        search: What columns are.
        x: Complete data, with shape (N, d).
        graph: With shape (d, d).
        size: The equivalent sample size.
        generator: Draws all that is random.

    Attributes:
        laws: Of each node.
    """

    def __init__(self, search: Search, x: Array, graph: Bools, size: float, generator: np.random.Generator) -> None:
        self._levels, self._rng, self._graph = search.levels, generator, graph
        self._acted = search.targets
        categories = search.levels > 0
        self._above = [np.flatnonzero(graph[:, i] & categories) for i in range(len(graph))]
        self._numbers = [np.flatnonzero(graph[:, i] & ~categories) for i in range(len(graph))]
        self.laws = [self._drawn(x, i, size) for i in range(len(graph))]

    def _state(self, x: Array, i: int) -> Ints:
        """The state of the categories above node i in each row."""
        state = np.zeros(len(x), dtype=np.int64)
        for j in self._above[i]:
            state = state * self._levels[j] + x[:, j].astype(np.int64)
        return state

    def _drawn(self, x: Array, i: int, size: float) -> Table | Line:
        rows = x if self._acted is None else x[~self._acted[:, i]]
        state, q, r = self._state(rows, i), int(self._levels[self._above[i]].prod()), int(self._levels[i])
        if r:
            counts = np.bincount(state * r + rows[:, i].astype(np.int64), minlength=q * r)
            # Gamma draws of small shapes as logs: G(a) = G(a + 1) U^(1/a).
            shape = counts.reshape(q, r) + size / (q * r)
            log_gamma = np.log(self._rng.gamma(shape + 1)) + np.log(self._rng.random((q, r))) / shape
            return Table(log_gamma - np.logaddexp.reduce(log_gamma, axis=1, keepdims=True))
        family = [*self._numbers[i], i]
        y, k = rows[:, family], len(family)
        n = np.bincount(state, minlength=q).astype(np.float64)
        total, square = np.zeros((q, k)), np.zeros((q, k, k))
        np.add.at(total, state, y)
        np.add.at(square, state, y[:, :, None] * y[:, None, :])
        mean = total / (n + size)[:, None]
        scale = square - (n + size)[:, None, None] * mean[:, :, None] * mean[:, None, :]
        scale += size * size / (size + 1) * np.eye(k)
        # Bartlett's decomposition of a Wishart draw.
        root = np.linalg.cholesky(np.linalg.inv(scale))
        lower = np.tril(self._rng.standard_normal((q, k, k)), -1)
        freedom = (size + 1 + k + n)[:, None] - np.arange(k)
        lower[:, np.arange(k), np.arange(k)] = np.sqrt(self._rng.chisquare(freedom))
        factor = root @ lower
        precision = factor @ factor.swapaxes(1, 2)
        noise = np.linalg.solve(factor.swapaxes(1, 2), self._rng.standard_normal((q, k, 1)))[:, :, 0]
        centre = mean + noise / np.sqrt(n + size)[:, None]
        variance = 1 / precision[:, -1, -1]
        slopes = -precision[:, -1, :-1] * variance[:, None]
        return Line(centre[:, -1] - (slopes * centre[:, :-1]).sum(1), slopes, variance)

    def _log_density(self, x: Array, rows: Ints, i: int) -> Array:
        """Of node i given its parents, in rows x of these numbers; 0 where it was set."""
        state, law = self._state(x, i), self.laws[i]
        if isinstance(law, Table):
            value = law.log_probability[state, x[:, i].astype(np.int64)]
        else:
            location = law.intercept[state] + (law.slopes[state] * x[:, self._numbers[i]]).sum(1)
            value = -0.5 * ((x[:, i] - location) ** 2 / law.variance[state] + np.log(law.variance[state]))
        return value if self._acted is None else np.where(self._acted[rows, i], 0.0, value)

    def draw(self, x: Array, j: int, rows: Ints) -> None:
        """Draws the entries of column j in these rows given all others, in place."""
        if not len(rows):
            return
        part = x[rows]
        children = np.flatnonzero(self._graph[j]).tolist()
        if self._levels[j]:
            logits = np.zeros((len(rows), self._levels[j]))
            for u in range(self._levels[j]):
                part[:, j] = u
                logits[:, u] = sum(self._log_density(part, rows, i) for i in (j, *children))
            x[rows, j] = (logits + self._rng.gumbel(size=logits.shape)).argmax(1)
            return
        precision, pull = np.zeros(len(rows)), np.zeros(len(rows))
        for i in (j, *children):
            law, state = self.laws[i], self._state(part, i)
            assert isinstance(law, Line)
            weight = 1 / law.variance[state]
            if self._acted is not None:
                weight = np.where(self._acted[rows, i], 0.0, weight)
            slopes = law.slopes[state] * (self._numbers[i] != j)
            rest = law.intercept[state] + (slopes * part[:, self._numbers[i]]).sum(1)
            if i == j:
                precision, pull = precision + weight, pull + weight * rest
            else:
                slope = law.slopes[state][:, self._numbers[i] == j][:, 0]
                precision, pull = precision + weight * slope**2, pull + weight * slope * (part[:, i] - rest)
        x[rows, j] = pull / precision + self._rng.standard_normal(len(rows)) / np.sqrt(precision)
