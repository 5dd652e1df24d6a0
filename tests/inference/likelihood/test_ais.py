import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen.density
import pyro_gen.density.sites
from pyro_gen.inference import proposals
from pyro_gen.inference.likelihood import annealing, paths, weights
from pyro_gen.inference.likelihood import bdmc as module
from pyro_gen.inference.likelihood.ais import ais, anneal
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.inference.likelihood.bdmc import ais_with_gap, bdmc
from pyro_gen.inference.likelihood.particles import resample
from pyro_gen.models.linear.factor_analysis import ProbabilisticPCA
from pyro_gen.observation import observe
from pyro_gen.program import Program, plate


class MeanField(ProbabilisticPCA):
    """PPCA with a guide that ignores the correlations of its posterior."""

    def guide(self, x):
        with self.plate(x):
            posterior = self._posterior(x)
            pyro.sample("z", dist.Normal(posterior.loc, posterior.variance.sqrt()).to_event(1))


@pytest.fixture
def program():
    program = MeanField(20, 4)
    with torch.no_grad():
        program.loadings.normal_()
        program.log_scale.fill_(-0.5)
    return program


@pytest.fixture
def data(program):
    z = torch.randn(100, 4)
    x = z @ program.loadings.detach().T + 0.6 * torch.randn(100, 20)
    x[::2, :10] = torch.nan
    return x


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_against_exact(program, data, start):
    exact = log_likelihood(program, data, method="exact")
    result = ais(program, data, start=start, **({} if start == "guide" else {"chains": 64, "temperatures": 200}))
    assert result.kind == "stochastic lower bound" and result.value.dtype == torch.float64
    assert abs(result.mean() - exact.mean()) < 0.02
    assert result.lower.mean() < result.mean()  # one chain's bound is looser
    z = (result.mean() - exact.mean()) / result.mean_standard_error()
    assert abs(z) < 4.5  # false-alarm rate 7e-6; the bias of 16 chains is below one standard error here
    assert 0.6 < result.diagnostics["acceptance"].mean() < 0.9
    assert result.diagnostics["ess"].mean() > 10 and bool((result.diagnostics["betas"].diff() > 0).all())


def unbiasedness(program, data, **options):
    """The z-score of E[w / Z] = 1 over chains and data, and the mean error of log w."""
    exact = log_likelihood(program, data, method="exact").value
    settings = annealing.Options.of(None, **options)
    with torch.no_grad(), module.seeded(0):
        source = annealing.Rows(program, data, (), settings)
        log_w = torch.cat([run.log_weights for run in annealing.Runs(source, settings, None)], 1)
    ratio = (log_w - exact).exp().flatten()
    return ((ratio.mean() - 1) / (ratio.std() / math.sqrt(len(ratio)))).item()


OPTIONS = {"chains": 64, "temperatures": 8}


@pytest.fixture
def sharp(program):
    """A program of high densities, where a mistaken acceptance shows, and data from it."""
    with torch.no_grad():
        program.log_scale.fill_(-2.5)
    x = torch.randn(100, 4) @ program.loadings.detach().T + 0.08 * torch.randn(100, 20)
    x[::2, :10] = torch.nan
    return program, x


@pytest.mark.parametrize("leapfrog", [1, 3])
def test_weights_are_unbiased(sharp, leapfrog):
    assert abs(unbiasedness(*sharp, leapfrog=leapfrog, **OPTIONS)) < 4  # false-alarm rate 6e-5


def test_weights_from_the_prior_are_unbiased(program, data):
    # A low likelihood, so that the weights of 100 temperatures have a finite spread worth the name.
    with torch.no_grad():
        program.log_scale.fill_(1.0)
    assert abs(unbiasedness(program, data, start="prior", chains=64, temperatures=64)) < 4  # false-alarm rate 6e-5


