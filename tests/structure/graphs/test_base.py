"""Distances between patterns, and the pattern that is nearest to all draws, beside sums over the draws."""

import numpy as np
import pytest

from pyro_gen.structure.graphs.base import GraphDraws
from pyro_gen.structure.graphs.cpdag import distance


def drawn(patterns: np.ndarray, log_scores: np.ndarray | None = None) -> GraphDraws:
    flat = patterns.reshape(-1, *patterns.shape[2:])
    return GraphDraws(flat.mean(0), patterns, patterns, flat[0], log_scores)


def test_the_expected_distance_is_the_mean_over_draws_and_the_representative_has_the_least() -> None:
    generator = np.random.default_rng(0)
    patterns = (generator.random((3, 20, 4, 4)) < 0.3) & ~np.eye(4, dtype=bool)
    found = drawn(patterns)
    flat = patterns.reshape(-1, 4, 4)
    means = [distance(flat, a).mean() for a in flat]
    assert [found.expected_distance(a) for a in flat] == pytest.approx(means, abs=1e-12)
    nearest, least = found.representative()
    assert least == pytest.approx(min(means), abs=1e-12)
    assert found.expected_distance(nearest) == pytest.approx(least, abs=1e-12)
    assert found.joined().sum((0, 1)) == pytest.approx(np.ones((4, 4)), abs=1e-12)


def test_chains_that_hold_other_edges_have_a_large_r_hat() -> None:
    generator = np.random.default_rng(1)
    patterns = (generator.random((2, 100, 3, 3)) < 0.5) & ~np.eye(3, dtype=bool)
    scores = generator.normal(size=(2, 100))
    assert max(drawn(patterns, scores).r_hat().values()) < 1.1
    patterns[0, :, 0, 1], patterns[1, :, 0, 1] = True, False
    apart = drawn(patterns, scores).r_hat()
    assert apart["edge"] > 10
    assert apart["log_score"] < 1.1
    data = drawn(patterns, scores).inference_data(["a", "b", "c"])
    assert float(data.posterior["edge"].sel(source="a", target="b").mean()) == 0.5
