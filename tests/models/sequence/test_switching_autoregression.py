"""Switching autoregressions against the sum over all paths of regimes, and statsmodels."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.models import SwitchingAutoregression

NAN, K, T = math.nan, 2, 7
KINDS: dict[str, dict[str, Any]] = {
    "all": {"order": 2},
    "mean": {"order": 1, "switching": ("loc",)},
    "coefficients and noise": {"order": 3, "switching": ("partial", "scale")},
}


def case(kind: str) -> tuple[SwitchingAutoregression, Tensor]:
    generator = torch.Generator().manual_seed(0)
    program = SwitchingAutoregression(T, K, **KINDS[kind]).double()
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = 1.5 * torch.randn(4, T, generator=generator, dtype=torch.float64)
    x[1, 5:], x[2] = NAN, NAN  # a forecast of two steps, and nothing seen
    return program, x


def step(program: SwitchingAutoregression, row: Tensor, t: int, z: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of step t in regime z: of the stationary law of that regime where t < k."""

    def of(parameter: Tensor) -> Tensor:
        return parameter.detach().expand(K, *parameter.shape[1:])[z]

    m, scale, phi = of(program.loc), of(program.log_scale).exp(), of(program.coefficients)
    k = len(phi)
    if t >= k:
        return m + sum(phi[j] * (row[t - 1 - j] - m) for j in range(k)), scale
    companion = torch.zeros(k, k, dtype=torch.float64)
    companion[0], companion[1:, :-1] = phi, companion[1:, :-1] + torch.eye(k - 1)
    cov = torch.zeros(k, k, dtype=torch.float64)
    cov[0, 0] = scale**2
    stationary = cov.clone()
    for _ in range(6000):  # of the last k steps
        stationary = companion @ stationary @ companion.mT + cov
    gamma = stationary[: t + 1, : t + 1]
    if t == 0:
        return m, gamma[0, 0].sqrt()
    gain = torch.linalg.solve(gamma[1:, 1:], gamma[0, 1:])
    return m + gain @ (row[:t].flip(0) - m), (gamma[0, 0] - gain @ gamma[0, 1:]).sqrt()


def by_paths(program: SwitchingAutoregression, x: Tensor) -> tuple[Tensor, Tensor]:
    """Every path of regimes, (paths, T), and log p(x, path), (paths, N)."""
    initial, matrix = program.initial.detach().softmax(-1), program.transition.detach().softmax(-1)
    paths = list(itertools.product(range(K), repeat=T))
    scores = torch.zeros(len(paths), len(x), dtype=torch.float64)
    for n, row in enumerate(x):
        seen = int((~row.isnan()).sum())
        each = {}
        for t, z in itertools.product(range(seen), range(K)):
            mean, sd = step(program, row, t, z)
            each[t, z] = torch.distributions.Normal(mean, sd).log_prob(row[t])
        for i, path in enumerate(paths):
            chance = initial[path[0]].log() + sum(matrix[a, b].log() for a, b in itertools.pairwise(path))
            scores[i, n] = chance + sum(each[t, path[t]] for t in range(seen))
    return torch.tensor(paths), scores


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_and_regimes_are_those_of_the_sum_over_paths(kind: str) -> None:
    program, x = case(kind)
    paths, scores = by_paths(program, x)
    found = pg.log_likelihood(program, x)
    assert found.kind == "exact" and (found.value - scores.logsumexp(0)).abs().max() < 1e-8
    weights = scores.softmax(0)
    expected = torch.stack([weights.mT @ (paths == z).double() for z in range(K)], -1)
    assert (program.probabilities(x) - expected).abs().max() < 1e-10
    best = (program.viterbi(x) * 2 ** torch.arange(T - 1, -1, -1)).sum(-1)
    assert (scores.gather(0, best.unsqueeze(0))[0] - scores.amax(0)).abs().max() < 1e-10


def test_regimes_that_do_not_switch_and_lags_about_another_mean_are_noticed() -> None:
    program, x = case("all")
    right = by_paths(program, x)[1].logsumexp(0)
    d = program.series(T)
    observed = d.observed(x.nan_to_num(), ~x.isnan())
    one = (d.initial + observed.sum(1)).logsumexp(-1)  # a regime is drawn once, and kept
    lags = d.regimes.loc.flip(0)  # deviations from the mean of the other regime
    d.regimes.loc = lags
    assert ((one - right).abs()[[0, 1, 3]] > 1e-2).all()
    assert ((d.marginalise(x)[0].log_prob(x.nan_to_num()) - right).abs()[[0, 1, 3]] > 1e-2).all()


