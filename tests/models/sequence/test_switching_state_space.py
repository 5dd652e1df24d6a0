"""Switching state spaces against the sum over all paths of joint Gaussians, written down entry by entry."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import pyro_gen as pg
from pyro_gen.models import SwitchingStateSpace
from pyro_gen.models.sequence.parts import particle_filter
from pyro_gen.models.sequence.parts.paths import MarkovPath

NAN, K, T = math.nan, 2, 6
KINDS: dict[str, dict[str, Any]] = {
    "outliers": {},
    "level and noise": {"switching": ("level", "noise")},
    "autoregression": {"level": False, "order": 2, "switching": ("autoregression",)},
    "trend, seasons": {"trend": True, "period": 3, "switching": ("slope", "season")},
}


def case(kind: str) -> tuple[SwitchingStateSpace, Tensor]:
    generator = torch.Generator().manual_seed(0)
    program = SwitchingStateSpace(T, K, loc=1.0, scale=1.5, **KINDS[kind]).double()
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = 1 + 2 * torch.randn(4, T, generator=generator, dtype=torch.float64)
    x[0, 3], x[1], x[2, 4:] = NAN, NAN, NAN
    return program, x


def joint_of(program: SwitchingStateSpace, path: tuple[int, ...]) -> Tensor:
    """The covariance of all values given their regimes: noise enters the state at t by the regime at t."""
    with torch.no_grad():
        of, scale = program.matrices()
        own = scale.get("autoregression", torch.zeros(K))[path[0]]
        root = of.vague + own * of.stationary
        at, cov = root @ root.mT, torch.zeros(T, T, dtype=torch.float64)
        for s in range(T):
            if s > 0:
                noise = of.entry @ torch.stack([scale[n][path[s]] for n in program.parts]).diag()
                at = of.transition @ at @ of.transition.mT + noise @ noise.mT
            ahead = at
            for t in range(s, T):
                cov[s, t] = cov[t, s] = of.observation @ ahead @ of.observation
                ahead = of.transition @ ahead
        return cov + torch.stack([scale["noise"][z] for z in path]).square().diag()


def by_paths(program: SwitchingStateSpace, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Every path of regimes, (paths, T), log p(x, path), (paths, N), and the covariances."""
    initial, matrix = program.initial.detach().softmax(-1), program.transition.detach().softmax(-1)
    paths = list(itertools.product(range(K), repeat=T))
    covs = [joint_of(program, path) for path in paths]
    scores = torch.zeros(len(paths), len(x), dtype=torch.float64)
    for i, path in enumerate(paths):
        scores[i] += initial[path[0]].log() + sum(matrix[a, b].log() for a, b in itertools.pairwise(path))
        for n, row in enumerate(x):
            o = ~row.isnan()
            if o.any():
                loc = torch.ones(int(o.sum()), dtype=torch.float64)
                scores[i, n] += MultivariateNormal(loc, covs[i][o][:, o]).log_prob(row[o])
    return torch.tensor(paths), scores, covs


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_is_the_sum_over_paths_and_weighted_paths_of_the_guide_estimate_it(kind: str) -> None:
    # 3 estimates with their errors: one |z| is above 5 in 2e-6 of seeds.
    program, x = case(kind)
    paths, scores, _ = by_paths(program, x)
    exact = scores.logsumexp(0)
    assert (pg.log_likelihood(program, x, method="exact").value - exact).abs().max() < 1e-8
    found = pg.log_likelihood(program, x, method="iwae", num_particles=2000)
    bound = 5 * found.standard_error + 1e-9
    assert ((found.value - exact).abs() <= bound).all() and found.standard_error.max() < 0.05
    weights = scores.softmax(0)
    expected = torch.stack([weights.mT @ (paths == z).double() for z in range(K)], -1)
    assert (program.probabilities(x, 4000) - expected).abs().max() < 0.05  # 2 standard deviations of .01 each, and more


@pytest.mark.parametrize("kind", KINDS)
def test_the_filter_of_particles_is_exact_with_all_paths_and_unbiased_with_few(kind: str) -> None:
    # 3 estimates by 400 filters of 6 paths of 64: one |z| is above 5 in 2e-6 of seeds.
    program, x = case(kind)
    exact = by_paths(program, x)[1].logsumexp(0)
    assert (program.filtered_likelihood(x, 64, 1).value - exact).abs().max() < 1e-8
    found = program.filtered_likelihood(x, 6, 400)
    assert ((found.value - exact).abs() <= 5 * found.standard_error + 1e-9).all()
    assert found.standard_error[[0, 2, 3]].max() < 0.05


