"""Paths in latent space: their ends, the law of their middle, and what is no path."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen.models import FactorAnalysis, Gaussian, ProbabilisticPCA

D = 400


class Echo(pg.Program):
    """x = z, under a prior of another place and width."""

    event_shape = torch.Size([D])

    def __init__(self, prior=None):
        super().__init__()
        self.prior = prior or dist.Normal(torch.full((D,), 2.0), 3.0).to_event(1)

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", self.prior)
            return pg.observe("x", dist.Delta(z, event_dim=1), x)


def middle(path):
    """The squared distance from the centre half-way, per dimension, in units of the prior's variance."""
    return ((path[1] - 2.0) / 3.0).square().mean().item()


def test_a_path_between_two_draws_of_the_prior_stays_in_its_shell():
    path = pg.interpolate(Echo(), 3, 4, steps=3, n=20)
    assert path.shape == (3, 20, D)
    # 8000 squares of variance 2, so the standard error is 0.016; a straight line has half of it.
    assert middle(path) == pytest.approx(1, abs=0.07)
    assert middle(torch.lerp(path[0], path[2], 0.5).expand(3, -1, -1)) == pytest.approx(0.5, abs=0.05)
    again = pg.interpolate(Echo(), 4, 3, steps=5, n=20)
    assert torch.equal(again[0], path[2]) and torch.allclose(again[2], path[1], atol=1e-4)


def test_correlated_priors_are_whitened_and_others_move_in_unconstrained_space():
    factor = torch.tril(torch.randn(D, D) / D**0.5) + torch.eye(D)
    path = pg.interpolate(Echo(dist.MultivariateNormal(torch.zeros(D), scale_tril=factor)), steps=3, n=20)
    white = torch.linalg.solve_triangular(factor, path[1].T, upper=False)
    assert white.square().mean().item() == pytest.approx(1, abs=0.07)
    path = pg.interpolate(Echo(dist.Exponential(torch.ones(D)).to_event(1)), steps=3)
    assert torch.allclose(path[1], (path[0] * path[2]).sqrt(), rtol=1e-3)
    path = pg.interpolate(Echo(dist.Poisson(9 * torch.ones(D)).to_event(1)), steps=4)
    assert torch.equal(path[1], path[0]) and torch.equal(path[2], path[3]) and not torch.equal(path[0], path[3])


def test_encodings_are_the_ends():
    program = FactorAnalysis(5, 2)
    a, b = torch.randn(3, 5), torch.randn(3, 5)
    b[0, 2] = math.nan
    w, precision = program.loadings.detach(), torch.eye(2)
    path = pg.interpolate(program, a, b, steps=3)
    for x, end in ((a[1:], path[0, 1:]), (b[1:], path[2, 1:])):
        z = torch.linalg.solve(precision + w.T @ w, w.T @ x.T)  # the posterior mean at unit noise
        assert torch.allclose(end, (w @ z).T, atol=1e-5)
    assert not path.isnan().any() and not torch.allclose(path[1], path[[0, 2]].mean(0), atol=1e-3)
    mixed = pg.interpolate(program, a, 7, steps=2)  # from data to a draw of the prior
    assert torch.allclose(mixed[0], path[0]) and mixed.shape == (2, 3, 5)


class Shifted(pg.Program):
    """z and its data are apart by what is conditioned on, and noise."""

    def model(self, x, c):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(z + c, 1.0).to_event(1), x)

    def guide(self, x, c):
        with self.plate(x):
            pyro.sample("z", dist.Normal((x - c) / 2, 0.5**0.5).to_event(1))


def test_ends_are_encoded_given_what_is_conditioned_on():
    a, b, c = torch.randn(3, 2, 3)
    path = pg.interpolate(Shifted(), a, b, c, steps=2)
    assert torch.allclose(path, torch.stack([a + c, b + c]) / 2, atol=1e-6)


def test_one_seed_one_path():
    program = ProbabilisticPCA(4, 2)
    before = torch.get_rng_state()
    assert torch.equal(pg.interpolate(program), pg.interpolate(program))
    assert torch.equal(torch.get_rng_state(), before)


def test_refusals():
    with pytest.raises(ValueError, match="no local latent variable"):
        pg.interpolate(Gaussian(3))
    with pytest.raises(ValueError, match=r"does not sample 'z'.*two draws of the prior"):
        pg.interpolate(Echo(), torch.zeros(1, D), 1)
    with pytest.raises(ValueError, match="at least its two ends"):
        pg.interpolate(Echo(), steps=1)
    with pytest.raises(ValueError, match="the ends have shapes"):
        pg.interpolate(FactorAnalysis(5, 2), torch.zeros(2, 5), torch.zeros(3, 5))
