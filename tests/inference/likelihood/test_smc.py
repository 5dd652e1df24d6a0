import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.density import Density, density
from pyro_gen.inference.likelihood import paths
from pyro_gen.inference.likelihood import smc as module
from pyro_gen.inference.likelihood.ais import anneal
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.inference.likelihood.kernels import engine_of
from pyro_gen.inference.likelihood.particles import resample
from pyro_gen.inference.likelihood.paths import Path
from pyro_gen.inference.likelihood.smc import smc, smc_draws
from pyro_gen.inference.mcmc import hmc
from pyro_gen.models.linear.factor_analysis import ProbabilisticPCA


def regression(y, inputs):
    w = pyro.sample("w", dist.Normal(torch.zeros(inputs.shape[-1]), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(inputs @ w, 0.5), obs=y)


def exact_posterior(y, inputs):
    """Mean and covariance of w, and the log-evidence."""
    y, inputs = y.double(), inputs.double()
    covariance = torch.linalg.inv(torch.eye(inputs.shape[1]).double() + 4 * inputs.T @ inputs)
    evidence = dist.MultivariateNormal(torch.zeros(len(y)).double(), 0.25 * torch.eye(len(y)) + inputs @ inputs.T)
    return covariance @ (4 * inputs.T @ y), covariance, evidence.log_prob(y).item()


@pytest.fixture
def data():
    inputs = torch.randn(30, 3) @ torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 1.0]])  # correlated
    return inputs @ torch.tensor([1.0, -1.0, 0.5]) + 0.5 * torch.randn(30), inputs


@pytest.mark.parametrize("frozen", [True, False])
def test_posterior_and_evidence(data, frozen, untouched_rng):
    mean, covariance, exact = exact_posterior(*data)
    result = smc(regression, *data, frozen=frozen)
    evidence = result.evidence
    assert evidence.kind == ("stochastic lower bound" if frozen else "estimate") and evidence.unit == "nats"
    # 8 islands: the error has 7 degrees of freedom. False-alarm rate 1e-4.
    assert abs(evidence.mean() - exact) < 7.5 * evidence.mean_standard_error() + 0.01
    assert evidence.mean_standard_error() < 0.2
    draws = result.posterior(4000)["w"].double()
    # Some 200 independent ancestors at the least: standard errors of a mean and a variance are at most 7 and 10 %.
    assert ((draws.mean(0) - mean) / covariance.diagonal().sqrt()).abs().max() < 0.3
    assert (draws.T.cov() / covariance - 1).diagonal().abs().max() < 0.4
    weighted = (result.log_weights.softmax(0).unsqueeze(-1) * result.z.double()).sum(0)
    assert ((weighted - mean) / covariance.diagonal().sqrt()).abs().max() < 0.3
    found = evidence.diagnostics
    assert 0.6 < found["acceptance"].mean() < 0.95 and found["ess"].min() > 0.3
    assert found["betas"][-1] == 1 and bool((found["betas"].diff() > 0).all())
    torch.testing.assert_close(evidence.value, found["islands"].logsumexp(0) - math.log(8))
    assert torch.equal(result.z, smc(regression, *data, frozen=frozen).z)
    assert not torch.equal(result.z, smc(regression, *data, frozen=frozen, seed=1).z)


def test_many_targets_at_once():
    sets, size = 20, 15
    inputs = torch.randn(sets, size, 2)
    y = (inputs @ torch.randn(sets, 2, 1)).squeeze(-1) + 0.5 * torch.randn(sets, size)
    target = density(regression, y, inputs, stacked=True)
    result = smc(target, particles=256, islands=8, length=8)
    assert result.z.shape == (2048, sets, 2) and result.evidence.unit == "nats per data set"
    exact = [exact_posterior(*pair) for pair in zip(y, inputs, strict=True)]
    error = result.evidence.value - torch.tensor([e for _, _, e in exact]).double()
    assert abs(error.mean()) < 5 * result.evidence.mean_standard_error()  # false-alarm rate 1e-6
    assert error.abs().max() < 0.5
    z = torch.stack([(result.draws(1000).mean(0)[s] - m) / c.diagonal().sqrt() for s, (m, c, _) in enumerate(exact)])
    assert z.abs().max() < 0.4 and z.square().mean() < 0.01
    # The twin: targets that have got the data of their neighbours.
    wrong = result.evidence.value.roll(1) - torch.tensor([e for _, _, e in exact]).double()
    assert abs(wrong).max() > 2


