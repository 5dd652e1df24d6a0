"""Graphs of tables: edges that were planted, what data cannot tell, and bad input in one line."""

from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import pyro_gen as pg
from pyro_gen.structure import Graph, find_graph


def collider(n: int = 300) -> pd.DataFrame:
    """Rain and a sprinkler make grass wet, words; wet grass makes feet wet, numbers."""
    generator = np.random.default_rng(0)
    rain, sprinkler = generator.random((2, n)) < [[0.4], [0.5]]
    wet = generator.random(n) < np.where(rain, 0.9, np.where(sprinkler, 0.7, 0.1))
    feet = wet + 0.4 * generator.normal(size=n)
    words = np.array(["no", "yes"])
    return pd.DataFrame({"rain": words[1 * rain], "sprinkler": sprinkler, "wet": 1 * wet, "feet": feet})


def test_a_network_of_words_and_numbers() -> None:
    found = find_graph(collider(), draws=50)
    assert found.columns_.levels == [["no", "yes"], [False, True], [0.0, 1.0], []]
    p = found.probabilities_
    assert min(p.loc["rain", "wet"], p.loc["sprinkler", "wet"], p.loc["wet", "feet"]) > 0.9
    assert p.loc["rain", "sprinkler"] + p.loc["sprinkler", "rain"] < 0.3
    graph = found.to_networkx()
    assert set(graph.edges) == {("rain", "wet"), ("sprinkler", "wet"), ("wet", "feet")}
    assert graph.edges["rain", "wet"]["probability"] == p.loc["rain", "wet"]
    assert nx.is_directed_acyclic_graph(found.to_networkx("best"))
    assert all(nx.is_directed_acyclic_graph(g) for g in found.sample_graphs(3))
    table = found.table()
    assert set(table["representative"][:3]) == {"->"}
    assert table["direction"].between(0.5, 1).all()
    assert "Bayesian network of 4 columns (3 of categories) in 300 rows" in found.summary()
    assert found.posterior_.posterior["edge"].shape == (4, 50, 4, 4)
    assert len(found.plot().axes) == 3


def test_a_network_with_holes_of_words_and_numbers() -> None:
    table = collider(200)
    found = find_graph(table.mask(np.random.default_rng(0).random(table.shape) < 0.1), draws=10, chains=2)
    p = found.probabilities_
    assert p.loc["wet", "feet"] > 0.9
    assert (p + p.T).loc["rain", "wet"] > 0.9
    assert "R-hat of edges and log score" in found.summary()


def test_directions_that_only_interventions_tell() -> None:
    generator = np.random.default_rng(1)
    a = generator.normal(size=200)
    b = a + generator.normal(size=200)
    seen = find_graph(pd.DataFrame({"a": a, "b": b}), draws=20)
    assert seen.probabilities_.loc["a", "b"] == pytest.approx(0.5, abs=0.05)
    assert seen.representative_.sum() == 2
    assert seen.expected_distance_of_best_ == pytest.approx(seen.expected_distance_)  # one class has both directions
    assert "1 of them of no direction" in seen.summary()
    b[:60] = generator.normal(size=60)  # set, whatever a is
    table = pd.DataFrame({"a": a, "b": b})
    done = find_graph(table, targets=["b"] * 60 + [None] * 140, draws=20)
    assert done.probabilities_.loc["a", "b"] > 0.95
    assert done.representative_.sum() == 1
    mask = np.zeros((200, 2), dtype=bool)
    mask[:60, 1] = True
    assert find_graph(table, targets=mask, draws=20).probabilities_.equals(done.probabilities_)


@pytest.mark.parametrize("kind", ["bayesian network", "gaussian", "ising"])
def test_edges_forbidden_and_required(kind: str) -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(60, 3))
    x[:, 1] += x[:, 0]
    table = pd.DataFrame(x, columns=list("abc"))
    if kind == "ising":
        table = 1 * (table > 0)
    found = find_graph(table, kind=kind, forbidden=[("a", "b"), ("b", "a")], required=[("c", "a")], draws=10)
    assert found.probabilities_.loc["a", "b"] == found.probabilities_.loc["b", "a"] == 0
    assert found.probabilities_.loc["c", "a"] == pytest.approx(1)
    assert found.best_[2, 0]


