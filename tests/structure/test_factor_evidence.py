"""Evidence of numbers of factors: closed form without factors, a brute-force integral with one, and planted defects.

Thresholds of 4.5 standard errors, of four islands or more: a correct estimate exceeds one in fewer than 1 of 1,000 runs
over seeds; these are fixed.
"""

import math

import pytest
import torch

from pyro_gen.inference.likelihood.smc import smc
from pyro_gen.structure import factor_evidence as module
from pyro_gen.structure.factor_evidence import factor_density, factor_evidence, pooled

N, D = 8, 3


@pytest.fixture(scope="module")
def x():
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(N, 1, generator=rng)
    rows = (z * torch.tensor([1.0, -1.0, 0.8]) + 0.6 * torch.randn(N, D, generator=rng)).double()
    rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    rows[0, 1] = rows[3, 2] = torch.nan
    return rows


def brute_force(x, number, draws=200_000):
    """The mean likelihood of draws of the prior, row by row: log and standard error."""
    rng = torch.Generator().manual_seed(0)
    gamma = torch.distributions.Gamma
    with torch.random.fork_rng():
        torch.manual_seed(0)
        psi = 1 / gamma(1.5, 0.5).sample((draws, D)).double()
        tau2 = 1 / gamma(1.0, 1.0).sample((draws, 1, 1)).double()
    scale = psi.sqrt().unsqueeze(-1)
    w = torch.randn(draws, D, number, generator=rng).double() * scale * tau2.sqrt()
    mean = torch.randn(draws, D, generator=rng).double() * psi.sqrt()
    covariance = w @ w.mT + torch.diag_embed(psi)
    log_p = torch.zeros(draws).double()
    for row in x:
        o = ~row.isnan()
        law = torch.distributions.MultivariateNormal(mean[:, o], covariance[:, o][:, :, o], validate_args=False)
        log_p += law.log_prob(row[o])
    share = log_p.softmax(0)
    return float(log_p.logsumexp(0)) - math.log(draws), float(share.square().sum().sqrt())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_evidence_is_the_integral_over_the_prior(x, number, monkeypatch):
    monkeypatch.setattr(module, "SETTINGS", module.SETTINGS | {"islands": 8})
    exact, error = brute_force(x, number)
    found = factor_evidence(x, number, seed=0)
    assert error < 0.05 and found.mean_standard_error() < 0.2
    total = math.hypot(error, found.mean_standard_error())
    assert abs(found.mean() - exact) < 4.5 * total
    # Twin: loadings that are not scaled by tau, or a mean that is known, are other models.
    other, _ = brute_force(x[:, [0, 1, 2]] * 1.3, number)
    assert abs(found.mean() - other) > 4.5 * total


def test_none_by_chains_is_none_in_closed_form(x):
    exact = factor_evidence(x, 0, seed=0)
    found = smc(factor_density(x, 0), seed=0, particles=128, islands=8).evidence
    assert exact.kind == "exact" and abs(found.mean() - exact.mean()) < 4.5 * found.mean_standard_error() < 0.7


def test_rows_enter_by_moments_and_a_lost_scatter_would_be_caught(x, monkeypatch):
    z = factor_density(x, 2).sample_prior(5)
    repeated = torch.cat([x, x])
    one, two = (factor_density(rows, 2).log_likelihood(z) for rows in (x, repeated))
    torch.testing.assert_close(two, 2 * one)
    torch.testing.assert_close(factor_density(x[torch.randperm(N)], 2).log_likelihood(z), one)
    patterns = module._patterns

    def lost(rows):
        return patterns(rows)._replace(scatter=patterns(rows).scatter * 0)

    monkeypatch.setattr(module, "_patterns", lost)
    assert (factor_density(repeated, 2).log_likelihood(z) - 2 * one).abs().min() > 0.1


def test_runs_are_pooled_by_their_islands(x):
    one, two = (factor_evidence(x, 1, seed) for seed in (0, 1))
    both = pooled(one, two)
    islands = torch.cat([one.diagnostics["islands"], two.diagnostics["islands"]]).flatten()
    assert both.mean() == pytest.approx(float(islands.logsumexp(0)) - math.log(8))
    assert both.mean_standard_error() == pytest.approx(float(islands.std()) / 8**0.5, rel=0.3)
    assert pooled(factor_evidence(x, 0, 0), one).kind == "exact"