@pytest.fixture
def program():
    program = ProbabilisticPCA(10, 3)
    with torch.no_grad():
        program.loadings.normal_()
        program.log_scale.fill_(-0.5)
    return program


def test_of_each_datum(program, monkeypatch):
    x = torch.randn(40, 3) @ program.loadings.detach().T + 0.6 * torch.randn(40, 10)
    x[::2, :5] = torch.nan
    exact = log_likelihood(program, x, method="exact")
    seen = []
    result = log_likelihood(program, x, method="smc", progress=seen.append)
    assert result.unit == "nats per datum" and result.method == "smc" and result.event_dims == 7.5
    # Islands of 128 are biased: by half of the variance of their logarithm over the number of islands, below 0.03.
    assert abs(result.mean() - exact.mean()) < 5 * result.mean_standard_error() + 0.03
    assert (result.value - exact.value).std() < 0.4
    # In chunks of 8 rows.
    monkeypatch.setattr(module, "rows_per_chunk", lambda entries, device: 8 * 4 * 128)
    chunked = log_likelihood(program, x, method="smc", progress=seen.append, start="guide")
    assert abs(chunked.mean() - exact.mean()) < 5 * chunked.mean_standard_error() + 0.03
    assert seen[-1] == 1.0 and chunked.diagnostics["islands"].shape == (4, 40)


def test_more_particles_are_sharper(data):
    few, many = (smc(regression, *data, particles=n).evidence.mean_standard_error() for n in (64, 1024))
    assert many < 0.6 * few


def test_points_off_the_support():
    # Half of the prior's draws have no likelihood; the posterior is the other half. Z = P(z > 0) = 1/2.
    half = Density.from_functions(
        lambda z: torch.where(z[..., 0] > 0, 0.0, -math.inf),
        1,
        log_prior=lambda z: dist.Normal(0.0, 1.0).log_prob(z).sum(-1),
        sample_prior=lambda n: torch.randn(n, 1),
    )
    result = smc(half)
    assert abs(result.evidence.mean() - math.log(0.5)) < 7.5 * result.evidence.mean_standard_error()
    assert bool((result.draws(1000) > 0).all())

    nowhere = Density.from_functions(
        lambda z: torch.full_like(z[..., 0], -math.inf),
        1,
        log_prior=lambda z: dist.Normal(0.0, 1.0).log_prob(z).sum(-1),
        sample_prior=lambda n: torch.randn(n, 1),
    )
    with pytest.raises(ValueError, match="finite likelihood"):
        smc(nowhere)


def test_few_points_on_the_support_are_not_taken_to_the_end_in_one_step(monkeypatch):
    """One or two particles of an island have a large share of those on the support, however sharp the likelihood is."""

    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("truncated", torch.where(z > 2.2, 0.0, -torch.inf))  # 1.8 of 128
        pyro.sample("y", dist.Normal(z, 0.02), obs=y)

    z = torch.linspace(2.2, 2.8, 2001, dtype=torch.float64)
    density = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 0.02).log_prob(torch.tensor(2.5))
    exact = density.logsumexp(0) + math.log(z[1] - z[0])

    def run():
        found = smc(model, torch.tensor(2.5), particles=128, islands=8, seed=5).evidence
        return found.value - exact, float(found.standard_error), len(found.diagnostics["betas"])

    error, standard_error, temperatures = run()
    assert temperatures >= 4 and standard_error < 0.7 and abs(error) < 3 * standard_error
    monkeypatch.setattr(module, "FEWEST", 0.5)
    assert run()[2] == 2


def test_points_where_the_likelihood_is_nearly_nothing():
    """Most of the prior's draws, but no more than they are: Z = P(z > 1) = .16. False-alarm rate 1e-4, of t with 7."""

    def wall(at: float) -> Density:
        return Density.from_functions(
            lambda z: -1e14 * (at - z[..., 0]).clamp(min=0.0),
            1,
            log_prior=lambda z: dist.Normal(0.0, 1.0).log_prob(z).sum(-1),
            sample_prior=lambda n: torch.randn(n, 1),
        )

    result = smc(wall(1.0))
    exact = math.log(0.5 * math.erfc(1 / math.sqrt(2)))
    assert abs(result.evidence.mean() - exact) < 8 * result.evidence.mean_standard_error() < 1.0
    assert bool((result.draws(1000) > 1 - 1e-6).all())
    with pytest.raises(ValueError, match="finite likelihood"):
        smc(wall(4.0))  # of the 1024 draws of the first run none is there


