import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import biject_to

from pyro_gen._random import seeded
from pyro_gen.density import Density, density
from pyro_gen.inference.likelihood import bridge as module
from pyro_gen.inference.likelihood.bridge import bridge, bridge_evidence
from pyro_gen.observation import observe
from pyro_gen.program import Program


class GammaPoisson(Program):
    """Counts of five groups, each with a rate of its own."""

    def model(self, x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5).expand([5]).to_event(1))
        with self.plate(x):
            return observe("x", dist.Poisson(rate).to_event(1), x)


class Regression(Program):
    def model(self, x, design):
        weights = pyro.sample("weights", dist.Normal(torch.zeros(4), 2.0).to_event(1))
        with self.plate(x):
            return observe("x", dist.Normal(design @ weights, 0.5), x)


class BetaBinomial(Program):
    def model(self, x):
        share = pyro.sample("share", dist.Beta(0.8, 1.5))
        with self.plate(x):
            return observe("x", dist.Binomial(8, share), x)


COUNTS = torch.tensor([[0.0, 3.0, 1.0, 7.0, 2.0], [1.0, 2.0, 0.0, 9.0, 4.0]])
DESIGN = torch.tensor([[1.0, u, u * u, math.sin(3 * u)] for u in torch.linspace(-1, 1, 15).tolist()])
RESPONSE = DESIGN @ torch.tensor([1.0, -2.0, 0.5, 1.0]) + 0.5 * torch.linspace(-1.5, 1.5, 15).roll(7)
HITS = torch.tensor([0.0, 1.0, 0.0])


def gamma_poisson_evidence():
    n, total = len(COUNTS), COUNTS.double().sum(0)
    terms = torch.lgamma(2 + total) - math.lgamma(2) + 2 * math.log(0.5) - (2 + total) * math.log(0.5 + n)
    return float(terms.sum() - torch.lgamma(COUNTS.double() + 1).sum())


def regression_evidence():
    covariance = 4 * DESIGN.double() @ DESIGN.double().T + 0.25 * torch.eye(15, dtype=torch.float64)
    return float(dist.MultivariateNormal(torch.zeros(15, dtype=torch.float64), covariance).log_prob(RESPONSE.double()))


def beta_binomial_evidence():
    total, n = float(HITS.sum()), 8.0 * len(HITS)
    chosen = sum(math.log(math.comb(8, int(h))) for h in HITS)

    def log_beta(a, b):
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    return chosen + log_beta(0.8 + total, 1.5 + n - total) - log_beta(0.8, 1.5)


CASES = {
    "gamma-poisson": (GammaPoisson(), (COUNTS,), gamma_poisson_evidence()),
    "regression": (Regression(), (RESPONSE, DESIGN), regression_evidence()),
    "beta-binomial": (BetaBinomial(), (HITS,), beta_binomial_evidence()),
}


@pytest.mark.parametrize("proposal", ["normal", "warp3"])
@pytest.mark.parametrize("name", CASES)
def test_exact_evidence(name, proposal):
    program, data, exact = CASES[name]
    target = density(program, *data, per_datum=False)
    result = bridge_evidence(target, chains=32, warmup=300, draws=200, proposal=proposal)
    assert result.kind == "estimate" and result.value.shape == (1,) and result.unit == "nats"
    z = (result.value - exact) / result.standard_error
    # Of a t distribution of hundreds of degrees of freedom: beyond 4.5 with probability 1e-5. And it is sharp.
    assert abs(float(z)) < 4.5 and 0 < float(result.standard_error) < 0.02
    assert result.diagnostics["khat"] < 0.7 and result.diagnostics["overlap"] > 500
    assert float(result.diagnostics["ess"]) > 1000


def chains_of(quantile, draws, chains, dim, correlation):
    """Stationary chains of independent coordinates with given quantile function: Gaussian autoregressions, mapped."""
    u = torch.randn(chains, dim, dtype=torch.float64)
    out = []
    for _ in range(draws):
        u = correlation * u + math.sqrt(1 - correlation**2) * torch.randn_like(u)
        out.append(u)
    return quantile(torch.stack(out))


