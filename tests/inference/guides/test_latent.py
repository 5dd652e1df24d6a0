"""Guides of all latent variables reach the posteriors that are known, whatever the model's sites look like."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density import density
from pyro_gen.inference import ELBO
from pyro_gen.inference.guides import Flow, FullRank, Guide, LowRank, MeanField, guide_of, laplace, with_guide
from pyro_gen.inference.svi.step import LossModule
from pyro_gen.program import data_size
from pyro_gen.traces import trace_pair

GUIDES: dict[str, Callable[[], Guide]] = {
    "mean-field": MeanField,
    "full-rank": FullRank,
    "low-rank": lambda: LowRank(1),
    "affine": lambda: Flow("affine", layers=2, hidden=(16,)),
    "spline": lambda: Flow("spline", layers=2, hidden=(16,)),
    "coupling": lambda: Flow("coupling", layers=2, hidden=(16,)),
}


def train(program: pg.Program, x: Any, epochs: int = 500, lr: float = 0.05, particles: int = 8, **options: Any) -> Any:
    objective = ELBO(num_particles=particles)
    options = {"batch_size": len(x[0] if isinstance(x, tuple) else x)} | options
    return pg.fit(program, x, objective=objective, epochs=epochs, lr=lr, schedule="cosine", progress=False, **options)


def log_weights(program: pg.Program, *data: Any, draws: int = 4000) -> Tensor:
    """log p(x, v) - log q(v) of draws of the guide, by the density and not by the guide's own sites."""
    guide, target = guide_of(program), density(program, *data, per_datum=False)
    with torch.no_grad():
        q = guide.distribution()
        v = q.rsample((draws,))
        return target.log_density(v) - q.log_prob(v)


# ----------------------------------------------------------------------------------------------------------------------
# Exact posteriors

FEATURES = torch.tensor([[1.0, 0.2], [1.0, 0.9], [1.0, 1.5], [1.0, 2.1], [1.0, 3.0]])
TARGETS = torch.tensor([0.3, 1.1, 1.2, 2.4, 2.9])


def regression(y: Tensor, features: Tensor) -> Any:
    weights = pyro.sample("weights", dist.Normal(features.new_zeros(2), 2.0).to_event(1))
    with pg.plate(y):
        return pg.observe("y", dist.Normal(features @ weights, 0.5), y)


def exact_regression() -> tuple[Tensor, Tensor, float]:
    """Mean and covariance of the posterior, and the log-evidence."""
    x, y = FEATURES.double(), TARGETS.double()
    covariance = torch.linalg.inv(x.mT @ x / 0.25 + torch.eye(2) / 4)
    evidence = dist.MultivariateNormal(torch.zeros(5).double(), x @ x.mT * 4 + 0.25 * torch.eye(5)).log_prob(y)
    return covariance @ x.mT @ y / 0.25, covariance, evidence.item()


def test_a_full_rank_guide_reaches_the_conjugate_posterior() -> None:
    mean, covariance, evidence = exact_regression()
    program = pg.Program.from_functions(regression, FullRank())
    assert train(program, (TARGETS, FEATURES), particles=16).mode == "traced"
    guide = guide_of(program)
    assert isinstance(guide, FullRank)
    tril = guide.scale_tril().detach().double()
    assert torch.allclose(guide.loc.detach().double(), mean, atol=0.02)
    assert torch.allclose(tril @ tril.mT, covariance, rtol=0.05, atol=0.005)
    log_w = log_weights(program, TARGETS, FEATURES)
    assert abs(log_w.mean() - evidence) < 0.01 and log_w.std() < 0.2
    # The twin: independent variables cannot, by 0.5 log(1 / (1 - r^2)) nats with r the correlation.
    program = pg.Program.from_functions(regression, MeanField())
    train(program, (TARGETS, FEATURES), particles=16)
    r2 = covariance[0, 1] ** 2 / covariance.diagonal().prod()
    gap = evidence - log_weights(program, TARGETS, FEATURES, draws=20_000).mean()
    assert gap > 0.2 and abs(gap + 0.5 * torch.log1p(-r2)) < 0.05


def test_laplace_of_a_gaussian_posterior_is_exact() -> None:
    mean, covariance, evidence = exact_regression()
    program = laplace(pg.Program.from_functions(regression), TARGETS.double(), FEATURES.double())
    guide = guide_of(program)
    assert isinstance(guide, FullRank)
    tril = guide.scale_tril().detach().double()
    assert torch.allclose(guide.loc.detach().double(), mean, atol=1e-4)
    assert torch.allclose(tril @ tril.mT, covariance, rtol=1e-4)
    assert abs(log_weights(program, TARGETS, FEATURES).mean() - evidence) < 1e-3


