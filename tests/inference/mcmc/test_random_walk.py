import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_gen.density import Density, density
from pyro_gen.inference.mcmc import run
from pyro_gen.inference.mcmc.random_walk import RandomWalk, WalkState


def gamma(z):
    """The logarithm of a Gamma(2, 1) variable, and so with its Jacobian."""
    return (2 * z - z.exp()).squeeze(-1)


def distance(step, transitions=20, chains=20_000):
    """The largest distance of an empirical distribution function from the exact one, over its bound (DKWM, 1e-6)."""
    bound = math.sqrt(math.log(2 / 1e-6) / (2 * chains))
    assert bound < 0.025  # what is moved by 2.5% of the mass is seen
    sampler = RandomWalk(Density.from_functions(gamma, dim=1))
    start = torch.distributions.Gamma(2.0, 1.0).sample((chains, 1)).log()
    state = sampler.init(start)
    for _ in range(transitions):
        state = step(sampler, state)
    assert (state.z != start).float().mean() > 0.95  # it moved
    x = state.z.squeeze(-1).double().exp()
    u = (1 - (-x).exp() * (1 + x)).sort().values
    grid = torch.arange(1, chains + 1) / chains
    return torch.maximum((grid - u).abs(), (u - grid + 1 / chains).abs()).max().item() / bound


def test_conserves_its_target():
    assert distance(lambda sampler, state: sampler.step(state, None)[0]) < 1  # false-alarm rate 1e-6


def test_conserves_its_target_twin():
    def stale(sampler, state):
        return WalkState(sampler.step(state, None)[0].z, state.log_density)

    assert distance(stale) > 1


def test_one_dimension():
    samples = run(Density.from_functions(gamma, dim=1), RandomWalk, chains=256, warmup=200, draws=200)
    x = samples.z.double().exp()
    means = torch.cat([x, x.square(), samples.z.double()], -1).mean(0)
    exact = torch.tensor([2.0, 6.0, 1 - 0.5772156649])  # the digamma function at 2
    scores = (means.mean(0) - exact) / (means.std(0) / 16)
    assert scores.abs().max() < 5  # Student's t with 255 degrees of freedom, 3 times: false-alarm rate 4e-6
    assert abs(samples.stats["acceptance_rate"].mean() - 0.44) < 0.04
    assert set(samples.stats) == {"lp", "acceptance_rate", "n_steps", "step_size"}


def test_learns_a_covariance():
    factor = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.2, 0.0], [5.0, 5.0, 0.5]])

    def log_density(z):
        return -0.5 * torch.linalg.solve_triangular(factor, z.unsqueeze(-1), upper=False).square().sum()

    samples = run(Density.from_functions(log_density, dim=3), RandomWalk, chains=256, warmup=600, draws=200)
    second = samples.z.double().square().mean(0)
    exact = (factor @ factor.T).diagonal()
    assert ((second.mean(0) - exact) / (second.std(0) / 16)).abs().max() < 5  # false-alarm rate 4e-6, as above
    assert abs(samples.stats["acceptance_rate"].mean() - 0.303) < 0.05
    part = run(Density.from_functions(log_density, dim=3), RandomWalk, chains=256, warmup=600, draws=120)
    rest = run(Density.from_functions(log_density, dim=3), RandomWalk, draws=80, state=part.state)
    assert torch.equal(samples.z, torch.cat([part.z, rest.z]))


def test_one_chain():
    density = Density.from_functions(lambda z: -0.5 * (z / torch.tensor([0.1, 30.0])).square().sum(), dim=2)
    samples = run(density, RandomWalk, chains=1, warmup=2000, draws=500)
    assert 0.2 < samples.stats["acceptance_rate"].mean() < 0.5  # 0.337 is aimed at
    assert 5 < samples.z[..., 1].std() < 60 and 0.05 < samples.z[..., 0].std() < 0.2


def test_batch_and_support():
    scale = torch.tensor([0.1, 10.0])

    def half_normal(z):
        inside = (z > 0).all(-1)
        return torch.where(inside, -0.5 * (z.squeeze(-1) / scale).square(), -torch.inf)

    density = Density.from_functions(half_normal, dim=1, batch_shape=(2,))
    start = scale.unsqueeze(-1).expand(256, 2, 1).clone()
    samples = run(density, RandomWalk, chains=256, warmup=300, draws=200, init=start)
    assert bool((samples.z > 0).all())
    sampler = RandomWalk(density)
    state = sampler.init(-0.1 * start)  # off the support
    for i in range(100):
        state, _ = sampler.step(state, i / 100)
    assert bool((state.z > 0).all()) and bool(state.log_density.isfinite().all())
    means = (samples.z.squeeze(-1) / scale).double().mean(0)
    assert ((means.mean(0) - math.sqrt(2 / math.pi)) / (means.std(0) / 16)).abs().max() < 5  # false-alarm rate 3e-6


def test_wrong_acceptance():
    with pytest.raises(ValueError, match=r"target_acceptance=1\.5"):
        RandomWalk(Density.from_functions(gamma, dim=1), target_acceptance=1.5)


def rolling(times: Tensor) -> None:
    """An inclined plane, as Pyro's example has it: the simulator takes a number out of the graph."""
    friction = pyro.sample("friction", dist.Uniform(0.0, 1.0))
    time = math.sqrt(2.0 / (1.5 - float(friction)))
    with pyro.plate("data", len(times)):
        pyro.sample("time", dist.Normal(time, 0.1), obs=times)


def test_a_model_without_gradients() -> None:
    times = torch.tensor([1.4, 1.5])
    settings: dict[str, Any] = {"chains": 8, "warmup": 60, "draws": 100}
    with pytest.warns(UserWarning, match="chains come one by one"):
        found = run(density(rolling, times), "rwm", **settings).values["friction"]
    grid = torch.linspace(0.0005, 0.9995, 1000)
    log_density = []
    for friction in grid:
        held = pyro.condition(rolling, {"friction": friction})
        log_density.append(pyro.poutine.trace(held).get_trace(times).log_prob_sum())
    exact = float((torch.stack(log_density).softmax(0) * grid).sum())
    sd = float((torch.stack(log_density).softmax(0) * (grid - exact).square()).sum().sqrt())
    # 800 draws of autocorrelation time about 10: a false alarm for 6e-7 of seeds.
    assert abs(float(found.mean()) - exact) < 5 * sd / 80**0.5
    # The twin: a method that would follow gradients that are lost.
    with pytest.raises(ValueError, match=r"takes a latent variable out of the graph"):
        run(density(rolling, times), "hmc", **settings)