def gamma_poisson_chains(draws=60, chains=8, correlation=0.8):
    """Draws of the logarithms of the rates, whose posterior is gamma, autocorrelated."""

    def quantile(u):
        level = torch.special.ndtr(u).numpy()
        return torch.from_numpy(stats.gamma.ppf(level, (2 + COUNTS.sum(0)).numpy(), scale=1 / 2.5)).log()

    return chains_of(quantile, draws, chains, 5, correlation)


def test_same_seed_for_chains_and_proposal():
    """The proposal does not draw the numbers again that made the chains: they would be found too typical of it."""
    nearly = torch.distributions.StudentT(torch.tensor(30.0, dtype=torch.float64))
    target = Density.from_functions(lambda z: nearly.log_prob(z).sum(-1), 10, dtype=torch.float64)
    z = []
    for seed in range(40):
        with seeded(seed):
            draws = nearly.sample((100, 4, 10))
        result = bridge(target, draws, seed=seed)
        z.append(float(result.value / result.standard_error))
    assert abs(sum(z)) / 40**0.5 < 3.9  # 1e-4


def z_scores(seeds, target, exact, **options):
    out = []
    for seed in range(seeds):
        with seeded(1000 + seed):
            z = gamma_poisson_chains(**options)
        result = bridge(target, z, seed=seed)
        out.append(float((result.value - exact) / result.standard_error))
    return torch.tensor(out)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_standard_error_is_calibrated(correlation):
    """Over 60 seeds: the mean square of the z-scores is chi-square / 60, within 0.41 to 1.93 but for 1e-4."""
    program, data, exact = CASES["gamma-poisson"]
    z = z_scores(60, density(program, *data, per_datum=False), exact, correlation=correlation)
    low, high = (stats.chi2.ppf(p, 60) / 60 for p in (5e-5, 1 - 5e-5))
    assert low < z.square().mean() < high
    assert abs(z.mean()) < 3.9 / 60**0.5  # 1e-4


def test_without_autocorrelation_the_error_is_too_small(monkeypatch):
    """The twin of the test above: autocorrelated draws counted as independent ones."""
    program, data, exact = CASES["gamma-poisson"]
    monkeypatch.setattr(module, "effective_draws", lambda x: float(x.numel()))
    z = z_scores(60, density(program, *data, per_datum=False), exact, correlation=0.8)
    assert z.square().mean() > stats.chi2.ppf(1 - 5e-5, 60) / 60


def test_dropped_jacobian(monkeypatch):
    """The twin of test_exact_evidence: a transform without its log|det J| has another integral."""
    program, data, exact = CASES["gamma-poisson"]
    transform = type(biject_to(dist.constraints.positive))
    monkeypatch.setattr(transform, "log_abs_det_jacobian", lambda self, x, y: torch.zeros_like(x))
    result = bridge_evidence(density(program, *data, per_datum=False), chains=32, warmup=300, draws=200)
    assert abs(float((result.value - exact) / result.standard_error)) > 20


def test_khat_flags_a_bad_proposal():
    """Cauchy tails in five dimensions: draws of the posterior where the Gaussian has no mass carry the denominator."""

    def cauchy(z):
        return -torch.log1p(z.double().square()).sum(-1)

    heavy = Density.from_functions(cauchy, 5, dtype=torch.float64)
    with seeded(0):
        z = torch.distributions.StudentT(torch.tensor(1.0, dtype=torch.float64)).sample((500, 4, 5))
    flagged = bridge(heavy, z)
    assert flagged.diagnostics["khat"] > 0.7 and flagged.diagnostics["overlap"] < 100
    # The twin: nothing to flag where the proposal fits.
    gaussian = Density.from_functions(lambda z: -0.5 * z.square().sum(-1), 5, dtype=torch.float64)
    with seeded(0):
        z = torch.randn(500, 4, 5, dtype=torch.float64)
    good = bridge(gaussian, z)
    assert good.diagnostics["khat"] < 0.5
    assert abs(float((good.value - 2.5 * math.log(2 * math.pi)) / good.standard_error)) < 4.5


