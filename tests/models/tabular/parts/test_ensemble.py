"""Members together: means, densities and draws of factor analyses in closed form, and of a program of mixed columns."""

import copy
import math

import pyro
import pytest
import torch
from scipy import stats

from pyro_gen._random import normals
from pyro_gen.data.column import Column
from pyro_gen.inference import adaptive_importance as adaptive
from pyro_gen.models.tabular.deep import SCALE_FLOOR, DeepLatentTable
from pyro_gen.models.tabular.parts.ensemble_training import EnsembleBound
from pyro_gen.program import data_size

NAN = torch.nan
REAL = [Column(f"x{i}", "real") for i in range(5)]
MIXED = [
    Column("grade", "ordinal", ("poor", "fair", "good", "best")),
    Column("height", "real"),
    Column("town", "nominal", ("a", "b", "c")),
    Column("visits", "count"),
    Column("smokes", "binary", ("no", "yes")),
    Column("weight", "real"),
    Column("mood", "ordinal", ("low", "high")),
]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factors(members=2, particles=4000, guide="exact", seed=0):
    """Factor analyses at random points, one a member, with the exact posterior as the guide, or one that is off."""
    program = DeepLatentTable(REAL, latent=2, hidden=(), members=members, particles=particles, real="normal").double()
    w = program.weights
    with torch.no_grad():
        w["offset"].copy_(random(members, 5, seed=seed))
        w["loadings"].copy_(random(members, 5, 2, seed=seed + 1))
        w["log_scale"].copy_(0.3 * random(members, 5, seed=seed + 2))
        scale = SCALE_FLOOR + w["log_scale"].exp()
        w["experts"].copy_(w["loadings"] if guide == "exact" else 0.7 * w["loadings"])
        w["log_precision"].copy_(-2 * scale.log())
        program.features.centre.copy_(w["offset"][0])  # of the first member: the others' guides are off
    return program


def moments(program, e):
    """Mean and covariance of the rows under member e."""
    w = {n: p[e].detach() for n, p in program.weights.items()}
    noise = (SCALE_FLOOR + w["log_scale"].exp()).square()
    return w["offset"], w["loadings"] @ w["loadings"].T + noise.diag()


def conditional(row, mean, covariance):
    """Mean and covariance of the missing entries of a row given the seen ones."""
    o = ~row.isnan()
    gain = covariance[~o][:, o] @ torch.linalg.inv(covariance[o][:, o])
    return mean[~o] + gain @ (row[o] - mean[o]), covariance[~o][:, ~o] - gain @ covariance[o][:, ~o]


def holes(n=6, d=5, seed=3):
    x = random(n, d, seed=seed)
    missing = torch.rand(n, d, generator=torch.Generator().manual_seed(seed)) < 0.5
    missing[0], missing[1] = True, False
    missing[2] = torch.tensor([True, False, False, True, False])
    return torch.where(missing, NAN, x)


# ----------------------------------------------------------------------------------------------------------------------
# Exactness: a linear decoder with normal noise is factor analysis


@pytest.mark.parametrize("guide", ["exact", "off"])
def test_means_and_densities_are_those_of_factor_analysis(guide):
    program, x = factors(guide=guide), holes()
    truth = [[conditional(row, *moments(program, e)) for row in x] for e in range(2)]
    values = torch.where(x.isnan(), 0.3, NAN).double()
    mean, log_prob = program.cell_mean(x), program.cell_log_prob(x, values)
    for n, row in enumerate(x):
        hole = row.isnan()
        if not hole.any():
            assert torch.equal(mean[n], row) and log_prob[n].isnan().all()
            continue
        expected = torch.stack([truth[e][n][0] for e in range(2)]).mean(0)
        spread = truth[0][n][1].diagonal().sqrt()
        # The draws of the latents are fixed; their error at 4000 draws is about spread / 50.
        assert ((mean[n, hole] - expected).abs() < 0.08 * spread + 0.02).all()
        density = torch.stack(
            [
                torch.distributions.Normal(m, c.diagonal().sqrt()).log_prob(torch.tensor(0.3))
                for m, c in (t[n] for t in truth)
            ]
        )
        assert torch.allclose(log_prob[n, hole], density.logsumexp(0) - math.log(2), atol=0.06)
        assert log_prob[n, ~hole].isnan().all()


