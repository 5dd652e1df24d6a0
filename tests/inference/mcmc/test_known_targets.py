"""Distributions with known moments, through their transforms: every |z| < 5, at 400 effective draws or more.

False-alarm rate of each check: 6e-7.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import biject_to

import pyro_gen.density.sites as sites
from pyro_gen.density import density
from pyro_gen.inference.diagnose import effective_draws
from pyro_gen.inference.mcmc import run


def z_score(draws: Tensor, mean: float) -> float:
    """Of the mean of draws (S, C) against a known one."""
    ess = effective_draws(draws.T.double())
    assert ess >= 400
    return float((draws.double().mean() - mean) / (draws.double().std() / math.sqrt(ess)))


def sampled(model, method: str = "hmc") -> dict[str, Tensor]:
    return run(density(model), method, chains=512, draws=40, seed=1).values


def dirichlet():
    pyro.sample("p", dist.Dirichlet(torch.tensor([0.8, 2.0, 5.0])))
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))


def dirichlet_scores(values: dict[str, Tensor]) -> list[float]:
    alpha, p = torch.tensor([0.8, 2.0, 5.0]), values["p"]
    total = float(alpha.sum())
    scores = [z_score(p[..., i], float(a) / total) for i, a in enumerate(alpha)]
    squares = [z_score(p[..., i].square(), float(a * (a + 1)) / (total * (total + 1))) for i, a in enumerate(alpha)]
    return scores + squares


@pytest.mark.parametrize("method", ["hmc", "nuts"])
def test_dirichlet(method: str):
    assert max(map(abs, dirichlet_scores(sampled(dirichlet, method)))) < 5


def test_twin_without_the_jacobian_fails(monkeypatch: pytest.MonkeyPatch):
    def flat(support):
        transform = biject_to(support)
        log_abs_det = transform.log_abs_det_jacobian
        transform.log_abs_det_jacobian = lambda u, y: 0.5 * log_abs_det(u, y)
        return transform

    monkeypatch.setattr(sites, "biject_to", flat)
    assert max(map(abs, dirichlet_scores(sampled(dirichlet)))) > 5


@pytest.mark.parametrize("method", ["hmc", "nuts"])
def test_correlations_of_an_lkj_matrix(method: str):
    def model():
        pyro.sample("factor", dist.LKJCholesky(3, torch.tensor(1.5)))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))

    factor = sampled(model, method)["factor"]
    correlation = factor @ factor.mT
    # (r + 1) / 2 is Beta(b, b) with b = 1.5 + 3 / 2 - 1.
    variance = 1 / (2 * 2.0 + 1)
    for i, j in ((1, 0), (2, 0), (2, 1)):
        assert abs(z_score(correlation[..., i, j], 0.0)) < 5
        assert abs(z_score(correlation[..., i, j].square(), variance)) < 5


@pytest.mark.parametrize("method", ["hmc", "nuts"])
def test_heavy_tails(method: str):
    def model():
        pyro.sample("t", dist.StudentT(5.0, torch.tensor([1.0, -2.0]), torch.tensor([1.0, 30.0])).to_event(1))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))

    t = (sampled(model, method)["t"] - torch.tensor([1.0, -2.0])) / torch.tensor([1.0, 30.0])
    for i in range(2):
        assert abs(z_score(t[..., i].sign(), 0.0)) < 5
        assert abs(z_score((t[..., i].abs() <= 1.4758840488).double(), 0.8)) < 5  # the quantiles at 10 and 90 %
