r"""Undirected graphs as models need them: numbered nodes, edges, and colours that blocks of Gibbs sampling come from.

Nodes of one colour have no edge between them, so that given all others they are independent and can be drawn together.
A grid, and a torus with even sides, has two colours, those of a checkerboard.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Graph", "Lattice", "Neighbours", "as_graph", "colours", "complete", "grid", "neighbours", "torus"]


class Lattice(NamedTuple):
    """A rectangle of nodes in rows, each with an edge to its right and lower neighbour.

    Attributes:
        rows: The number of rows.
        columns: The number of columns.
        wraps: Whether the last row is beside the first one, and the last column beside the first one.
    """

    rows: int
    columns: int
    wraps: bool


@dataclass(frozen=True)
class Graph:
    """An undirected graph.

    Attributes:
        names: What the nodes are called; their numbers are their places here.
        edges: The numbers of both ends of each edge, with shape :math:`(E, 2)`.
        lattice: The rectangle that it is, where it was made as one; node :math:`i W + j` is then in row i and column j
            of W columns, and edges are in order of their first ends, to the right before down.
        shape: How values of all nodes are laid out; their number by default.
    """

    names: tuple[Hashable, ...]
    edges: Tensor
    lattice: Lattice | None = None
    shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of values of all nodes."""
        return torch.Size(self.shape or (len(self),))


def grid(rows: int, columns: int) -> Graph:
    """A rectangle of nodes, each beside the next one to its right and below: free boundaries.

    Example:
        >>> grid(2, 2).edges.tolist()
        [[0, 1], [0, 2], [1, 3], [2, 3]]
    """
    return _lattice(rows, columns, False)


def torus(rows: int, columns: int) -> Graph:
    """A rectangle whose last row is beside its first one, and last column beside its first one.

    Raises:
        ValueError: A side is shorter than 3, which would join nodes twice.
    """
    if min(rows, columns) < 3:
        raise ValueError(f"torus({rows}, {columns}): sides of at least 3 are needed, shorter ones join nodes twice.")
    return _lattice(rows, columns, True)


def complete(*shape: int) -> Graph:
    """A graph with an edge between any two of its nodes, whose values have a shape.

    Example:
        >>> len(complete(8, 8).edges), complete(8, 8).event_shape
        (2016, torch.Size([8, 8]))
    """
    nodes = math.prod(shape)
    return Graph(tuple(range(nodes)), torch.combinations(torch.arange(nodes)), shape=shape)


def _lattice(rows: int, columns: int, wraps: bool) -> Graph:
    if min(rows, columns) < 1:
        raise ValueError(f"A rectangle of {rows} rows and {columns} columns has no node: give positive numbers.")
    number = torch.arange(rows * columns).reshape(rows, columns)
    right, down = number.roll(-1, 1), number.roll(-1, 0)
    edges = torch.stack([torch.stack([number, right], -1), torch.stack([number, down], -1)], 2)  # (H, W, 2, 2)
    there = torch.ones(rows, columns, 2, dtype=torch.bool)
    there[:, -1, 0] = there[-1, :, 1] = wraps
    return Graph(tuple(range(rows * columns)), edges[there], Lattice(rows, columns, wraps), (rows, columns))


def as_graph(source: Any) -> Graph:
    r"""Reads a graph.

    Arguments:
        source: A :class:`Graph`; a graph of networkx without directions; a list of pairs of names, the edges; a
            symmetric matrix of 0 and 1 with shape :math:`(n, n)`, tensor or array; or ``{"grid": [3, 4]}``,
            ``{"torus": [3, 4]}``, ``{"complete": [3, 4]}``, ``{"nodes": ["a", "b", "c"], "edges": [["b", "a"]]}``, as
            recipes write it. Nodes of a list of pairs are in the order in which they come.

    Raises:
        TypeError: It is none of these.
        ValueError: There is no node, an edge has an end that is none, joins a node with itself or is there twice, a
            matrix is not symmetric, or edges have directions.

    Example:
        >>> as_graph([("a", "b"), ("b", "c")]).names
        ('a', 'b', 'c')
    """
    if isinstance(source, Graph):
        return source
    if isinstance(source, Mapping) and len(source) == 1 and next(iter(source)) in _BUILDERS:
        ((kind, sizes),) = source.items()
        return _BUILDERS[kind](*([sizes] if isinstance(sizes, int) else sizes))  # type: ignore[no-any-return]
    if isinstance(source, Mapping) and source.keys() == {"nodes", "edges"}:
        names = list(range(source["nodes"]) if isinstance(source["nodes"], int) else source["nodes"])
        if unknown := [name for pair in source["edges"] for name in pair if name not in names]:
            raise ValueError(f"The graph has an edge with {unknown[0]!r}, which is none of its nodes {names}.")
        return _of_pairs(source["edges"], names)
    if hasattr(source, "is_directed") and hasattr(source, "edges"):  # of networkx
        if source.is_directed():
            raise ValueError("The edges of the graph have directions: give graph.to_undirected().")
        return _of_pairs([e[:2] for e in source.edges], list(source.nodes))
    if isinstance(source, Sequence) and not isinstance(source, str):
        return _of_pairs(source, list(dict.fromkeys(name for pair in source for name in pair)))
    try:
        matrix = torch.as_tensor(source)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"A graph is one of networkx, a list of pairs or a symmetric matrix, and this is a {type(source).__name__}."
        ) from None
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"The matrix of a graph has shape (n, n), and this one {tuple(matrix.shape)}.")
    if not torch.equal(matrix, matrix.T):
        raise ValueError("The matrix of an undirected graph is symmetric, and this one is not: give matrix + matrix.T.")
    if not bool(((matrix == 0) | (matrix == 1)).all()):
        raise ValueError("The matrix of a graph has 0 and 1, and this one other numbers: give weights as couplings.")
    return _of_pairs(matrix.triu().nonzero().tolist(), list(range(len(matrix))))