def test_laplace_is_the_mode_and_its_curvature() -> None:
    """Gamma-Poisson: with a = 3 + 6 and b = 1 + 2, log p(log r) = a log r - b r, mode log(a / b), curvature -a."""

    def model(x: Tensor) -> Any:
        rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
        with pg.plate(x):
            return pg.observe("x", dist.Poisson(rate), x)

    guide = guide_of(laplace(pg.Program.from_functions(model), torch.tensor([4.0, 2.0])))
    assert isinstance(guide, FullRank)
    assert guide.loc.item() == pytest.approx(torch.tensor(3.0).log().item(), abs=1e-4)
    assert guide.scale_tril().item() == pytest.approx(1 / 3, abs=1e-4)


def test_laplace_says_where_there_is_no_mode() -> None:
    def model(x: Tensor) -> Any:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 3.0))
        z = pyro.sample("z", dist.Normal(torch.zeros(8), scale).to_event(1))
        with pg.plate(x):
            return pg.observe("x", dist.Normal(z[0], 5.0), x)

    with pytest.raises(ValueError, match="not curved downwards"):
        laplace(pg.Program.from_functions(model), torch.zeros(1))


def test_a_low_rank_guide_reaches_a_low_rank_posterior() -> None:
    """Data that tell nothing: the posterior is the prior, of rank one plus a diagonal."""
    direction, diagonal = torch.tensor([[1.0], [-2.0], [0.5], [1.5], [0.0]]), torch.tensor([0.1, 0.2, 0.3, 0.1, 0.5])

    def model(x: Tensor) -> Any:
        pyro.sample("v", dist.LowRankMultivariateNormal(torch.ones(5), direction, diagonal))
        with pg.plate(x):
            return pg.observe("x", dist.Normal(0.0, 1.0), x)

    x = torch.zeros(3)
    evidence = dist.Normal(0.0, 1.0).log_prob(x).sum()
    program = pg.Program.from_functions(model, LowRank(1))
    train(program, x, epochs=800, particles=16)
    guide = guide_of(program)
    assert isinstance(guide, LowRank)
    assert torch.allclose(guide.loc, torch.ones(5), atol=0.1)
    covariance = guide.factor @ guide.factor.mT + (2 * guide.log_scale).exp().diag()
    points = torch.randn(4, 5)
    of_torch = dist.MultivariateNormal(guide.loc, covariance).log_prob(points)
    assert torch.allclose(guide.distribution().log_prob(points), of_torch, rtol=1e-4, atol=1e-3)
    assert torch.allclose(covariance, direction @ direction.mT + diagonal.diag(), atol=0.15)
    assert abs(log_weights(program, x).mean() - evidence) < 0.02


def banana(x: Tensor) -> Any:
    first = pyro.sample("first", dist.Normal(0.0, 1.0))
    second = pyro.sample("second", dist.Normal(0.0, 2.0))
    with pg.plate(x):
        return pg.observe("x", dist.Normal(second + first**2, 0.3), x)


def banana_evidence(x: Tensor) -> float:
    axis = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    first, second = torch.meshgrid(axis, axis, indexing="ij")
    log_p = dist.Normal(0.0, 1.0).log_prob(first) + dist.Normal(0.0, 2.0).log_prob(second)
    log_p = log_p + dist.Normal((second + first**2).unsqueeze(-1), 0.3).log_prob(x.double()).sum(-1)
    return float(log_p.flatten().logsumexp(0) + 2 * (axis[1] - axis[0]).log())


@pytest.mark.parametrize("kind", ["affine", "spline"])  # of two dimensions coupling is the same as autoregressive
def test_a_flow_guide_fits_a_banana(kind: str) -> None:
    x = torch.tensor([1.0, 1.2])
    evidence = banana_evidence(x)
    options: Any = {"layers": 2, "hidden": (32,)} if kind == "affine" else {"layers": 3, "hidden": (64, 64)}
    program = pg.Program.from_functions(banana, Flow(kind, init_scale=1.0, **options))
    lr, particles = (0.02, 32) if kind == "affine" else (0.01, 128)
    train(program, x, epochs=1000, lr=lr, particles=particles)
    log_w = log_weights(program, x)
    assert -0.01 < evidence - log_w.mean() < 0.05
    if kind == "affine":  # the twin: the best Gaussian is far from it
        program = pg.Program.from_functions(banana, FullRank())
        train(program, x, particles=16)
        assert evidence - log_weights(program, x).mean() > 0.2


# ----------------------------------------------------------------------------------------------------------------------
# What models look like


