"""Evidences of models whose evidence is known, by all methods."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen.density.sites
from pyro_gen.density import density
from pyro_gen.inference.likelihood import paths
from pyro_gen.inference.likelihood.ais import anneal
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.inference.likelihood.evidence import log_evidence
from pyro_gen.inference.likelihood.paths import Path
from pyro_gen.inference.likelihood.smc import smc
from pyro_gen.models.linear.factor_analysis import ProbabilisticPCA
from pyro_gen.observation import observe
from pyro_gen.program import Program, plate

# ----------------------------------------------------------------------------------------------------------------------
# Seven models with exact evidences


def gaussian(cov, x):
    return dist.MultivariateNormal(torch.zeros(len(x)).double(), cov.double()).log_prob(x.double()).item()


def log_beta(*parts):
    return sum(math.lgamma(p) for p in parts) - math.lgamma(sum(parts))


def normal():
    x = 1 + torch.randn(20)

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    return (model, x), gaussian(torch.eye(20) + 4, x)


def regression():
    inputs, w = torch.randn(40, 20), 0.5 * torch.randn(20)
    y = inputs @ w + 2 * torch.randn(40)

    def model(y, inputs):
        w = pyro.sample("w", dist.Normal(torch.zeros(20), 0.5).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(inputs @ w, 2.0), obs=y)

    return (model, y, inputs), gaussian(4 * torch.eye(40) + 0.25 * inputs @ inputs.T, y)


def beta_binomial():
    k = torch.tensor([3.0, 5.0, 2.0, 7.0])

    def model(k):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        with pyro.plate("data", len(k)):
            pyro.sample("k", dist.Binomial(10, p), obs=k)

    ways = sum(math.log(math.comb(10, int(v))) for v in k)
    return (model, k), ways + log_beta(2 + 17, 3 + 23) - log_beta(2, 3)


def gamma_poisson():
    x = torch.tensor([4.0, 2.0, 6.0, 3.0])

    def model(x):
        rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    exact = math.lgamma(18) - math.lgamma(3) - 18 * math.log(5) - sum(math.lgamma(v + 1) for v in x.tolist())
    return (model, x), exact


def dirichlet_categorical():
    x = torch.tensor([0] * 12 + [1] * 3 + [2] * 10 + [3] * 5)

    def model(x):
        p = pyro.sample("p", dist.Dirichlet(torch.full((4,), 1.5)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Categorical(p), obs=x)

    return (model, x), log_beta(13.5, 4.5, 11.5, 6.5) - log_beta(1.5, 1.5, 1.5, 1.5)


def mixture():
    x = torch.tensor([-2.1, -1.7, -2.6, 1.9, 2.4, 2.2, 0.3, -1.2])
    weights = torch.tensor([0.3, 0.7])

    def model(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x)

    terms = []
    for which in itertools.product((0, 1), repeat=8):
        which = torch.tensor(which)
        term = weights.double().log()[which].sum().item()
        for k in (0, 1):
            mine = x[which == k]
            term += gaussian(torch.eye(len(mine)) + 9, mine) if len(mine) else 0.0
        terms.append(term)
    return (model, x), torch.tensor(terms).double().logsumexp(0).item()


class Boltzmann(Path):
    """A restricted Boltzmann machine, from one without weights: log Z of visible and hidden units."""

    def __init__(self, visible=12, hidden=8):
        self.w = torch.randn(visible, hidden).double()
        self.b, self.c = torch.randn(visible).double(), torch.randn(hidden).double()
        # At beta = 0 the hidden units are fair coins and the visible ones have their biases.
        self.base = torch.nn.functional.softplus(self.b).sum() + hidden * math.log(2)

    def start(self, chains):
        return torch.bernoulli(torch.sigmoid(self.b).expand(chains, -1))

    def hidden(self, v, beta):
        return beta * (v @ self.w + self.c)

    def log_density(self, x, beta):
        return x @ self.b + torch.nn.functional.softplus(self.hidden(x, beta)).sum(-1) - self.base

    def move(self, x, beta):
        h = torch.bernoulli(torch.sigmoid(self.hidden(x, beta)))
        return torch.bernoulli(torch.sigmoid(self.b + beta * (h @ self.w.T)))


def boltzmann():
    path = Boltzmann()
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=12))).double()
    return (path,), path.log_density(states, 1.0).logsumexp(0).item()


MODELS = [normal, regression, beta_binomial, gamma_poisson, dirichlet_categorical, mixture, boltzmann]
CONSTRAINED = [beta_binomial, gamma_poisson, dirichlet_categorical]


# ----------------------------------------------------------------------------------------------------------------------
# E[Z^ / Z] = 1


def z_score(log_ratios):
    """Of E exp(log_ratios) = 1. The ratios must have a spread that their number averages."""
    ratios = log_ratios.exp()
    assert ratios.std() < 0.1 * len(ratios) ** 0.5
    return ((ratios.mean() - 1) / (ratios.std() / len(ratios) ** 0.5)).item()


def by_ais(args, exact):
    result = anneal(*args, chains=1000, temperatures=300 if len(args) == 3 else 60)
    return z_score(result.log_weights - exact)


def by_smc(args, exact):
    # Islands smaller than anyone should trust, and many of them: their logarithms are biased, their mean is not.
    result = smc(*args, particles=32, islands=100, length=4, ess=0.85)
    assert len(result.evidence.diagnostics["betas"]) > 3
    return z_score(result.evidence.diagnostics["islands"][:, 0] - exact)


@pytest.mark.parametrize("method", [by_ais, by_smc])
@pytest.mark.parametrize("make", MODELS)
def test_estimates_are_unbiased(make, method):
    args, exact = make()
    assert abs(method(args, exact)) < 4.5  # false-alarm rate 7e-6 each


# The defects that these checks are for, planted.


@pytest.mark.parametrize("method", [by_ais, by_smc])
def test_stale_density_across_temperatures_is_caught(method, monkeypatch):
    monkeypatch.setattr(paths.Hamiltonian, "at", lambda self, point, beta: point)
    args, exact = regression()
    assert abs(method(args, exact)) > 8


@pytest.mark.parametrize(("make", "method"), [(make, by_ais) for make in CONSTRAINED] + [(gamma_poisson, by_smc)])
def test_dropped_jacobian_is_caught(make, method, monkeypatch):
    right = pyro_gen.density.sites.biject_to

    def flat(support):
        transform = right(support)
        transform.log_abs_det_jacobian = lambda u, y: torch.zeros_like(u[..., 0] if transform.domain.event_dim else u)
        return transform

    args, exact = make()
    monkeypatch.setattr(pyro_gen.density.sites, "biject_to", flat)
    assert abs(method(args, exact)) > 8


@pytest.mark.parametrize("method", [by_ais, by_smc])
def test_kernel_of_another_temperature_is_caught(method, monkeypatch):
    right = Boltzmann.move
    monkeypatch.setattr(Boltzmann, "move", lambda self, x, beta: right(self, x, 0.5 * beta))
    args, exact = boltzmann()
    assert abs(method(args, exact)) > 8


# ----------------------------------------------------------------------------------------------------------------------
# More of the same runs


@pytest.mark.parametrize("make", MODELS)
def test_thermodynamic_integration(make):
    args, exact = make()
    result = anneal(*args, chains=1000, temperatures=300 if len(args) == 3 else 60).evidence
    # Correlated with the estimate by weights, and about as sharp; the rule of the second order errs by less than 0.05.
    error = result.diagnostics["thermodynamic"].item() - exact
    assert abs(error) < 5 * result.standard_error.item() + 0.05  # false-alarm rate 6e-7


def test_rate_distortion_curve():
    (model, x), _ = gamma_poisson()
    for run in (anneal(model, x, chains=1000, temperatures=60), smc(model, x, ess=0.9)):
        found = run.evidence.diagnostics
        curve = [found[name].tolist() for name in ("betas", "rate", "distortion")]
        for beta, rate, distortion in zip(*curve, strict=True):
            # The likelihood to the power beta of 4 numbers with the sum 15 gives Gamma(3 + 15 beta, 1 + 4 beta).
            posterior, prior = dist.Gamma(3.0 + 15 * beta, 1.0 + 4 * beta), dist.Gamma(3.0, 1.0)
            # Their standard errors are 0.15 and less.
            assert abs(rate - torch.distributions.kl_divergence(posterior, prior)) < 0.6
            mean_log = torch.digamma(posterior.concentration) - posterior.rate.log()
            assert abs(distortion + 15 * mean_log - 4 * posterior.mean - torch.lgamma(x + 1).sum()) < 0.6


def test_the_schedule_does_not_matter():
    args, exact = regression()
    results = [
        anneal(*args, chains=1000, temperatures=t, schedule=s).evidence
        for t, s in ((150, "equalised"), (300, "equalised"), (600, "sigmoid"))
    ]
    for result in results:
        assert abs(result.mean() - exact) < 5 * result.mean_standard_error()  # false-alarm rate 6e-7
    errors = [float(exact - result.lower) for result in results]  # the bias of one chain falls like 1 / T
    assert 1.5 < errors[0] / errors[1] < 3


def test_bounds_in_the_mean():
    args, exact = normal()
    target = density(*args)
    lower = [float(anneal(target, chains=32, temperatures=10, seed=s).evidence.value) for s in range(24)]
    loose = [float(smc(target, particles=32, islands=2, length=4, seed=s).evidence.value) for s in range(24)]
    for values in map(torch.tensor, (lower, loose)):
        assert values.mean() - exact < 4 * values.std() / 24**0.5  # false-alarm rate 3e-4 of t, were they exact
        assert abs(values.mean() - exact) < 0.5


# ----------------------------------------------------------------------------------------------------------------------
# One function


class Means(Program):
    """N(mu, 1) in two dimensions, mu ~ N(0, 4 I): the entries of a column have the covariance 1 + 4 on the diagonal."""

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with self.plate(x):
            return observe("x", dist.Normal(mu, 1.0).to_event(1), x)

    def guide(self, x):
        seen = ~x.isnan()
        precision = 0.25 + seen.sum(0)
        mean = x.nan_to_num(0.0).sum(0) / precision
        pyro.sample("mu", dist.Normal(mean, 1.2 * precision.rsqrt()).to_event(1))


def exact_means(x):
    columns = [c[~c.isnan()] for c in x.T]
    return sum(gaussian(torch.eye(len(c)) + 4, c) for c in columns)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("smc", {}),
        ("smc", {"start": "guide", "frozen": False}),
        ("ais", {}),
        ("ais", {"start": "guide", "chains": 100}),
        ("ais", {"start": dist.Normal(torch.ones(2), 0.5).to_event(1)}),
        ("bdmc", {"temperatures": 40, "sets": 3}),
        ("bridge", {}),
        ("importance", {}),
    ],
)
def test_methods_agree_with_the_exact_evidence(method, options, untouched_rng):
    with torch.random.fork_rng():
        x = 1 + torch.randn(12, 2)
    x[::3, 0] = torch.nan
    seen = []
    result = log_evidence(
        Means(), x, method=method, progress=None if method == "importance" else seen.append, **options
    )
    assert result.method == method and result.unit == "nats" and result.value.shape == (1,)
    assert result.event_dims == 20
    assert 0 < result.mean_standard_error() < 0.05
    assert abs(result.mean() - exact_means(x)) < 5 * result.mean_standard_error() + 1e-4  # false-alarm rate 6e-7
    assert method == "importance" or (seen == sorted(seen) and seen[-1] == pytest.approx(1.0))
    assert str(result).startswith("log-evidence -")
    if method == "bdmc":
        assert result.diagnostics["gap"].shape == (3,)
    if method in ("ais", "importance") and options.get("start", method) in ("guide", "importance"):
        assert result.diagnostics["start_khat" if method == "ais" else "khat"].item() < 0.5


def test_local_latent_variables_are_summed_over_the_data():
    program = ProbabilisticPCA(6, 2)
    x = torch.randn(30, 6)
    exact = log_evidence(program, x, method="exact")
    each = log_likelihood(program, x)
    assert exact.value.item() == pytest.approx(each.value.sum().item()) and exact.event_dims == 180
    for method in ("smc", "ais", "importance", "bdmc"):
        result = log_evidence(program, x, method=method)
        assert result.unit == "nats" and len(result.value) == 1
        # The ratios of the data are as good as normal, and so is their sum; the bias of a bound is below its error.
        assert abs(result.mean() - exact.mean()) < 5 * result.mean_standard_error() + 0.02
    joint = log_evidence(program, x[:4], method="bridge")
    assert abs(joint.mean() - float(each.value[:4].sum())) < 5 * joint.mean_standard_error()


def test_global_and_local_latent_variables_together():
    x = torch.tensor([1.0, -0.5, 2.0, 0.3])

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with plate(x):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    exact = gaussian(2 * torch.eye(4) + 1, x)
    for method in ("smc", "ais", "bridge"):
        result = log_evidence(Program.from_functions(model), x, method=method)
        assert abs(result.mean() - exact) < 5 * result.mean_standard_error()  # false-alarm rate 6e-7


class Flat(Program):
    def model(self, x):
        mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        with self.plate(x):
            return observe("x", dist.Normal(mu, 1.0), x)


class Weighted(Means):
    def model(self, x):
        pyro.factor("penalty", torch.tensor(-1.0))
        return super().model(x)


class Nothing(Program):
    def model(self, x):
        with self.plate(x):
            return observe("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), x)


def model_function(x):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("program", "method", "words"),
    [
        (Means(), "nested", "choose one of"),
        (Means(), "exact", "global latent"),
        (Flat(), "bridge", "improper"),
        (Weighted(), "smc", "normalising constant"),
        (Nothing(), "smc", 'method="exact"'),
        (model_function, "bdmc", "plain function"),
        (model_function, "importance", "plain function"),
    ],
)
def test_refusals(program, method, words):
    x = torch.randn(5) if isinstance(program, Flat) else torch.randn(5, 2)
    with pytest.raises(ValueError, match=words):
        log_evidence(program, x, method=method)


def test_point_guides_propose_nothing():
    program = Program.from_functions(model_function, pyro.infer.autoguide.AutoDelta)
    x = torch.randn(5, 2)
    program.initialise(x)
    with pytest.raises(ValueError, match="is a point"):
        log_evidence(program, x, method="importance")
    with pytest.raises(ValueError, match="is a point"):
        log_evidence(program, x, method="ais", start="guide")