def test_stale_cache_is_caught(sharp, monkeypatch):
    # The twin: accept against the log-density cached at the temperature before.
    monkeypatch.setattr(paths.Hamiltonian, "at", lambda self, point, beta: point)
    assert abs(unbiasedness(*sharp, **OPTIONS)) > 8


class Scale(Program):
    def model(self, x):
        with self.plate(x):
            s = pyro.sample("s", dist.Gamma(2.0, 1.0))
            return observe("x", dist.Normal(torch.zeros(3), s.unsqueeze(-1)).to_event(1), x)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("s", dist.LogNormal(x.square().mean(-1).sqrt().log(), 0.5))


def scale_error(x, **options):
    s = torch.linspace(1e-3, 40, 200_001, dtype=torch.float64)
    joint = dist.Gamma(2.0, 1.0).log_prob(s)[:, None] + sum(
        dist.Normal(0.0, s[:, None]).log_prob(x[:, i].double()) for i in range(3)
    )
    exact = torch.trapezoid(joint.exp(), s, dim=0).log()
    result = ais(Scale(), x, **options)
    return abs((result.value - exact).mean().item()) / result.mean_standard_error()


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_constrained_latent_against_quadrature(start, monkeypatch):
    x = torch.randn(60, 3) * 2
    options = {"start": start, "chains": 32, "temperatures": 24}
    assert scale_error(x, **options) < 4.5  # false-alarm rate 7e-6
    # The twin: a transform without its Jacobian.
    right = pyro_gen.density.sites.biject_to

    def flat(support):
        transform = right(support)
        transform.log_abs_det_jacobian = lambda u, y: torch.zeros_like(u)
        return transform

    monkeypatch.setattr(pyro_gen.density.sites, "biject_to", flat)
    assert scale_error(x, **options) > 10


def test_sandwich(program):
    result = bdmc(program, 200, temperatures=16)
    assert result.kind == "sandwich"
    gap = result.diagnostics["gap"]
    assert gap.mean() + 4 * gap.std() / math.sqrt(200) >= 0 and gap.mean() < 0.2
    assert torch.equal(gap, result.upper - result.lower)
    # The same data again, by the same seed: lower <= exact <= upper in the mean, up to 4 standard errors.
    with module.seeded(0), torch.no_grad():
        from pyro_gen.inference.simulate import simulate

        x = simulate(program, 200, ())[0]
    exact = log_likelihood(program, x, method="exact").value
    for below, above in ((result.lower, exact), (exact, result.upper)):
        difference = above - below
        assert difference.mean() > -4 * difference.std() / math.sqrt(200)  # false-alarm rate 3e-5
    # One chain: the looser sandwich that bounds the Jeffreys divergence.
    jeffreys = result.diagnostics["jeffreys"]
    assert jeffreys.mean() > gap.mean()
    # The twin: a datum with latent variables that did not make it is no exact draw, and opens the sandwich.
    right = module.backward
    try:
        module.backward = lambda engine, z, plan: right(engine, z.flip(1), plan)
        broken = bdmc(program, 200, temperatures=16)
    finally:
        module.backward = right
    assert broken.diagnostics["jeffreys"].mean() < 0.5 * jeffreys.mean()


def test_gap_beside_real_data(program, data):
    result = ais_with_gap(program, data, simulated=30, temperatures=16)
    assert result.method == "bdmc" and result.upper is None and result.diagnostics["gap"].shape == (30,)
    assert program.event_shape == (20,)
    assert torch.equal(result.value, ais(program, data, temperatures=16).value)


