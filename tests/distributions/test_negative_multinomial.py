"""The negative multinomial distribution: sums over all counts, marginals, and the law of what was not seen."""

import itertools

import pytest
import torch

import pyro_gen as pg
from pyro_gen.distributions import NegativeMultinomial
from pyro_gen.observation import marginalise

A, B = torch.tensor(1.7, dtype=torch.float64), torch.tensor(2.5, dtype=torch.float64)
P = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
LAW = NegativeMultinomial(A, B, P)
GRID = torch.tensor(list(itertools.product(range(25), repeat=3)), dtype=torch.float64)  # of 25 or more 1e-9 is left


def test_it_sums_to_one_and_has_its_mean() -> None:
    probability = LAW.log_prob(GRID).exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-8)
    assert torch.allclose(probability @ GRID, LAW.mean, atol=1e-6)


def marginal(seen: NegativeMultinomial, filled: torch.Tensor) -> float:
    """How far the density of what is seen of (3, ?, 2) is from the sum over what is not."""
    whole = torch.stack([torch.tensor([3.0, k, 2.0], dtype=torch.float64) for k in range(80)])
    return abs(seen.log_prob(filled).item() - LAW.log_prob(whole).logsumexp(0).item())


def test_unseen_counts_are_summed_out() -> None:
    x = torch.tensor([3.0, torch.nan, 2.0], dtype=torch.float64)
    scored, filled, _ = marginalise(LAW, x)
    assert marginal(scored, filled) < 1e-9
    assert marginal(LAW, filled) > 0.1  # the twin: unseen counts taken for 0
    nothing = marginalise(LAW, torch.full((3,), torch.nan, dtype=torch.float64))
    assert nothing[0].log_prob(nothing[1]).item() == pytest.approx(0, abs=1e-12)


def test_unseen_counts_are_drawn_given_the_others(seed: int) -> None:
    x = torch.tensor([3.0, torch.nan, 2.0], dtype=torch.float64)
    _, _, draw = marginalise(NegativeMultinomial(A, B, P.expand(20_000, 3)), x.expand(20_000, 3))
    drawn = draw()[:, 1]
    whole = torch.stack([torch.tensor([3.0, k, 2.0], dtype=torch.float64) for k in range(80)])
    weights = LAW.log_prob(whole).softmax(0)
    exact = (weights * torch.arange(80)).sum().item()
    error = (drawn.std() / 20_000**0.5).item()
    assert abs(drawn.mean().item() - exact) < 4.5 * error  # false alarms: 7e-6
    assert abs((A / B * P[1]).item() - exact) > 9 * error  # the twin: drawn without looking at the others


def test_draws_have_the_totals_and_the_shares(seed: int) -> None:
    drawn = LAW.sample((20_000,))
    error = drawn.std(0) / 20_000**0.5
    assert bool(((drawn.mean(0) - LAW.mean).abs() < 5 * error).all())  # false alarms: 2e-6
    total = drawn.sum(1)  # of which the variance is m + m^2 / a
    m = (A / B).item()
    assert total.var().item() == pytest.approx(m + m**2 / A.item(), rel=0.1)


def test_a_program_may_observe_it() -> None:
    program = pg.Program.from_functions(model)
    x = torch.tensor([[1.0, torch.nan, 0.0], [2.0, 1.0, 1.0]])
    assert pg.check_program(program, x.repeat(4, 1)).ok


def model(x: torch.Tensor) -> torch.Tensor:
    import pyro

    logits = pyro.param("logits", torch.zeros(3))
    with pg.plate(x):
        return pg.observe("x", NegativeMultinomial(torch.tensor(2.0), torch.tensor(1.0), logits.softmax(-1)), x)
