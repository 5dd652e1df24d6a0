"""Communities: karate and davis without their labels, pairs not observed, large networks, bad input."""

import math

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score, roc_auc_score

import pyro_gen as pg
from pyro_gen.structure import Communities, find_communities


@pytest.fixture(scope="module")
def karate():
    return find_communities(nx.karate_club_graph(), draws=60)


def test_karate(karate):
    # The exact posterior, by a run of 100 times as many draws.
    # 960 draws, 200 or so effective: sd .035 at most; z > 4 has probability 6e-5.
    for number, p in ((1, 0.58), (2, 0.35), (3, 0.055)):
        assert karate.number_probabilities_[number] == pytest.approx(p, abs=0.15)
    assert karate.description_length_of_one_group_ == pytest.approx(222.8901, abs=1e-4)
    assert karate.partitions_.shape == (16, 60, 34) and karate.group_probabilities_.sum(1) == pytest.approx(1.0)
    assert max(karate.r_hat_.values()) < 1.2
    idata = karate.posterior_
    assert idata.posterior["group"].shape == (16, 60, 34)
    assert float(idata.posterior["description_length"].min()) > 215
    assert "34 nodes and 78 edges: 1 with probability" in karate.summary()


def test_same_seed_same_answer():
    one, other = (find_communities(nx.florentine_families_graph(), draws=4, seed=s) for s in (0, 0))
    assert (one.partitions_ == other.partitions_).all()


def test_women_and_events_of_davis_without_their_labels():
    graph = nx.davis_southern_women_graph()
    found = find_communities(graph, draws=20)
    assert found.number_probabilities_[2] >= 0.97
    assert found.labels_.tolist() == [graph.nodes[v]["bipartite"] for v in graph]
    groups = nx.get_node_attributes(found.graph_, "group")
    assert groups["Evelyn Jefferson"] == 0 and groups["E1"] == 1
    assert found.plot().axes
    known = find_communities(graph, bipartite=True, draws=10)
    assert min(known.number_probabilities_) >= 2
    kinds = np.array([graph.nodes[v]["bipartite"] for v in graph])
    assert all(len(set(kinds[draw == k])) == 1 for draw in known.partitions_[0] for k in set(draw))


def test_edges_that_were_not_observed_are_found_again():
    graph = nx.les_miserables_graph()
    a = nx.to_numpy_array(graph, weight=None)
    pairs = np.array(np.triu_indices(len(a), 1)).T
    hidden = pairs[np.random.default_rng(2).random(len(pairs)) < 0.1]
    truth = a[tuple(hidden.T)].copy()
    common = a.copy()
    common[tuple(hidden.T)] = common[tuple(hidden.T[::-1])] = 0
    by_neighbours = roc_auc_score(truth, (common @ common)[tuple(hidden.T)])
    a[tuple(hidden.T)] = a[tuple(hidden.T[::-1])] = np.nan
    found = find_communities(pd.DataFrame(a, list(graph), list(graph)), draws=10)
    links = found.links_
    assert list(links.columns) == ["source", "target", "probability"] and len(links) == len(hidden)
    assert links["probability"].between(0, 1).all()
    assert roc_auc_score(truth, links["probability"]) > by_neighbours
    assert links["probability"].sum() == pytest.approx(truth.sum(), abs=4 * math.sqrt(truth.sum()))
    assert "pairs that were not observed" in found.summary()


def planted(n, snr, seed):
    rng = np.random.default_rng(seed)
    b, contrast = np.arange(n) % 2, 2 * math.sqrt(snr * 5)
    rate = (5 + np.where(b[:, None] == b, contrast, -contrast) / 2) / n
    return np.triu(rng.random((n, n)) < rate, 1).astype(float), b


def test_a_large_network_by_belief_propagation():
    upper, truth = planted(600, 2.5, 0)
    a = upper + upper.T
    a[0, 7] = a[7, 0] = np.nan
    found = pg.structure.find_communities(a, draws=10)
    assert found.method_ == "belief-propagation" and found.number_probabilities_[2] > 0.9
    right = (found.labels_ == truth).mean()
    right = max(right, 1 - right)
    assert right > 0.85 and found.group_probabilities_.max(1).mean() == pytest.approx(right, abs=0.05)
    assert found.partitions_.shape == (4, 10, 600) and len(found.links_) == 1
    assert 0 < found.links_["probability"][0] < 0.1
    # No single partition shows it: one group describes the network in fewer nats.
    assert found.description_length_ > found.description_length_of_one_group_
    assert "parts that no edge joins" in found.summary() and "belief propagation" in found.summary()
    assert found.plot().axes


def test_twin_a_random_network_is_one_group():
    found = find_communities(nx.gnp_random_graph(400, 5 / 400, seed=0), draws=4)
    assert found.number_probabilities_[1] > 0.9 and (found.labels_ == 0).all()


def test_parts_and_nodes_without_edges():
    graph = nx.disjoint_union(nx.complete_graph(8), nx.complete_graph(8))
    graph.add_node("alone")
    found = find_communities(graph, draws=8)
    assert adjusted_rand_score([0] * 8 + [1] * 8, found.labels_[:16]) == 1.0
    assert "3 parts that no edge joins" in found.summary()
    assert list(found.table().columns[:2]) == ["node", "group"] and len(found.table()) == 17


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "louvain"}, "merge-split, belief-propagation"),
        ({"max_groups": 1}, "give 2 and 4 or more"),
        ({"method": "belief-propagation", "bipartite": True}, "knows no kinds"),
    ],
)
def test_bad_options_get_one_line(options, words):
    with pytest.raises(ValueError, match=words):
        find_communities(nx.davis_southern_women_graph(), **options)


def test_it_is_an_estimator():
    copy = clone(Communities(draws=7))
    assert copy.get_params()["draws"] == 7
    labels = copy.set_params(draws=4).fit_predict(nx.path_graph(4))
    assert len(labels) == 4