_BUILDERS: dict[str, Any] = {"grid": grid, "torus": torus, "complete": complete}


def _of_pairs(pairs: Sequence[Sequence[Hashable]], names: Sequence[Hashable]) -> Graph:
    if not names:
        raise ValueError("The graph has no node: give at least one edge, or a networkx graph with nodes.")
    number = {name: i for i, name in enumerate(names)}
    seen: set[frozenset[int]] = set()
    edges = []
    for first, second in pairs:
        ends = frozenset((number[first], number[second]))
        if len(ends) == 1:
            raise ValueError(f"The edge ({first!r}, {second!r}) joins a node with itself: leave it out.")
        if ends in seen:
            raise ValueError(f"The edge ({first!r}, {second!r}) is given twice: leave one of them out.")
        seen.add(ends)
        edges.append((number[first], number[second]))
    return Graph(tuple(names), torch.tensor(edges, dtype=torch.long).reshape(-1, 2))


class Neighbours(NamedTuple):
    """What is beside some nodes, filled up to the largest number D of neighbours.

    Attributes:
        nodes: Their numbers, with shape :math:`(n,)`.
        beside: The numbers of their neighbours, with shape :math:`(n, D)`; 0 where there are fewer.
        edges: The numbers of the edges to these, with shape :math:`(n, D)`; E where there are fewer.
    """

    nodes: Tensor
    beside: Tensor
    edges: Tensor


def colours(graph: Graph) -> list[Tensor]:
    """Divides nodes into as few sets without edges inside as a greedy choice finds: their numbers.

    Example:
        >>> [c.tolist() for c in colours(grid(2, 3))]
        [[0, 2, 4], [1, 3, 5]]
    """
    beside = _beside(graph)
    by_degree = sorted(range(len(graph)), key=lambda i: -len(beside[i]))
    found = min((_coloured(beside, order) for order in (range(len(graph)), by_degree)), key=max)
    colour = torch.tensor(found)
    return [(colour == c).nonzero()[:, 0] for c in range(int(colour.max()) + 1)]


def _coloured(beside: list[dict[int, int]], order: Sequence[int]) -> list[int]:
    colour = [-1] * len(beside)
    for node in order:
        taken = {colour[i] for i in beside[node]}
        colour[node] = next(c for c in range(len(beside)) if c not in taken)
    return colour


def neighbours(graph: Graph) -> list[Neighbours]:
    """The neighbours of the nodes of each colour."""
    beside = _beside(graph)
    out = []
    for nodes in colours(graph):
        most = max(len(beside[i]) for i in nodes.tolist())
        fill = len(graph.edges)
        rows = [[*beside[i].items()] + [(0, fill)] * (most - len(beside[i])) for i in nodes.tolist()]
        pairs = torch.tensor(rows, dtype=torch.long).reshape(len(nodes), most, 2)
        out.append(Neighbours(nodes, pairs[..., 0], pairs[..., 1]))
    return out


def _beside(graph: Graph) -> list[dict[int, int]]:
    """For each node the numbers of the edges to its neighbours, by number of these."""
    beside: list[dict[int, int]] = [{} for _ in range(len(graph))]
    for edge, (i, j) in enumerate(graph.edges.tolist()):
        beside[i][j] = beside[j][i] = edge
    return beside
