"""Entries drawn one after the other: what a network keeps from step to step changes no draw, and a bar shows."""

from contextlib import suppress

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import pyro_gen as pg
from pyro_gen._progress import listening, told
from pyro_gen._random import seeded
from pyro_gen.distributions import Censored, DiscretizedLogistic, LevelCategorical, MaskedEntries, of_entry
from pyro_gen.inference import progress

NAN = torch.nan
SIZE = 8
ORDERS = torch.stack([torch.arange(SIZE), torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])])
WEIGHT = 2 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double()


def mask(m: int) -> Tensor:
    rank = ORDERS[m].argsort()
    return rank.unsqueeze(1) > rank


class Linear:
    """Bernoulli entries with logits that are sums over the entries before, in each of two orders."""

    def __init__(self) -> None:
        self.passes = 0

    def network(self, values: Tensor, m: int, context: Tensor | None) -> dist.Bernoulli:
        self.passes += 1
        given = 0.0 if context is None else context
        return dist.Bernoulli(logits=(values.double() @ (WEIGHT * mask(m)).T) + given)


class Running:
    """The same, with a running sum; or one that has each entry a step late."""

    def __init__(self, rows: int, m: int, context: Tensor | None, late: int = 0) -> None:
        self.m, self.t, self.context, self.late = m, 0, context, late
        self.sums = torch.zeros(rows, SIZE, dtype=torch.float64)
        self.waiting: list[Tensor] = []

    def law(self, previous: Tensor | None) -> dist.Bernoulli:
        order = ORDERS[self.m]
        if previous is not None:
            self.waiting.append(previous.double().unsqueeze(1) * WEIGHT[:, order[self.t - 1]])
        if len(self.waiting) > self.late:
            self.sums = self.sums + self.waiting.pop(0)
        entry, self.t = order[self.t], self.t + 1
        given = 0.0 if self.context is None else self.context[:, 0]
        return dist.Bernoulli(logits=self.sums[:, entry] + given)


def law(steps, context: Tensor | None = None, m: int = 1) -> tuple[MaskedEntries, Linear]:
    network = Linear()
    shape = torch.Size((200,))
    support = constraints.boolean
    entries = MaskedEntries(network.network, ORDERS[m : m + 1], torch.Size((SIZE,)), support, shape, context, steps)
    entries.network = lambda values, _, c: network.network(values, m, c)
    if steps is not None:
        entries.steps = lambda rows, _, c: steps(rows, m, c)
    return entries, network


# The laws are the same up to rounding of 1e-16, so no draw in 1,600 differs but once in 1e12 seeds. A running sum that
# is a step late draws from other laws: that all of 1,600 draws are the same is out of the question.
@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("seen", [0, 3])
def test_draws_step_by_step_are_those_of_the_whole_network(late, conditional, seen) -> None:
    context = torch.linspace(-2, 2, 200).double().unsqueeze(1) if conditional else None
    again, network = law(None, context)
    kept, idle = law(lambda rows, m, c: Running(rows, m, c, late), context)
    x = torch.full((200, SIZE), NAN, dtype=torch.float64)
    x[:, ORDERS[1, :seen]] = (torch.arange(200 * seen).view(200, seen) % 3 == 0).double()
    x[::2, ORDERS[1, seen]] = 1.0  # seen in half of the rows
    draws = []
    for entries in (again, kept):
        with seeded(3):
            draws.append(entries.marginalise(x)[2]())
    assert torch.equal(draws[0], draws[1]) is (late == 0)
    seen_there = ~x.isnan()
    assert torch.equal(draws[1][seen_there], x[seen_there])
    assert (network.passes, idle.passes) == (SIZE - seen, 0)


def test_nothing_is_run_after_the_last_missing_entry() -> None:
    entries, network = law(None)
    x = torch.ones(200, SIZE, dtype=torch.float64)
    x[:, ORDERS[1, -1]] = NAN
    entries._complete(x)
    assert network.passes == 1


PARTS = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
LAWS = {
    "normal": dist.Normal(PARTS, PARTS + 1),
    "student_t": dist.StudentT(PARTS + 3, PARTS, PARTS + 1),
    "bernoulli": dist.Bernoulli(logits=PARTS),
    "categorical": LevelCategorical(logits=torch.stack([PARTS, -PARTS, 2 * PARTS], -1)),
    "as many levels as entries": LevelCategorical(logits=torch.stack(4 * [PARTS], -1) * torch.arange(4)),
    "discretised": DiscretizedLogistic(4 * PARTS, PARTS, 5),
    "censored": Censored(dist.Normal(PARTS, 1.0), low=torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "mixture": dist.MixtureSameFamily(
        dist.Categorical(logits=torch.stack([PARTS, -PARTS], -1)), dist.Normal(torch.stack([PARTS, 1 - PARTS], -1), 0.5)
    ),
}


@pytest.mark.parametrize("whole", LAWS.values(), ids=LAWS)
def test_the_law_of_an_entry_is_that_in_the_whole(whole) -> None:
    with seeded(0):
        values = whole.sample()
    for t in range(4):
        one = of_entry(whole, t)
        assert one.batch_shape == (3,)
        assert torch.equal(one.log_prob(values[:, t]), whole.log_prob(values)[:, t])
        with seeded(1):
            assert one.sample((5,)).shape == (5, 3)
    assert whole.batch_shape == (3, 4)  # which is left as it is


class Coins(pg.Program):
    event_shape = torch.Size((SIZE,))

    def network(self, values: Tensor, m: int, context: Tensor | None) -> dist.Bernoulli:
        return dist.Bernoulli(torch.full_like(values, 0.5))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            shape = torch.Size((len(x),))
            return pg.observe("x", MaskedEntries(self.network, ORDERS, x.shape[1:], constraints.boolean, shape), x)


def test_sampling_tells_how_far_it_is(monkeypatch, capsys) -> None:
    told_so_far: list[float] = []
    pg.sample(Coins(), 5, progress=told_so_far.append)
    assert told_so_far == sorted(told_so_far)
    assert len(set(told_so_far)) > SIZE  # each entry
    assert told_so_far[-1] == 1.0
    told_so_far.clear()
    pg.impute(Coins(), torch.full((3, SIZE), NAN), draws=2, progress=told_so_far.append)
    assert 0.5 in told_so_far
    assert told_so_far[-1] == 1.0
    pg.sample(Coins(), 5)
    assert capsys.readouterr().err == ""  # what is over at once shows nothing
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    pg.sample(Coins(), 5)
    assert capsys.readouterr().err != ""  # the bar came and went


def test_an_error_in_a_loop_leaves_no_listener() -> None:
    heard: list[float] = []
    with suppress(KeyError), listening(heard.append):
        for i in told(range(3)):
            raise KeyError(i)
    list(told(range(3)))
    assert heard == []
