"""Hierarchical regression against the exact posterior, a grid over the scales with all else normal; its centring."""

import math

import arviz as az
import pytest
import torch

import pyro_gen as pg
from pyro_gen.models import Hierarchical
from pyro_gen.models.regression.hierarchical import centredness
from pyro_gen.program import fixed
from pyro_gen.traces import trace_side

F64 = torch.float64


def radon(groups=85, rows=919, seed=0):
    """Houses in counties, few in most: outcomes (N,), floors (N, 1) and counties (N,)."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(groups, generator=g).pow(3) + 0.03
    group = torch.cat([torch.arange(groups), torch.multinomial(weights, rows - groups, True, generator=g)])
    floor = (torch.rand(rows, 1, generator=g) < 0.2).to(F64)
    effect = 1.5 + 0.35 * torch.randn(groups, generator=g, dtype=F64)
    y = effect[group] - 0.7 * floor[:, 0] + 0.75 * torch.randn(rows, generator=g, dtype=F64)
    return y, floor, group


def exact_means(y, u, group, s=2.5):
    """Posterior means and standard deviations of mu, beta, tau, sigma and theta_j, by a grid of 60 x 60."""
    j = int(group.max()) + 1
    z = torch.zeros(len(y), j, dtype=F64)
    z[torch.arange(len(y)), group] = 1
    h = torch.cat([torch.ones(len(y), 1, dtype=F64), u, z], 1)  # of mu, beta, theta - mu
    tau, sigma = torch.linspace(0.02, 1.0, 60, dtype=F64), torch.linspace(0.6, 0.9, 60, dtype=F64)
    tau, sigma = (v.flatten() for v in torch.meshgrid(tau, sigma, indexing="ij"))
    prior = torch.cat([torch.full((len(tau), 2), s**-2, dtype=F64), tau[:, None].pow(-2).expand(-1, j)], 1)
    precision = h.T @ h / sigma.square()[:, None, None] + torch.diag_embed(prior)
    factor = torch.linalg.cholesky(precision)
    right = (h.T @ y) / sigma.square()[:, None]
    mean = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
    log_weight = (
        prior.log().sum(1) / 2
        - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        + (right * mean).sum(1) / 2
        - y.square().sum() / (2 * sigma.square())
        - len(y) * sigma.log()
        - (tau.square() + sigma.square()) / (2 * s**2)
    )
    weight = log_weight.softmax(0)
    theta = mean[:, 2:] + mean[:, :1]
    covariance = torch.cholesky_inverse(factor)
    of_theta = covariance.diagonal(dim1=1, dim2=2)[:, 2:] + covariance[:, :1, 0] + 2 * covariance[:, 0, 2:]
    values = torch.cat([mean[:, :2], tau[:, None], sigma[:, None], theta], 1)
    variances = torch.cat(
        [covariance.diagonal(dim1=1, dim2=2)[:, :2], torch.zeros(len(tau), 2, dtype=F64), of_theta], 1
    )
    means = weight @ values
    return means, (weight @ (variances + (values - means).square())).sqrt()


def test_posterior_of_85_counties_is_the_exact_one():
    # |z| < 5 of 89 numbers, by 400 effective draws: a correct sampler fails it with probability 5e-5.
    y, u, group = radon()
    options = {"chains": 32, "draws": 64, "predictive": False, "log_likelihood": False, "compile": "off"}
    idata = pg.posterior(Hierarchical(group, 1), y.float(), u.float(), group, progress=False, **options)
    assert min(float(found.min()) for found in az.ess(idata).values()) > 400
    means, spreads = exact_means(y, u, group)
    drawn = torch.cat(
        [torch.from_numpy(idata.posterior[n].values).double().flatten(2) for n in ("mu", "beta", "tau")]
        + [torch.from_numpy(idata.posterior["sigma"].values).double()[..., None]]
        + [torch.from_numpy(idata.posterior["theta"].values).double().flatten(2)],
        -1,
    ).flatten(0, 1)
    z = (drawn.mean(0) - means) / (spreads / 400**0.5)
    assert z.abs().max() < 5
    assert (drawn.std(0) / spreads - 1).abs().max() < 0.25
    no_pooling = torch.stack([(y + 0.7 * u[:, 0])[group == j].mean() for j in range(85)])
    assert ((no_pooling - means[4:]) / (spreads[4:] / 400**0.5)).abs().max() > 5  # has teeth


def test_the_model_is_the_same_however_centred():
    # Densities of theta given mu and tau by the change of variables, and of the outcomes.
    y, u, group = radon(6, 40)
    generator = torch.Generator().manual_seed(1)
    theta = torch.randn(6, 2, generator=generator, dtype=F64)
    mu, tau = torch.tensor([0.3, -0.2], dtype=F64), torch.tensor([0.4, 1.7], dtype=F64)
    for groups in (6, group):
        program = Hierarchical(groups, 1, slopes=[0]).double()
        share = program.centred[:, None]
        a = (theta - mu) * tau ** (share - 1) + share * mu
        with fixed({"mu": mu, "tau": tau, "a": a, "sigma": torch.tensor(0.5, dtype=F64)}):
            trace = trace_side(program, "model", y, u, group)
        trace.compute_log_prob()
        assert torch.allclose(trace.nodes["theta"]["value"], theta)
        got = trace.nodes["a"]["log_prob"].sum() + ((share - 1) * tau.log()).sum()
        assert torch.allclose(got, torch.distributions.Normal(mu, tau).log_prob(theta).sum())
        eta = theta[group, 0] + theta[group, 1] * u[:, 0]
        assert torch.allclose(trace.nodes["y"]["log_prob"], torch.distributions.Normal(eta, 0.5).log_prob(y))


def test_groups_with_more_data_are_more_centred():
    share = centredness(torch.tensor([0, 0, 2, 2, 2]))
    assert share.tolist() == pytest.approx([2 / 12, 0, 3 / 13]) and not centredness(4).any()


def test_a_new_group_is_as_wide_as_groups_are():
    draws = {"mu": torch.zeros(4000, 1), "tau": torch.full((4000, 1), 2.0), "sigma": torch.full((4000,), 0.1)}
    draws |= {"a": torch.randn(4000, 3, 1, generator=torch.Generator().manual_seed(0)), "beta": torch.zeros(4000, 1)}
    at = torch.tensor([2])
    drawn = pg.predict(Hierarchical(3, 1), None, torch.zeros(1, 1), at, posterior=draws, draws=4000)
    assert drawn.std().item() == pytest.approx(math.sqrt(4.01), rel=5 / math.sqrt(2 * 4000))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Hierarchical(0, 1), "positive number"),
        (lambda: Hierarchical(torch.tensor([0.5]), 1), "whole numbers"),
        (lambda: Hierarchical(torch.tensor([-1, 2]), 1), "whole numbers"),
        (lambda: Hierarchical(3, 2, slopes=[2]), "name some"),
        (lambda: Hierarchical(3, 2, "gauss"), "choose one of"),
        (lambda: Hierarchical(3, 2).model(torch.zeros(4), torch.zeros(4, 1), torch.zeros(4)), r"\(N, 2\)"),
    ],
)
def test_misfits_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()