def test_chains_that_disagree():
    """Every other chain in another mode: the proposal is fitted to one of them, and the result says so."""

    def log_density(z):
        return torch.logaddexp(*(-0.5 * (z - m).square().sum(-1) + w for m, w in ((-6.0, 0.0), (6.0, 3.0))))

    modes = Density.from_functions(log_density, 2, dtype=torch.float64)
    with seeded(0):
        z = torch.randn(500, 4, 2, dtype=torch.float64) + torch.tensor([-6.0, 6.0, -6.0, 6.0])[:, None]
    result = bridge(modes, z)
    assert result.diagnostics["khat"] > 0.7 and result.diagnostics["overlap"] < 1


def test_tails_that_do_not_matter():
    """A bounded term of which few draws are large looks like a heavy tail to the Pareto shape alone."""
    program, data, _ = CASES["beta-binomial"]
    with seeded(0):
        z = torch.special.logit(dist.Beta(1.8, 24.5).sample((100, 32)).double()).unsqueeze(-1)
    result = bridge(density(program, *data, per_datum=False), z)
    assert result.diagnostics["khats"].max() > 0.7 and result.diagnostics["khat"] < 0.7
    assert result.diagnostics["overlap"] > 300


def test_warp_takes_out_skewness():
    """The posterior of a log-rate from one small count: skewed to the left."""
    skewed = density(BetaBinomial(), HITS, per_datum=False)
    exact = CASES["beta-binomial"][2]
    with seeded(0):
        share = dist.Beta(0.8 + 1, 1.5 + 23).sample((2000, 4))
        z = torch.special.logit(share.double()).unsqueeze(-1)
    normal, warped = bridge(skewed, z), bridge(skewed, z, proposal="warp3")
    assert warped.standard_error < 0.7 * normal.standard_error
    for result in (normal, warped):
        assert abs(float((result.value - exact) / result.standard_error)) < 4.5
    assert warped.method == "bridge-warp3"


def test_one_chain_and_small_support():
    """One chain is cut in two; a posterior that fills a corner of the proposal's space has an evidence far below."""
    half = Density.from_functions(lambda z: torch.where(z > 0, -z - 50.0, -math.inf).sum(-1), 2, dtype=torch.float64)
    with seeded(0):
        z = torch.distributions.Exponential(torch.tensor(1.0, dtype=torch.float64)).sample((4000, 1, 2))
    result = bridge(half, z)
    assert abs(float((result.value + 100.0) / result.standard_error)) < 4.5
    assert float(result.standard_error) < 0.1


def test_same_seed_same_result(untouched_rng):
    target = density(BetaBinomial(), HITS, per_datum=False)
    options = {"chains": 8, "warmup": 50, "draws": 40}
    first, again, other = (bridge_evidence(target, seed=s, **options).value for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_errors():
    target = density(GammaPoisson(), COUNTS, per_datum=False)
    z = gamma_poisson_chains()
    with pytest.raises(ValueError, match="choose"):
        bridge(target, z, proposal="student")
    with pytest.raises(ValueError, match="unconstrained"):
        bridge(target, z[..., :2])
    with pytest.raises(ValueError, match="too few"):
        bridge(target, z[:1])
    with pytest.raises(ValueError, match="singular"):
        bridge(target, z[..., :1].expand(-1, -1, 5))
    with pytest.raises(ValueError, match="off the support"):
        bridge(Density.from_functions(lambda z: z.sum(-1).log(), 5), z - 100)
    many = Density.from_functions(lambda z: -z.square().sum(-1), 5, batch_shape=(3,))
    with pytest.raises(ValueError, match="batch shape"):
        bridge(many, z)
