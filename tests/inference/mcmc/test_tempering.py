import inspect
import math
import types

import pytest
import torch

from pyro_gen.density import Density
from pyro_gen.inference.mcmc import run, tempering
from pyro_gen.inference.mcmc.tempering import Tempering, TemperingState, equal_barriers, swaps

WIDE = 5.0  # the standard deviation of the prior
MODES, WIDTHS, SHARES = torch.tensor([-4.0, 4.0]), torch.tensor([0.3, 0.6]), torch.tensor([0.2, 0.8])


def log_normal(z, loc, scale):
    return -0.5 * ((z - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)


def bimodal():
    """Two modes in two dimensions, at (-4, -4) and (4, 4)."""

    def log_likelihood(z):
        return (SHARES.log() + log_normal(z.unsqueeze(-1), MODES, WIDTHS).sum(-2)).logsumexp(-1)

    return Density.from_functions(
        log_likelihood,
        dim=2,
        log_prior=lambda z: log_normal(z, torch.tensor(0.0), torch.tensor(WIDE)).sum(-1),
        sample_prior=lambda chains: WIDE * torch.randn(chains, 2),
    )


# The weight of each mode in the posterior, and the mean and variance of a coordinate there: a product of Gaussians.
EVIDENCE = SHARES.log() + 2 * log_normal(MODES, torch.tensor(0.0), (WIDE**2 + WIDTHS**2).sqrt())
WEIGHTS = EVIDENCE.double().softmax(0)
MEANS = MODES * WIDE**2 / (WIDE**2 + WIDTHS**2)


def z_scores(draws, exact):
    """Of the means of (S, C) against exact ones; the chains are independent, so their means give the error."""
    means = draws.double().mean(0)
    return (means.mean(0) - exact) / (means.std(0) / len(means) ** 0.5)


def test_weights_of_modes():
    density = bimodal()
    start = MODES[0] * torch.ones(128, 2)  # all chains in the mode of weight 0.2
    stuck = run(density, "hmc", chains=128, warmup=100, draws=100, init=start)
    assert (stuck.z[..., 0] > 0).double().mean() < 0.05

    samples = run(density, "tempering", chains=128, warmup=300, draws=300, init=start, temperatures=8)
    right = samples.z[..., 0] > 0
    error = right.double().mean(0).std() / 128**0.5
    assert error < 0.015  # the weights are known to about 1%
    # Student's t with 127 degrees of freedom, 2 times: false-alarm rate 6e-6.
    assert z_scores(right, WEIGHTS[1]).abs() < 4.9
    assert z_scores(samples.z[..., 1], (WEIGHTS * MEANS).sum()).abs() < 4.9
    assert z_scores(right, 0.5).abs() > 4.9
    names = {"lp", "energy", "acceptance_rate", "n_steps", "diverging", "step_size", "round_trips", "swap_acceptance"}
    assert set(samples.stats) == names and all(s.shape == (300, 128) for s in samples.stats.values())

    report = samples.warmup
    rejection, barrier = report["rejection"], report["barrier"]
    assert (rejection.max() - rejection.min()) < 0.15  # of about 0.4: the ladder is that of equal rejection
    rate = samples.stats["round_trips"].double().mean()
    expected = 1 / (2 + 2 * (rejection / (1 - rejection)).sum())
    assert 0.5 * expected < rate < 1.5 * expected
    assert 0.5 * expected < report["round_trip_rate"] < 1.5 * expected
    assert report["best_rate"] == 1 / (2 + 2 * barrier)


# ----------------------------------------------------------------------------------------------------------------------
# Each temperature's target is conserved


def gaussian():
    """A prior N(0, 1) and a likelihood N(z; 2, 0.3): a Gaussian at each temperature."""
    return Density.from_functions(
        lambda z: -0.5 * ((z - 2) / 0.3).square().sum(-1),
        dim=1,
        log_prior=lambda z: -0.5 * z.square().sum(-1),
        sample_prior=lambda chains: torch.randn(chains, 1),
    )


BETAS = torch.tensor([0.0, 0.05, 0.2, 0.5, 1.0]).double()
VARIANCES = 1 / (1 + BETAS / 0.09)
LOCS = VARIANCES * BETAS * 2 / 0.09


def distance(module, chains=20_000, transitions=12):
    """The largest distance of an empirical distribution function from the exact one over the temperatures.

    Over the bound of Dvoretzky, Kiefer, Wolfowitz and Massart, at 1e-6 for each of the five.
    """
    bound = math.sqrt(math.log(2 / 1e-6) / (2 * chains))
    assert bound < 0.025  # what is moved by 2.5% of the mass is seen
    sampler = module.Tempering(gaussian(), temperatures=5)
    with torch.no_grad():
        state = sampler.init(torch.zeros(chains, 1))
        sampler.betas = BETAS
        exact = (LOCS + VARIANCES.sqrt() * torch.randn(chains, 5).double()).float().unsqueeze(-1)
        sampler.tuning.begin(sampler._point(state._replace(replicas=exact, parts=sampler._terms(exact))))
        state = module.TemperingState(exact[:, -1], state.log_density, exact, sampler._terms(exact), state.fresh)
        for _ in range(transitions):
            state, figures = sampler.step(state, None)
    assert (state.replicas != exact).float().mean() > 0.95  # it moved
    assert 0.2 < figures["swap_acceptance"].mean() < 0.9
    assert torch.equal(state.z, state.replicas[:, -1])
    torch.testing.assert_close(state.parts, tuple(sampler._terms(state.replicas)))
    u = torch.distributions.Normal(LOCS, VARIANCES.sqrt()).cdf(state.replicas.squeeze(-1).double()).sort(0).values
    grid = torch.arange(1, chains + 1).unsqueeze(-1) / chains
    return torch.maximum((grid - u).abs(), (u - grid + 1 / chains).abs()).max().item() / bound


def test_conserves_its_targets():
    assert distance(tempering) < 1  # false-alarm rate 5e-6


def mutant(old, new):
    """The module with a defect planted in its source."""
    source = inspect.getsource(tempering)
    assert source.count(old) == 1
    module = types.ModuleType("mutant")
    exec(source.replace(old, new), module.__dict__)
    return module


@pytest.mark.parametrize(
    "defect",
    [
        ("gain = betas.diff().view(shape) * -log", "gain = betas.diff().view(shape) * log"),
        ("probability = gain.clamp(max=0.0).exp()", "probability = (0.5 * gain).clamp(max=0.0).exp()"),
        # The density of the old temperature, kept after the ladder has moved on by one.
        ("beta = self.betas[1:].to(log_prior)", "beta = self.betas[:-1].to(log_prior)"),
    ],
)
def test_conserves_its_targets_twin(defect):
    assert distance(mutant(*defect)) > 1


# ----------------------------------------------------------------------------------------------------------------------
# Swaps and ladders


def test_swaps():
    betas = torch.tensor([0.0, 0.3, 0.6, 1.0]).double()
    log_likelihood = torch.tensor([[9.0, 5.0, 1.0, -3.0], [-math.inf, -math.inf, 0.0, 9.0]])
    order, probability = swaps(log_likelihood, betas, 0)
    assert order[0].tolist() == [1, 0, 3, 2] and order[1, :2].tolist() == [0, 1]
    torch.testing.assert_close(probability[0], torch.ones(3).double())
    torch.testing.assert_close(probability[1], torch.tensor([0.0, 0.0, math.exp(-0.4 * 9)]).double())
    order, _ = swaps(log_likelihood, betas, 1)
    assert order[0].tolist() == [0, 2, 1, 3]
    order, _ = swaps(torch.tensor([0.0, 1.0]).expand(100_000, 2), torch.tensor([0.0, 1.0]).double(), 0)
    share = (order[:, 0] == 1).double().mean()
    assert abs(share - math.exp(-1)) < 4.5 * math.sqrt(0.37 * 0.63 / 100_000)  # false-alarm rate 7e-6


def test_equal_barriers():
    betas = torch.tensor([0.0, 0.1, 0.4, 1.0]).double()
    new = equal_barriers(betas, torch.tensor([0.6, 0.2, 0.1]).double())
    assert new[0] == 0 and new[-1] == 1
    torch.testing.assert_close(new[1:3], torch.tensor([0.05, 0.1]).double(), atol=3e-3, rtol=0)
    settled = equal_barriers(new, torch.full((3,), 0.3).double())
    torch.testing.assert_close(settled, new)


def test_barrier_of_a_gaussian():
    # The local barrier at beta is half the mean distance of the log-likelihoods of two draws.
    samples = run(gaussian(), Tempering, chains=512, warmup=150, draws=1, temperatures=12)
    beta = torch.linspace(0, 1, 4001).double().square()
    variance = 1 / (1 + beta / 0.09)
    pair = variance.mul(2 / 0.09).mul(beta).unsqueeze(-1) + variance.sqrt().unsqueeze(-1) * torch.randn(4001, 1000)
    log_likelihood = -0.5 * ((pair - 2) / 0.3).square()
    local = 0.5 * (log_likelihood[:, :500] - log_likelihood[:, 500:]).abs().mean(-1)
    barrier = torch.trapezoid(local, beta)
    assert abs(samples.warmup["barrier"] / barrier - 1) < 0.1  # the error of 12 temperatures, of order 1 / 12^2


def test_goes_on():
    density, options = bimodal(), {"temperatures": 4}
    whole = run(density, Tempering, chains=8, warmup=40, draws=20, **options)
    part = run(density, Tempering, chains=8, warmup=40, draws=13, **options)
    rest = run(density, Tempering, draws=7, state=part.state, **options)
    assert torch.equal(whole.z, torch.cat([part.z, rest.z]))


def test_batch():
    scale = torch.tensor([0.3, 1.0, 3.0])
    density = Density.from_functions(
        lambda z: -0.5 * ((z.squeeze(-1) - 1) / scale).square(),
        dim=1,
        log_prior=lambda z: -0.5 * z.squeeze(-1).square(),
        sample_prior=lambda chains: torch.randn(chains, 3, 1),
        batch_shape=(3,),
    )
    samples = run(density, Tempering, chains=256, warmup=100, draws=100, temperatures=4)
    assert samples.z.shape == (100, 256, 3, 1) and samples.stats["round_trips"].shape == (100, 256, 3)
    scores = z_scores(samples.z.squeeze(-1), 1 / (1 + scale.double().square()))
    assert scores.abs().max() < 5  # Student's t with 255 degrees of freedom, 3 times: false-alarm rate 4e-6


def test_errors():
    with pytest.raises(ValueError, match="temperatures=1"):
        Tempering(bimodal(), temperatures=1)
    improper = Density.from_functions(lambda z: -0.5 * z.square().sum(-1), dim=1)
    with pytest.raises(ValueError, match="prior"):
        Tempering(improper).init(torch.zeros(4, 1))


def test_state():
    sampler = Tempering(bimodal(), temperatures=3)
    with torch.no_grad():
        state = sampler.init(torch.zeros(5, 2))
    assert isinstance(state, TemperingState) and state.replicas.shape == (5, 3, 2)
    assert [tuple(t.shape) for t in state.parts] == [(5, 3), (5, 3), (5, 3, 2), (5, 3, 2)]
