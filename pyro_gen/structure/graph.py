r"""Which columns of a table depend on which: the posterior over their graphs, each edge with its probability.

Three kinds of graph. In a **Bayesian network** each column depends on its parents
(:mod:`pyro_gen.structure.graphs.bayesian_network`): exact up to 20 columns, by chains over orders above. Without
interventions data tell it up to its equivalence class, in which some edges have no direction. In an undirected graph an
edge is between two columns that depend on each other given all others: of a **Gaussian** graphical model
(:mod:`pyro_gen.structure.graphs.gaussian_edges`), or of an **Ising** model of binary columns
(:mod:`pyro_gen.structure.graphs.ising_edges`).

Two graphs stand for the posterior: the drawn class whose expected structural Hamming distance from all others is least,
and the graph of the highest score.
"""

import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Self

import networkx as nx
import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from pyro_gen.structure.columns import Columns, as_columns, as_edges, as_targets, check_edges
from pyro_gen.structure.estimator import StructureEstimator, chains_agree
from pyro_gen.structure.graphs.bayesian_network import bayesian_network_draws
from pyro_gen.structure.graphs.gaussian_edges import gaussian_edges
from pyro_gen.structure.graphs.ising_edges import ising_edges

__all__ = ["Graph", "find_graph"]

Bools = npt.NDArray[np.bool_]
Pairs = Iterable[Sequence[Hashable]]

KINDS = ("bayesian network", "gaussian", "ising")
NAMES = {"bayesian network": "Bayesian network", "gaussian": "Gaussian graphical model", "ising": "Ising model"}
EXACT = 1e-12  # the share of a column's variance below which others determine it
SURE = 0.95  # from which probability on an edge is called sure


