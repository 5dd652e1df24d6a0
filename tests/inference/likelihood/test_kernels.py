"""Kernels as arguments: annealed importance sampling and sequential Monte Carlo by every sampler, and by a user's."""

from functools import partial
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen.density import Density, density
from pyro_gen.inference.likelihood.ais import ais, anneal
from pyro_gen.inference.likelihood.kernels import engine_of
from pyro_gen.inference.likelihood.paths import Path
from pyro_gen.inference.likelihood.smc import smc
from pyro_gen.inference.mcmc import HMC, NUTS, SAMPLERS, Sampler, Tempering
from pyro_gen.models.linear.factor_analysis import ProbabilisticPCA

INPUTS = torch.tensor([[1.0, 0.2], [0.5, -1.0], [-0.3, 0.8], [1.2, 0.4], [-0.7, -0.6]])
Y = torch.tensor([1.5, 1.2, -1.0, 0.9, 0.1])


def regression(y, inputs):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(inputs @ w, 0.5), obs=y)


EXACT = dist.MultivariateNormal(torch.zeros(5), 0.25 * torch.eye(5) + INPUTS @ INPUTS.T).log_prob(Y).item()
POSTERIOR = torch.linalg.inv(torch.eye(2) + 4 * INPUTS.T @ INPUTS)


class Chains(NamedTuple):
    z: torch.Tensor
    log_density: torch.Tensor


class Walk(Sampler):
    """A user's own: random-walk Metropolis with steps of a fixed size, several a transition."""

    def init(self, z):
        return Chains(z, self.density.log_density(z))

    def step(self, state, progress):
        for _ in range(4):
            new = self.init(state.z + 0.6 * torch.randn_like(state.z))
            moved = self.accept(new, state)
            z = torch.where(moved.unsqueeze(-1), new.z, state.z)
            state = Chains(z, torch.where(moved, new.log_density, state.log_density))
        return state, {"lp": state.log_density}

    def accept(self, new, old):
        return torch.rand_like(new.log_density) < (new.log_density - old.log_density).exp()


class Careless(Walk):
    """The defect: it has no accept step."""

    def accept(self, new, old):
        return torch.ones_like(new.log_density, dtype=torch.bool)


KERNELS = [
    *(name for name in SAMPLERS if name not in ("gibbs", "nuts", "tempering")),
    partial(NUTS, max_depth=3),
    partial(Tempering, temperatures=2),
    partial(HMC, num_steps=2, step_size=0.5),
    Walk,
]


def name(kernel):
    return kernel if isinstance(kernel, str) else getattr(kernel, "func", kernel).__name__


def z_score(log_ratios):
    """Of E exp(log_ratios) = 1. The ratios must have a spread that their number averages."""
    ratios = log_ratios.exp()
    assert ratios.std() < 0.1 * len(ratios) ** 0.5
    return ((ratios.mean() - 1) / (ratios.std() / len(ratios) ** 0.5)).item()


def by_ais(kernel):
    chains = 128 if name(kernel) in ("NUTS", "Tempering") else 512
    run = anneal(regression, Y, INPUTS, kernel=kernel, chains=chains, temperatures=40)
    return z_score(run.log_weights - EXACT), run


def by_smc(kernel):
    # Islands smaller than anyone should trust, and many of them: their logarithms are biased, their mean is not.
    run = smc(regression, Y, INPUTS, kernel=kernel, particles=32, islands=100, length=4, ess=0.7)
    return z_score(run.evidence.diagnostics["islands"][:, 0] - EXACT), run


def cases():
    for kernel in KERNELS:
        slow = [pytest.mark.slow] if name(kernel) in ("NUTS", "Tempering") else []
        yield pytest.param(kernel, by_ais, id=f"{name(kernel)}-ais", marks=slow)
        yield pytest.param(kernel, by_smc, id=f"{name(kernel)}-smc")


@pytest.mark.parametrize(("kernel", "method"), list(cases()))
def test_evidence_and_posterior(kernel, method, untouched_rng):
    score, run = method(kernel)
    assert abs(score) < 4  # false-alarm rate 6e-5 each
    draws = run.draws(1000)
    assert (draws.T.cov() / POSTERIOR - 1).diagonal().abs().max() < 0.4
    assert run.evidence.diagnostics["gradients"] > 0


