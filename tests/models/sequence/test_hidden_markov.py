"""Hidden Markov models against the sum over all paths of states, written down one after the other."""

import itertools
import math
import time
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.distributions import hidden_markov
from pyro_gen.models import HiddenMarkov

T, K, NAN = 6, 3, torch.nan
LEFT_RIGHT = {"allowed": torch.ones(K, K).triu().bool(), "start": torch.tensor([True, False, False])}
KINDS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "normal": ((T, 2), {}),
    "student_t": ((T,), {"emission": "student_t"}),
    "poisson": ((T,), {"emission": "poisson"}),
    "categorical": ((T,), {"emission": "categorical", "levels": 4}),
    "left to right": ((T,), LEFT_RIGHT),
}


def case(kind: str) -> tuple[HiddenMarkov, Tensor]:
    shape, options = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    program = HiddenMarkov(shape, K, **options).double()
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(7, *shape, generator=generator, dtype=torch.float64)
    if kind in ("poisson", "categorical"):
        x = (1.5 * x.abs()).floor().clamp(max=3)
    x[torch.rand(x.shape, generator=generator) < 0.3] = NAN
    x[1, 3:], x[2] = NAN, NAN  # one sequence is shorter, of one nothing is seen
    return program, x


def by_paths(program: HiddenMarkov, x: Tensor) -> tuple[Tensor, Tensor]:
    """Every path of states and log p(x, path): (paths, T) and (paths, N)."""
    emissions, event = program.emissions(), x.dim() - 2
    initial = torch.where(program.start, program.initial.exp(), 0.0)
    matrix = torch.where(program.allowed, program.transition.exp(), 0.0)
    initial, matrix = initial / initial.sum(), matrix / matrix.sum(-1, keepdim=True)
    base = emissions.base_dist if event else emissions
    seen = ~x.isnan()
    each = base.log_prob(torch.where(seen, x, 1.0).unsqueeze(2)) * seen.unsqueeze(2)  # (N, T, K, *D)
    each = each.sum(-1) if event else each
    paths = torch.tensor(list(itertools.product(range(K), repeat=T)))
    scores = []
    for path in paths.tolist():
        chance = initial[path[0]]
        for j, k in itertools.pairwise(path):
            chance = chance * matrix[j, k]
        log = chance.log() if chance > 0 else torch.tensor(-math.inf)  # whose gradient would be NaN
        scores.append(log + sum(each[:, t, k] for t, k in enumerate(path)))
    return paths, torch.stack(scores)


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_is_the_sum_over_paths(kind: str) -> None:
    program, x = case(kind)
    found = pg.log_likelihood(program, x)
    assert found.kind == "exact"
    assert (found.value - by_paths(program, x)[1].logsumexp(0)).abs().max() < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_posteriors_and_the_most_likely_path(kind: str) -> None:
    program, x = case(kind)
    paths, scores = by_paths(program, x)
    weights = scores.softmax(0)
    expected = torch.stack([(weights.unsqueeze(1) * (paths == k).double().unsqueeze(2)).sum(0).T for k in range(K)], -1)
    assert (program.probabilities(x) - expected).abs().max() < 1e-10
    best = program.viterbi(x)
    index = (best * torch.tensor([K**i for i in range(T - 1, -1, -1)])).sum(-1)
    assert torch.allclose(scores.gather(0, index.unsqueeze(0))[0], scores.amax(0), rtol=0, atol=1e-10)


def gradient(value: Tensor, program: HiddenMarkov) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(program.parameters())))


def test_gradients_at_forbidden_transitions_are_finite_and_exact() -> None:
    program, x = case("left to right")
    x = x[[0, 3, 4]]
    trace = pyro.poutine.trace(program.model).get_trace(x)
    found = gradient(trace.log_prob_sum(), program)
    scores = by_paths(program, x)[1]
    possible = scores.detach()[:, 0] > -math.inf
    assert possible.sum() < 3**T / 20
    expected = gradient(scores[possible].logsumexp(0).sum(), program)
    for f, e in zip(found, expected, strict=True):
        assert torch.isfinite(f).all() and (f - e).abs().max() < 1e-8


def test_paths_that_are_all_unlikely_are_summed_in_logarithms() -> None:
    # A chain goes from state to state, and the data say that it is fast, then slow: every path is e^-800 of the best
    # one of its halves.
    chain = torch.eye(4) + torch.diag(torch.ones(3), 1)
    program = HiddenMarkov(8, 4, allowed=chain.bool(), start=torch.tensor([True, False, False, False])).double()
    with torch.no_grad():
        program.loc.copy_(torch.arange(4.0))
        program.log_scale.fill_(math.log(0.02))
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 3.0]], dtype=torch.float64)
    initial, transition = program.log_chain()
    observed = program.emissions().log_prob(x[0].unsqueeze(-1))
    at = initial + observed[0]
    for t in range(1, 8):
        at = (at.unsqueeze(-1) + transition).logsumexp(0) + observed[t]
    found = pg.log_likelihood(program, x).value.item()
    assert found == pytest.approx(at.logsumexp(0).item(), abs=1e-8)
    most, hidden_markov.MOST_STATES = hidden_markov.MOST_STATES, 0  # the twin: products of what is left of exponentials
    try:
        assert pg.log_likelihood(program, x).value.item() < found - 1e-3
    finally:
        hidden_markov.MOST_STATES = most


