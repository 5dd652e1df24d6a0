"""The evidence and the posterior of hidden Markov models against sums over all paths, and integrals over grids."""

import itertools
import math

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference.likelihood.paths import Particles
from pyro_gen.inference.likelihood.smc import smc
from pyro_gen.models import HiddenMarkov
from pyro_gen.structure.emission_priors import DOF, EMISSIONS, TAU, A, H
from pyro_gen.structure.hidden_states import PERSISTENCE, HiddenStates

NAN = torch.nan
LENGTHS = [4, 2]  # two series
STEPS = {
    "normal": torch.tensor([[-1.2, 0.3], [-0.9, NAN], [NAN, NAN], [1.4, 0.2], [1.1, -0.5], [NAN, 1.0]]).double(),
    "student_t": torch.tensor([[-1.2], [-0.9], [NAN], [1.4], [1.1], [NAN]]).double(),
    "poisson": torch.tensor([[0.0, 3.0], [1.0, NAN], [NAN, NAN], [6.0, 2.0], [4.0, 0.0], [NAN, 5.0]]).double(),
    "categorical": torch.tensor([[0.0, 1.0], [0.0, NAN], [NAN, NAN], [2.0, 0.0], [2.0, 1.0], [NAN, 1.0]]).double(),
}


def log_beta(counts: Tensor) -> Tensor:
    return torch.lgamma(counts).sum(-1) - torch.lgamma(counts.sum(-1))


def paths_with_prior(k: int) -> tuple[list[list[int]], Tensor]:
    """All paths of the states of both series, and the logarithm of their prior probability."""
    paths = [list(p) for p in itertools.product(range(k), repeat=sum(LENGTHS))]
    own = torch.ones(k, k).double().fill_diagonal_(PERSISTENCE)
    starts, moves = torch.zeros(len(paths), k).double(), torch.zeros(len(paths), k, k).double()
    for row, path in enumerate(paths):
        for series in (path[:4], path[4:]):
            starts[row, series[0]] += 1
            for i, j in itertools.pairwise(series):
                moves[row, i, j] += 1
    one = torch.ones(k).double()
    first = log_beta(one + starts) - log_beta(one)
    return paths, first + (log_beta(own + moves) - log_beta(own)).sum(-1)


def log_grid(low: float, high: float, count: int) -> tuple[Tensor, Tensor]:
    """Points, and the logarithms of their weights in an integral over positive numbers."""
    at = torch.linspace(math.log(low), math.log(high), count).double()
    return at.exp(), at + math.log((at[1] - at[0]).item())


def in_one_state(kind: str, x: Tensor, column: Tensor) -> Tensor:
    """The evidence of numbers of a column in one state, given what all states share: nu (or none) by b (or none)."""
    n = len(x)
    if kind == "poisson":
        mean, total = column.nanmean(), x.sum()
        value = torch.lgamma(1 + total) - mean.log() - (1 + total) * (1 / mean + n).log() - torch.lgamma(x + 1).sum()
        return value.reshape(1, 1)
    if kind == "categorical":
        one = torch.ones(int(column.nan_to_num().max()) + 1).double()
        counts = torch.bincount(x.long(), minlength=len(one)).double()
        return (log_beta(one + counts) - log_beta(one)).reshape(1, 1)
    b, _ = log_grid(1e-5, 20, 60)
    variance, log_w = log_grid(1e-5, 1e4, 160)
    prior = A * b.log().unsqueeze(1) - math.lgamma(A) - (A + 1) * variance.log() - b.unsqueeze(1) / variance + log_w
    if kind == "normal":  # the mean is integrated out: the covariance is that of noise and of what all have
        cov = variance.view(-1, 1, 1) * torch.eye(n).double() + TAU**2
        score = torch.zeros_like(variance)
        if n:
            score = torch.distributions.MultivariateNormal(torch.zeros(n).double(), cov).log_prob(x)
        return (prior + score).logsumexp(-1).unsqueeze(0)
    mu = torch.linspace(-12, 12, 1201).double().unsqueeze(1)
    found = []
    for nu in DOF:
        laws = torch.distributions.StudentT(nu, mu, variance.sqrt())
        score = sum((laws.log_prob(v) for v in x), torch.zeros(len(mu), len(variance)).double())
        score = score + torch.distributions.Normal(0.0, TAU).log_prob(mu) + math.log(0.02)
        found.append((prior + score.logsumexp(0)).logsumexp(-1))
    return torch.stack(found)


