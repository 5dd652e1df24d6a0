"""Partitions: distances by definition, and the best of all partitions of four data."""

import itertools
import math

import numpy as np
import pytest

from pyro_gen.structure.partitions import canonical, co_assignment, representative, variation_of_information


def test_the_representative_is_the_best_of_all_partitions():
    rng = np.random.default_rng(0)
    every = np.unique(canonical(np.array(list(itertools.product(range(4), repeat=4)))), axis=0)
    assert len(every) == 15  # Bell's number; equal ones are one
    draws = every[rng.choice(15, 40, p=rng.dirichlet(np.full(15, 0.3)))]
    losses = [np.mean([variation_of_information(a, b) for b in draws]) for a in every]
    labels, loss = representative(draws)
    assert loss == pytest.approx(min(losses)) and (labels == every[int(np.argmin(losses))]).all()


def test_variation_of_information_is_a_metric_of_partitions():
    a, b, c = (np.array(v) for v in ([0, 0, 1, 1, 2], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]))
    assert variation_of_information(a, np.array([2, 2, 0, 0, 1])) == pytest.approx(0.0, abs=1e-12)
    assert variation_of_information(a, b) == pytest.approx(variation_of_information(b, a))
    assert variation_of_information(a, b) <= variation_of_information(a, c) + variation_of_information(c, b)
    assert variation_of_information(c, np.arange(5)) == pytest.approx(math.log(5))


def test_co_assignment_does_not_depend_on_labels():
    draws = np.array([[0, 0, 1], [2, 2, 5], [1, 0, 0]])
    assert np.allclose(co_assignment(draws), co_assignment(canonical(draws)))
    assert co_assignment(draws)[0].tolist() == pytest.approx([1, 2 / 3, 0])
