"""The Gaussian copula, against quadrature, brute force, and truths that it is to find."""

import math
import time

import pyro
import pytest
import torch
from scipy import stats

from pyro_gen._random import fork, seeded
from pyro_gen.data.column import Column
from pyro_gen.distributions.rectangle import log_argmax
from pyro_gen.distributions.wishart import Wishart
from pyro_gen.evaluation.conformance import check_program
from pyro_gen.models.tabular.copula import TableCopula
from pyro_gen.models.tabular.gaussian import TableGaussian
from pyro_gen.models.tabular.parts.copula_sampler import CopulaRows, sweep
from pyro_gen.models.tabular.parts.normal_posterior import (
    COLUMNS_PER_PRIOR_ROW,
    LOC_SCALE,
    LOG_DF_LOC,
    LOG_DF_SCALE,
    STRENGTH_SCALE,
    NormalParameters,
    StudentTParameters,
    degrees,
    normal_of_draw,
)

NO_YES = ("no", "yes")
MIXED = (
    Column("income", "real"),
    Column("visits", "count"),
    Column("owner", "binary", levels=NO_YES),
    Column("grade", "ordinal", levels=("poor", "fair", "good")),
    Column("city", "nominal", levels=("A", "B", "C")),
)
REAL = (Column("a", "real"), Column("b", "real"), Column("c", "real"))


def correlated(size, strength=0.6):
    return (1 - strength) * torch.eye(size, dtype=torch.float64) + strength


def mixed_rows(count, strength=0.6):
    """Rows of MIXED from a copula whose latent variables have one correlation: complete, income log-normal."""
    z = torch.randn(count, 6, dtype=torch.float64) @ torch.linalg.cholesky(correlated(6, strength)).T
    utility = torch.cat([torch.zeros_like(z[:, :1]), z[:, 4:]], 1)
    return torch.stack(
        [
            z[:, 0].exp(),
            torch.from_numpy(stats.poisson.ppf(stats.norm.cdf(z[:, 1].numpy()), 2.0)),
            (z[:, 2] > 0.3).double(),
            (z[:, 3] > -0.5).double() + (z[:, 3] > 0.8),
            utility.argmax(1).double(),
        ],
        1,
    )


def holes(x, share=0.3):
    return torch.where(torch.rand_like(x) < share, torch.nan, x)


def known(columns, covariance, loc=None, draws=1):
    """A program with some equal draws of known parameters, its curves the identity."""
    program = TableCopula(columns)
    normal = NormalParameters(
        torch.zeros(draws, dtype=torch.float64),
        torch.ones(draws, len(covariance), dtype=torch.float64),
        torch.linalg.inv(covariance).expand(draws, -1, -1),
        (torch.zeros(len(covariance)).double() if loc is None else loc).expand(draws, -1),
    )
    program.store_draws(normal.sites() | {"log_df": torch.full((draws,), 40.0, dtype=torch.float64)})  # Gaussian
    return program


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


NAN = math.nan


@pytest.fixture(scope="module")
def learnt():
    with seeded(1):
        return TableCopula(MIXED).fit_posterior(holes(mixed_rows(400)), seed=1)


# ----------------------------------------------------------------------------------------------------------------------
# Given parameters: known answers


def test_real_columns_given_others_are_those_of_the_gaussian():
    covariance = torch.tensor([[1.0, 0.8, 0.3], [0.8, 2.0, 0.5], [0.3, 0.5, 1.5]], dtype=torch.float64)
    program = known(REAL, covariance, torch.tensor([0.1, -0.2, 0.3]).double())
    x, values = row(1.0, NAN, 0.5), row(NAN, -0.4, NAN)
    seen = covariance[[0, 2]][:, [0, 2]]
    gain = covariance[1, [0, 2]] @ torch.linalg.inv(seen)
    mean = -0.2 + gain @ torch.tensor([0.9, 0.2]).double()
    scale = (covariance[1, 1] - gain @ covariance[[0, 2], 1]).sqrt()
    torch.testing.assert_close(program.cell_mean(x), row(1.0, mean.item(), 0.5))
    log_prob = torch.distributions.Normal(mean, scale).log_prob(torch.tensor(-0.4)).item()
    torch.testing.assert_close(program.cell_log_prob(x, values), row(NAN, log_prob, NAN), equal_nan=True)


def thresholds(program, column, level):
    rows = program.prepare_rows(row(*(level if d == column else NAN for d in range(len(program.columns)))))
    w = program.layout.whole.index(column)
    return rows.levels.lower[0, w].item(), rows.levels.upper[0, w].item()