def everything(x: Tensor) -> Any:
    """Scalars, vectors, simplices, Cholesky factors, plates; a support that depends on another variable."""
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    bounded = pyro.sample("bounded", dist.Uniform(-scale, scale))
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    factor = pyro.sample("factor", dist.LKJCholesky(3, 2.0))
    with pyro.plate("groups", 4):
        effects = pyro.sample("effects", dist.Normal(bounded, scale))
        with pyro.poutine.mask(mask=torch.tensor(True)):
            rates = pyro.sample("rates", dist.Gamma(torch.full((2,), 3.0), 1.0).to_event(1))
    loc = bounded + effects.sum() + (shares * factor[-1]).sum() + rates.sum().log()
    with pg.plate(x):
        return pg.observe("x", dist.Normal(loc, 1.0), x)


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.filterwarnings("ignore:The model cannot be traced")  # the density of an LKJ prior, which is not the point
def test_the_sites_of_a_guide_carry_its_density(name: str) -> None:
    """log p(x, z) - log q(z) by the sites of both traces is that of the vector by the density, for the same draw."""
    x = torch.randn(5)
    with torch.no_grad():
        program = pg.Program.from_functions(everything, GUIDES[name]()).initialise(x)
        guide, target = guide_of(program), density(program, x, per_datum=False)
        for _ in range(3):
            model_trace, guide_trace = trace_pair(program, x)
            model_trace.compute_log_prob()
            guide_trace.compute_log_prob()
            by_sites = model_trace.log_prob_sum() - guide_trace.log_prob_sum()
            v = guide_trace.nodes["_guide"]["value"]
            by_vector = target.log_density(v.unsqueeze(0))[0] - guide.distribution().log_prob(v.clone())
            assert torch.allclose(by_sites, by_vector, atol=1e-3)
            values = target.constrain(v.unsqueeze(0))
            for site in guide.names:
                assert torch.allclose(guide_trace.nodes[site]["value"], values[site][0], atol=1e-5)
            scale, bounded = (guide_trace.nodes[n]["value"] for n in ("scale", "bounded"))
            assert bounded.abs() < scale


def test_a_support_that_depends_on_another_variable_moves_with_it() -> None:
    """The posterior of the edge of Uniform(0, s): Pyro's own guides freeze the support of their first run."""

    def model(x: Tensor) -> Any:
        edge = pyro.sample("edge", dist.LogNormal(0.0, 1.0))
        inside = pyro.sample("inside", dist.Uniform(0.0, edge))
        with pg.plate(x):
            return pg.observe("x", dist.Normal(inside, 0.5), x)

    x = torch.tensor([2.0, 2.5, 2.2])
    edge = torch.linspace(0.01, 60, 6000, dtype=torch.float64)
    share = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    log_p = dist.LogNormal(0.0, 1.0).log_prob(edge)[:, None] + dist.Normal(
        (edge[:, None] * share).unsqueeze(-1), 0.5
    ).log_prob(x.double()).sum(-1)
    weights = log_p.flatten().softmax(0).reshape(log_p.shape).sum(1)
    evidence = float(log_p.flatten().logsumexp(0) + ((edge[1] - edge[0]) / len(share)).log())
    program = pg.Program.from_functions(model, Flow("spline", layers=2, hidden=(16,)))
    train(program, x, epochs=600, lr=0.02, particles=32)
    log_w = log_weights(program, x)
    assert -0.02 < evidence - log_w.mean() < 0.05
    q = guide_of(program).distribution()
    with torch.no_grad():
        values = density(program, x, per_datum=False).constrain(q.rsample((4000,)))
    assert (values["inside"] < values["edge"]).all()
    assert values["edge"].log().mean() == pytest.approx(float((weights * edge.log()).sum()), abs=0.06)


def test_the_minibatch_bound_is_unbiased() -> None:
    """All 10 batches of 2 of 5 rows, with the same draw of the guide: their mean is the full bound, exactly."""
    program = pg.Program.from_functions(regression, FullRank()).initialise(TARGETS, FEATURES)

    def loss(rows: list[int], scaled: bool = True) -> float:
        torch.manual_seed(0)
        with data_size(5 if scaled else len(rows)), torch.no_grad():
            return float(ELBO().loss(program, TARGETS[rows], FEATURES[rows]))

    full = loss([0, 1, 2, 3, 4])
    pairs = [[i, j] for i in range(5) for j in range(i)]
    assert sum(loss(pair) for pair in pairs) / len(pairs) == pytest.approx(full, rel=1e-5)
    assert sum(loss(pair, scaled=False) for pair in pairs) / len(pairs) != pytest.approx(full, rel=1e-2)  # the twin
    train(program, (TARGETS, FEATURES), epochs=400, batch_size=2)
    assert torch.allclose(guide_of(program).loc.detach().double(), exact_regression()[0], atol=0.15)