def test_weights_that_forget_the_proposal_are_noticed():
    program, x = factors(guide="off"), holes()

    class Careless(DeepLatentTable):
        def _weighed(self, *arguments):
            for rows, inputs, z, log_weight in super()._weighed(*arguments):
                yield rows, inputs, z, torch.zeros_like(log_weight)

    right = program.cell_mean(x)
    program.__class__ = Careless
    assert (program.cell_mean(x) - right).abs().nan_to_num().max() > 0.2


def test_draws_are_those_of_factor_analysis():
    program = factors(members=1, particles=300, guide="off")
    x = holes()[2].repeat(3000, 1)
    draws = program.complete(x, 1, seeds=torch.arange(3000))[0]
    mean, covariance = conditional(x[0], *moments(program, 0))
    got = draws[:, x[0].isnan()]
    assert torch.equal(draws[:, ~x[0].isnan()], x[:, ~x[0].isnan()])
    standard = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (got - mean).T, upper=False)
    for k in range(2):  # each below 1e-5 by chance in 1e-5 of the seeds
        assert stats.kstest(standard[k].numpy(), "norm").pvalue > 1e-5
    assert abs(torch.corrcoef(standard)[0, 1]) < 4.5 / 3000**0.5
    free = (got - mean) / covariance.diagonal().sqrt()  # their correlation is not the marginal one of 0
    assert abs(torch.corrcoef(free.T)[0, 1]) > 10 / 3000**0.5


def test_khat_is_low_for_the_exact_guide_and_after_more_work_for_a_bad_one(monkeypatch):
    x = holes()[2:]
    assert (factors(members=1).row_khat(x) < 0.5).all()
    bad = factors(members=1)
    with torch.no_grad():
        bad.weights["loadings"].mul_(12.0)
        bad.weights["experts"].mul_(-12.0)
    assert (bad.row_khat(x) < 0.7).all()
    monkeypatch.setattr(adaptive, "DOUBLINGS", 0)
    assert (bad.row_khat(x) > 0.7).any()


# ----------------------------------------------------------------------------------------------------------------------
# Draws


def test_draws_take_members_in_turn():
    program, x = factors(members=3, particles=200), holes()
    with torch.no_grad():
        program.weights["offset"].copy_(1000.0 * torch.arange(3.0).reshape(3, 1).expand(3, 5))
    x = torch.where(x.isnan(), NAN, 0.0)[:1]
    draws = program.complete(x, 7, seeds=torch.zeros(1, dtype=torch.long))
    assert ((draws[:, 0] / 1000).round() == torch.tensor([0, 1, 2, 0, 1, 2, 0]).unsqueeze(1)).all()


@pytest.fixture(scope="module")
def mixed():
    """A program of all kinds of columns, hardly trained, and its table."""
    truth = DeepLatentTable(MIXED, latent=2, hidden=(), members=1)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        truth.weights["loadings"].copy_(torch.randn(1, 9, 2))
        x = truth.model(torch.full((120, 7), NAN)).double()
        x[torch.rand(120, 7) < 0.3] = NAN
    program = DeepLatentTable(MIXED, latent=2, hidden=(8,), members=3, particles=100, steps=60)
    return program.fit_posterior(x), x


def test_a_row_alone_is_the_row_in_a_batch(mixed):
    program, x = mixed
    seeds = torch.arange(len(x)) + 7
    values = torch.where(x.isnan(), 1.0, NAN).double()
    together = program.complete(x, 4, seeds=seeds)
    mean, log_prob, khat = program.cell_mean(x), program.cell_log_prob(x, values), program.row_khat(x)
    for n in (0, 17, 119):
        row = slice(n, n + 1)
        assert torch.equal(program.complete(x[row], 4, seeds=seeds[row]), together[:, row])
        assert torch.equal(program.cell_mean(x[row]), mean[row])
        assert torch.allclose(program.cell_log_prob(x[row], values[row]), log_prob[row], equal_nan=True)
        assert torch.allclose(program.row_khat(x[row]), khat[row])
    for which in (range(0, 1), range(3, 4), range(1, 3)):
        assert torch.equal(program.complete(x, 4, seeds=seeds, which=which), together[which.start : which.stop])
    other = program.complete(x, 4, seeds=seeds + 1000)
    assert not torch.equal(other, together)