def test_a_filter_that_keeps_the_heaviest_paths_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def heaviest(log_w: Tensor, particles: int) -> tuple[Tensor, Tensor]:
        kept = log_w.topk(particles, -1)
        return kept.indices, kept.values

    program, x = case("outliers")
    exact = by_paths(program, x)[1].logsumexp(0)
    monkeypatch.setattr(particle_filter, "_kept", heaviest)
    assert ((program.filtered_likelihood(x, 6, 2).value - exact)[[0, 2, 3]] < -0.1).all()


def test_the_filter_of_particles_of_a_long_series() -> None:
    # 300 steps of outliers and shifts: weighted paths and two filters, |z| above 5 in 1e-6 of seeds, and .1 for tails.
    program = SwitchingStateSpace(300, 2, ("noise", "level"), loc=0.0, scale=1.0)
    with torch.no_grad():
        program.transition.copy_(torch.tensor([[0.95, 0.05], [0.3, 0.7]]).log())
        program.log_scales["noise"].copy_(torch.tensor([0.5, 3.0]).log())
        program.log_scales["level"].copy_(torch.tensor([0.05, 2.0]).log())
    x = pg.sample(program, 1, seed=1)
    small, large = (program.filtered_likelihood(x, particles, 16) for particles in (128, 256))
    assert large.standard_error < 0.2
    assert abs(small.value - large.value) < 5 * torch.hypot(small.standard_error, large.standard_error) + 0.1


def test_more_paths_than_can_be_summed_are_weighed_by_every_verb() -> None:
    # The forecast of a random walk whose steps have deviation 1 or 3: 4,000 draws, |z| above 5 in 6e-7 of seeds.
    program = SwitchingStateSpace(40, 2, ("level",), loc=0.0, scale=1.0)
    with torch.no_grad():
        program.log_scales["noise"].fill_(-3.0)
        program.log_scales["level"].copy_(torch.tensor([1.0, 3.0]).log())
        program.transition.zero_()
    x = torch.cat(
        [torch.randn(1, 39, generator=torch.Generator().manual_seed(0)).cumsum(1), torch.full((1, 1), NAN)], 1
    )
    found = pg.log_likelihood(program, x)
    assert found.method == "iwae" and found.standard_error < 0.2
    drawn = pg.predict(program, x.repeat(400, 1), draws=10)[..., -1].double().flatten()
    variance = 5 + 2 * math.exp(-6)  # either regime comes next
    assert abs(drawn.mean() - x[0, 38]) < 5 * math.sqrt(variance / 4000) + 0.02
    assert drawn.var().item() == pytest.approx(variance, rel=0.25) and drawn.var() > 1.5  # the twin: calm regimes alone


def test_noise_that_comes_a_step_late_is_noticed() -> None:
    program, x = case("level and noise")
    _, scores, _ = by_paths(program, x)
    right, matrices = scores.logsumexp(0), program.series
    program.series = lambda z: matrices(torch.cat([z[..., :1], z[..., :-1]], -1))  # type: ignore[method-assign]
    wrong = pg.log_likelihood(program, x, method="exact").value
    assert ((wrong - right).abs()[[0, 2, 3]] > 1e-2).all()


def test_weights_without_the_density_of_the_guide_are_noticed() -> None:
    program, x = case("level and noise")
    exact = by_paths(program, x)[1].logsumexp(0)
    q = program.proposal(x)
    torch.manual_seed(0)
    z = q.sample((2000,))
    law, filled, _ = program.series(z).marginalise(x.expand(2000, -1, -1))
    log_p = law.log_prob(filled) + program.chain(T).log_prob(z)
    right = (log_p - q.log_prob(z)).logsumexp(0) - math.log(2000)
    assert (right - exact).abs().max() < 0.1
    assert ((log_p.logsumexp(0) - math.log(2000) - exact).abs() > 1).all()