@pytest.mark.parametrize("name", GUIDES)
def test_a_traced_step_is_the_eager_one(name: str) -> None:
    states = []
    for compile in ("trace", False):
        program = pg.Program.from_functions(everything, GUIDES[name]())
        x = torch.linspace(0, 3, 4)
        result = pg.fit(program, x, epochs=3, batch_size=2, lr=0.01, compile=compile, progress=False)
        assert result.mode == ("traced" if compile else "eager")
        states.append(program.state_dict())
    for key, value in states[0].items():
        assert torch.allclose(value, states[1][key], atol=1e-5), key


@pytest.mark.parametrize("name", GUIDES)
def test_state_and_copies(name: str, untouched_rng: None) -> None:
    x = torch.zeros(3)

    def make() -> pg.Program:
        return pg.Program.from_functions(everything, GUIDES[name]()).initialise(x)

    program, other = make(), make()
    with torch.no_grad(), torch.random.fork_rng():
        for parameter in program.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    file = io.BytesIO()
    torch.save(program.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    twin = copy.deepcopy(program)
    draws = []
    for version in (program, other, twin):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(3)
            draws.append(trace_pair(version, x)[1].nodes["effects"]["value"])
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
    mine = {id(p) for p in program.parameters()}
    assert not mine & {id(p) for p in twin.parameters()}
    pyro.clear_param_store()
    assert not list(pyro.get_param_store()), "guides keep their parameters to themselves"
    assert all(p.grad is None for p in program.parameters())
    with torch.random.fork_rng():
        ELBO().loss(program, x).backward()
    # The first layer sees nothing where a single dimension is first; everything else learns.
    assert sum(p.grad is None for p in program.parameters()) == 0


def test_priors_without_draws_and_starts() -> None:
    def model(x: Tensor) -> Any:
        loc = pyro.sample("loc", dist.Normal(100.0, 1.0))
        log_scale = pyro.sample("log_scale", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pg.plate(x):
            return pg.observe("x", dist.Normal(loc, log_scale.exp()), x)

    program = pg.Program.from_functions(model, MeanField()).initialise(torch.zeros(2))
    loc = guide_of(program).loc
    assert abs(loc[0] - 100) < 1.0 and loc[1] == 0


def test_a_mixture_prior_has_the_support_of_its_components() -> None:
    weights = dist.Categorical(torch.tensor([0.5, 0.5]))
    prior = dist.MixtureSameFamily(weights, dist.LogNormal(torch.tensor([0.0, 3.0]), 0.1))

    def model(x: Tensor) -> Any:
        scale = pyro.sample("scale", prior)
        with pg.plate(x):
            return pg.observe("x", dist.Normal(0.0, scale), x)

    program = pg.Program.from_functions(model, MeanField()).initialise(torch.zeros(2))
    guide = guide_of(program)
    log_w = log_weights(program, torch.zeros(2), draws=10)
    assert guide.dim == 1 and bool(log_w.isfinite().all())
    with pyro.poutine.trace() as tape:
        program.guide(torch.zeros(2))
    assert tape.trace.nodes["scale"]["value"] > 0


# ----------------------------------------------------------------------------------------------------------------------
# Programs


class Mixture(pg.Program):
    """A global and a local latent variable, the local one amortised by the program's own guide."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(1, 2)

    def model(self, x: Tensor) -> Any:
        centre = pyro.sample("centre", dist.Normal(0.0, 3.0))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(centre, 1.0))
            return pg.observe("x", dist.Normal(z, 0.5), x)

    def guide(self, x: Tensor) -> None:
        centre = pyro.sample("centre", dist.Delta(torch.tensor(7.0)))
        with self.plate(x):
            loc, log_scale = self.encoder(x.unsqueeze(-1)).unbind(-1)
            pyro.sample("z", dist.Normal(loc + 0.2 * centre, log_scale.exp()))


def test_local_variables_stay_with_the_programs_own_guide() -> None:
    x = torch.tensor([1.0, 2.0, 1.5, 3.0, 2.5, 2.0, 1.0, 2.2])
    program = with_guide(Mixture(), FullRank()).initialise(x)
    assert guide_of(program).names == ("centre",)
    trace = pyro.poutine.trace(program.guide).get_trace(x)
    centre, z = trace.nodes["centre"], trace.nodes["z"]
    assert centre["value"] != 7.0  # replaced, and what the local guide sees:
    assert torch.allclose(z["fn"].loc, program.unguided.encoder(x.unsqueeze(-1))[:, 0] + 0.2 * centre["value"])
    assert sum(n == "centre" for n in trace.nodes) == 1
    # The exact evidence is that of a Gaussian; the guide is not exact, and its bound is below, not far.
    covariance = 9.0 * torch.ones(8, 8) + 1.25 * torch.eye(8)
    evidence = dist.MultivariateNormal(torch.zeros(8), covariance).log_prob(x)
    train(program, x, epochs=500, batch_size=4, particles=4)  # in minibatches
    with torch.no_grad():
        bound = -torch.stack([ELBO(100).loss(program, x) for _ in range(5)]).mean()
    assert -0.1 < evidence - bound < 0.3


class Bayesian(pg.Program):
    """Weights with priors, by PyroSample."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[torch.nn.Linear](2, 1, bias=False)
        self.linear.weight = PyroSample(lambda _: dist.Normal(torch.zeros(1, 2), 2.0).to_event(2))

    def model(self, y: Tensor, features: Tensor) -> Any:
        mean = self.linear(features).squeeze(-1)
        with self.plate(y):
            return pg.observe("y", dist.Normal(mean, 0.5), y)


def test_bayesian_weights() -> None:
    mean, _, evidence = exact_regression()
    original = Bayesian()
    program = with_guide(original, FullRank())
    train(program, (TARGETS, FEATURES), particles=16)
    assert guide_of(program).names == ("linear.weight",)  # as in the program without a guide
    assert torch.allclose(guide_of(program).loc.detach().double(), mean, atol=0.02)
    assert abs(log_weights(program, TARGETS, FEATURES).mean() - evidence) < 0.01


def test_a_second_guide_replaces_the_first() -> None:
    first = with_guide(pg.Program.from_functions(regression, MeanField()), FullRank())
    second = with_guide(first, LowRank(1)).initialise(TARGETS, FEATURES)
    assert isinstance(guide_of(second), LowRank)
    assert [n.split(".")[-1] for n, _ in second.named_parameters()] == ["loc", "log_scale", "factor"]


def test_local_latents_of_all_data_and_no_minibatches() -> None:
    def model(x: Tensor) -> Any:
        with pg.plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pg.observe("x", dist.Normal(z, 0.5), x)

    x = torch.tensor([0.5, -1.0, 2.0, 0.1])
    program = pg.Program.from_functions(model, MeanField())
    train(program, x, particles=16)
    assert torch.allclose(guide_of(program).loc, 0.8 * x, atol=0.05)
    assert torch.allclose(guide_of(program).log_scale.exp(), torch.tensor(0.2).sqrt(), atol=0.03)
    with pytest.raises(ValueError, match=r"each value of 'z', which the plate 'data' subsamples \(2 of 4\)"):
        pg.fit(pg.Program.from_functions(model, MeanField()), x, batch_size=2, progress=False)
    with pytest.raises(ValueError, match=r"unconstrained shape \(4,\), and now meets \(3,\)"):
        program.guide(x[:3])


def test_what_guides_refuse() -> None:
    program = pg.models.VAE(4, latent=2, hidden=(3,))
    with pytest.raises(ValueError, match="finds no continuous latent variable"):
        with_guide(program, Flow()).initialise(torch.zeros(2, 4))
    with pytest.raises(TypeError, match="create an instance"):
        with_guide(program, Flow)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has no guide of pyro_gen.inference.guides"):
        guide_of(program)
    with pytest.raises(TypeError, match=r"make one by Program.from_functions"):
        with_guide(regression, Flow())  # type: ignore[arg-type]
    used = guide_of(pg.Program.from_functions(regression, MeanField()).initialise(TARGETS, FEATURES))
    with pytest.raises(ValueError, match="made for another program"):
        with_guide(program, used)
    with pytest.raises(ValueError, match="has not met its model"):
        guide_of(pg.Program.from_functions(regression, MeanField()))
    for wrong in (lambda: MeanField(0.0), lambda: LowRank(0), lambda: Flow("radial"), lambda: Flow(bins=1)):
        with pytest.raises(ValueError, match=r"positive|choose one of|two bins"):
            wrong()


def test_the_loss_module_sees_all_parameters() -> None:
    program = with_guide(Mixture(), Flow("affine", hidden=(4,))).initialise(torch.zeros(3))
    module = LossModule(program, ELBO(), 3, False)
    names = {n for n, _ in module.named_parameters()}
    assert {"program._program.encoder.weight", "program._guide.map.loc"} <= names