def test_options(program, data, untouched_rng):
    x = data[:10]
    linear = ais(program, x, schedule="linear", temperatures=10)
    torch.testing.assert_close(linear.diagnostics["betas"], torch.linspace(0, 1, 11, dtype=torch.float64))
    betas = torch.tensor([0.0, 0.1, 0.3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(ais(program, x, schedule=betas).diagnostics["betas"], betas)
    seen = []
    wu = ais(program, x, preset="wu2017", temperatures=40, leapfrog=2, progress=seen.append)
    assert len(wu.diagnostics["betas"]) == 41 and seen == sorted(seen) and seen[-1] == pytest.approx(1.0)
    assert wu.diagnostics["betas"][1] < 1 / 40  # a sigmoid starts slowly
    again = ais(program, x, preset="wu2017", temperatures=40, leapfrog=2)
    assert torch.equal(wu.value, again.value)
    assert not torch.equal(wu.value, ais(program, x, preset="wu2017", temperatures=40, leapfrog=2, seed=1).value)


def test_chunks_of_data(program, data, monkeypatch):
    exact = log_likelihood(program, data, method="exact")
    monkeypatch.setattr(annealing, "rows_per_chunk", lambda entries, device: 16 * 40)
    result = ais(program, data, temperatures=32)
    assert abs(result.mean() - exact.mean()) < 0.03 and result.diagnostics["barrier"].shape == (100,)


def test_guide_in_smaller_chunks_than_the_chains(program, data, monkeypatch):
    # The rows at which the guide is drawn from 64 times are not those at which 16 chains fit into memory.
    monkeypatch.setattr(proposals, "rows_per_chunk", lambda entries, device: 64 * 7)
    exact = log_likelihood(program, data, method="exact")
    assert abs(ais(program, data).mean() - exact.mean()) < 0.02


def test_resampling():
    log_w = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).double().log().T
    index = resample(log_w, 8)
    assert index[:, 0].bincount(minlength=3).tolist() == [4, 2, 2] and index[:, 1].tolist() == [0] * 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "wu"}, "wu2017"),
        ({"chain": 3}, "no option 'chain'"),
        ({"chains": 0}, "positive"),
        ({"start": "posterior"}, '"prior" or "guide"'),
        ({"schedule": "cosine"}, "equalised"),
        ({"schedule": torch.tensor([0.0, 0.5])}, "from 0 to 1"),
        ({"schedule": torch.tensor([0.0, 1.0]), "temperatures": 3}, "leave temperatures out"),
    ],
)
def test_refusals(program, data, options, words):
    with pytest.raises(ValueError, match=words):
        ais(program, data, **options)


@pytest.mark.parametrize("precondition", [True, False])
def test_one_chain(program, data, precondition):
    # Pilot rounds have chains enough to know a spread; with the one of the run it was 0, and the moves nothing.
    exact = log_likelihood(program, data, method="exact")
    result = ais(program, data, chains=1, start="prior", temperatures=300, precondition=precondition)
    assert abs(result.mean() - exact.mean()) < 0.5 and result.standard_error.isnan().all()
    if precondition:
        tuned = ais(program, data, chains=1)
        assert abs(tuned.mean() - exact.mean()) < 0.3 and len(tuned.diagnostics["betas"]) > 10


def map_program(x):
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            return observe("x", dist.Normal(z, 1.0), x)

    return Program.from_functions(model, pyro.infer.autoguide.AutoDelta).initialise(x)


def test_a_point_is_no_base(program, data, monkeypatch):
    x = torch.randn(50)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x).mean().item()
    with pytest.raises(ValueError, match=r"is a point at 'z'.*start=\"prior\""):
        ais(map_program(x), x)
    assert abs(ais(map_program(x), x, start="prior").mean() - exact) < 0.05
    # A guide that is no Delta, and yet one point.
    right = proposals.guide_draws

    def still(*args, **options):
        for part in right(*args, **options):
            yield part._replace(values={n: v[:1].expand_as(v) for n, v in part.values.items()})

    monkeypatch.setattr(proposals, "guide_draws", still)
    with pytest.raises(ValueError, match="one point"):
        ais(program, data)


