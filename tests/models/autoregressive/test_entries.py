"""Autoregressive models of entries: densities sum to one, in-painting is the exact conditional law, in any order."""

import itertools
import math

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import OneOrder
from pyro_gen.models import MADE, NADE, CausalTransformer, PixelCNN, PixelRNN, WaveNet
from pyro_gen.observation import CannotMarginaliseError

NAN = torch.nan


def cube(size: int, levels: int = 2) -> Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=size)), dtype=torch.float32)


def moved(program, scale: float = 1.0):
    """The program away from its start, in float64 so that sums are to many digits."""
    with seeded(1), torch.no_grad():
        for parameter in program.parameters():
            parameter.add_(scale * torch.randn_like(parameter) / max(1, parameter.shape[-1]) ** 0.5)
    return program.double().eval()


PROGRAMS = {
    "MADE": lambda: MADE(12, (20,)),
    "MADE, two layers, an order": lambda: MADE((3, 4), (20, 20), order=range(11, -1, -1)),
    "MADE, three masks": lambda: MADE(12, (20,), masks=3),
    "NADE": lambda: NADE(12, 16, orders=2),
    "PixelCNN": lambda: PixelCNN((3, 4), channels=4, layers=2),
    "WaveNet": lambda: WaveNet(12, 8, 4, likelihood="bernoulli"),
    "transformer": lambda: CausalTransformer(12, 8, depth=1, heads=2),
    "PixelRNN": lambda: PixelRNN((3, 4), channels=4, layers=1),
}


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_all_configurations_sum_to_one_before_and_after_training(make) -> None:
    program = make().double().eval()
    everything = cube(12).double()

    def total() -> float:
        with torch.no_grad():
            return program.observed(4096).log_prob(everything.reshape(-1, *program.event_shape)).exp().sum().item()

    assert abs(total() - 1) < 1e-6
    x = everything[::37].reshape(-1, *program.event_shape)
    before = pg.log_likelihood(program, x).mean()
    pg.fit(program, x, epochs=20, batch_size=40, lr=0.02, progress=False, compile=False)
    program.eval()
    assert pg.log_likelihood(program, x).mean() > before + 0.02
    assert abs(total() - 1) < 1e-6


def test_a_connection_too_many_is_found() -> None:
    program = moved(MADE(6, (20,)))
    with torch.no_grad():
        program.direct.masks[0] |= torch.eye(6, dtype=torch.bool)  # each output sees its own entry
    assert abs(program.observed(64).log_prob(cube(6).double()).exp().sum().item() - 1) > 1e-3


def conditional(program, row: Tensor, complete) -> tuple[Tensor, Tensor]:
    """All completions of a row and their probabilities, by enumeration."""
    missing = row.isnan()
    values = cube(int(missing.sum())).double()
    rows = row.expand(len(values), -1).clone()
    rows[:, missing] = values
    return rows, complete(rows).softmax(0)


def frequencies(draws: Tensor, rows: Tensor) -> Tensor:
    return (draws.unsqueeze(1) == rows).all(-1).double().mean(0)


# 4 standard errors of a binomial with the true probability, 8 cells: a correct program fails once in 2,000 seeds. In
# place of NADE's own orders the twin enumerates one where what is seen comes last.
@pytest.mark.parametrize("seen_first", [True, False])
def test_inpainting_by_nade_is_the_conditional_of_its_order(seen_first) -> None:
    program = moved(NADE(6, 16, orders=1), 3.0)
    row = torch.tensor([NAN, 1.0, NAN, 0.0, 1.0, NAN], dtype=torch.float64)
    order = program.orders[0]
    by_seen = order[(row[order].isnan() if seen_first else ~row[order].isnan()).long().argsort(stable=True)]
    law = program.observed(8)
    law.orders = by_seen.unsqueeze(0)
    rows, p = conditional(program, row, law.log_prob)
    draws = pg.impute(program, row.expand(4000, -1), draws=1)[0]
    error = (p * (1 - p) / 4000).sqrt()
    assert bool(((frequencies(draws, rows) - p).abs() < 4 * error).all()) is seen_first


def test_an_ensemble_draws_an_order_by_how_well_it_does() -> None:
    program = moved(NADE(4, 16, orders=3), 3.0)
    row = torch.tensor([1.0, NAN, 0.0, NAN], dtype=torch.float64)
    law, total = program.observed(4), 0.0
    values = torch.zeros(4, 4, dtype=torch.float64)
    values[:, [0, 2]] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    values[:, [1, 3]] = cube(2).double()
    for order in program.orders:
        law.orders = order[row[order].isnan().long().argsort(stable=True)].unsqueeze(0)
        total = total + law.log_prob(values).exp()
    p = (total / total.sum()).detach()
    draws = pg.impute(program, row.expand(4000, -1), draws=1)[0]
    assert bool(((frequencies(draws, values) - p).abs() < 4 * (p * (1 - p) / 4000).sqrt()).all())


# The same by the chain over missing entries. Its draws are correlated at most a little: half of them count. The twin
# draws each entry given those before it alone.
@pytest.mark.parametrize(
    "make", [lambda: MADE(6, (20,)), lambda: PixelCNN((2, 3), channels=6, layers=2)], ids=["MADE", "PixelCNN"]
)
def test_inpainting_in_a_fixed_order_is_the_conditional(make) -> None:
    program = moved(make(), 2.0)
    row = torch.tensor([NAN, 1.0, NAN, 0.0, 1.0, NAN], dtype=torch.float64)
    law = program.observed(8)
    rows, p = conditional(program, row, lambda x: law.log_prob(x.reshape(-1, *program.event_shape)))
    error = 4 * (p * (1 - p) / 1000).sqrt()
    x = row.reshape(program.event_shape).expand(2000, *program.event_shape)
    assert bool(((frequencies(pg.impute(program, x, draws=1)[0].flatten(1), rows) - p).abs() < error).all())
    with pytest.raises(CannotMarginaliseError, match="fixed order"):
        law.marginalise(x[:1])
    with seeded(0):
        forward = program.observed(2000)._complete(x).flatten(1)
    assert bool(((frequencies(forward, rows) - p).abs() > error).any())


