"""Networks in every form that they come in, and what is wrong with some of them, in one line."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from pyro_gen.structure.networks import as_network

NAN = np.nan
GRAPH = nx.Graph([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")])
MATRIX = nx.to_numpy_array(GRAPH)


@pytest.mark.parametrize(
    "data",
    [
        GRAPH,
        list(GRAPH.edges),
        pd.DataFrame([*GRAPH.edges, ("b", "a")], columns=["from", "to"]),  # one pair from both ends
        pd.DataFrame(MATRIX, list("abcd"), list("abcd")),
        MATRIX,
        scipy.sparse.csr_matrix(MATRIX),
        torch.tensor(MATRIX),
    ],
)
def test_one_network_in_many_forms(data):
    network = as_network(data)
    assert (network.adjacency.toarray() == MATRIX).all() and len(network.names) == 4
    assert network.names in (list("abcd"), [0, 1, 2, 3])
    assert len(network.missing) == 0 and network.kinds is None and network.components == 1
    assert nx.is_isomorphic(network.graph(), GRAPH)


def test_numbers_of_edges_and_pairs_that_were_not_observed():
    holes = MATRIX.copy()
    holes[0, 3] = holes[3, 0] = NAN
    holes[0, 1] = NAN  # seen from the other end
    network = as_network(holes)
    assert network.missing.tolist() == [[0, 3]] and (network.adjacency.toarray() == MATRIX).all()
    frame = pd.DataFrame({"u": ["a", "a", "b"], "v": ["b", "c", "c"], "times": [2, NAN, 1]})
    network = as_network(frame, weight="times")
    assert network.adjacency.toarray().tolist() == [[0, 2, 0], [2, 0, 1], [0, 1, 0]]
    assert network.missing.tolist() == [[0, 2]]
    graph = nx.Graph([("a", "b", {"w": 3}), ("b", "c", {"w": NAN})])
    network = as_network(graph, weight="w")
    assert network.adjacency.sum() == 6 and network.missing.tolist() == [[1, 2]]
    assert as_network(frame).unused == ("times",) and as_network(frame, weight="times").unused == ()
    assert as_network(nx.les_miserables_graph()).unused == ("weight",) and as_network(graph).unused == ()
    assert as_network(nx.MultiGraph([(0, 1), (0, 1), (1, 2)])).adjacency.toarray()[0, 1] == 2


def test_two_kinds_of_nodes():
    incidence = pd.DataFrame([[1, 1, 0, 1], [0, 1, NAN, 1]], ["x", "y"], list("pqrs"))
    network = as_network(incidence)
    assert network.kinds is not None and network.kinds.tolist() == [0, 0, 1, 1, 1, 1]
    assert network.names == ["x", "y", "p", "q", "r", "s"] and network.missing.tolist() == [[1, 4]]
    edges = pd.DataFrame({"who": ["x", "x", "y"], "what": ["p", "q", "q"]})
    assert as_network(edges, bipartite=True).kinds.tolist() == [0, 0, 1, 1]
    davis = as_network(nx.davis_southern_women_graph(), bipartite=True)
    assert davis.kinds.sum() == 14


BAD = [
    (nx.Graph([(0, 0), (0, 1)]), {}, "0 has an edge to itself, as have 1 of 2 nodes"),
    (nx.empty_graph(3), {}, "3 nodes and no edge"),
    (nx.empty_graph(0), {}, "no node"),
    (nx.empty_graph(1), {}, "1 node"),
    (np.zeros((1, 1)), {}, "1 node"),
    (nx.DiGraph([(0, 1)]), {}, r"has directions.*to_undirected\(\)"),
    (np.array([[0, 1], [0, 0]]), {}, "not symmetric, at 0 and 1"),
    (np.array([[1, 1], [1, 0]]), {}, "0 has an edge to itself"),
    (np.array([[0, 0.5], [0.5, 0]]), {}, r"0.5 edges: give whole numbers.*WeightedBlockModel"),
    (np.array([[0, -1], [-1, 0]]), {}, "-1 edges"),
    (np.zeros((2, 2, 2)), {}, "two dimensions"),
    (pd.DataFrame({"a": ["x"]}), {}, "two columns"),
    (pd.DataFrame({"a": ["x", None], "b": ["y", "z"]}), {}, "Row 1 of the edge list lacks an end"),
    (pd.DataFrame({"a": ["x"], "b": ["y"]}), {"weight": "w"}, "weight='w'"),
    (GRAPH, {"weight": "w"}, "no such attribute"),
    (GRAPH, {"bipartite": True}, "attribute 'bipartite'"),
    (pd.DataFrame({"a": ["x", "y"], "b": ["y", "z"]}), {"bipartite": True}, "'y' is in both columns"),
]


@pytest.mark.parametrize(("data", "options", "words"), BAD)
def test_bad_networks_get_one_line(data, options, words):
    with pytest.raises(ValueError, match=words) as error:
        as_network(data, **options)
    assert "\n" not in str(error.value)


def test_an_edge_inside_a_kind():
    graph = nx.Graph([(0, 1), (1, 2)])
    nx.set_node_attributes(graph, {0: 0, 1: 1, 2: 1}, "bipartite")
    with pytest.raises(ValueError, match="not bipartite: 1 and 2"):
        as_network(graph, bipartite=True)
    with pytest.raises(TypeError, match="Got str"):
        as_network("karate")