def test_prior_draws_off_the_support():
    class Bounded(Program):
        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                return observe("x", dist.Uniform(torch.zeros(len(x)), z.exp(), validate_args=False), x)

    x = torch.linspace(0.2, 1.5, 10)
    with pyro.validation_enabled(False):
        result = ais(Bounded(), x, start="prior", chains=100)
    # The integral of N(z; 0, 1) exp(-z) over z > log x.
    exact = 0.5 + (1 - dist.Normal(0.0, 1.0).cdf(x.log() + 1)).log()
    assert abs(result.mean() - exact.mean().item()) < 5 * result.mean_standard_error()  # false-alarm rate 6e-7
    assert result.mean_standard_error() < 0.05


def test_schedules_as_sequences(program, data):
    for betas in ([0, 0.5, 1], (0.0, 0.5, 1.0), torch.tensor([0.0, 0.5, 1.0])):
        result = ais(program, data[:5], schedule=betas)
        assert result.diagnostics["betas"].tolist() == [0.0, 0.5, 1.0]


def test_error_of_the_middle_of_a_sandwich():
    # Log-normal weights of mean 1, and the backward one from the same, weighted by itself.
    scale = 0.3
    log_w = scale * torch.randn(4, 20_000).double() - scale**2 / 2
    log_v = scale * torch.randn(1, 20_000).double() + scale**2 / 2
    lower, error = weights.log_mean_exp(log_w)
    upper, _ = weights.log_mean_exp(torch.cat([log_v, log_w[1:]]))
    spread = ((lower + upper) / 2).var()
    # The spread is known to 1 %, the jackknife over 4 weights is short by 4 % or so.
    assert 0.92 < module._sandwich_error(log_w, log_v).square().mean() / spread < 1.05
    assert error.square().mean() / spread > 1.1  # the twin: the error of the lower bound


def test_gap_has_the_holes_of_the_data(program, data, monkeypatch):
    seen = []

    class Spy(annealing.Rows):
        def __init__(self, program, x, *rest):
            seen.append(x)
            super().__init__(program, x, *rest)

    monkeypatch.setattr(module, "Rows", Spy)
    ais_with_gap(program, data, simulated=30, temperatures=4)
    assert torch.equal(seen[0].isnan(), data[:30].isnan())

    holes = data.isnan().repeat(2, 1)
    program.event_shape = torch.Size([20])
    result = module._sandwich(program, 200, 1, (), holes, 0, None, None, {"temperatures": 16})
    exact = log_likelihood(program, seen[-1], method="exact").value
    for below, above in ((result.lower, exact), (exact, result.upper)):
        difference = above - below
        assert difference.mean() > -4 * difference.std() / math.sqrt(200)  # false-alarm rate 3e-5
    assert 0 < (result.upper - result.lower).mean() < 0.2


def test_no_sandwich_where_the_context_is_observed():
    class Pair(Program):
        event_shape = torch.Size([])

        def model(self, x, y):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                observe("y", dist.Normal(z, 0.1), y)
                return observe("x", dist.Normal(z, 1.0), x)

    # z of the prior did not make y: the "upper bound" lay 0.05 nats below the lower one.
    with pytest.raises(ValueError, match="observes 'y', which is given and not simulated"):
        bdmc(Pair(), 20, context=(torch.full((20,), 2.0),), start="prior")


class Means(Program):
    event_shape = torch.Size([2])

    def model(self, x, offset):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(mu, 0.5).to_event(1))
            return observe("x", dist.Normal(z + offset, 1.0).to_event(1), x)


