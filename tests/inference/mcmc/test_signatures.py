"""One protocol for all kernels: what :class:`Sampler` promises, held by every sampler that there is."""

import functools
import inspect
import math
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils._pytree import tree_leaves

import pyro_gen.inference.mcmc as mcmc
from pyro_gen._random import seeded
from pyro_gen.density import Density, Tempered, density
from pyro_gen.inference.mcmc import HMC, SAMPLERS, Gibbs, Sampler, make_sampler, run
from pyro_gen.inference.mcmc.discrete_langevin import DiscreteLangevin
from pyro_gen.inference.mcmc.gibbs import held_names
from pyro_gen.inference.mcmc.langevin import Langevin
from pyro_gen.inference.mcmc.single_site import SingleSiteGibbs

COVARIANCE = torch.tensor([[1.0, 0.9], [0.9, 2.0]])
CHAINS = 20_000
VALUES = torch.tensor([-1.0, 0.0, 1.0])
DISCRETE = {DiscreteLangevin, SingleSiteGibbs}
OPTIONS = {mcmc.Tempering: {"temperatures": 3}, **{kind: {"values": VALUES} for kind in DISCRETE}}
BY_CLASS = {Langevin, *DISCRETE}  # for contrastive divergence: they have no warm-up, and no name in posterior


def every_sampler():
    """The subclasses of Sampler in the package, at any depth."""
    found, waiting = [], Sampler.__subclasses__()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("pyro_gen.") and not inspect.isabstract(kind):
            found.append(kind)
    return found


def normal():
    precision = torch.linalg.inv(COVARIANCE)
    return Density.from_functions(
        lambda z: -0.5 * (z @ (precision - torch.eye(2)) * z).sum(-1),
        dim=2,
        log_prior=lambda z: -0.5 * z.square().sum(-1),
        sample_prior=lambda chains: torch.randn(chains, 2),
    )


def chain():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("b", dist.Normal(0.9 * a, math.sqrt(2.0 - 0.81)))
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))


def update_b(values):
    return {"b": dist.Normal(0.9 * values["a"], math.sqrt(2.0 - 0.81)).sample()}


def make(kind):
    if kind is Gibbs:
        blocks = {"b": update_b}
        return Gibbs(density(chain, hold=held_names(blocks)), blocks=blocks)
    return kind(normal(), **OPTIONS.get(kind, {}))


def values(sampler, state):
    """Both coordinates (C, 2)."""
    return torch.cat([state.z, *(v.reshape(-1, 1) for v in sampler.held(state).values())], -1)


def starting(sampler, draws):
    if not isinstance(sampler, Gibbs):
        return sampler.place(draws)
    state = sampler.place(draws[:, :1])
    return sampler.retempered(state._replace(held=(draws[:, 1],)))


def adapted(kind, chains=128):
    sampler = make(kind)
    state = sampler.init(torch.randn(chains, sampler.density.dim))
    for i in range(60):
        state, _ = sampler.step(state, i / 60)
    return sampler, state


def distance(sampler, step, transitions=8):
    """The largest distance of empirical distribution functions from the exact ones, over its bound (DKWM, 1e-6)."""
    bound = math.sqrt(math.log(2 * 3 / 1e-6) / (2 * CHAINS))
    assert bound < 0.025  # what is moved by 2.5% of the mass is seen
    draws = torch.randn(CHAINS, 2) @ torch.linalg.cholesky(COVARIANCE).T
    state = starting(sampler, draws)
    for _ in range(transitions):
        state = step(sampler, state)
    found = values(sampler, state)
    assert (found != draws).any(-1).float().mean() > 0.8  # it moved
    worst = 0.0
    for direction in torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]):
        scale = (direction @ COVARIANCE @ direction).sqrt()
        u = torch.special.ndtr((found @ direction / scale).double()).sort().values
        grid = torch.arange(1, CHAINS + 1) / CHAINS
        worst = max(worst, torch.maximum((grid - u).abs(), (u - grid + 1 / CHAINS).abs()).max().item())
    return worst / bound


def frozen_step(sampler, state):
    return sampler.step(state, None)[0]


def test_every_sampler_is_registered_and_registered_names_are_samplers():
    assert set(every_sampler()) == {*SAMPLERS.values(), *BY_CLASS}


@pytest.mark.parametrize("kind", every_sampler())
def test_signature(kind):
    for name in ("init", "place", "step", "retempered", "state_dict", "load_state_dict", "report", "held"):
        own, promised = (inspect.signature(getattr(c, name)).parameters for c in (kind, Sampler))
        assert list(own) == list(promised), name
    sampler, state = adapted(kind)
    assert {"z", "log_density"} <= set(state._fields)
    assert all(isinstance(leaf, torch.Tensor) and len(leaf) == 128 for leaf in tree_leaves(state))
    after, figures = sampler.step(state, None)
    assert type(after) is type(state) and after.log_density.shape == (128,)
    assert "lp" in figures
    for name, figure in figures.items():
        assert figure.shape in ((128,), ()), name
    torch.testing.assert_close(figures["lp"], after.log_density)
    assert isinstance(sampler.report(), dict)
    placed = sampler.place(after.z)
    assert type(placed) is type(state)
    if kind is not Gibbs:  # whose held sites are drawn anew
        torch.testing.assert_close(placed.log_density, after.log_density)


