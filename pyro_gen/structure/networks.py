"""Networks as they come: graphs of networkx, edge lists, matrices of adjacency or incidence, read and checked."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse

__all__ = ["Network", "as_network"]

Labels = npt.NDArray[np.int64]


class Network(NamedTuple):
    """An undirected network of N nodes.

    Attributes:
        names: What its nodes are called, in order.
        adjacency: The number of edges of each pair, symmetric, with shape (N, N); 0 where it was not observed.
        missing: Pairs that were not observed, i < j, with shape (M, 2).
        kinds: Of a bipartite network, the kind of each node, 0 or 1, with shape (N,).
        unused: Columns or attributes that could be numbers of edges, and that nobody named as such.
    """

    names: list[Hashable]
    adjacency: scipy.sparse.csr_array
    missing: Labels
    kinds: Labels | None
    unused: tuple[Hashable, ...] = ()

    @property
    def components(self) -> int:
        """The number of parts that no edge joins."""
        return int(scipy.sparse.csgraph.connected_components(self.adjacency, directed=False)[0])

    def graph(self) -> nx.Graph:
        """As a graph of networkx; of several edges the number is the attribute ``weight``."""
        upper = scipy.sparse.triu(self.adjacency, 1).tocoo()
        graph = nx.Graph()
        graph.add_nodes_from(self.names)
        for i, j, count in zip(upper.row, upper.col, upper.data, strict=True):
            graph.add_edge(self.names[i], self.names[j], weight=int(count))
        return graph


def as_network(data: Any, *, weight: str | None = None, bipartite: bool = False) -> Network:
    """Reads a network.

    Arguments:
        data: A graph of networkx, without directions; an edge list, as a data frame of which the first two columns are
            the ends, or as a sequence of pairs; a matrix, dense, sparse or a data frame, of adjacency where it is
            square, else of incidence, rows and columns being nodes of two kinds. Numbers are numbers of edges, NaN is a
            pair that was not observed.
        weight: The attribute of edges of a graph, or the column of an edge list, that has their numbers, NaN for a pair
            that was not observed. Without it each pair that is named has one edge.
        bipartite: Whether nodes are of two kinds, and edges join different ones only: of a graph by its attribute
            ``bipartite``, of an edge list first and second end; a square matrix is then one of incidence.

    Raises:
        ValueError: There is no edge or one node only, an edge from a node to itself or with a direction, numbers are
            no whole ones, or a matrix is not symmetric.
        TypeError: It is none of these.

    Example:
        >>> as_network([("a", "b"), ("b", "c")]).adjacency.toarray().astype(int).tolist()
        [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    if isinstance(data, nx.Graph):
        found = _of_graph(data, weight, bipartite)
    elif isinstance(data, pd.DataFrame) and not _is_matrix(data):
        found = _of_edges(data, weight, bipartite)
    elif isinstance(data, Sequence) and len(data) > 0 and all(_is_pair(row) for row in data):
        found = _of_edges(pd.DataFrame(list(data), columns=["source", "target"]), None, bipartite)
    else:
        found = _of_matrix(data, bipartite)
    return _checked(found)


def _is_pair(row: Any) -> bool:
    return isinstance(row, tuple) and len(row) == 2


def _is_matrix(frame: pd.DataFrame) -> bool:
    """Whether a frame is a matrix and no edge list: numbers, and more than three columns or rows of the same names."""
    numbers = all(pd.api.types.is_numeric_dtype(t) for t in frame.dtypes)
    return numbers and (
        frame.shape[1] > 3 or (frame.shape[0] == frame.shape[1] and bool((frame.index == frame.columns).all()))
    )


def _of_graph(graph: nx.Graph, weight: str | None, bipartite: bool) -> Network:
    if graph.is_directed():
        raise ValueError(
            "The graph has directions, and communities are found in graphs without: give graph.to_undirected(), or fit "
            "pyro_gen.models.StochasticBlockModel(directed=True)."
        )
    names = list(graph.nodes)
    kinds = None
    if bipartite:
        sides = [graph.nodes[v].get("bipartite") for v in names]
        if set(sides) != {0, 1}:
            raise ValueError("bipartite=True: each node of the graph is to have the attribute 'bipartite', 0 or 1.")
        kinds = np.array(sides, dtype=np.int64)
    number = {v: i for i, v in enumerate(names)}
    ends = np.array([(number[u], number[v]) for u, v in graph.edges()], dtype=np.int64).reshape(-1, 2)
    counts = np.ones(len(ends))
    if weight is not None:
        given = [value for _, _, value in graph.edges(data=weight)]
        if any(value is None for value in given):
            raise ValueError(f"weight={weight!r}: some edge of the graph has no such attribute.")
        counts = np.array(given, dtype=np.float64)
    weighted = weight is None and any("weight" in attributes for *_, attributes in graph.edges(data=True))
    return _assemble(names, ends, counts, kinds)._replace(unused=("weight",) if weighted else ())


def _of_edges(frame: pd.DataFrame, weight: str | None, bipartite: bool) -> Network:
    if frame.shape[1] < 2:
        raise ValueError(
            f"An edge list has the ends of each edge in its first two columns, and this has {frame.shape[1]}."
        )
    if weight is not None and weight not in frame.columns[2:]:
        raise ValueError(f"weight={weight!r}: the columns after the ends of the edges are {list(frame.columns[2:])}.")
    first, second = frame.iloc[:, 0], frame.iloc[:, 1]
    if bool((first.isna() | second.isna()).any()):
        row = int((first.isna() | second.isna()).to_numpy().argmax())
        raise ValueError(f"Row {row} of the edge list lacks an end: take it out.")
    kinds = None
    if bipartite:
        left, right = list(dict.fromkeys(first)), list(dict.fromkeys(second))
        both = set(left) & set(right)
        if both:
            raise ValueError(f"bipartite=True: {next(iter(both))!r} is in both columns of the edge list.")
        names: list[Hashable] = [*left, *right]
        kinds = np.repeat([0, 1], [len(left), len(right)])
    else:
        names = list(dict.fromkeys([*first, *second]))
    number = {v: i for i, v in enumerate(names)}
    ends = np.array([first.map(number), second.map(number)], dtype=np.int64).T
    if weight is None:
        ends = np.unique(np.sort(ends, 1), axis=0)  # a pair that is listed from both ends is one edge
        unused = tuple(frame.columns[2:][[pd.api.types.is_numeric_dtype(t) for t in frame.dtypes[2:]]])
        return _assemble(names, ends, np.ones(len(ends)), kinds)._replace(unused=unused)
    return _assemble(names, ends, frame[weight].to_numpy(dtype=np.float64), kinds)


def _of_matrix(data: Any, bipartite: bool) -> Network:
    rows = columns = None
    if isinstance(data, pd.DataFrame):
        rows, columns = list(data.index), list(data.columns)
    try:
        if scipy.sparse.issparse(data):
            matrix = scipy.sparse.coo_array(data).astype(np.float64)
        else:
            matrix = scipy.sparse.coo_array(np.asarray(data, dtype=np.float64))
    except (TypeError, ValueError):
        raise TypeError(
            f"Got {type(data).__name__}: give a graph of networkx, an edge list (a data frame or pairs) or a matrix of "
            "numbers."
        ) from None
    if matrix.ndim != 2:
        raise ValueError(f"A matrix has two dimensions, and got shape {matrix.shape}.")
    n, m = matrix.shape
    if bipartite or n != m:
        names = [*(rows or range(n)), *(columns or range(n, n + m))]
        ends = np.stack([matrix.row, matrix.col + n], 1)
        return _assemble(names, ends, matrix.data, np.repeat([0, 1], [n, m]))
    if rows is not None and set(rows) != set(columns or ()) and list(columns or ()) != [*range(n)]:
        raise ValueError("The matrix is square, with other names for rows than for columns: say bipartite=True if so.")
    if bool(np.isnan(matrix.data).any()):
        dense = matrix.toarray()
        dense = np.where(np.isnan(dense), dense.T, dense)  # a pair that was seen from one end was seen
        np.fill_diagonal(dense, np.nan_to_num(np.diag(dense)))
        matrix = scipy.sparse.coo_array(dense)
    known = scipy.sparse.csr_array((np.nan_to_num(matrix.data, nan=-1.0), (matrix.row, matrix.col)), matrix.shape)
    odd = (known - known.T).tocoo()
    odd.eliminate_zeros()
    if odd.nnz:
        one, other = ((rows or range(n))[int(k)] for k in (odd.row[0], odd.col[0]))
        raise ValueError(
            f"The matrix is not symmetric, at {one!r} and {other!r} say, but edges have no direction here: give "
            "np.maximum(A, A.T), or fit pyro_gen.models.StochasticBlockModel(directed=True)."
        )
    upper = scipy.sparse.triu(matrix).tocoo()
    return _assemble(rows or range(n), np.stack([upper.row, upper.col], 1), upper.data, None)


def _assemble(
    names: Iterable[Hashable], ends: Labels, counts: npt.NDArray[np.float64], kinds: Labels | None
) -> Network:
    """Of pairs with shape (M, 2) and the numbers of their edges, NaN where that is not known."""
    names = list(names)
    unseen = np.isnan(counts)
    seen = counts[~unseen]
    odd = (seen < 0) | (seen != np.round(seen))
    if odd.any():
        value = seen[odd][0]
        raise ValueError(
            f"A pair of nodes has {value:g} edges: give whole numbers, or 0 and 1. For other weights there is "
            "pyro_gen.models.WeightedBlockModel."
        )
    loops = (ends[:, 0] == ends[:, 1]) & ((counts > 0) | unseen)
    if loops.any():
        where = names[int(ends[loops][0, 0])]
        raise ValueError(
            f"{where!r} has an edge to itself, as have {int(loops.sum())} of {len(names)} nodes: take these "
            "away, of a file their rows, in networkx by graph.remove_edges_from(list(nx.selfloop_edges(graph)))."
        )
    if kinds is not None and bool((kinds[ends[:, 0]] == kinds[ends[:, 1]]).any()):
        i, j = ends[kinds[ends[:, 0]] == kinds[ends[:, 1]]][0]
        raise ValueError(
            f"The network is not bipartite: {names[i]!r} and {names[j]!r} are of one kind and have an edge."
        )
    i, j = ends[~unseen].T
    shape = (len(names), len(names))
    half = scipy.sparse.coo_array((counts[~unseen], (i, j)), shape)
    adjacency = scipy.sparse.csr_array(half + half.T)
    adjacency.eliminate_zeros()
    missing = np.unique(np.sort(ends[unseen], 1), axis=0).astype(np.int64).reshape(-1, 2)
    return Network(names, adjacency, missing, kinds)


def _checked(network: Network) -> Network:
    if len(network.names) < 2:
        raise ValueError(f"The network has {len(network.names) or 'no'} node: there is nothing to group.")
    if network.adjacency.nnz == 0:
        raise ValueError(f"The network has {len(network.names)} nodes and no edge: there is nothing to group them by.")
    return network
