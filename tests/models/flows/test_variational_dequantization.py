"""Levels by a flow: the probability of a level is an integral of its density, which the bound of the noise reaches."""

import math

import pytest
import torch

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.distributions.flows import FlowDistribution
from pyro_gen.models.flows import VariationalDequantization


def one_entry() -> VariationalDequantization:
    """One level of a normal number with mean 2 and standard deviation 1.5: a new flow with the moments set."""
    program = VariationalDequantization(1, 5, "RealNVP", (8,), layers=1, marginals="normal")
    rescaling = program.bijection.parts[-1]
    with torch.no_grad():
        rescaling.loc.fill_(2.0)
        rescaling.scale.fill_(1.5)
        program.initialised.fill_(True)
    return program


def test_importance_samples_reach_the_probability_of_each_level_and_the_bound_is_below() -> None:
    """5 standard errors of 2,000 samples a level: a correct program is beyond them in 3e-6 of seeds."""
    x = torch.arange(5.0).unsqueeze(1)
    edges = torch.tensor([-math.inf, 1.0, 2.0, 3.0, 4.0, math.inf])
    exact = torch.distributions.Normal(2.0, 1.5).cdf(edges).diff().log()
    program = one_entry()
    found = pg.log_likelihood(program, x, method="iwae", num_particles=2000, seed=0)
    inner = slice(1, 4)  # of the outer levels only [0, 1) and [4, 5) are proposed: there it is a bound
    assert bool(((found.value[inner] - exact[inner]).abs() < 5 * found.standard_error[inner] + 1e-3).all())
    assert bool((found.value[[0, 4]] < exact[[0, 4]]).all())
    bound = pg.log_likelihood(program, x, method="elbo", num_particles=20_000, seed=0)
    assert (exact - bound.value)[inner].sum() > 0.01  # the twin: without weights it falls short


def test_draws_have_the_probabilities_of_the_levels() -> None:
    """4,000 draws: five standard errors are .04 at most, 1e-6 over seeds for five levels."""
    x = pg.sample(one_entry(), 4000, seed=0)
    exact = torch.distributions.Normal(2.0, 1.5).cdf(torch.tensor([-math.inf, 1.0, 2.0, 3.0, 4.0, math.inf])).diff()
    assert (torch.bincount(x.flatten().long(), minlength=5) / 4000 - exact).abs().max() < 0.04


def test_missing_levels_are_drawn_given_the_seen_ones() -> None:
    """500 draws of each row: five standard errors of a frequency are .11 at most, some 1e-5 over 25 of them."""
    program = VariationalDequantization(2, 5, "RealNVP", (8,), layers=2, marginals="normal")
    with seeded(1), torch.no_grad():
        for parameter in program.bijection.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        program.bijection.parts[-1].loc.fill_(2.0)
        program.bijection.parts[-1].scale.fill_(1.5)
        program.initialised.fill_(True)
    program.eval()
    step = 0.05
    axis = torch.arange(-20.0, 25.0, step) + step / 2
    v = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        cells = FlowDistribution(program.bijection, None, v.shape[:1]).log_prob(v).exp() * step**2
    level = v.floor().clamp(0, 4).long()
    joint = torch.zeros(5, 5).index_put((level[:, 0], level[:, 1]), cells, accumulate=True)
    assert abs(joint.sum() - 1) < 0.005
    exact = joint / joint.sum(1, keepdim=True)  # of the second level given the first
    x = torch.stack([torch.arange(5.0), torch.full((5,), math.nan)], 1)
    draws = pg.impute(program, x, draws=500, progress=False)
    assert torch.equal(draws[:, :, 0], x[:, 0].expand(500, 5))
    found = torch.nn.functional.one_hot(draws[:, :, 1].long(), 5).double().mean(0)
    assert (found - exact).abs().max() < 0.11
    assert (found - joint.sum(0)).abs().max() > 0.11  # the twin: the second level whatever the first


def test_it_takes_flows_alone() -> None:
    with pytest.raises(ValueError, match="name of a flow"):
        VariationalDequantization(2, 5, "VAE")