class Graph(StructureEstimator):
    """Finds the graph of the columns of a table, with a posterior over it; NaN is "not observed".

    Arguments:
        kind: ``"bayesian network"``, directed, of numbers and categories; ``"gaussian"``, undirected, of numbers; or
            ``"ising"``, undirected, of columns with two values.
        forbidden: Pairs of columns, by name, that have no edge from the first to the second; undirected, none.
        required: Pairs that have one.
        categories: Columns of numbers that are categories in a Bayesian network; by default those with at most ten
            different values, all of them whole.
        max_parents: The most parents of a column in a Bayesian network, four by default.
        chains: The number of chains.
        draws: Graphs that each draws.
        random_state: An integer that seeds all that is random.

    Attributes:
        probabilities_: The probability of an edge from each column, the rows, to each other one; a data frame.
        representative_: The drawn equivalence class, or undirected graph, with the least expected distance from all;
            booleans with shape (D, D), true both ways where an edge has no direction.
        expected_distance_: Its expected structural Hamming distance from the truth: pairs that are joined another way.
        best_: The graph of the highest score that was met, of an Ising model the one most often drawn, (D, D).
        expected_distance_of_best_: The same for its class.
        log_evidence_: Of the data, all graphs summed over, in nats, where it is known.
        r_hat_: R-hat of the edges, the greatest, and of the log score; draws by exact sums have no score.
        draws_: All draws, see :class:`pyro_gen.structure.graphs.base.GraphDraws`.
        columns_: The table that was read, see :class:`pyro_gen.structure.columns.Columns`.

    Raises:
        ValueError: The kind does not suit the columns, edges cannot be, or the table cannot be read, see
            :func:`pyro_gen.structure.columns.as_columns`.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> a, b = generator.normal(size=(2, 200))
        >>> table = pd.DataFrame({"a": a, "b": b, "effect": a + b + generator.normal(size=200)})
        >>> found = Graph(draws=50).fit(table)
        >>> [edge[:2] for edge in found.to_networkx().edges]
        [('a', 'effect'), ('b', 'effect')]
    """

    def __init__(
        self,
        kind: str = "bayesian network",
        forbidden: Pairs = (),
        required: Pairs = (),
        categories: str | Iterable[Hashable] = "auto",
        max_parents: int | None = None,
        chains: int = 4,
        draws: int = 500,
        random_state: int = 0,
    ) -> None:
        self.kind = kind
        self.forbidden = forbidden
        self.required = required
        self.categories = categories
        self.max_parents = max_parents
        self.chains = chains
        self.draws = draws
        self.random_state = random_state

    def fit(self, X: Any, y: None = None, *, targets: Any = None) -> Self:
        """Finds the graph of the columns of a table.

        Arguments:
            X: A data frame, or numbers with shape (N, D), NaN where an entry is missing.
            y: Not used.
            targets: Of a Bayesian network, what was set by intervention in each row: a name of a column or none (N,),
                or booleans (N, D). Such an entry does not tell what it depends on.
        """
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: there are {', '.join(map(repr, KINDS))}.")
        if self.chains < 1 or self.draws < 4:
            raise ValueError(f"Graph(chains={self.chains}, draws={self.draws}): give 1 and 4 or more.")
        directed = self.kind == "bayesian network"
        self.columns_ = columns = as_columns(X, self.categories if directed else [])
        names = columns.names
        forbidden, required = as_edges("forbidden", self.forbidden, names), as_edges("required", self.required, names)
        check_edges(forbidden, required, names, directed)
        self.n_features_in_ = len(names)
        self._rows = len(columns.values)
        counts: dict[str, Any] = {"chains": self.chains, "draws": self.draws, "seed": self.random_state}
        if directed:
            self.draws_ = bayesian_network_draws(
                columns.values,
                columns.sizes,
                max_parents=self.max_parents,
                forbidden=forbidden,
                required=required,
                targets=as_targets(targets, columns),
                names=names,
                **counts,
            )
        elif targets is not None:
            raise ValueError(
                f'kind={self.kind!r} knows no interventions: take "bayesian network", or leave targets out.'
            )
        elif self.kind == "gaussian":
            self.draws_ = gaussian_edges(_numbers(columns), forbidden=forbidden, required=required, **counts)
        else:
            self.draws_ = ising_edges(_binary(columns), forbidden=forbidden, required=required, **counts)
        self._conclude()
        return self

    def _conclude(self) -> None:
        drawn, names = self.draws_, self.columns_.names
        self.probabilities_ = pd.DataFrame(drawn.probabilities, names, names)
        self.representative_, self.expected_distance_ = drawn.representative()
        self.best_ = drawn.best
        pattern = drawn.best if drawn.best_pattern is None else drawn.best_pattern
        self.expected_distance_of_best_ = drawn.expected_distance(pattern)
        self.log_evidence_ = drawn.log_evidence
        self.r_hat_ = drawn.r_hat()

    # ------------------------------------------------------------------------------------------------------------------
    # What was found

    @property
    def posterior_(self) -> Any:
        """The draws as ArviZ's InferenceData: ``edge`` from ``source`` to ``target``, and ``log_score`` (nats)."""
        check_is_fitted(self, "draws_")
        return self.draws_.inference_data(self.columns_.names)

    def sample_graphs(self, number: int, seed: int = 0) -> list[nx.Graph]:
        """Some of the draws, with directions if a Bayesian network's."""
        check_is_fitted(self, "draws_")
        drawn = self.draws_.graphs.reshape(-1, *self.best_.shape)
        return [self._network(drawn[k]) for k in np.random.default_rng(seed).integers(len(drawn), size=number)]

    def to_networkx(self, which: str = "representative") -> nx.Graph:
        """A graph of networkx, edges with the attribute ``probability``.

        Arguments:
            which: ``"representative"``, in which an edge without a direction goes both ways; ``"best"``; or ``"all"``,
                every edge that was drawn.

        Raises:
            ValueError: There is no such graph.
        """
        check_is_fitted(self, "draws_")
        graphs = {
            "representative": self.representative_,
            "best": self.best_,
            "all": self.draws_.probabilities > 0,
        }
        if which not in graphs:
            raise ValueError(f"which={which!r}: there are {', '.join(map(repr, graphs))}.")
        return self._network(graphs[which])

    def _network(self, edges: Bools) -> nx.Graph:
        names = self.columns_.names
        graph: nx.Graph = nx.DiGraph() if self.draws_.directed else nx.Graph()
        graph.add_nodes_from(names)
        for i, j in np.argwhere(edges):
            graph.add_edge(names[i], names[j], probability=float(self.draws_.probabilities[i, j]))
        return graph

    def table(self) -> pd.DataFrame:
        """Pairs of columns by the probability that they have an edge, those of .005 or more.

        ``source`` and ``target`` are in the direction that is more probable, ``probability`` is that of an edge,
        ``direction`` that it goes this way if there is one; ``representative`` and ``best`` say how these join them.
        """
        check_is_fitted(self, "draws_")
        p, names, directed = self.draws_.probabilities, self.columns_.names, self.draws_.directed
        rows = []
        for i, j in itertools.combinations(range(len(names)), 2):
            one, other = (i, j) if p[i, j] >= p[j, i] else (j, i)
            joined = min(1.0, p[one, other] + (p[other, one] if directed else 0.0))
            if joined < 0.005:
                continue
            row = {"source": names[one], "target": names[other], "probability": joined}
            if directed:
                row["direction"] = p[one, other] / joined
            rows.append(
                row
                | {"representative": _arrow(self.representative_, one, other, directed)}
                | {"best": _arrow(self.best_, one, other, directed)}
            )
        columns = ["source", "target", "probability", *(["direction"] if directed else []), "representative", "best"]
        return pd.DataFrame(rows, columns=columns).sort_values("probability", ascending=False, ignore_index=True)

    def summary(self) -> str:
        """The answer in a few sentences, a line each."""
        check_is_fitted(self, "draws_")
        drawn, columns = self.draws_, self.columns_
        upper = np.triu_indices(len(columns.names), 1)
        joined = (drawn.probabilities + (drawn.probabilities.T if drawn.directed else 0))[upper]
        words = sum(size > 0 for size in columns.sizes)
        kinds = f" ({words} of categories)" if self.kind == "bayesian network" and words else ""
        edges = int((self.representative_ | self.representative_.T)[upper].sum())
        free = int((self.representative_ & self.representative_.T)[upper].sum())
        ways = f", {free} of them of no direction that the data tell" if drawn.directed else ""
        what = "equivalence class" if drawn.directed else "graph"
        lines = [
            f"{NAMES[self.kind]} of {len(columns.names)} columns{kinds} in {self._rows} rows: {joined.sum():.1f} edges "
            f"expected, {int((joined >= SURE).sum())} with a probability of {SURE:g} or more.",
            f"The representative {what} has {edges} edges{ways}; {self.expected_distance_:.1f} pairs of columns are "
            f"expected to be joined another way, of the best graph {self.expected_distance_of_best_:.1f}.",
        ]
        if drawn.log_scores is None:
            lines.append("Draws are independent, from sums over all graphs.")
        elif len(drawn.graphs) == 1:
            lines.append("Of one chain nobody knows whether it has met the posterior: give two or more.")
        else:
            lines.append(chains_agree(self.r_hat_, "edges and log score"))
        return "\n".join(lines)

    def plot(self) -> Any:
        """Draws the representative graph, edges as wide as they are probable, beside all probabilities; a figure."""
        from pyro_gen.structure.graph_pictures import graph_figure

        check_is_fitted(self, "draws_")
        names = [str(name) for name in self.columns_.names]
        return graph_figure(names, self.draws_.probabilities, self.representative_, self.draws_.directed)


