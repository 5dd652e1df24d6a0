"""Arithmetic in latent space: in a linear program it is arithmetic of the data."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen.models import ConditionalVAE, FactorAnalysis, ProbabilisticPCA


def test_of_a_linear_program_the_attribute_is_the_difference_of_means():
    program = FactorAnalysis(5, 2)
    x, plus, minus = torch.randn(3, 5), torch.randn(7, 5), torch.randn(4, 5)
    w = program.loadings.detach()
    encode = torch.linalg.solve(torch.eye(2) + w.T @ w, w.T)  # the posterior mean at unit noise, (2, 5)
    out = pg.arithmetic(program, x, plus, minus, amounts=(0.0, 1.0, -2.0))
    attribute = w @ encode @ (plus.mean(0) - minus.mean(0))
    assert out.shape == (3, 3, 5)
    torch.testing.assert_close(out[0], x @ (w @ encode).T, atol=1e-5, rtol=1e-5)
    for value, amount in zip(out, (0.0, 1.0, -2.0), strict=True):
        torch.testing.assert_close(value - out[0], (amount * attribute).expand(3, -1), atol=1e-5, rtol=1e-5)
    # A twin that adds the mean of those with it, and forgets those without, is told apart.
    assert not torch.allclose(out[1] - out[0], (w @ encode @ plus.mean(0)).expand(3, -1), atol=1e-2)
    holed = plus.clone()
    holed[0, 0] = math.nan
    assert not pg.arithmetic(program, x, holed, minus).isnan().any()


def test_with_a_context_each_side_brings_its_own():
    program = ConditionalVAE(4, 3, latent=2, hidden=(5,))
    x, c = torch.rand(2, 4).round(), torch.tensor([0.0, 1.0])
    sides = (torch.ones(3, 4), torch.full((3,), 2.0)), (torch.zeros(5, 4), torch.zeros(5))
    before = torch.get_rng_state()
    out = pg.arithmetic(program, x, *sides, c, amounts=(1.0,))
    assert out.shape == (1, 2, 4) and torch.equal(out, pg.arithmetic(program, x, *sides, c, amounts=(1.0,)))
    assert torch.equal(torch.get_rng_state(), before)


def test_discrete_variables_are_refused():
    class Coin(pg.Program):
        event_shape = torch.Size([1])

        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Bernoulli(torch.full((1,), 0.5)).to_event(1))
                return pg.observe("x", dist.Normal(z, 1.0).to_event(1), x)

        def guide(self, x):
            with self.plate(x):
                pyro.sample("z", dist.Bernoulli(x.sigmoid()).to_event(1))

    x = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="'z' of Coin is discrete"):
        pg.arithmetic(Coin(), x, x, x)
    with pytest.raises(ValueError, match="no local latent variable"):
        pg.arithmetic(pg.models.Gaussian(3), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3))
    assert pg.arithmetic(ProbabilisticPCA(4, 2), torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 4)).shape[0] == 3


def test_sides_without_their_context_are_refused():
    program, x, c = ConditionalVAE(4, 3, latent=2, hidden=(5,)), torch.rand(2, 4).round(), torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="conditional on c, and was given no context"):
        pg.arithmetic(program, x, torch.ones(2, 4), torch.zeros(2, 4), c)  # as many rows as x has
