"""Change points against the sum over all segmentations, whose evidence is a multivariate Student-t density."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.models import ChangePoints
from pyro_gen.models.sequence.parts import segmentations

T, NAN = 6, torch.nan
A, B, KAPPA, H = 1.3, 0.7, 0.4, 0.2


def case(variables: int = 1) -> tuple[ChangePoints, Tensor]:
    shape = (T,) if variables == 1 else (T, variables)
    program = ChangePoints(shape, H, shape=A, rate=B, precision=KAPPA).double()
    with torch.no_grad():
        program.logit.copy_(torch.tensor(H, dtype=torch.float64).logit())
        program.log_prior.copy_(torch.tensor([A, B, KAPPA], dtype=torch.float64).log())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, *shape, generator=generator, dtype=torch.float64)
    x[:, 3:] += 2.0
    x[torch.rand(x.shape, generator=generator) < 0.25] = NAN
    x[1] = NAN
    return program, x


def student(y: Tensor) -> float:
    """Log-density of what is seen in a segment: Student-t, 2 a degrees of freedom, scale b / a (I + 1 / kappa)."""
    y = y[~y.isnan()]
    n = len(y)
    scale = B / A * (torch.eye(n, dtype=torch.float64) + torch.full((n, n), 1 / KAPPA, dtype=torch.float64))
    form = (y @ torch.linalg.solve(scale, y)).item() if n else 0.0
    constant = math.lgamma(A + n / 2) - math.lgamma(A) - n / 2 * math.log(2 * A * math.pi)
    return constant - 0.5 * torch.linalg.slogdet(scale)[1].item() - (A + n / 2) * math.log1p(form / (2 * A))


def by_segmentations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Which steps have a change before them, (2^(T-1), T), and log p(x, segmentation), (2^(T-1), N)."""
    x = x.reshape(len(x), T, -1)
    changes = torch.tensor([(False, *c) for c in itertools.product([False, True], repeat=T - 1)])
    scores = []
    for change in changes:
        m = int(change.sum())
        bounds = [0, *change.nonzero()[:, 0].tolist(), T]
        prior = m * math.log(H) + (T - 1 - m) * math.log(1 - H)
        parts = [
            sum(student(row[s:t, d]) for s, t in itertools.pairwise(bounds) for d in range(x.shape[2])) for row in x
        ]
        scores.append(prior + torch.tensor(parts, dtype=torch.float64))
    return changes, torch.stack(scores)


@pytest.mark.parametrize("variables", [1, 2])
def test_likelihood_changes_and_their_number_against_all_segmentations(variables: int) -> None:
    program, x = case(variables)
    changes, scores = by_segmentations(x)
    found = pg.log_likelihood(program, x)
    assert found.kind == "exact"
    assert (found.value - scores.logsumexp(0)).abs().max() < 1e-8
    weights = scores.softmax(0)  # (2^(T-1), N)
    assert (program.changes(x) - weights.T @ changes.double()).abs().max() < 1e-10
    index = program.segmentation(x).diff(dim=1) @ 2 ** torch.arange(T - 2, -1, -1)  # where it stands in the list
    assert (scores.gather(0, index.unsqueeze(0))[0] - scores.amax(0)).abs().max() < 1e-10
    number = torch.stack([weights[changes.sum(1) == m].sum(0) for m in range(T)], -1)
    assert (program.number(x, most=T - 1) - number).abs().max() < 1e-10
    assert (program.number(x, most=1) - number[:, :2]).abs().max() < 1e-10


def test_segments_of_steps_and_draws_against_all_segmentations() -> None:
    # 20,000 draws of 5 changes in 5 rows: the greatest |z| is above 5 in 1.5e-5 of seeds.
    program, x = case()
    changes, scores = by_segmentations(x)
    weights = scores.softmax(0)
    up_to = changes.cumsum(1)  # (2^(T-1), T)
    expected = torch.stack([weights.T @ (up_to == m).double() for m in range(T)], -1)
    assert (program.memberships(x, most=T - 1) - expected).abs().max() < 1e-10
    drawn = program.draw_changes(x, 20_000, seed=1).double().mean(0)
    p = (weights.T @ changes.double())[:, 1:]
    z = (drawn[:, 1:] - p) / (p * (1 - p) / 20_000).sqrt()
    assert z.abs().max() < 5 and (drawn[:, 0] == 0).all()
    # The twin: changes drawn one by one have the right probabilities, and the wrong number.
    spread = program.draw_changes(x, 20_000, seed=1).sum(-1).double().var(0)
    assert ((p * (1 - p)).sum(1) / spread - 1).abs().max() > 0.05


def test_a_change_at_the_beginning_that_is_paid_for_is_noticed() -> None:
    program, x = case()
    log_change = program.series(T).log_change(T)
    d = program.series(T)
    weights = d.segments(x.nan_to_num(0.0).unsqueeze(-1), ~x.isnan().unsqueeze(-1))[0]
    right = segmentations.forward(weights, log_change)[..., -1]
    wrong = segmentations.forward(weights, log_change.roll(-1))[..., -1]
    expected = by_segmentations(x)[1].logsumexp(0)
    assert (right - expected).abs().max() < 1e-8 and (wrong - expected).abs().min() > 1e-3


def test_missing_entries_are_drawn_given_all_that_is_seen() -> None:
    # Halves of their posterior predictive distribution, from the densities with that entry in: 40,000 draws of the
    # greatest of 7 shares have |z| above 5 in 4e-6 of seeds.
    program, x = case()
    drawn = pg.impute(program, x.repeat(4000, 1), draws=10).reshape(40_000, *x.shape)
    grid = torch.linspace(-60, 60, 24_001, dtype=torch.float64)
    for n, t in x.isnan().nonzero().tolist():
        if n == 1:
            continue
        rows = x[n].repeat(len(grid), 1)
        rows[:, t] = grid
        with torch.no_grad():
            d = program.series(T)
            scored = [d.marginalise(part.unsqueeze(-1))[0] for part in rows.split(4000)]
            parts = zip(scored, rows.nan_to_num().unsqueeze(-1).split(4000), strict=True)
            density = torch.cat([law.log_prob(part) for law, part in parts]).softmax(0)
        below = density[grid < 1.0].sum() + 0.5 * density[grid == 1.0].sum()
        share = (drawn[:, n, t] < 1.0).double().mean()
        assert abs(share - below) < 5 * (below * (1 - below) / 40_000).sqrt() + 1e-3
        assert torch.equal(drawn[0, n, ~x[n].isnan()], x[n, ~x[n].isnan()])


def test_the_nile_changes_in_1899() -> None:
    nile = pg.data.load("nile").train
    program = ChangePoints(100, 1 / 50).initialise(nile)
    change = program.changes(nile)[0]
    year = dict(zip(range(1871, 1971), change.tolist(), strict=True))
    assert year[1899] == pytest.approx(0.75, abs=0.02)
    assert sum(year[y] for y in range(1897, 1902)) > 0.99
    assert program.number(nile)[0, 1].item() == pytest.approx(0.71, abs=0.02)


@pytest.mark.parametrize(("arguments", "options"), [((T, 1.0), {}), ((T, 0.1), {"rate": 0.0}), (((T, 2, 2), 0.1), {})])
def test_what_makes_no_model_is_refused(arguments: tuple[Any, ...], options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ChangePoints"):
        ChangePoints(*arguments, **options)