def test_kims_filter_is_exact_for_two_steps() -> None:
    program, _ = case("level and noise")
    x = torch.tensor([[0.3, 2.5], [NAN, 1.0]], dtype=torch.float64)
    q = program.proposal(x)
    paths = torch.tensor(list(itertools.product(range(K), repeat=2)))
    law, filled, _ = program.series(paths.unsqueeze(1)).marginalise(x.expand(4, -1, -1))
    expected = (law.log_prob(filled) + program.chain(2).log_prob(paths).unsqueeze(1)).softmax(0)
    assert (q.log_prob(paths.unsqueeze(1)).exp() - expected).abs().max() < 1e-10


def test_gaps_are_drawn_from_the_mixture_over_paths() -> None:
    # 4,000 draws; the exact mean: |z| above 5 in 6e-7 of seeds.
    program, x = case("level and noise")
    x[0] += 4.0
    _, scores, covs = by_paths(program, x[:1])
    o = ~x[0].isnan()
    means, squares = [], []
    for cov in covs:
        gain = cov[3, o] @ torch.linalg.inv(cov[o][:, o])
        mean = 1 + gain @ (x[0, o] - 1)
        means.append(mean)
        squares.append(mean**2 + cov[3, 3] - gain @ cov[o, 3])
    weights = scores[:, 0].softmax(0)
    mean, square = weights @ torch.stack(means), weights @ torch.stack(squares)
    drawn = pg.impute(program, x[:1].repeat(400, 1), draws=10)[..., 3].flatten()
    assert abs(drawn.mean() - mean) < 5 * ((square - mean**2) / 4000).sqrt()
    assert abs(1 - mean) > 5 * ((square - mean**2) / 4000).sqrt()  # the twin: the mean of what was not seen


def test_chains_backwards_and_forwards() -> None:
    # 20,000 paths of 8: the greatest |z| is above 5 in 5e-6 of seeds.
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 2, 2, generator=generator).log_softmax(-1)
    start = torch.tensor([0.3, 0.7]).log()
    for backwards in (False, True):
        chain = MarkovPath(start, logits, backwards)
        paths = chain.enumerate_support()
        chances = chain.log_prob(paths).exp()
        assert chances.sum().item() == pytest.approx(1.0, abs=1e-6)
        torch.manual_seed(0)
        drawn = chain.sample((20_000,)) @ torch.tensor([4, 2, 1])
        shares = torch.bincount(drawn, minlength=8) / 20_000
        other = MarkovPath(start, logits, not backwards).log_prob(paths).exp()
        assert ((shares - chances) / (chances * (1 - chances) / 20_000).sqrt()).abs().max() < 5
        assert ((shares - other) / (other * (1 - other) / 20_000).sqrt()).abs().max() > 5  # the twin
    assert not MarkovPath(start, logits[:1].expand(99, -1, -1)).has_enumerate_support


def test_shifts_of_the_level_are_found() -> None:
    # 60 steps about 0, then about 6, with noise 1: the shift is at its step with probability above .9.
    torch.manual_seed(0)
    x = torch.cat([torch.zeros(30), torch.full((30,), 6.0)])[None] + torch.randn(1, 60)
    program = SwitchingStateSpace(60, 2, ("level",), loc=0.0, scale=1.0)
    with torch.no_grad():
        program.log_scales["noise"].fill_(0.0)
        program.log_scales["level"].copy_(torch.tensor([0.01, 5.0]).log())
        program.initial.copy_(torch.tensor([0.98, 0.02]).log())
        program.transition.copy_(torch.tensor([[0.98, 0.02], [0.98, 0.02]]).log())
    found = pg.log_likelihood(program, x, method="iwae", num_particles=500)
    assert found.diagnostics["ess"] > 100 and found.standard_error < 0.2
    shift = program.probabilities(x)[0, :, 1]
    assert shift.argmax() == 30 and shift[30] > 0.9 and shift.sum() < 2.5


def test_training_climbs_the_likelihood() -> None:
    program, x = SwitchingStateSpace(8, 2), 3 * torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    program.initialise(x)
    before = pg.log_likelihood(program, x, method="exact").mean()
    pg.fit(program, x, epochs=40, lr=0.05, progress=False)
    assert pg.log_likelihood(program, x, method="exact").mean() > before + 0.05


def test_what_makes_no_model_is_refused() -> None:
    for arguments in ({"states": 0}, {"switching": ("slope",)}, {"level": False, "period": 4, "switching": ("level",)}):
        with pytest.raises(ValueError, match=r"of noise, .* those that switch"):
            SwitchingStateSpace(10, **arguments)
