"""Levels by a flow: the probability of a level is an integral of its density, which the bound of the noise reaches."""

import math

import pytest
import torch

import pyro_gen as pg
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


def test_it_takes_flows_alone() -> None:
    with pytest.raises(ValueError, match="name of a flow"):
        VariationalDequantization(2, 5, "VAE")