def test_a_kernel_without_an_accept_step_is_caught():
    run = anneal(regression, Y, INPUTS, kernel=Careless, chains=512, temperatures=40)
    ratios = (run.log_weights - EXACT).exp()
    assert abs(ratios.mean() - 1) / (ratios.std() / 512**0.5) > 8
    run = smc(regression, Y, INPUTS, kernel=Careless, particles=32, islands=100, length=4, ess=0.7)
    ratios = (run.evidence.diagnostics["islands"][:, 0] - EXACT).exp()
    assert abs(ratios.mean() - 1) / (ratios.std() / 10) > 8


def test_a_state_of_another_temperature_is_caught(monkeypatch):
    """The twin: acceptance by the log-density at the temperature before, in many dimensions, where they differ."""
    prior = dist.Normal(torch.zeros(20), 1.0).to_event(1)
    likelihood = dist.Normal(torch.full((20,), 1.5), 1.0).to_event(1)
    exact = dist.Normal(torch.full((20,), 1.5), 2**0.5).to_event(1).log_prob(torch.zeros(20))
    draw = {"log_prior": prior.log_prob, "sample_prior": lambda chains: torch.randn(chains, 20)}
    target = Density.from_functions(likelihood.log_prob, 20, **draw)

    def score():
        log_weights = anneal(target, kernel=partial(HMC, num_steps=2), chains=1000, temperatures=60).log_weights
        ratios = (log_weights - exact).exp()
        return ((ratios.mean() - 1) / (ratios.std() / 1000**0.5)).item()

    assert abs(score()) < 4  # false-alarm rate 6e-5
    monkeypatch.setattr(HMC, "retempered", lambda self, state: state)
    assert abs(score()) > 8


def test_a_target_per_datum_and_the_sandwich():
    program = ProbabilisticPCA(6, 2)
    with torch.no_grad():
        program.loadings.normal_()
        program.log_scale.fill_(-0.5)
    x = torch.randn(20, 2) @ program.loadings.detach().T + 0.6 * torch.randn(20, 6)
    x[::2, :3] = torch.nan
    exact = pg.log_likelihood(program, x, method="exact")
    for options in ({"method": "ais", "temperatures": 40}, {"method": "smc", "start": "guide"}):
        found = pg.log_likelihood(program, x, kernel=partial(HMC, num_steps=2), **options)
        assert abs(found.mean() - exact.mean()) < 5 * found.mean_standard_error() + 0.03  # the bias of the logarithm
        assert (found.value - exact.value).std() < 0.3
    gap = pg.log_likelihood(program, x, method="bdmc", kernel="mala", temperatures=30, simulated=10).diagnostics["gap"]
    assert -0.05 < gap.mean() < 0.3


def test_a_base_of_ones_own():
    """Kernels that ask for values and for gradients: a base is part of both."""
    target = density(regression, Y, INPUTS)
    base = dist.MultivariateNormal(torch.tensor([0.5, 0.5]), torch.eye(2))
    for kernel in ("rwm", "mala"):
        run = anneal(target, start=base, kernel=kernel, chains=256, temperatures=30)
        assert abs(z_score(run.log_weights - EXACT)) < 4
    with torch.no_grad():
        tempered = engine_of(target, base, 1, "rwm").target
    tempered.beta = 0.4
    z = torch.randn(7, 2).requires_grad_()
    value = tempered.log_density(z, 0.5)
    (grad,) = torch.autograd.grad(value.sum(), z)
    for pair in zip((value, grad), tempered.log_density_and_grad(z.detach(), 0.5), strict=True):
        torch.testing.assert_close(*pair)
    torch.testing.assert_close(value, 0.8 * base.log_prob(z) + 0.2 * target.log_density(z))


class Still(Path):
    def start(self, chains):
        return torch.randn(chains)

    def log_density(self, x, beta):
        return -0.5 * x.square()

    def move(self, x, beta):
        return x


def test_refusals():
    data = (regression, Y, INPUTS)
    for run in (anneal, smc):
        with pytest.raises(ValueError, match="leave leapfrog out"):
            run(*data, kernel="hmc", leapfrog=2)
        with pytest.raises(ValueError, match="choose from hmc"):
            run(*data, kernel="metropolis")
        with pytest.raises(TypeError, match="no Sampler"):
            run(*data, kernel=3)
        with pytest.raises(ValueError, match="takes no kernel"):
            run(Still(), kernel="hmc")
    with pytest.raises(TypeError, match="blocks"):
        anneal(*data, kernel="gibbs")
    with pytest.raises(ValueError, match="leave leapfrog out"):
        ais(ProbabilisticPCA(3, 1), torch.zeros(2, 3), preset="wu2017", kernel="hmc")