SUMS = {
    "two layers, an order": lambda: MADE((2, 3), (8, 8), order=range(5, -1, -1)),
    "no layers": lambda: MADE(6, ()),
    "three masks, conditional": lambda: MADE(6, (8,), masks=3, context=2),
    "categorical": lambda: MADE((2, 3), (8,), "categorical", levels=3),
    "mixture": lambda: MADE(6, (8,), "discretized_logistic_mixture", levels=3, components=2),
}


# The twin's sums do not grow.
@pytest.mark.parametrize("grow", [True, False])
@pytest.mark.parametrize("make", SUMS.values(), ids=SUMS)
def test_laws_of_made_by_kept_sums_are_those_of_the_whole_network(make, grow) -> None:
    program = moved(make(), 2.0)
    c = torch.randn(9, 2).double() if program.context else None
    law, values = program.observed(9, c), torch.randint(2, (9, 6)).double()
    m = len(law.orders) - 1
    steps, order, each = law.start(9, m, c), law.orders[m].tolist(), []
    for t, entry in enumerate(order):
        own = steps.law(values[:, order[t - 1]] if t else None)
        each.append(own.log_prob(values[:, entry]))
        if not grow:
            steps.x.zero_()
    expected = program.network(values, m, c).log_prob(values)[:, order]
    assert torch.allclose(torch.stack(each, 1), expected, atol=1e-9) is grow


def test_a_level_that_is_missing_before_seen_ones_is_summed_out_by_made() -> None:
    program = MADE((2, 2), (8,), "categorical", levels=3).eval()
    x = torch.tensor([[[math.nan, 2.0], [0.0, 1.0]]])
    each = torch.cat([torch.where(x.isnan(), float(level), x) for level in range(3)])
    known = pg.log_likelihood(program, each).value.logsumexp(0)
    found = pg.log_likelihood(program, x)
    assert found.kind == "exact"
    assert found.value.item() == pytest.approx(known.item(), abs=1e-5)
    for options in ({}, {"method": "hmc", "options": {"draws": 400}}):
        assert pg.impute(program, x, draws=3, seed=0, **options).isnan().sum() == 0


def test_what_comes_last_is_integrated_out_by_made() -> None:
    program = moved(MADE(5, (20,)), 2.0)
    row = torch.tensor([[1.0, 0.0, 1.0, NAN, NAN]], dtype=torch.float64)
    whole = row.expand(4, 5).clone()
    whole[:, 3:] = cube(2).double()
    exact = program.observed(4).log_prob(whole).logsumexp(0)
    assert torch.allclose(pg.log_likelihood(program, row).value, exact.detach().unsqueeze(0), atol=1e-9)


# The mean over draws of the estimate against the mean over all orders: |z| < 4.5 fails once in 150,000 seeds. The twin
# forgets that an order has more steps than the one that is drawn.
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_one_order_is_an_unbiased_estimate_of_the_mean_over_orders(share) -> None:
    program = moved(NADE(3, 8, orders=1), 3.0)
    row = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    law, each = program.observed(1), []
    for order in itertools.permutations(range(3)):
        law.orders = torch.tensor([order])
        each.append(law.log_prob(row.unsqueeze(0)))
    exact = torch.cat(each).mean().item()
    with seeded(0), torch.no_grad():
        many = -OneOrder().loss(program, row.expand(20000, 3)).item() / 20000
        single = program.observed(20000).of_one_order().log_prob(row.expand(20000, 3))
    error = single.std().item() / math.sqrt(20000)
    assert (abs(share * many - exact) < 4.5 * error) is (share == 1.0)


def test_one_order_of_made_is_one_of_its_masks() -> None:
    program = moved(MADE(4, (8,), masks=3))
    x = cube(4).double()
    law = program.observed(16)
    each = torch.stack([law.log_density(x, torch.ones_like(x).bool(), m, None) for m in range(3)])
    one = law.of_one_order().log_prob(x)
    assert (each == one).all(1).sum() == 1
    assert torch.allclose(law.log_prob(x), each.logsumexp(0) - math.log(3))


def test_nade_is_trained_with_holes() -> None:
    x = cube(6)[torch.arange(200) % 7 * 9]
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = NAN
    program = NADE(6, 16, orders=2)
    before = pg.log_likelihood(program.initialise(x), x).mean()
    pg.fit(program, x, epochs=30, batch_size=50, lr=0.02, progress=False, compile=False)
    assert pg.log_likelihood(program, x).mean() > before + 0.5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MADE(4, order=[0, 1, 2]), "an order, of all 4 entries"),
        (lambda: MADE(4, masks=0), "one mask or more"),
        (lambda: MADE(4, masks=2, order=[0, 1, 2, 3]), "one mask alone"),
        (lambda: NADE(4, orders=0), r"orders=0.: give a positive integer"),
        (lambda: NADE((), 4), r"event_shape=\(\)"),
        (lambda: MADE(4, context=2).model(torch.zeros(3, 4)), r"one tensor with shape \(N, 2\)"),
        (lambda: MADE(4).model(torch.zeros(3, 4), torch.zeros(3, 2)), "give no context"),
    ],
)
def test_errors_name_what_is_wrong(make, said) -> None:
    with pytest.raises(ValueError, match=said):
        make()
