"""Gibbs sampling of sparse factors against brute force; complete rows by their moments against one by one.

Thresholds of 5 standard errors, from chains that are independent of one another: of 10 figures one exceeds it by chance
in fewer than 1 of 10,000 runs.
"""

import pytest
import torch

from pyro_gen._random import seeded
from pyro_gen.structure import sparse_factors as module
from pyro_gen.structure.sparse_factors import Draws, Table, compress, expectation, gibbs, log_density


def rows(n, d, noise=0.6):
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(n, 1, generator=rng)
    x = (z * torch.linspace(1, -1, d) + noise * torch.randn(n, d, generator=rng)).double()
    return (x - x.mean(0)) / x.std(0, correction=0)


def figures(w, noise):
    """Whether a loading is there, noise and squares of loadings: (*, 3 D)."""
    return torch.cat([(w != 0).double().mean(-1), noise.log(), w.square().sum(-1).log1p()], -1)


def of_prior(draws, d, k):
    gamma = torch.distributions.Gamma
    noise = 1 / gamma(1.5, 0.5).sample((draws, d)).double()
    slab = 1 / gamma(1.0, 1.0).sample((draws, 1, 1)).double()
    share = torch.rand(draws, 1, k).double()
    w = torch.randn(draws, d, k).double() * (slab * noise.unsqueeze(-1)).sqrt()
    w = w * (torch.rand(draws, d, k) < share)
    return Draws(w, noise, torch.randn(draws, d).double() * noise.sqrt())


def z_scores(x, k, sampler=gibbs, draws=200_000):
    with seeded(0):
        prior = of_prior(draws, x.shape[1], k)
        weight = log_density(x, prior).sum(1).softmax(0)
        found = sampler(compress(x), k, 150, 100, 256, 2)
    f = figures(prior.loadings, prior.noise)
    exact = weight @ f
    error = (weight.unsqueeze(1) * (f - exact)).square().sum(0)
    by_chain = figures(found.loadings, found.noise).mean(0)  # (C, 3 D)
    return (by_chain.mean(0) - exact) / (error + by_chain.var(0) / len(by_chain)).sqrt()


@pytest.fixture(scope="module")
def holed():
    x = rows(7, 3)
    x[0, 1] = x[3, 2] = torch.nan
    return x


def test_draws_are_those_of_the_posterior(holed):
    assert z_scores(holed, 1).abs().max() < 5


def test_a_prior_that_is_lost_would_be_caught(holed, monkeypatch):
    monkeypatch.setattr(module, "NOISE_RATE", 1.0)
    assert z_scores(holed, 1).abs().max() > 5


def one_by_one(x):
    seen = torch.ones_like(x)
    return Table(x, x.new_ones(len(x)), seen, seen[:1], torch.zeros(len(x)).long(), seen.sum(0), x.square().sum(0), 0)


def test_complete_rows_enter_by_their_moments():
    x = rows(40, 4)
    short, long = compress(x), one_by_one(x)
    assert len(short.x) == 5 and short.rest == 35

    def gap(a, b):
        with seeded(0):
            of = [figures(f.loadings, f.noise).mean(0) for f in (gibbs(t, 2, 100, 100, 128, 2) for t in (a, b))]
        return ((of[0].mean(0) - of[1].mean(0)) / ((of[0].var(0) + of[1].var(0)) / 128).sqrt()).abs().max()

    assert gap(short, long) < 5
    assert gap(short._replace(rest=20), long) > 5  # twin: factors of fewer rows than there are


def test_factors_and_densities_of_rows_are_gaussian_conditionals(holed):
    with seeded(0):
        draws = of_prior(4, 3, 2)
    mean, covariance = expectation(holed, draws)
    log_p = log_density(holed, draws)
    for s in range(4):
        w, noise, mu = (part[s] for part in draws)
        sigma = w @ w.T + torch.diag(noise)
        for n, row in enumerate(holed):
            o = ~row.isnan()
            gain = w[o].T @ torch.linalg.inv(sigma[o][:, o])
            torch.testing.assert_close(mean[s, n], gain @ (row - mu)[o])
            torch.testing.assert_close(covariance[s, n], torch.eye(2).double() - gain @ w[o])
            law = torch.distributions.MultivariateNormal(mu[o], sigma[o][:, o])
            torch.testing.assert_close(log_p[s, n], law.log_prob(row[o]))