@pytest.mark.parametrize("kind", every_sampler())
def test_what_is_learnt_is_frozen_and_travels(kind):
    sampler, state = adapted(kind)
    state, _ = sampler.step(state, None)
    learnt = sampler.state_dict()
    for _ in range(5):
        state, _ = sampler.step(state, None)
    sampler.place(torch.randn(16, sampler.density.dim))  # learns nothing
    sampler.place(state.z)
    before, after = tree_leaves(plain(learnt)), tree_leaves(plain(sampler.state_dict()))
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        assert a.equal(b) if isinstance(a, torch.Tensor) else a == b
    twin = make(kind)
    twin.init(torch.randn(128, twin.density.dim))
    twin.load_state_dict(sampler.state_dict())
    ends = []
    for each in (sampler, twin):
        with seeded(3):
            ends.append(values(each, each.step(state, None)[0]))
    assert torch.equal(*ends)


def plain(learnt):
    """Without the count of transitions, which goes by a sequence of trajectory lengths that is fixed beforehand."""
    return {k: plain(v) if isinstance(v, dict) else v for k, v in learnt.items() if k != "transitions"}


@pytest.mark.parametrize("kind", [k for k in every_sampler() if k not in DISCRETE])
def test_leaves_a_gaussian_invariant(kind):
    sampler, _ = adapted(kind)
    assert distance(sampler, frozen_step) < 1  # false-alarm rate 1e-6


def test_leaves_a_gaussian_invariant_twin(monkeypatch):
    """Without the accept step of Hamiltonian Monte Carlo; with a step size that shows."""

    def always(point, proposal):
        return proposal.point, mcmc.hmc.Info(torch.ones_like(proposal.after), proposal.after, proposal.after > 0, 1)

    sampler = HMC(normal(), step_size=1.2, num_steps=2, metric="diagonal")
    sampler.init(torch.randn(100, 2))
    assert distance(sampler, frozen_step) < 1
    monkeypatch.setattr(mcmc.hmc, "accept_or_stay", always)
    assert distance(sampler, frozen_step) > 1


@pytest.mark.parametrize("kind", [k for k in every_sampler() if k is not Gibbs])
def test_a_state_at_another_temperature(kind):
    """All that it holds of the density is that of the new temperature, at no cost where it carries the parts."""
    target = Tempered(normal())
    sampler = make_sampler(functools.partial(kind, **OPTIONS.get(kind, {})), target)
    target.beta = 0.3
    state, _ = sampler.step(sampler.init(torch.randn(64, 2)), None)
    target.beta = 0.8
    count = target.evaluations
    new = sampler.retempered(state)
    if isinstance(sampler, HMC | mcmc.NUTS):
        assert target.evaluations == count
    assert torch.equal(new.z, state.z)
    z = state.z.clone().requires_grad_()
    value = -0.5 * (0.8 * (z @ torch.linalg.inv(COVARIANCE) * z).sum(-1) + 0.2 * z.square().sum(-1))
    torch.testing.assert_close(new.log_density, value.detach())
    assert not torch.allclose(new.log_density, state.log_density)
    if hasattr(new, "grad"):
        torch.testing.assert_close(new.grad, torch.autograd.grad(value.sum(), z)[0])


class Chains(NamedTuple):
    z: torch.Tensor
    log_density: torch.Tensor


class Walk(Sampler):
    def init(self, z):
        return Chains(z, self.density.log_density(z))

    def step(self, state, progress):
        new = self.init(state.z + torch.randn_like(state.z))
        moved = torch.rand_like(new.log_density) < (new.log_density - state.log_density).exp()
        z = torch.where(moved.unsqueeze(-1), new.z, state.z)
        return Chains(z, torch.where(moved, new.log_density, state.log_density)), {"lp": state.log_density}


def test_a_kernel_of_the_users_own():
    sampler = make_sampler(Walk, normal())
    assert distance(sampler, frozen_step) < 1
    samples = run(normal(), Walk, chains=256, draws=40, thin=5, seed=1)
    more = run(normal(), Walk, draws=20, thin=5, state=samples.state)
    draws = torch.cat([samples.z, more.z]).flatten(0, 1).double()
    assert (draws.T.cov() - COVARIANCE).abs().max() < 0.15  # 6 standard errors at 3000 effective draws


def test_what_makes_a_sampler():
    assert isinstance(make_sampler("mala", normal()), mcmc.MALA)
    assert make_sampler(functools.partial(HMC, num_steps=3), normal()).num_steps == 3
    assert make_sampler(lambda target: HMC(target, num_steps=4), normal()).num_steps == 4
    with pytest.raises(ValueError, match="choose from hmc"):
        make_sampler("metropolis", normal())
    for wrong in (3, lambda target: target):
        with pytest.raises(TypeError, match="no Sampler"):
            make_sampler(wrong, normal())