def by_paths(kind: str, k: int) -> tuple[float, Tensor]:
    """The evidence, and the probability that the state of each step differs from the one before."""
    steps = STEPS[kind]
    paths, scores = paths_with_prior(k)
    b, log_w = log_grid(1e-5, 20, 60)
    shared = math.log(H) - H * b + log_w if kind in ("normal", "student_t") else torch.zeros(1).double()
    known: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def part(d: int, rows: tuple[int, ...]) -> Tensor:
        if (d, rows) not in known:
            known[d, rows] = in_one_state(kind, steps[list(rows), d], steps[:, d])
        return known[d, rows]

    joint = []
    for path, prior in zip(paths, scores, strict=True):
        total = torch.zeros(1).double()
        for d in range(steps.shape[1]):
            seen = [t for t in range(len(path)) if not steps[t, d].isnan()]
            given = sum(part(d, tuple(t for t in seen if path[t] == state)) for state in range(k))
            total = total + (shared + given).logsumexp(-1)  # over b
        joint.append(prior + total.logsumexp(0) - math.log(len(total)))  # over nu
    value = torch.stack(joint)
    differs = torch.tensor(paths).diff(dim=1).ne(0).double()
    change = torch.nn.functional.pad(value.softmax(0) @ differs, (1, 0))
    change[LENGTHS[0]] = 0.0
    return value.logsumexp(0).item(), change


def particles(kind: str, k: int, law: type | None = None) -> tuple[HiddenStates, Particles]:
    path = HiddenStates((law or EMISSIONS[kind])(k, STEPS[kind]), LENGTHS)
    return path, smc(path, particles=1024, islands=8, length=16, seed=1)


# Over 32 islands log Z has an sd of .18 at most, .064 of eight; probabilities .005: five of them are passed in 6e-7.
@pytest.mark.parametrize(
    ("kind", "k"),
    [("normal", 1), ("normal", 2), ("student_t", 2), ("poisson", 2), ("categorical", 2), ("categorical", 3)],
)
def test_evidence_and_changes_against_all_paths(kind: str, k: int) -> None:
    expected, change = by_paths(kind, k)
    path, found = particles(kind, k)
    assert abs(found.evidence.value.item() - expected) < 0.32
    with seeded(2):
        smoothed = path.smoothed(found.draws(4000))
    assert (smoothed.change.mean(0) - change).abs().max() < 0.025


def test_an_update_that_forgets_the_temperature_is_noticed() -> None:
    class Forgets(EMISSIONS["normal"]):  # type: ignore[misc]
        def update(self, parameters: Tensor, states: Tensor, beta: float) -> Tensor:
            return super().update(parameters, states, 1.0)

    _, found = particles("normal", 2, Forgets)
    assert abs(found.evidence.value.item() - by_paths("normal", 2)[0]) > 0.32


@pytest.mark.parametrize("kind", ["normal", "student_t", "poisson", "categorical"])
def test_filters_and_smoothing_are_those_of_the_model_of_the_zoo(kind: str) -> None:
    k, steps = 3, STEPS[kind]
    path = HiddenStates(EMISSIONS[kind](k, steps), LENGTHS)
    with seeded(0):
        draws = path.start(5)
        found = path.smoothed(draws)
    levels = 3 if kind == "categorical" else None
    for c in range(5):
        program = HiddenMarkov((4, steps.shape[1]), k, kind, levels=levels).double()
        pi, moves, emission = path.unpack(draws[c : c + 1])
        with torch.no_grad():
            program.initial.copy_(pi[0].log())
            program.transition.copy_(moves[0].log())
            mean, sd = (m[0] for m in path.emission.moments(emission))
            if kind in ("normal", "student_t"):
                program.loc.copy_(mean)
                program.log_scale.copy_(sd.log())
                if kind == "student_t":
                    program.log_df.copy_((path.emission.dof(emission)[0] - 1).log())  # type: ignore[attr-defined]
            elif kind == "poisson":
                program.loc.copy_(mean.log())
            else:
                parts = emission.view(k, -1).clamp(min=1e-300).log().split(path.emission.levels, -1)  # type: ignore[attr-defined]
                program.logits.fill_(-math.inf)
                for d, part in enumerate(parts):
                    program.logits[:, d, : part.shape[1]] = part
        x = torch.full((2, 4, steps.shape[1]), NAN).double()
        x[0], x[1, :2] = steps[:4], steps[4:]
        log_p = pg.log_likelihood(program, x).value.sum()
        assert (found.log_likelihood[c] - log_p).abs() < 1e-8
        p = program.probabilities(x)
        assert (found.probabilities[c] - torch.cat([p[0], p[1, :2]])).abs().max() < 1e-8


def test_draws_of_states_have_the_smoothed_probabilities() -> None:
    # 20,000 draws of 6 steps of 3 states: |z| is above 5 in 1e-5 of seeds.
    path = HiddenStates(EMISSIONS["poisson"](3, STEPS["poisson"]), LENGTHS)
    with seeded(3):
        found = path.smoothed(path.start(1).expand(20_000, -1))
    share = (found.states.unsqueeze(-1) == torch.arange(3)).double().mean(0)
    p = found.probabilities[0]
    assert ((share - p).abs() / (p * (1 - p) / 20_000).sqrt().clamp(min=1e-9)).max() < 5
    differs = (found.states[:, 1:] != found.states[:, :-1]).double().mean(0)
    expected = found.change[0, 1:]
    z = (differs - expected).abs() / (expected * (1 - expected) / 20_000).sqrt().clamp(min=1e-9)
    assert torch.cat([z[:3], z[4:]]).max() < 5 and found.change[0, 4] == 0