def test_sandwich_of_evidences():
    offset = torch.randn(6, 2)
    result = bdmc(Means(), 6, sets=40, context=(offset,), chains=64, temperatures=40)
    assert result.kind == "sandwich" and result.unit == "nats per data set" and result.event_dims == 12
    with module.seeded(0), torch.no_grad():
        x = module._simulate(Means(), 6, 40, (offset,), None).x
    covariance = 1.25 * torch.eye(6) + 4
    marginal = dist.MultivariateNormal(torch.zeros(6).double(), covariance.double())
    exact = marginal.log_prob((x - offset).double().mT).sum(-1)
    gap = result.diagnostics["gap"]
    assert 0 < gap.mean() < 1
    for below, above in ((result.lower, exact), (exact, result.upper)):
        difference = above - below
        assert difference.mean() > -4 * difference.std() / 40**0.5  # false-alarm rate 1e-4
    # The twin: latent variables that did not make the data are no exact draw, and one chain's upper bound falls below.
    right = module.backward
    try:
        module.backward = lambda engine, z, plan: right(engine, -2 * z, plan)
        broken = bdmc(Means(), 6, sets=40, context=(offset,), chains=64, temperatures=40)
    finally:
        module.backward = right
    assert result.diagnostics["jeffreys"].mean() > 0
    assert broken.diagnostics["jeffreys"].mean() < -1
    with pytest.raises(ValueError, match="from the prior"):
        bdmc(Means(), 6, context=(offset,), start="guide")


def test_thermodynamic_integration_of_each_datum(program, data):
    exact = log_likelihood(program, data, method="exact")
    for start in ("prior", "guide"):
        found = ais(program, data, start=start, chains=64, temperatures=100).diagnostics
        assert abs((found["thermodynamic"] - exact.value).mean()) < 0.05
        # Both curves go from the prior to the posterior, whose rate is the divergence between them.
        if start == "prior":
            betas, rate, distortion = (found[name] for name in ("betas", "rate", "distortion"))
            assert rate[0] == 0 and bool((rate.diff() > -0.1).all()) and bool((distortion.diff() < 0.1).all())
            assert abs(rate[-1] + distortion[-1] + exact.mean()) < 0.05  # R + D = -log p(x) at beta = 1
            assert len(betas) == len(rate) == len(distortion)
        else:
            assert "rate" not in found and found["start_khat"].mean() < 0.5
    assert found["gradients"] == 64 * (1 + 100) + 64 * (1 + 4 + 8 + 16 + 32) + 64 * 4


def test_density_of_functions():
    target = pyro_gen.density.Density.from_functions(lambda z: -z.square().sum(-1), 3, batch_shape=(5,))
    base = dist.Normal(torch.zeros(5, 3), 1.0)
    result = anneal(target, start=base)
    assert result.z.shape == (16, 5, 3) and result.log_weights.shape == (16, 5)
    assert abs(result.evidence.mean() - 1.5 * math.log(math.pi)) < 5 * result.evidence.mean_standard_error()
    assert result.draws(7).shape == (7, 5, 3) and result.posterior(7)["z"].shape == (7, 5, 3)
    assert math.isnan(result.evidence.event_dims)
    with pytest.raises(ValueError, match="sample_prior"):
        anneal(target)
    with pytest.raises(ValueError, match="no program"):
        anneal(target, start="guide")


def test_likelihoods_of_data_that_have_none():
    offset = torch.randn(6, 2)
    with pytest.raises(ValueError, match="global latent variable 'mu'"):
        ais(Means(), torch.randn(6, 2), offset, start="prior")

    class Factor(Program):
        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.factor("penalty", -z.square())
                return observe("x", dist.Normal(z, 1.0), x)

    with pytest.raises(ValueError, match="has a factor"):
        ais(Factor(), torch.randn(6), start="prior")


def test_a_spread_that_takes_too_many_temperatures_is_said(program, data, monkeypatch):
    monkeypatch.setattr(annealing, "MAX_TEMPERATURES", 40)
    words = r"spread by 0.05 nats would take about .* and 40 are taken, .*temperatures="
    with pytest.warns(UserWarning, match=words) as said:
        capped = ais(program, data, spread=0.05, start="prior")
    with pytest.warns(UserWarning, match=words) as said_by_bdmc:
        bdmc(program, 1, spread=0.05, start="prior", chains=4)
    assert said[0].filename == said_by_bdmc[0].filename == __file__  # the line that calls, however far down it is
    assert len(capped.diagnostics["betas"]) == 41 and float(capped.diagnostics["spread"].mean()) > 0.1
    ais(program, data, spread=5.0, start="prior")  # warnings are errors here
