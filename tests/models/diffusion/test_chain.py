"""The chain of noise: its bound by one random step, and by traces of all; what is exact of it."""

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import ELBO, DiffusionELBO
from pyro_gen.models import DDPM

DRAWS = 60


class WrongWeight(DDPM):
    """The planted defect: the weight of a step has the signs of its two noise levels the wrong way round."""

    def step(self, x: Tensor, time: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        i = (self.steps * time).floor() + 1
        loss, _ = super().step(x, time, *context)
        return loss, -self.steps * torch.expm1(self.gamma(i - 1) - self.gamma(i))


def chain(cls: type[DDPM], steps: int) -> tuple[DDPM, Tensor]:
    """A chain with a network that says something, and data that it fits badly."""
    with seeded(0):
        program = cls(3, steps, width=16, depth=1).eval()
        torch.nn.init.normal_(program.network.last.weight, std=0.3)
        return program, 2 * torch.randn(40, 3) + 1


def standard_errors_apart(program: DDPM, x: Tensor) -> float:
    """The distance of the bound by one random step from the bound by traces of all steps, in standard errors."""
    with seeded(1), torch.no_grad():
        whole = torch.stack([ELBO().loss(program, x) for _ in range(DRAWS)])
        one = torch.stack([DiffusionELBO().loss(program, x) for _ in range(4 * DRAWS)])
    error = (whole.var() / len(whole) + one.var() / len(one)).sqrt()
    return abs((whole.mean() - one.mean()) / error).item()


@pytest.mark.parametrize("steps", [8, 32])
def test_one_random_step_has_the_bound_of_the_chain_in_expectation(steps: int) -> None:
    # Both are means of independent draws, so the distance is standard normal: false alarm at 4 in 6e-5 of seeds.
    assert standard_errors_apart(*chain(DDPM, steps)) < 4
    assert standard_errors_apart(*chain(WrongWeight, steps)) > 4


def test_without_a_network_a_long_chain_is_the_standard_normal_distribution() -> None:
    program, x = DDPM(3, steps=2000, width=8).eval(), torch.randn(30, 3)
    found = pg.log_likelihood(program, x, num_particles=500)
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1).mean().item()
    # At the exact posterior the terms of a long chain hardly vary, so that its bound is tight but for O(1 / T).
    assert abs(found.mean() - exact) < 4 * found.mean_standard_error() + 0.02
    assert found.method == "elbo"
    assert found.kind == "stochastic lower bound"
    shorter = pg.log_likelihood(DDPM(3, steps=20, width=8).eval(), x, num_particles=500)
    assert shorter.mean() < exact - 0.1  # the twin: few steps are no normal distribution
