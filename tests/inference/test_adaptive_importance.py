"""Importance sampling that does more where it must: against normal posteriors that are known."""

import math

import pytest
import torch

from pyro_gen._random import normals
from pyro_gen.inference import adaptive_importance as adaptive
from pyro_gen.inference.adaptive_importance import importance_draws
from pyro_gen.inference.likelihood.weights import psis_khat

ROWS, SIZE, PARTICLES = 8, 3, 200
Normal = torch.distributions.MultivariateNormal


def problem():
    """Normal posteriors of evidence exp(1), and a guide that is right for even rows, narrow and off for odd ones."""
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(ROWS, SIZE, generator=generator, dtype=torch.float64)
    tril = 0.3 * torch.eye(SIZE, dtype=torch.float64).expand(ROWS, -1, -1)
    tril = tril + 0.2 * torch.randn(ROWS, SIZE, SIZE, generator=generator, dtype=torch.float64).tril(-1)
    narrow = (torch.arange(ROWS) % 2 == 1)[:, None]
    guide = Normal(loc + 0.3 * narrow, scale_tril=torch.where(narrow[..., None], 0.5, 1.0) * tril)
    prior = torch.distributions.Normal(torch.zeros(SIZE).double(), 1.0)
    return Normal(loc, scale_tril=tril), guide, torch.distributions.Independent(prior, 1)


def draws(particles=PARTICLES):
    posterior, guide, prior = problem()

    def log_joint(z, rows):
        return Normal(posterior.loc[rows], scale_tril=posterior.scale_tril[rows]).log_prob(z) + 1.0

    def noise(rows, first, last):
        numbers = normals(rows, last * SIZE)[:, first * SIZE :]
        return numbers.unflatten(1, (last - first, SIZE)).movedim(1, 0)

    return list(importance_draws(guide, prior, log_joint, noise, particles))


def worst(found):
    """The greatest errors among rows: of the means in standard deviations, and of the log-evidence."""
    posterior, _, _ = problem()
    mean, evidence = torch.zeros(ROWS, SIZE).double(), torch.zeros(ROWS).double()
    for rows, z, log_weight in found:
        mean[rows] = (log_weight.softmax(0).unsqueeze(-1) * z).sum(0)
        evidence[rows] = log_weight.logsumexp(0) - math.log(len(z))
    error = (mean - posterior.loc).abs() / posterior.variance.sqrt()
    return float(error.max()), float((evidence - 1.0).abs().max())


def test_rows_whose_weights_cannot_be_trusted_get_more_draws(monkeypatch):
    found = draws()
    every = torch.cat([rows for rows, _, _ in found])
    assert every.sort().values.tolist() == list(range(ROWS))
    sizes = {int(row): len(z) for rows, z, _ in found for row in rows}
    assert all(sizes[row] == PARTICLES for row in range(0, ROWS, 2))
    assert all(PARTICLES < sizes[row] <= 8 * PARTICLES for row in range(1, ROWS, 2))
    assert all((psis_khat(log_weight) < 0.7).all() for _, _, log_weight in found)
    # Of 12 seeds none had an error above 0.51 or a gap above 0.39; the draws of the guide alone are off by 1.4 and 0.8.
    error, gap = worst(found)
    assert error < 0.7 and gap < 0.5
    monkeypatch.setattr(adaptive, "DOUBLINGS", 0)
    error, gap = worst(draws())
    assert error > 0.7 and gap > 0.5


def test_few_draws_are_left_alone():
    """Of 20 weights no Pareto shape can be told."""
    for particles in (1, 20):
        (found,) = draws(particles)
        assert len(found.z) == particles


@pytest.mark.parametrize("row", [0, 1])
def test_a_row_alone_gets_what_it_gets_among_others(row):
    together = next((rows, z, w) for rows, z, w in draws() if row in rows)
    at = together[0].tolist().index(row)
    posterior, guide, prior = problem()
    alone = list(
        importance_draws(
            Normal(guide.loc[row : row + 1], scale_tril=guide.scale_tril[row : row + 1]),
            prior,
            lambda z, rows: (
                Normal(posterior.loc[row : row + 1], scale_tril=posterior.scale_tril[row : row + 1]).log_prob(z) + 1.0
            ),
            lambda rows, first, last: (
                normals(rows + row, last * SIZE)[:, first * SIZE :].unflatten(1, (last - first, SIZE)).movedim(1, 0)
            ),
            PARTICLES,
        )
    )
    _, z, log_weight = alone[0]
    torch.testing.assert_close(z[:, 0], together[1][:, at])
    torch.testing.assert_close(log_weight[:, 0], together[2][:, at])
