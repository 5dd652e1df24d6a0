"""Conditional Gaussians against the textbook formula, row by row."""

from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_gen.distributions.gaussian import (
    complete,
    condition,
    condition_rest,
    conditional,
    draw_given,
    draw_missing,
    marginal,
)

LOC = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
FACTOR = torch.tensor(
    [[1.0, 0, 0, 0], [0.6, 0.8, 0, 0], [-0.3, 0.5, 0.7, 0], [0.2, -0.1, 0.4, 0.9]], dtype=torch.float64
)
COVARIANCE = FACTOR @ FACTOR.T
NAN = torch.nan
ROWS = torch.tensor(
    [[0.3, NAN, NAN, 1.0], [NAN, NAN, NAN, NAN], [1.0, 2.0, 3.0, 4.0], [NAN, 0.0, 0.0, 0.0]], dtype=torch.float64
)


def by_blocks(row: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the missing entries."""
    m, o = torch.isnan(row), ~torch.isnan(row)
    gain = COVARIANCE[m][:, o] @ torch.linalg.inv(COVARIANCE[o][:, o])
    return LOC[m] + gain @ (row[o] - LOC[o]), COVARIANCE[m][:, m] - gain @ COVARIANCE[o][:, m]


def test_moments_are_those_of_the_block_formula():
    mean, variance = condition(ROWS, LOC, COVARIANCE)
    for n, row in enumerate(ROWS):
        m = torch.isnan(row)
        expected, covariance = by_blocks(row)
        torch.testing.assert_close(mean[n, m], expected)
        torch.testing.assert_close(variance[n, m], covariance.diagonal())
        assert torch.equal(mean[n, ~m], row[~m])
        assert not variance[n, ~m].any()


def law(kind: str) -> dist.Distribution:
    if kind == "full":
        return dist.MultivariateNormal(LOC, COVARIANCE)
    # All of the covariance but a little of its diagonal, by a factor of full rank.
    rest = torch.full((4,), 0.05, dtype=torch.float64)
    return dist.LowRankMultivariateNormal(LOC, torch.linalg.cholesky(COVARIANCE - rest.diag()), rest)


@pytest.mark.parametrize("kind", ["full", "low_rank"])
def test_laws_of_parts_are_those_of_the_block_formula(kind: str):
    d = law(kind)
    score = marginal(d, ROWS).log_prob(ROWS.nan_to_num())
    rest = conditional(d, ROWS)
    for n, row in enumerate(ROWS):
        m = torch.isnan(row)
        seen = dist.MultivariateNormal(LOC[~m], COVARIANCE[~m][:, ~m]).log_prob(row[~m]) if (~m).any() else 0.0
        torch.testing.assert_close(score[n], torch.as_tensor(seen, dtype=torch.float64))
        mean, covariance = by_blocks(row)
        torch.testing.assert_close(rest.mean[n, m], mean)
        torch.testing.assert_close(rest.covariance_matrix[n][m][:, m], covariance)
        assert torch.equal(rest.covariance_matrix[n][~m], torch.eye(4, dtype=torch.float64)[~m])


def completed(kind: str) -> Callable[..., Tensor]:
    return lambda x, loc, covariance, noise: torch.where(torch.isnan(x), complete(law(kind), x), x)


@pytest.mark.parametrize("draw", [draw_given, draw_missing, completed("full"), completed("low_rank")])
def test_draws_have_the_moments_of_the_block_formula(draw: Callable[..., Tensor]):
    # 40,000 draws: a mean or covariance that is off by 5 standard errors has a chance of 6e-7, times some 30 of them.
    torch.manual_seed(0)
    count = 40_000
    for row in ROWS[[0, 1, 3]]:
        m = torch.isnan(row)
        drawn = draw(row.expand(count, 4), LOC, COVARIANCE, torch.randn(count, 4, dtype=torch.float64))
        assert bool((drawn[:, ~m] == row[~m]).all())
        mean, covariance = by_blocks(row)
        sd = covariance.diagonal().sqrt()
        assert bool(((drawn[:, m].mean(0) - mean).abs() < 5 * sd / count**0.5).all())
        error = (drawn[:, m].T.cov().reshape(covariance.shape) - covariance).abs()
        assert bool((error < 5 * (2 / count) ** 0.5 * sd.outer(sd)).all())


def test_a_row_is_drawn_by_itself_as_in_a_batch():
    noise = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(4, 4)
    together = draw_missing(ROWS, LOC, COVARIANCE, noise)
    for n in range(4):
        torch.testing.assert_close(draw_missing(ROWS[[n]], LOC, COVARIANCE, noise[[n]])[0], together[n])


def test_the_rest_given_what_is_seen_of_the_first():
    mean, precision = condition_rest(ROWS[:, :2], LOC, COVARIANCE)
    for n, row in enumerate(ROWS[:, :2]):
        m, covariance = by_blocks(torch.cat([row, torch.full((2,), NAN, dtype=torch.float64)]))
        torch.testing.assert_close(mean[n], m[-2:])
        torch.testing.assert_close(precision[n], torch.linalg.inv(covariance[-2:, -2:]))


def test_many_columns_are_taken_in_chunks(monkeypatch):
    whole = condition(ROWS, LOC, COVARIANCE)
    monkeypatch.setattr("pyro_gen.distributions.gaussian.NUMBERS_AT_A_TIME", 16)
    for a, b in zip(condition(ROWS, LOC, COVARIANCE), whole, strict=True):
        torch.testing.assert_close(a, b)