def test_a_distribution_as_start():
    target = Density.from_functions(lambda z: -0.5 * (z - 3).square().sum(-1), 2)
    with pytest.raises(ValueError, match="sample_prior"):
        smc(target)
    base = dist.Normal(torch.zeros(2), 3.0).to_event(1)
    result = smc(target, start=base)
    assert abs(result.evidence.mean() - math.log(2 * math.pi)) < 7.5 * result.evidence.mean_standard_error()
    assert "rate" not in result.evidence.diagnostics  # the base is no prior
    with pytest.raises(ValueError, match=r"\(2,\)"):
        smc(target, start=dist.Normal(torch.zeros(3), 3.0).to_event(1))
    with pytest.raises(ValueError, match="no guide"):
        smc(target, start="guide")


class Spins(Path):
    """N chains of two coupled spins, with couplings (N,): batches of states that are not numbers in the plane."""

    def __init__(self, couplings):
        self.couplings = couplings.double()
        self.batch_shape = self.couplings.shape

    def start(self, chains):
        return 2 * torch.randint(2, (chains, *self.batch_shape, 2)).double() - 1

    def log_density(self, x, beta):
        return beta * self.couplings * x.prod(-1) - math.log(4)

    def move(self, x, beta):
        for i in (0, 1):
            up = torch.sigmoid(2 * beta * self.couplings * x[..., 1 - i])
            x = x.clone()
            x[..., i] = 2 * torch.bernoulli(up) - 1
        return x


def test_kernels_of_the_users_own_on_a_batch():
    couplings = torch.tensor([0.5, -1.0, 2.0])
    exact = couplings.double().cosh().log()
    for run in (smc(Spins(couplings), particles=256, length=8), module.smc(Spins(couplings), frozen=False)):
        assert run.evidence.value.shape == (3,) and run.z.shape[1:] == (3, 2)
        assert (run.evidence.value - exact).abs().max() < 0.2
        correlation = run.draws(2000).prod(-1).mean(0)
        assert (correlation - couplings.tanh()).abs().max() < 0.15
    with pytest.raises(ValueError, match="no sites"):
        run.posterior(3)
    with pytest.raises(ValueError, match="takes no leapfrog"):
        smc(Spins(couplings), leapfrog=2)
    with pytest.raises(ValueError, match="holds its data"):
        smc(Spins(couplings), couplings)


class Even(Path):
    """Of the numbers 0 to 9 those that are even: log Z = -log 2. What is odd has no density from the first step on."""

    def start(self, chains):
        return torch.randint(10, (chains,))

    def log_density(self, x, beta):
        odd = (x % 2 == 1) & (beta > 0)
        return torch.where(odd, -math.inf, -math.log(10)).double()

    def move(self, x, beta):
        return torch.where(torch.rand(x.shape) < 0.5, (x + 2) % 10, x)


def test_states_of_a_path_off_the_support():
    """They keep weight 0: the difference of two infinities would be NaN. 1000 chains: 4 standard errors are 0.13."""
    for run in (smc(Even(), particles=1024, length=8), anneal(Even(), chains=1000, temperatures=20)):
        assert abs(run.evidence.mean() + math.log(2)) < 0.13
        assert bool((run.draws(500) % 2 == 0).all())


class Nowhere(Even):
    def log_density(self, x, beta):
        return torch.full(x.shape, -math.inf if beta else -math.log(10)).double()


def test_without_any_state_on_the_support_there_are_no_draws():
    run = anneal(Nowhere(), chains=50, temperatures=5)
    assert run.evidence.mean() == -math.inf and run.evidence.diagnostics["khat"].item() == math.inf
    with pytest.raises(ValueError, match="1 of 1 targets no particle"):
        run.draws(10)


