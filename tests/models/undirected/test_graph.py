"""Graphs as they are given, their colours, and what is said of wrong ones."""

import networkx
import numpy as np
import pytest
import torch

from pyro_gen.models.undirected import as_graph, complete, grid, torus
from pyro_gen.models.undirected.parts.graph import colours, neighbours


def test_one_graph_in_every_form() -> None:
    pairs = [(0, 1), (1, 2), (0, 2), (2, 3)]
    matrix = np.zeros((4, 4), dtype=int)
    for i, j in pairs:
        matrix[i, j] = matrix[j, i] = 1
    for source in (pairs, networkx.Graph(pairs), matrix, torch.tensor(matrix), as_graph(pairs)):
        graph = as_graph(source)
        assert {frozenset(e) for e in graph.edges.tolist()} == set(map(frozenset, pairs)) and len(graph) == 4
    assert as_graph(networkx.path_graph(["x", "y"])).names == ("x", "y")


def test_rectangles_are_those_of_networkx() -> None:
    for ours, periodic in ((grid, False), (torus, True)):
        theirs = networkx.grid_2d_graph(3, 5, periodic=periodic)
        edges = {frozenset((5 * a + b, 5 * c + d)) for (a, b), (c, d) in theirs.edges}
        assert {frozenset(e) for e in ours(3, 5).edges.tolist()} == edges
    assert len(complete(5).edges) == 10 and as_graph({"torus": [3, 4]}).event_shape == (3, 4)


@pytest.mark.parametrize(
    ("graph", "count"), [(grid(4, 5), 2), (torus(4, 6), 2), (torus(3, 4), 3), (complete(4), 4), (as_graph([(0, 1)]), 2)]
)
def test_no_edge_joins_nodes_of_one_colour(graph: object, count: int) -> None:
    graph = as_graph(graph)
    sets = colours(graph)
    assert len(sets) <= count + 1 and sum(map(len, sets)) == len(graph)
    if count == 2:
        assert len(sets) == 2  # a checkerboard
    colour = torch.cat([torch.full((len(graph),), -1)])
    for c, nodes in enumerate(sets):
        colour[nodes] = c
    assert bool((colour[graph.edges[:, 0]] != colour[graph.edges[:, 1]]).all())


def test_neighbours_and_edges_to_them() -> None:
    graph = grid(3, 3)
    for block in neighbours(graph):
        for i, node in enumerate(block.nodes.tolist()):
            there = block.edges[i] < len(graph.edges)
            for other, edge in zip(block.beside[i][there].tolist(), block.edges[i][there].tolist(), strict=True):
                assert set(graph.edges[edge].tolist()) == {node, other}
            assert int(there.sum()) == int((graph.edges == node).sum())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([(0, 1), (1, 1)], r"The edge \(1, 1\) joins a node with itself"),
        ([(0, 1), (1, 0)], r"The edge \(1, 0\) is given twice"),
        ([], "The graph has no node"),
        (networkx.DiGraph([(0, 1)]), "The edges of the graph have directions"),
        (np.array([[0, 1], [0, 0]]), "The matrix of an undirected graph is symmetric"),
        (np.zeros((2, 3)), r"The matrix of a graph has shape \(n, n\), and this one \(2, 3\)"),
        (np.eye(2), r"The edge \(0, 0\) joins a node with itself"),
        ({"torus": [2, 3]}, "sides of at least 3 are needed"),
        ({"grid": [0, 3]}, "has no node: give positive numbers"),
    ],
)
def test_wrong_graphs(source: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_graph(source)


def test_what_is_no_graph() -> None:
    with pytest.raises(TypeError, match="A graph is one of networkx, a list of pairs or a symmetric matrix"):
        as_graph(object())