def test_missing_entries_are_drawn_given_the_whole_sequence() -> None:
    # The mean of 20,000 draws of 10 entries: the greatest |z| is above 5 in 6e-6 of seeds.
    program, x = case("normal")
    state = program.probabilities(x)
    loc, scale = program.loc.detach(), program.log_scale.detach().exp()
    mean = state @ loc
    variance = state @ (loc.square() + scale.square()) - mean.square()
    drawn = pg.impute(program, x.repeat(2000, 1, 1), draws=10).reshape(10 * 2000, *x.shape)
    z = (drawn.mean(0) - mean) / (variance / 20_000).sqrt()
    assert z[x.isnan()].abs().max() < 5
    # The twin: states by their law before anything was seen.
    prior = torch.stack([torch.linalg.matrix_power(program.log_chain()[1].exp().detach(), t) for t in range(T)])
    prior = (program.log_chain()[0].exp().detach() @ prior) @ loc
    assert ((drawn.mean(0) - prior) / (variance / 20_000).sqrt())[x.isnan()].abs().max() > 5


def test_sequences_of_different_length() -> None:
    program, x = case("student_t")
    short = pg.log_likelihood(program, x[1:2, :3]).value
    assert (pg.log_likelihood(program, x[1:2]).value - short).abs().max() < 1e-10
    lengths = torch.tensor([6, 3, 6, 6, 6, 6, 6])
    drawn = pg.impute(program, x, lengths, draws=2)
    assert drawn[:, 1, 3:].isnan().all() and not drawn[:, 1, :3].isnan().any() and not drawn[:, 0].isnan().any()


def test_single_precision_is_within_a_thousandth_of_a_nat_of_ten_thousand_steps() -> None:
    steps = 10_000
    x = torch.randn(1, steps, generator=torch.Generator().manual_seed(0))
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3] = NAN
    program = HiddenMarkov(steps, 5)
    found = pg.log_likelihood(program, x).value
    expected = pg.log_likelihood(program.double(), x.double()).value
    assert (found - expected).abs().max() < 1e-3


@pytest.mark.slow
def test_likelihood_and_gradient_of_ten_thousand_steps_are_fast() -> None:
    steps = 10_000
    x = torch.randn(1, steps, generator=torch.Generator().manual_seed(0))
    program = HiddenMarkov(steps, 5)

    def tree() -> float:
        started = time.perf_counter()
        value = pyro.poutine.trace(program.model).get_trace(x).log_prob_sum()
        value.backward()
        return time.perf_counter() - started

    def loop() -> float:
        started = time.perf_counter()
        initial, transition = program.log_chain()
        observed = program.emissions().log_prob(x[0].unsqueeze(-1))
        at = initial + observed[0]
        for t in range(1, steps):
            at = (at.unsqueeze(-1) + transition).logsumexp(0) + observed[t]
        at.logsumexp(0).backward()
        return time.perf_counter() - started

    tree()
    assert min(loop() for _ in range(2)) > 15 * min(tree() for _ in range(5))


def test_it_finds_the_states_of_a_simulation() -> None:
    # 300 steps of a chain that stays with probability .95, at 0 or 3 with noise 1: 19 of 20 states are recovered.
    generator = torch.Generator().manual_seed(0)
    moves = torch.rand(1, 300, generator=generator) < 0.05
    states = moves.cumsum(1) % 2
    x = 3.0 * states + torch.randn(1, 300, generator=generator)
    program = HiddenMarkov(300, 2)
    pg.fit(program, x, epochs=150, lr=0.05, progress=False)
    assert (program.viterbi(x) == states).double().mean() > 0.95
    assert program.emissions().mean.tolist() == pytest.approx([0.0, 3.0], abs=0.4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((T, 0), {}, "one state or more"),
        (((T, 2, 2), 2), {}, r"\(T, D\)"),
        ((T, 2, "gamma"), {}, "choose one of normal"),
        ((T, 2, "categorical"), {}, "number of levels"),
        ((T, 2), {"allowed": torch.tensor([[True, True], [False, False]])}, "a successor for each state"),
    ],
)
def test_what_makes_no_model_is_refused(arguments: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HiddenMarkov(*arguments, **options)