def test_given_the_first_step_it_is_the_regression_of_statsmodels() -> None:
    regression = pytest.importorskip("statsmodels.tsa.regime_switching.markov_regression").MarkovRegression
    nile = pg.data.load("nile").train.double()
    program, _ = case("mean")
    with torch.no_grad():
        program.centre.fill_(900.0)
        program.unit.fill_(150.0)
        program.transition.copy_(torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log())
    y = nile[0].numpy()
    rival = regression(y[1:], K, exog=y[:-1, None])
    found = pg.log_likelihood(program, nile).value - pg.log_likelihood(program, nile[:, :1]).value
    matrix = program.transition.detach().softmax(-1)
    # It makes two transitions from the probabilities that it is given to the regime of its first step.
    rival.initialize_known((program.probabilities(nile[:, :1])[0, 0] @ torch.linalg.inv(matrix)).numpy())
    phi, means = program.coefficients.item(), 900 + 150 * program.loc.detach()
    stay = [matrix[0, 0].item(), matrix[1, 0].item()]
    variance = (150 * program.log_scale.exp().item()) ** 2
    expected = rival.loglike([*stay, *(means * (1 - phi)).tolist(), phi, phi, variance])
    assert found.item() == pytest.approx(expected, abs=1e-8)


def test_forecasts_are_drawn_from_the_mixture_over_regimes() -> None:
    # 8,000 draws: of 2 |z| one is above 5 in 1e-6 of seeds.
    program, x = case("all")
    drawn = pg.predict(program, x[1:2].repeat(800, 1), draws=10).reshape(8000, T)
    last = program.probabilities(x[1:2, :5])[0, -1]
    matrix = program.transition.detach().softmax(-1)
    chances = last @ matrix
    moments = [step(program, x[1], 5, z) for z in range(K)]
    mean = sum(c * m for c, (m, _) in zip(chances, moments, strict=True))
    square = sum(c * (m**2 + s**2) for c, (m, s) in zip(chances, moments, strict=True))
    found = drawn[:, 5]
    assert abs(found.mean() - mean) < 5 * ((square - mean**2) / 8000).sqrt()
    wrong = sum(c * m for c, (m, _) in zip(program.initial.detach().softmax(-1), moments, strict=True))
    assert abs(found.mean() - wrong) > 5 * ((square - mean**2) / 8000).sqrt()  # the twin: regimes as at the start
    assert torch.equal(drawn[0, :5], x[1, :5])


def test_a_gap_is_a_latent_variable() -> None:
    program, x = case("mean")
    x = x[:1].clone()
    grid = torch.linspace(-30, 30, 4001, dtype=torch.float64)
    filled = x.repeat(4001, 1)
    filled[:, 3], x[0, 3] = grid, NAN
    expected = (pg.log_likelihood(program, filled).value.exp().sum() * (grid[1] - grid[0])).log()
    found = pg.log_likelihood(program, x, seed=0)
    assert abs(found.value - expected) < 5 * found.standard_error + 1e-3 and found.standard_error < 0.1


def test_it_finds_the_regimes_of_a_simulation() -> None:
    # 400 steps of a chain that stays with probability .97, coefficients -.6 and .8: 19 of 20 regimes or more are found.
    truth = SwitchingAutoregression(400, 2, 1, switching=("partial",)).double()
    with torch.no_grad():
        truth.transition.copy_(torch.tensor([[0.97, 0.03], [0.03, 0.97]]).log())
        truth.partial.copy_(torch.tensor([[-0.6], [0.8]]).atanh())
    torch.manual_seed(0)
    x = truth.series(400).sample((1,))
    program = SwitchingAutoregression(400, 2, 1, switching=("partial",))
    with torch.no_grad():
        program.partial.copy_(torch.tensor([[-0.2], [0.2]]))
    pg.fit(program, x.float(), epochs=150, lr=0.05, progress=False)
    assert program.coefficients[:, 0].tolist() == pytest.approx([-0.6, 0.8], abs=0.2)
    agree = (program.viterbi(x) == truth.viterbi(x)).double().mean()
    assert agree > 0.95


@pytest.mark.parametrize(
    "arguments", [{"states": 0, "order": 1}, {"states": 2, "order": 0}, {"states": 2, "order": 1, "switching": ["m"]}]
)
def test_what_makes_no_model_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give one regime or more"):
        SwitchingAutoregression(10, **arguments)
