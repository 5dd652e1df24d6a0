"""Posteriors over networks beside all graphs of a few nodes, of categories, numbers and both, with what is known."""

from graphlib import TopologicalSorter

import numpy as np
import pytest

from pyro_gen.structure.graphs.bayesian_network import EQUIVALENT_SAMPLE_SIZES, bayesian_network_draws
from pyro_gen.structure.graphs.cpdag import completed, distance
from pyro_gen.structure.graphs.scores import Families, SetScores, family_scores, parent_sets, set_prior
from tests.structure.graphs.enumerated import all_graphs, averaged, category_rows, edge_probabilities, mixed_rows


def standardised(x: np.ndarray, levels: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray:
    free = x if targets is None else np.where(targets, np.nan, x)
    return np.where(levels == 0, (x - np.nanmean(free, 0)) / np.nanstd(free, 0), x) if len(x) else x


def scored(x: np.ndarray, levels: np.ndarray, prior: str = "sizes", targets: np.ndarray | None = None) -> Families:
    """Of all sets of parents that numbers and categories allow."""
    d = len(levels)
    sets = [
        parent_sets(i, np.flatnonzero((levels > 0) | (levels[i] == 0)), np.zeros(d, dtype=bool), d) for i in range(d)
    ]
    scores = SetScores(standardised(x, levels, targets), levels, EQUIVALENT_SAMPLE_SIZES)
    return family_scores(scores, sets, targets, prior)


@pytest.mark.parametrize("prior", ["sizes", "uniform"])
def test_edges_and_evidence_of_five_nodes_averaged_over_sample_sizes(prior: str) -> None:
    levels = np.array([2, 3, 2, 3, 2])
    x = category_rows(50, levels, 4)
    graphs, _ = all_graphs(5)
    weights = averaged(scored(x, levels, prior), graphs)
    expected, log_z = edge_probabilities(graphs, weights)
    found = bayesian_network_draws(x, levels, prior=prior, draws=50)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-10)
    flat = averaged(scored(x[:0], levels, prior), graphs)
    assert found.log_evidence == pytest.approx(log_z - np.logaddexp.reduce(flat), abs=1e-8)
    assert averaged(scored(x, levels, prior), found.best[None])[0] == pytest.approx(weights.max(), abs=1e-8)
    sizes = np.array(list(found.details["equivalent sample sizes"].values()))
    each = np.logaddexp.reduce(family_weights(x, levels, prior, graphs), axis=1)
    np.testing.assert_allclose(sizes, np.exp(each - np.logaddexp.reduce(each)), atol=1e-10)
    other = "uniform" if prior == "sizes" else "sizes"
    wrong, _ = edge_probabilities(graphs, averaged(scored(x, levels, other), graphs))
    assert np.abs(wrong - expected).max() > 1e-3


def family_weights(x: np.ndarray, levels: np.ndarray, prior: str, graphs: np.ndarray) -> np.ndarray:
    families = scored(x, levels, prior)
    one = [Families(families.sets, [w[e : e + 1] for w in families.log_weights]) for e in range(5)]
    return np.stack([averaged(f, graphs) for f in one])


@pytest.mark.parametrize("kind", ["numbers", "mixed", "interventions", "forbidden", "required"])
def test_edges_of_four_nodes(kind: str) -> None:
    levels = np.array([2, 3, 2, 2])
    x = category_rows(60, levels, 5)
    graphs, _ = all_graphs(4)
    kept = np.ones(len(graphs), dtype=bool)
    targets, knowledge = None, {}
    if kind == "numbers":
        levels = np.zeros(4, dtype=int)
        x = np.random.default_rng(6).standard_normal((40, 4)) @ (np.eye(4) + 0.6 * np.eye(4, k=1))
    elif kind == "mixed":
        x, levels = mixed_rows(40, 7)
    elif kind == "interventions":
        targets = np.zeros(x.shape, dtype=bool)
        targets[:20, 1] = targets[15:30, 2] = True
        knowledge = {"targets": targets}
    else:
        edges = np.zeros((4, 4), dtype=bool)
        edges[1, 0] = edges[2, 3] = True
        knowledge = {kind: edges}
        kept = (graphs[:, edges] == (kind == "required")).all(1)
    weights = averaged(scored(x, levels, targets=targets), graphs)
    expected, _ = edge_probabilities(graphs, np.where(kept, weights, -np.inf))
    found = bayesian_network_draws(x, levels, max_parents=3, draws=1000, **knowledge)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-10)
    error = np.sqrt(expected * (1 - expected) / 4000)
    assert (np.abs(found.graphs.mean((0, 1)) - expected) <= 6 * error + 1e-3).all()
    assert found.log_scores is None
    if kind == "interventions":
        ignored, _ = edge_probabilities(graphs, averaged(scored(x, levels), graphs))
        assert np.abs(ignored - expected).max() > 1e-3
    if kind in ("forbidden", "required"):
        ignored, _ = edge_probabilities(graphs, weights)
        assert np.abs(ignored - expected).max() > 1e-3
        assert (found.graphs[..., edges] == (kind == "required")).all()