def test_undirected_graphs_have_no_directions() -> None:
    x = np.random.default_rng(3).normal(size=(150, 3))
    x[:, 1] += x[:, 0]
    found = Graph("gaussian", draws=40).fit(x)
    assert list(found.to_networkx().edges) == [(0, 1)]
    assert not found.to_networkx().is_directed()
    assert "direction" not in found.table()
    assert "Gaussian graphical model of 3 columns in 150 rows" in found.summary()
    assert "R-hat of edges and log score" in found.summary()
    assert found.table().loc[0, "representative"] == "--"
    assert "Of one chain" in Graph("gaussian", chains=1, draws=10).fit(x).summary()
    again = clone(found).fit(x)
    assert again.probabilities_.equals(found.probabilities_)
    assert pg.structure.find_graph is find_graph


BAD: list[tuple[dict[str, Any], str]] = [
    ({"table": pd.DataFrame({"a": [1.0], "b": [2.0]})}, "two rows"),
    ({"table": pd.DataFrame({"a": [1.5, 2.0]})}, "two columns"),
    ({"table": collider().assign(wet=1)}, "'wet' is 1.* in every row"),
    ({"table": collider().assign(wet=np.nan)}, "'wet' has no value"),
    ({"table": collider().assign(feet=np.inf)}, "'feet' has an infinite number"),
    ({"table": collider().assign(rain=[f"r{i % 60}" for i in range(300)])}, "'rain' has 60 categories in 300 rows"),
    ({"kind": "markov"}, "there are 'bayesian network'"),
    ({"draws": 1}, "give 1 and 4"),
    ({"kind": "gaussian"}, "'rain' has categories"),
    ({"kind": "ising"}, "'feet' has 300"),
    ({"kind": "gaussian", "table": np.arange(30.0).reshape(10, 3) ** [1, 2, 1]}, "Column 2 is a linear function"),
    ({"kind": "gaussian", "table": np.random.default_rng(0).normal(size=(9, 201))}, "201 columns"),
    ({"kind": "gaussian", "table": np.random.default_rng(0).normal(size=(3, 2))}, "3 rows"),
    ({"kind": "gaussian", "table": collider()[["wet", "feet"]], "targets": ["wet"] * 300}, "knows no interventions"),
    ({"required": [("rain", "snow")]}, "no column 'snow': they are 'rain'"),
    ({"forbidden": ["rain"]}, "no pair of columns"),
    ({"required": [("wet", "wet")]}, "'wet' has no edge to itself"),
    ({"required": [("rain", "wet")], "forbidden": [("rain", "wet")]}, "'rain' and 'wet' is forbidden and required"),
    ({"required": [("rain", "wet"), ("wet", "rain")]}, "circle, 'rain' -> 'wet' -> 'rain'|circle, 'wet' ->"),
    ({"required": [("feet", "rain")]}, "from column 'feet' to 'rain' is from numbers to categories"),
    ({"required": [("rain", "feet"), ("wet", "feet")], "max_parents": 1}, "2 parents of column 'feet' are required"),
    (
        {"table": collider().assign(feet=[0.5] * 299 + [1.0]), "targets": [None] * 299 + ["feet"]},
        "'feet' does not vary where it was not set",
    ),
    ({"targets": ["rain"]}, "targets has shape"),
    ({"targets": ["rain"] * 300}, "'rain' was set in all rows"),
    ({"targets": ["fog"] * 300}, "targets: There is no column 'fog'"),
    ({"categories": ["foot"]}, "no column 'foot'"),
]


@pytest.mark.parametrize(("given", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_gets_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        find_graph(**({"table": collider()} | given))
    assert "\n" not in str(caught.value)