def test_completed_rows_are_rows(mixed):
    program, x = mixed
    draws = program.complete(x, 5, seeds=torch.arange(len(x)))
    seen = ~x.isnan()
    assert torch.equal(draws[:, seen], x[seen].expand(5, -1)) and not draws.isnan().any()
    assert draws.dtype == x.dtype
    for d, column in enumerate(MIXED):
        values = draws[..., d]
        if column.kind != "real":
            assert (values == values.round()).all() and values.min() >= 0
        if column.discrete:
            assert values.max() < len(column.levels)
    mean = program.cell_mean(x)
    assert torch.equal(mean[seen], x[seen]) and not mean.isnan().any()
    levels = [d for d, c in enumerate(MIXED) if c.discrete]
    assert (mean[:, levels] == mean[:, levels].round()).all()


def test_probabilities_of_levels_sum_to_one(mixed):
    program, x = mixed
    for d, column in enumerate(MIXED):
        if column.discrete:
            rows = x[x[:, d].isnan()][:5]
            total = 0.0
            for level in range(len(column.levels)):
                values = torch.full_like(rows, NAN)
                values[:, d] = level
                total = total + program.cell_log_prob(rows, values)[:, d].exp()
            assert torch.allclose(total, torch.ones_like(total))


def test_calls_leave_the_generators_alone(mixed, untouched_rng):
    program, x = mixed
    program.complete(x[:3], 2, seeds=torch.arange(3))
    program.cell_mean(x[:3])
    copied = copy.deepcopy(program)
    copied.steps = 1
    copied.fit_posterior(x)


# ----------------------------------------------------------------------------------------------------------------------
# The objective


@pytest.mark.parametrize("particles", [1, 3])
def test_the_objective_is_the_exact_likelihood_where_the_guide_is_exact(particles):
    program, x = factors(members=2), holes()
    with torch.no_grad():
        for p in program.weights.values():
            p[1] = p[0]  # the guide is exact for both
        program.weights["offset"][1] += 0.0
    held = torch.zeros(len(x), 2, 5, dtype=torch.bool)
    held[2, 0, 1] = held[3:, 1, :2] = True
    held &= ~x.isnan().unsqueeze(1)
    weights = torch.rand(len(x), 2, dtype=torch.float64)
    mean, covariance = moments(program, 0)

    def log_prob(row):
        o = ~row.isnan()
        d = torch.distributions.MultivariateNormal(mean[o], covariance[o][:, o])
        return d.log_prob(row[o]) if o.any() else torch.zeros(()).double()

    objective = EnsembleBound(particles, rows=len(x))
    with pyro.validation_enabled(False), data_size(2 * len(x)):  # rows that come twice in an epoch
        losses = objective.member_losses(program, x, weights, held)
        gap = objective.eval().member_losses(program, x, weights, held)
    for e in range(2):
        given = torch.stack([log_prob(row) for row in x.masked_fill(held[:, e], NAN)])
        with program.at({n: p[e] for n, p in program.weights.items()}):
            prior = program.log_prior(program.decay[e])
        assert losses[e].item() == pytest.approx((-2 * (weights[:, e] * given).sum() - 2 * prior).item(), rel=1e-6)
        everything = torch.stack([log_prob(row) for row in x])
        if not held[:, e].any():
            assert gap[e].item() == pytest.approx(0.0, abs=1e-6)
        elif particles == 3:  # an estimate of log p(x_h | x_o), too high by nothing on average, and close
            many = EnsembleBound(2000, rows=len(x)).eval()
            with pyro.validation_enabled(False):
                estimate = many.member_losses(program, x, weights, held)[e]
            assert estimate.item() == pytest.approx(-(everything - given).sum().item(), rel=0.05)


def test_latent_draws_are_shared_by_rows_without_seeds():
    program = factors(members=1, particles=10)
    _, _, z, _ = next(program._weighed(0, (holes()[:2] * NAN,)))  # nothing was seen: the guide is the prior
    expected = normals(torch.zeros(1).long(), 20).reshape(10, 2)
    assert torch.allclose(z[:, 0], expected) and torch.equal(z[:, 0], z[:, 1])