def test_more_than_thirteen_nodes_by_weighted_draws_agree_with_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = np.full(6, 2)
    x = category_rows(80, levels, 8)
    exact = bayesian_network_draws(x, levels, max_parents=2)
    monkeypatch.setattr("pyro_gen.structure.graphs.search.MODULAR_NODES", 5)
    drawn = bayesian_network_draws(x, levels, max_parents=2)
    assert drawn.log_evidence is None
    np.testing.assert_allclose(drawn.probabilities, exact.probabilities, atol=0.04)
    sizes = [list(f.details["equivalent sample sizes"].values()) for f in (exact, drawn)]
    np.testing.assert_allclose(sizes[0], sizes[1], atol=0.02)


def test_same_seed_same_draws() -> None:
    levels = np.full(4, 2)
    x = category_rows(30, levels, 9)
    first, again, other = (bayesian_network_draws(x, levels, draws=50, seed=s).graphs for s in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def edges_at(*pairs: tuple[int, int]) -> np.ndarray:
    edges = np.zeros((3, 3), dtype=bool)
    for i, j in pairs:
        edges[i, j] = True
    return edges


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"required": edges_at((0, 1), (1, 0))}, "in a circle: columns (0 -> 1 -> 0|1 -> 0 -> 1)"),
        ({"required": edges_at((0, 1)), "forbidden": edges_at((0, 1))}, "edge from column 0 to 1 is forbidden too"),
        ({"required": edges_at((2, 1))}, "from column 2 to 1 is from numbers to categories"),
        ({"required": edges_at((0, 2), (1, 2)), "max_parents": 1}, "2 parents of column 2 are required"),
        ({"required": edges_at((1, 1))}, "from a node to itself"),
        ({"required": np.ones((2, 2), dtype=bool)}, r"expected \(3, 3\)"),
        ({"targets": np.ones((2, 3), dtype=bool)}, "expected that of the values"),
        ({"prior": "sparse"}, "there are sizes, uniform"),
    ],
)
def test_what_cannot_be_is_said(options: dict, message: str) -> None:
    x = np.stack([np.arange(10) % 2, np.arange(10) % 3, np.arange(10.0)], 1)
    with pytest.raises(ValueError, match=message):
        bayesian_network_draws(x, [2, 3, 0], **options)
    with pytest.raises(ValueError, match="2 or more rows"):
        bayesian_network_draws(x[:1], [2, 3, 0])


def test_the_stated_distance_is_the_real_one_where_networks_come_from_the_prior() -> None:
    generator = np.random.default_rng(10)
    graphs, _ = all_graphs(4)
    patterns, levels, size = completed(graphs), np.full(4, 2), 8.0
    sizes = graphs.sum(1)  # of the sets of parents, (G, d)
    weights = np.exp(set_prior(sizes, 4, "sizes").sum(1))
    real, stated, variances = [], [], []
    for _ in range(60):
        k = generator.choice(len(graphs), p=weights / weights.sum())
        x = rows_of(graphs[k], size, 40, generator)
        found = bayesian_network_draws(x, levels, equivalent_sample_sizes=[size], chains=1, draws=200)
        pattern, distance_stated = found.representative()
        real.append(int(distance(pattern, patterns[k])))
        stated.append(distance_stated)
        variances.append(distance(found.patterns, pattern).var())
    error = 4 * np.sqrt(np.sum(variances)) / 60  # false alarm at .0001
    assert abs(np.mean(real) - np.mean(stated)) < error
    assert np.mean(real) > error  # of a single graph that is taken for certain this bound can tell


def rows_of(graph: np.ndarray, size: float, n: int, generator: np.random.Generator) -> np.ndarray:
    """Rows of a network of binary nodes whose tables are drawn from the prior."""
    x = np.zeros((n, len(graph)))
    for i in TopologicalSorter({j: np.flatnonzero(graph[:, j]).tolist() for j in range(len(graph))}).static_order():
        parents = np.flatnonzero(graph[:, i])
        q = 2 ** len(parents)
        p = generator.beta(size / (2 * q), size / (2 * q), q)
        x[:, i] = generator.random(n) < p[x[:, parents].astype(int) @ (2 ** np.arange(len(parents)))]
    return x


def test_values_that_cannot_be_are_said() -> None:
    x = np.stack([np.arange(10) % 2, np.arange(10) % 3, np.arange(10.0)], 1)
    with pytest.raises(ValueError, match="Column 1 has 2 categories: expected 0 to 1 or NaN"):
        bayesian_network_draws(x, [2, 2, 0])
    with pytest.raises(ValueError, match="Column 2 does not vary"):
        bayesian_network_draws(x * [1, 1, 0], [2, 3, 0])