def rectangle(covariance, *intervals):
    """The probability that two normal variables lie in a rectangle, by quadrature over the first."""
    (a, b), (c, d) = intervals
    grid = torch.linspace(max(a, -10), min(b, 10), 20001, dtype=torch.float64)
    slope = covariance[0, 1] / covariance[0, 0]
    spread = (covariance[1, 1] - slope * covariance[0, 1]).sqrt()
    inside = torch.special.ndtr((d - slope * grid) / spread) - torch.special.ndtr((c - slope * grid) / spread)
    density = torch.distributions.Normal(0.0, covariance[0, 0].sqrt()).log_prob(grid).exp()
    return torch.trapezoid(inside * density, grid).item()


PAIR = (Column("visits", "count"), Column("grade", "ordinal", levels=("poor", "fair", "good")))


def test_levels_given_levels_are_those_of_quadrature():
    covariance = correlated(2, 0.7)
    program = known(PAIR, covariance, draws=600)
    counts, edges = (0.0, 1.0, 3.0), [thresholds(program, 1, k) for k in range(3)]
    joint = torch.tensor([[rectangle(covariance, thresholds(program, 0, c), edge) for edge in edges] for c in counts])
    exact = joint / joint.sum(1, keepdim=True)
    x = torch.tensor([[c, NAN] for c in counts for _ in range(3)], dtype=torch.float64)
    values = torch.tensor([[NAN, k] for _ in counts for k in range(3)], dtype=torch.float64)
    found = program.cell_log_prob(x, values)[:, 1].exp().unflatten(0, (3, 3))
    # 600 draws of a probability: a standard error below 0.01; five of them, 6e-7 each.
    torch.testing.assert_close(found, exact.double(), rtol=0, atol=0.05)
    assert torch.equal(program.cell_mean(x[::3])[:, 1], exact.argmax(1).double())
    # Twin: what the count says of the grade is not nothing.
    apart = torch.tensor([rectangle(covariance, (-10.0, 10.0), edge) for edge in edges])
    assert (apart - exact).abs().amax(1).min() > 0.05


def test_the_density_integrates_over_levels():
    """The local latent variable averages to the probability of the rectangle."""
    covariance = correlated(2, 0.7)
    program = known(PAIR, covariance)
    x = row(1.0, 2.0).expand(20000, -1)
    rows = CopulaRows(
        program.marginals,
        torch.zeros(2).double(),
        covariance,
        torch.ones(20000).double(),
        torch.rand(20000, 2).double(),
    )
    exact = rectangle(covariance, thresholds(program, 0, 1.0), thresholds(program, 1, 2.0))
    found = rows.log_prob(x).exp()
    assert abs(found.mean().item() - exact) < 5 * found.std().item() / 20000**0.5  # 5 standard errors: 6e-7


