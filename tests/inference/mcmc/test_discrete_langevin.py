"""Discrete Langevin proposals leave a law of a few discrete entries as it is, which is summed over all of its states.

The draws before the transitions are exact, so that those after it are; the distance is Pearson's statistic.
"""

import itertools

import pytest
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import Density
from pyro_gen.inference.mcmc import hmc
from pyro_gen.inference.mcmc.discrete_langevin import DiscreteLangevin

VALUES = torch.tensor([-1.0, 0.0, 2.0])  # not evenly far apart
STATES = torch.tensor(list(itertools.product(VALUES.tolist(), repeat=3)))
DRAWS = 40_000
BOUND = 77.0  # of chi-square with 26 degrees of freedom, beyond in 6e-7 of the cases


def log_density(z: Tensor) -> Tensor:
    a, b, c = z.unbind(-1)
    return 0.6 * a * b - 0.4 * b * c.square() + 0.3 * a - 0.2 * torch.cos(2 * c) * a


def statistic(transitions: int = 4) -> float:
    p = log_density(STATES).double().softmax(0)
    with seeded(0):
        z = STATES[torch.multinomial(p, DRAWS, replacement=True)]
        kernel = DiscreteLangevin(Density.from_functions(log_density, dim=3), VALUES)
        state = kernel.init(z)
        accepted = torch.zeros(())
        for _ in range(transitions):
            state, figures = kernel.step(state, None)
            accepted = accepted + figures["acceptance_rate"].mean() / transitions
    assert 0.3 < accepted < 1 and float((state.z != z).any(1).float().mean()) > 0.4  # they move
    number = (state.z.unsqueeze(1) == STATES).all(2).int().argmax(1)
    counts = torch.bincount(number, minlength=len(STATES)).double()
    return float(((counts - DRAWS * p).square() / (DRAWS * p)).sum())


def test_they_leave_the_law_invariant() -> None:
    assert statistic() < BOUND


def test_twin_all_proposals_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmc, "select", lambda accepted, new, old: new)
    assert statistic() > BOUND


def test_twin_the_way_back_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_gen.inference.mcmc.discrete_langevin._of", lambda log_q, choice: torch.zeros(DRAWS))
    assert statistic() > BOUND


def test_step_sizes_are_in_order() -> None:
    with pytest.raises(ValueError, match="give positive step sizes, in this order"):
        DiscreteLangevin(Density.from_functions(log_density, dim=3), VALUES, smallest=1.0)
