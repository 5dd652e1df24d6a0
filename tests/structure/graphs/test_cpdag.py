"""Equivalence classes beside all graphs of four and five nodes, grouped by adjacencies and colliders."""

import numpy as np
import pytest

from pyro_gen.structure.graphs.cpdag import completed, distance
from tests.structure.graphs.enumerated import all_graphs


def adjacencies_and_colliders(graph: np.ndarray) -> bytes:
    near = graph | graph.T
    colliders = (graph[:, None, :] & graph[None, :, :]) & ~near[:, :, None]
    colliders[np.arange(len(graph)), np.arange(len(graph))] = False
    return near.tobytes() + colliders.tobytes()


@pytest.mark.parametrize(("nodes", "classes"), [(4, 185), (5, 8782)])
def test_the_completed_graph_is_the_union_of_the_class(nodes: int, classes: int) -> None:
    graphs, _ = all_graphs(nodes)
    union: dict[bytes, np.ndarray] = {}
    keys = [adjacencies_and_colliders(graph) for graph in graphs]
    for key, graph in zip(keys, graphs, strict=True):
        union[key] = union.get(key, graph) | graph
    assert len(union) == classes
    found = completed(graphs)
    np.testing.assert_array_equal(found, np.stack([union[key] for key in keys]))
    colliders_alone = [
        (graph & ~np.eye(nodes, dtype=bool) & ((graph.T.astype(int) @ ~(graph | graph.T)) > 0).T) for graph in graphs
    ]
    assert (np.stack(colliders_alone) != (found & ~found.swapaxes(1, 2))).any()  # of which this test can tell


def test_an_intervention_tells_the_direction_of_a_pair_and_of_what_follows() -> None:
    chain = np.zeros((3, 3), dtype=bool)
    chain[0, 1] = chain[1, 2] = True
    known = np.zeros((3, 3), dtype=bool)
    known[0, 1] = known[1, 0] = True
    np.testing.assert_array_equal(completed(chain, known), chain)  # 0 -> 1 - 2 cannot become a collider
    known = known[::-1, ::-1]
    np.testing.assert_array_equal(completed(chain, known), chain | chain.T & ~known)


def test_edges_that_must_or_cannot_be_leave_the_union_of_what_is_left_of_the_class() -> None:
    graphs, _ = all_graphs(4)
    keys = np.array([adjacencies_and_colliders(graph) for graph in graphs])
    ends = np.argwhere(~np.eye(4, dtype=bool))
    for required in ends:
        for forbidden in ends:
            if set(required) == set(forbidden):
                continue
            left = graphs[:, required[0], required[1]] & ~graphs[:, forbidden[0], forbidden[1]]
            known = np.zeros((4, 4), dtype=bool)
            for i, j in (required, forbidden):
                known[i, j] = known[j, i] = True
            found = completed(graphs[left], known)
            _, of_class = np.unique(keys[left], return_inverse=True)
            for k in range(of_class.max() + 1):
                union = graphs[left][of_class == k].any(0)
                assert (found[of_class == k] == union).all()


def test_the_distance_counts_pairs() -> None:
    graphs = completed(all_graphs(3)[0])
    for first in graphs:
        expected = [
            sum((a[i, j], a[j, i]) != (first[i, j], first[j, i]) for i in range(3) for j in range(i)) for a in graphs
        ]
        assert distance(graphs, first).tolist() == expected
