"""Variational diffusion: what its bound is without a network, and what its schedule is for."""

import math

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import DiffusionELBO
from pyro_gen.models import VDM
from pyro_gen.models.diffusion.parts.schedules import SCHEDULES, make_schedule


class WrongWeight(VDM):
    """The planted defect: the terms lack a half."""

    def step(self, x: Tensor, time: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        loss, weight = super().step(x, time, *context)
        return loss, 2 * weight


@pytest.mark.parametrize("schedule", ["learned", "cosine"])
def test_without_a_network_the_bound_is_the_likelihood_of_independent_entries(schedule: str) -> None:
    x = pg.data.load("digits").train
    for cls, holds in ((VDM, True), (WrongWeight, False)):
        program = cls((8, 8), levels=17, schedule=schedule, steps=2, width=8).initialise(x).eval()
        exact = -program.likelihoods(program.frequencies).log_prob(x[:300]).mean().item() / (64 * math.log(2))
        found = pg.log_likelihood(program, x[:300], num_particles=300)
        error = found.mean_standard_error() / (64 * math.log(2))
        assert error < 0.02
        # Beyond 4 standard errors, which are on the large side, in 6e-5 of seeds; the ends may cost a little.
        assert (abs(found.bits_per_dim() - exact) < 4 * error + 0.001) == holds


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_slope_of_a_schedule_is_its_derivative_and_positive(name: str) -> None:
    schedule = make_schedule(name).double()
    time = torch.linspace(0.01, 0.99, 23).double().requires_grad_()
    slope = torch.autograd.grad(schedule(time).sum(), time)[0]
    assert (slope > 0).all()
    torch.testing.assert_close(schedule.slope(time), slope)


def test_a_learned_schedule_lowers_the_variance_and_leaves_the_mean() -> None:
    x = pg.data.load("digits").train[:256]
    with seeded(0):
        program = VDM((8, 8), levels=17, steps=2, width=8).initialise(x).eval()
    objective = DiffusionELBO()
    network, schedule = objective.players(program)
    assert {id(p) for p in schedule.parameters} == {id(p) for p in program.schedule.between()}
    assert all(p is not q for p in network.parameters for q in schedule.parameters)

    def terms() -> Tensor:
        with seeded(1), torch.no_grad():
            found = [torch.mul(*program.step(x, torch.rand(len(x)))) for _ in range(40)]
        return torch.stack(found)

    before, optimizer = terms(), torch.optim.Adam(schedule.parameters, lr=0.1)
    with seeded(2):
        for _ in range(200):
            optimizer.zero_grad()
            schedule.loss(program, x[torch.randperm(len(x))]).backward()
            optimizer.step()
    after = terms()
    assert after.var() < 0.7 * before.var()
    # The distance of the means is normal: beyond 5 of its standard errors in 6e-7 of seeds.
    error = ((before.var() + after.var()) / before.numel()).sqrt()
    assert abs(before.mean() - after.mean()) < 5 * error


def test_the_simple_loss_is_for_schedules_that_are_not_learned() -> None:
    x = torch.zeros(8, 3)
    with pytest.raises(ValueError, match="does not say what a learned schedule"):
        pg.fit(VDM(3, 2, steps=2, width=8), x, objective=DiffusionELBO("simple"), epochs=1, progress=False)
    fixed = VDM(3, 2, steps=2, width=8, schedule="cosine")
    pg.fit(fixed, x, objective=DiffusionELBO("simple"), epochs=1, compile=False, progress=False)