def test_probabilities_of_nominal_levels_are_those_of_brute_force():
    loc = torch.tensor([0.3, -0.5, 0.1]).double()
    covariance = torch.tensor([[1.0, 0.4, 0.2], [0.4, 1.5, -0.3], [0.2, -0.3, 0.8]], dtype=torch.float64)
    z = loc + torch.randn(400000, 3, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    shares = torch.cat([torch.zeros_like(z[:, :1]), z], 1).argmax(1).bincount(minlength=4) / 400000
    found = torch.stack([log_argmax(loc[None], covariance[None], s)[0].exp() for s in range(50)]).mean(0)
    # Both are Monte Carlo: 800 points of a smooth function, standard error about 0.005.
    torch.testing.assert_close(found, shares.double(), rtol=0, atol=0.025)
    exact = torch.special.ndtr(torch.tensor([-0.3, 0.3]).double()).log()
    torch.testing.assert_close(log_argmax(loc[None, :1], covariance[None, :1, :1], 0)[0], exact)


def test_draws_are_those_of_the_scores():
    """Of a nominal column given a real one and a binary one, shares of draws against probabilities."""
    columns = (
        Column("a", "real"),
        Column("b", "binary", levels=NO_YES),
        Column("c", "nominal", levels=("A", "B", "C")),
    )
    program = known(columns, correlated(4, 0.6), draws=50)
    x = row(1.2, 0.0, NAN)
    draws = program.complete(x.expand(400, -1), 50, seeds=torch.arange(400))[..., 2].flatten()
    for level in range(3):
        chance = program.cell_log_prob(x, row(NAN, NAN, level))[0, 2].exp().item()
        # 20,000 draws: standard error 0.0035; the score averages over 50 draws of what is behind the binary column.
        assert abs((draws == level).double().mean().item() - chance) < 0.06


# ----------------------------------------------------------------------------------------------------------------------
# Learning


def replicates(columns, rows, sweeps, count, break_it=False):
    """Parameters from the prior, rows from the parameters, then sweeps: the parameters must have the prior again."""
    found = []
    program = TableCopula(columns)
    size = program.layout.size
    for _ in range(count):
        log_strength = math.log(size / COLUMNS_PER_PRIOR_ROW) + STRENGTH_SCALE * torch.randn(1, dtype=torch.float64)
        variances = torch._standard_gamma(torch.ones(1, size, dtype=torch.float64))
        strength = log_strength.exp().unsqueeze(-1)
        precision = Wishart(
            size + 1 + strength.squeeze(-1), inverse_scale=torch.diag_embed(strength * variances)
        ).rsample()
        loc = LOC_SCALE * torch.randn(1, size, dtype=torch.float64)
        normal = NormalParameters(log_strength, variances, precision, loc)
        spread = torch.linalg.cholesky(normal.covariance())
        log_df = LOG_DF_LOC + LOG_DF_SCALE * torch.randn(1, dtype=torch.float64)
        half = (degrees(log_df) / 2).expand(1, rows)
        w = torch._standard_gamma(half) / half
        z = loc.unsqueeze(1) + torch.randn(1, rows, size, dtype=torch.float64) @ spread.mT / w.sqrt().unsqueeze(-1)
        state = StudentTParameters(normal, log_df)
        x = holes(program.marginals.values(z[0]), 0.2)
        for _ in range(sweeps):
            z, state = sweep(program.prepare_rows(x), z, state)
            if break_it:
                state = state._replace(normal=state.normal._replace(loc=state.normal.loc * 0.8))
        normal = state.normal
        found.append(torch.cat([normal.log_strength, normal.variances[0], normal.loc[0], state.log_df]))
    return torch.stack(found)


def prior_distance(found, size):
    """The least p-value of Kolmogorov-Smirnov tests of all parameters against their priors."""
    tests = [stats.kstest(found[:, 0], stats.norm(math.log(size / COLUMNS_PER_PRIOR_ROW), STRENGTH_SCALE).cdf).pvalue]
    tests += [stats.kstest(v, stats.expon.cdf).pvalue for v in found[:, 1 : 1 + size].T]
    tests += [stats.kstest(v, stats.norm(0, LOC_SCALE).cdf).pvalue for v in found[:, 1 + size : -1].T]
    tests.append(stats.kstest(found[:, -1], stats.norm(LOG_DF_LOC, LOG_DF_SCALE).cdf).pvalue)
    return min(tests)


def test_the_sampler_leaves_the_joint_distribution_alone():
    columns = (MIXED[0], MIXED[2], MIXED[4])
    # Ten independent tests at 1e-5: a false alarm in 1e-4.
    assert prior_distance(replicates(columns, rows=12, sweeps=3, count=250), 4) > 1e-5
    assert prior_distance(replicates(columns, rows=12, sweeps=3, count=250, break_it=True), 4) < 1e-5


def test_it_finds_correlations_and_margins(learnt):
    covariance = torch.stack([normal_of_draw(learnt.posterior_draws, s)[1] for s in range(learnt.num_posterior_draws)])
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    between = correlation[:, [0, 0, 0, 1, 1, 2], [1, 2, 3, 2, 3, 3]]
    # True: 0.6. With about 200 complete pairs standard errors are 0.05 for real ones, 0.09 for thresholds.
    assert bool(((between.mean(0) - 0.6).abs() < 0.3).all())
    assert between.mean().item() == pytest.approx(0.6, abs=0.12)
    # Nothing seen gives the margins: the median income is 1.
    draws = learnt.complete(torch.full((200, 5), NAN, dtype=torch.float64), 30, seeds=torch.arange(200))
    assert draws[..., 0].median().item() == pytest.approx(1.0, abs=0.3)
    assert draws[..., 1].mean().item() == pytest.approx(2.0, abs=0.35)
    assert draws[..., 2].mean().item() == pytest.approx(stats.norm.sf(0.3), abs=0.12)


def ranks(program, x, truth, shrink=1.0):
    """Chi-square of the ranks of true entries among draws, ties broken at random, in ten classes."""
    draws = program.complete(x, 49, seeds=torch.arange(len(x)))
    if shrink < 1:
        middle = draws.mean(0)
        draws = torch.where(torch.isnan(x), middle + shrink * (draws - middle), draws)
    missing = torch.isnan(x)
    noise = 1e-6 * torch.rand(50, *x.shape, dtype=torch.float64)
    rank = (draws + noise[1:] < truth + noise[0]).sum(0)[missing]
    counts = (rank // 5).bincount(minlength=10).double()
    expected = len(rank) / 10
    return ((counts - expected).square() / expected).sum().item()


def test_truths_rank_uniformly_among_draws():
    """Of new rows; one nominal column less, as levels without order have no ranks."""
    columns = MIXED[:4]
    with seeded(2):
        train, truth = mixed_rows(600)[:, :4], mixed_rows(700)[:, :4]
        x = truth.clone()
        x[torch.arange(700), torch.arange(700) % 4] = torch.nan  # one entry a row, so that ranks are independent
        program = TableCopula(columns).fit_posterior(holes(train, 0.2), seed=2)
        # The chi-square of 9 degrees exceeds 33.7 in 1e-4; what 600 rows leave unknown of the parameters, common to
        # all ranks, adds about one.
        assert ranks(program, x, truth) < 36
        assert ranks(program, x, truth, shrink=0.6) > 36


def test_it_beats_the_gaussian_where_margins_are_skewed():
    with seeded(3):
        x = (torch.randn(900, 3, dtype=torch.float64) @ torch.linalg.cholesky(correlated(3)).T).exp()
    train, test = x[:300], x[300:]
    masked = test.clone()
    masked[torch.arange(600), torch.arange(600) % 3] = torch.nan
    values = torch.where(torch.isnan(masked), test, torch.nan)
    curved, gaussian = TableCopula(REAL).fit_posterior(train), TableGaussian(REAL).fit_posterior(train)
    gain = curved.cell_log_prob(masked, values).nanmean() - gaussian.cell_log_prob(masked, values).nanmean()
    assert gain > 0.3


# ----------------------------------------------------------------------------------------------------------------------
# What every program for tables keeps


def test_rows_alone_and_seen_entries_and_new_rows(learnt, untouched_rng):
    with seeded(4):
        x = holes(mixed_rows(30))
    seeds = torch.arange(100, 130)
    draws = learnt.complete(x, 5, seeds=seeds)
    seen = ~torch.isnan(x)
    assert not torch.isnan(draws).any()
    assert torch.equal(draws[:, seen], x[seen].expand(5, -1))
    mean = learnt.cell_mean(x)
    for n in (0, 7, 29):
        torch.testing.assert_close(learnt.complete(x[n : n + 1], 5, seeds=seeds[n : n + 1])[:, 0], draws[:, n])
        torch.testing.assert_close(learnt.cell_mean(x[n : n + 1])[0], mean[n])
    assert torch.equal(learnt.complete(x, 5, seeds=seeds), draws)
    assert not torch.equal(learnt.complete(x, 5, seeds=seeds + 1000), draws)
    assert torch.equal(mean[seen], x[seen]) and not torch.isnan(mean).any()


def test_draws_are_values_of_their_columns(learnt):
    draws = learnt.complete(torch.full((100, 5), NAN, dtype=torch.float64), 10, seeds=torch.arange(100))
    assert bool((draws[..., 1:] == draws[..., 1:].round()).all()) and bool((draws[..., 1:] >= 0).all())
    assert draws[..., 2:].amax((0, 1)).tolist() == [1, 2, 2]


def test_learning_is_reproducible_and_stops_in_time(untouched_rng):
    with seeded(5):
        x = holes(mixed_rows(60))
    said = []
    first, again, other = (
        TableCopula(MIXED).fit_posterior(
            x, seed=s, progress=lambda share, words: said.append(share), deadline=time.monotonic()
        )
        for s in (0, 0, fork(0))
    )
    assert len(said) == 3  # one sweep each
    assert torch.equal(first.posterior_draws("below"), again.posterior_draws("below"))
    assert not torch.equal(first.posterior_draws("below"), other.posterior_draws("below"))


def test_it_keeps_the_contract(learnt):
    with seeded(6):
        x, real = mixed_rows(20), torch.randn(20, 3, dtype=torch.float64)
    check_program(learnt, x).raise_for_failures()
    check_program(learnt, holes(x)).raise_for_failures()
    check_program(TableCopula(REAL).fit_posterior(holes(real), deadline=0.0), real).raise_for_failures()
    check_program(TableCopula(REAL), real).raise_for_failures()


def test_the_model_draws_rows_of_its_kind(learnt):
    with seeded(7):
        rows = pyro.poutine.trace(learnt.model).get_trace(torch.full((50, 5), NAN, dtype=torch.float64))
    value = rows.nodes["_RETURN"]["value"]
    assert bool((value[:, 1:] == value[:, 1:].round()).all())


def test_kinds_that_it_cannot_have():
    with pytest.raises(ValueError, match="column 'x' is positive"):
        TableCopula([Column("x", "positive")])