def _arrow(edges: Bools, one: int, other: int, directed: bool) -> str:
    forth, back = edges[one, other], edges[other, one]
    if forth and back:
        return "--"
    return "->" if forth else "<-" if back else ""


def _numbers(columns: Columns) -> npt.NDArray[np.float64]:
    for name, levels in zip(columns.names, columns.levels, strict=True):
        if levels:
            raise ValueError(
                f'kind="gaussian" is of numbers, and column {name!r} has categories, {levels[0]!r} for one: take '
                '"bayesian network", or leave the column out.'
            )
    values = columns.values
    seen = values[~np.isnan(values).any(1)]
    varies = np.ptp(seen, 0) > 0 if len(seen) else np.zeros(values.shape[1], dtype=bool)
    r = np.linalg.qr((seen - seen.mean(0))[:, varies] if varies.any() else np.zeros((1, 0)))[1]
    left = np.diag(r) ** 2 / (r**2).sum(0)[: len(r)]  # of the variance, given the columns before
    if (follows := np.flatnonzero(left[: max(0, len(seen) - 1)] < EXACT)).size:
        name = columns.names[int(np.flatnonzero(varies)[follows[0]])]
        raise ValueError(f"Column {name!r} is a linear function of columns before it: leave it out, or one of these.")
    return values


def _binary(columns: Columns) -> npt.NDArray[np.float64]:
    """The columns as 0 and 1, the lesser and the greater of their two values."""
    found = []
    for name, column in zip(columns.names, columns.values.T, strict=True):
        seen = np.unique(column[~np.isnan(column)])
        if len(seen) != 2:
            raise ValueError(
                f'kind="ising" is of columns with two values, and column {name!r} has {len(seen)}: take "bayesian '
                'network", or leave the column out.'
            )
        found.append(np.where(np.isnan(column), np.nan, column == seen[1]))
    return np.stack(found, 1)


def find_graph(
    table: Any,
    *,
    kind: str = "bayesian network",
    forbidden: Pairs = (),
    required: Pairs = (),
    targets: Any = None,
    categories: str | Iterable[Hashable] = "auto",
    max_parents: int | None = None,
    chains: int = 4,
    draws: int = 500,
    seed: int = 0,
) -> Graph:
    """Finds the graph of the columns of a table, see :class:`Graph`.

    Arguments:
        table: A data frame, or numbers with shape (N, D), NaN where an entry is missing.
        kind: ``"bayesian network"``, ``"gaussian"`` or ``"ising"``.
        forbidden: Pairs of columns without an edge from the first to the second.
        required: Pairs with one.
        targets: What was set by intervention in each row: a name or none (N,), or booleans (N, D).
        categories: Columns of numbers that are categories, or ``"auto"``.
        max_parents: The most parents of a column, four by default.
        chains: The number of chains.
        draws: Graphs that each draws.
        seed: Seeds all that is random.

    Returns:
        The fitted estimator.
    """
    found = Graph(kind, forbidden, required, categories, max_parents, chains, draws, seed)
    return found.fit(table, targets=targets)