def test_a_base_is_left_for_infinity():
    """Steps that overflow are rejected, and torch's validation of values does not end the run."""
    base = dist.Normal(torch.zeros(2), 1.0, validate_args=True).to_event(1)
    engine = engine_of(Density.from_functions(lambda z: -(z**4).sum(-1), 2), base, 4)
    with seeded(0), torch.no_grad():
        point = engine.start(50)
        moved, probability = engine.move(point, 1.0, torch.tensor([1e3]), hmc.Metric.diagonal(torch.ones(1, 2)))
        lost = engine.terms(torch.full((1, 1, 2), math.nan))
    assert bool((probability == 0).all()) and torch.equal(moved.z, point.z)
    assert bool(lost[0].isnan().all())


def test_draws_that_are_moved_on_are_independent():
    """The mean of S draws has a variance of 1 / S where they are, more where several descend from one chain."""

    def model(x):  # the posterior is normal with variance 1 / 101
        with pg.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(z, 0.1).to_event(1), x)

    target = density(pg.Program.from_functions(model), torch.zeros(2000, 2), per_datum=True)

    def inflation(moves):
        z, _ = smc_draws(target, 32, moves, particles=32, islands=2, start="prior", frozen=False)
        return float(z.double().mean(0).square().mean() * 32 * 101)

    # 4000 means: the ratio has a standard error of 0.022. False-alarm rate 1e-5.
    assert abs(inflation(30) - 1) < 0.1
    assert inflation(0) > 1.1  # the twin: draws where the particles are


def test_draws_are_resampled_by_random_numbers_of_their_own(monkeypatch):
    """With the seed of the particles, where the resampling starts would depend on where they are."""
    target = Density.from_functions(lambda z: -z.square().sum(-1), 1)
    run = anneal(target, start=dist.Normal(torch.zeros(1), 1.0).to_event(1), chains=16, temperatures=2)
    seeds = []
    monkeypatch.setattr(paths, "resample", lambda w, n: seeds.append(torch.initial_seed()) or resample(w, n))
    run.draws(4, seed=5)
    assert seeds and seeds[0] != 5


@pytest.mark.parametrize("start", [dist.HalfNormal(1.0), dist.Uniform(-2.0, 2.0), dist.Exponential(1.0)])
def test_a_start_without_density_somewhere_is_refused(start):
    """Its weights would miss what lies there: half of the integral of this normal density."""
    target = Density.from_functions(lambda z: -0.5 * z.square().sum(-1), 1)
    with pytest.raises(ValueError, match=f"{type(start).__name__}.* has no density on part"):
        anneal(target, start=start.expand([1]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chains": 3}, "no option 'chains'"),
        ({"islands": 0}, "positive"),
        ({"particles": 100}, "multiple"),
        ({"length": 1}, "length of 2"),
        ({"ess": 1.5}, "between 0 and 1"),
        ({"start": "posterior"}, '"prior" or "guide"'),
        ({"start": "guide"}, "plain model function"),
    ],
)
def test_refusals(data, options, words):
    with pytest.raises(ValueError, match=words):
        smc(regression, *data, **options)


class Scale(Path):
    """A normal of standard deviation 1 that shrinks to 1e-3, drawn exactly at each temperature; densities are noted."""

    def __init__(self):
        self.asked = []

    def start(self, chains):
        return torch.randn(chains).double()

    def log_density(self, x, beta):
        self.asked.append((x.data_ptr(), beta))
        return -0.5 * x.square() * (1 + beta * 1e6)

    def move(self, x, beta):
        return torch.randn_like(x) / math.sqrt(1 + beta * 1e6)


def test_the_next_temperature_leaves_the_share_that_is_wanted_and_takes_few_densities():
    path = Scale()
    found = smc(path, particles=512, islands=4, length=16, ess=0.6, frozen=False)
    stages = len(found.evidence.diagnostics["betas"]) - 1
    share = found.evidence.diagnostics["ess"][:-1]
    assert (share >= 0.6).all() and (share < 0.6 + 0.4 * 0.03 + 1e-6).all()
    assert stages > 5 and len(path.asked) < 9 * stages  # 30 halvings take 65 each
    assert abs(found.evidence.value + 0.5 * math.log(1 + 1e6)) < 0.2
    # Of the same states no density is asked for twice.
    for _, run in itertools.groupby(path.asked, key=lambda one: one[0]):
        betas = [beta for _, beta in run]
        assert len(set(betas)) == len(betas)
