"""The deep latent-variable model of tables against factor analysis in closed form, and on tables of its own making."""

import copy
import math
import time

import numpy as np
import pyro
import pytest
import torch
from scipy import stats

from pyro_gen._random import normals
from pyro_gen.data.schema import Column
from pyro_gen.evaluation.conformance import check_program
from pyro_gen.models.tabular import deep
from pyro_gen.models.tabular.deep import DeepLatentTable, EnsembleBound, MixedColumns
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
        scale = deep.LEAST_SCALE + w["log_scale"].exp()
        w["experts"].copy_(w["loadings"] if guide == "exact" else 0.7 * w["loadings"])
        w["log_precision"].copy_(-2 * scale.log())
        program.centre.copy_(w["offset"][0])  # of the first member: the others' guides are off
    return program


def moments(program, e):
    """Mean and covariance of the rows under member e."""
    w = {n: p[e].detach() for n, p in program.weights.items()}
    noise = (deep.LEAST_SCALE + w["log_scale"].exp()).square()
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
# Likelihoods


def mixed_columns(df):
    order = torch.tensor([2, 0, 1, 3])
    return MixedColumns(
        loc=torch.tensor([0.5]).double(),
        scale=torch.tensor([2.0]).double(),
        df=df,
        log_mean=torch.tensor([1.0]).double(),
        log_size=torch.tensor([0.3]).double(),
        logits=torch.tensor([[0.0, 1.0, -1.0], [0.2, 0.0, deep.NO_LEVEL]]).double(),
        order=order,
    )


@pytest.mark.parametrize("df", [None, torch.tensor([3.7]).double()])
def test_mixed_columns_are_the_textbook_densities(df):
    d = mixed_columns(df)
    value = torch.tensor([[4.0, 1.0, -0.7, 1.0], [0.0, 2.0, 5.0, 0.0], [123456.0, 0.0, 0.5, 1.0]]).double()
    size, mean = math.exp(0.3), math.exp(1.0)
    real = stats.norm(0.5, 2.0) if df is None else stats.t(3.7, 0.5, 2.0)
    probs = [torch.tensor([0.0, 1.0, -1.0]).double().softmax(0), torch.tensor([0.2, 0.0]).double().softmax(0)]
    for row, got in zip(value.tolist(), d.log_prob(value).tolist(), strict=True):
        expected = [
            stats.nbinom(size, size / (size + mean)).logpmf(row[0]),
            probs[0][int(row[1])].log().item(),
            real.logpdf(row[2]),
            probs[1][int(row[3])].log().item(),
        ]
        assert got == pytest.approx(expected, rel=1e-6)
    assert d.mean.tolist() == pytest.approx(
        [mean, float(probs[0] @ torch.arange(3.0).double()), 0.5, float(probs[1][1])]
    )


@pytest.mark.parametrize("how", ["sample", "from_uniforms"])
@pytest.mark.parametrize("df", [None, torch.tensor([3.7]).double()])
def test_mixed_columns_draw_what_they_score(df, how):
    d, n = mixed_columns(df), 20_000
    u = torch.rand(n, 4, 2, dtype=torch.float64)
    draws = d.sample((n,)) if how == "sample" else d.from_uniforms(u)
    size, mean = math.exp(0.3), math.exp(1.0)
    real = stats.norm(0.5, 2.0) if df is None else stats.t(3.7, 0.5, 2.0)
    # Each p-value is below 1e-5 by chance in 1e-5 of the seeds: 4 tests a case.
    assert stats.kstest(draws[:, 2].numpy(), real.cdf).pvalue > 1e-5
    assert stats.kstest(draws[:, 2].numpy(), stats.norm(0.5, 2.3).cdf).pvalue < 1e-5  # and another scale is noticed
    counts = torch.bincount(draws[:, 0].long().clamp(max=8), minlength=9)
    pmf = stats.nbinom(size, size / (size + mean)).pmf(range(8))
    assert stats.chisquare(counts.numpy(), n * torch.tensor([*pmf, 1 - pmf.sum()]).numpy()).pvalue > 1e-5
    for column, probs in ((1, d.probs[0]), (3, d.probs[1, :2])):
        counts = torch.bincount(draws[:, column].long(), minlength=len(probs))
        assert stats.chisquare(counts.numpy(), n * probs.numpy()).pvalue > 1e-5


def test_ordinal_levels_are_differences_of_a_logistic_function():
    program = DeepLatentTable(MIXED, latent=2, hidden=(), members=1).double()
    with torch.no_grad():
        program.weights["cuts"].copy_(random(1, 2, 3, seed=5))
    cells = program.cells(random(7, 2), torch.zeros(7, 7))
    probs = cells.probs  # binary; ordinal of 4 and of 2 levels; nominal of 3
    assert torch.allclose(probs.sum(-1), torch.ones(7, 4).double())
    assert (probs[:, [0, 2], 2:] == 0).all() and (probs[:, 3, 3] == 0).all()
    h, _ = program.decode(random(7, 2))
    raw = program.weights["cuts"][0, 0]
    cuts = raw[0] + torch.cat([torch.zeros(1), (1e-3 + torch.nn.functional.softplus(raw[1:])).cumsum(0)])
    eta = h[:, 4]  # after two real columns, a count and the binary one
    below = torch.sigmoid(cuts - eta.unsqueeze(-1))
    expected = torch.cat([below, torch.ones(7, 1)], -1).diff(dim=-1, prepend=torch.zeros(7, 1))
    assert torch.allclose(probs[:, 1], expected, atol=1e-9)


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
        def _weigh(self, inputs, noise):
            z, log_weight = super()._weigh(inputs, noise)
            return z, torch.zeros_like(log_weight)

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


def test_khat_is_low_for_the_exact_guide_and_high_for_a_bad_one():
    x = holes()[2:]
    assert (factors(members=1).row_khat(x) < 0.5).all()
    bad = factors(members=1)
    with torch.no_grad():
        bad.weights["loadings"].mul_(12.0)
        bad.weights["experts"].mul_(-12.0)
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
    return program.learn(x), x


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
    copied.learn(x)


# ----------------------------------------------------------------------------------------------------------------------
# The contract and the objective


@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("columns", [REAL, MIXED])
def test_conformance(columns, hidden):
    program = DeepLatentTable(columns, latent=2, hidden=hidden, members=2)
    with torch.no_grad():
        for p in program.parameters():
            p.add_(0.1 * torch.randn_like(p))
        program.member.fill_(1)
        x = program.model(torch.full((12, len(columns)), NAN))
    check_program(program, x).raise_for_failures()


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


# ----------------------------------------------------------------------------------------------------------------------
# Learning


def linear_table(n=300, d=5, share=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 1, generator=generator)
    complete = (z + 0.5 * torch.randn(n, d, generator=generator)).double()
    complete = (complete - complete.mean(0)) / complete.std(0)
    missing = torch.rand(n, d, generator=generator) < share
    return complete, torch.where(missing, NAN, complete)


def test_learning_finds_a_factor():
    complete, x = linear_table()
    heard = []
    program = DeepLatentTable(REAL, latent=2, hidden=(16,), members=3, particles=100, steps=200)
    assert program.learn(x, progress=lambda share, words: heard.append(share)) is program
    hole = x.isnan()
    error = (program.cell_mean(x) - complete)[hole].square().mean().item()
    # Each entry has variance 1, of which four fifths are shared: given about three others 0.26 is left.
    assert error < 0.32
    draws = program.complete(x, 30, seeds=torch.arange(len(x)))
    low, high = draws.quantile(torch.tensor([0.05, 0.95]).double(), 0)
    inside = ((complete >= low) & (complete <= high))[hole].double().mean().item()
    assert 0.83 < inside < 0.97  # of 450 entries 0.90 of 30 draws: standard error 0.015
    assert heard == sorted(heard) and heard[-1] == 1.0
    again = DeepLatentTable(REAL, latent=2, hidden=(16,), members=3, particles=100, steps=200).learn(x)
    assert torch.equal(again.cell_mean(x), program.cell_mean(x))


def test_a_deadline_stops_it():
    _, x = linear_table()
    words = []
    start = time.perf_counter()
    program = DeepLatentTable(REAL, hidden=(16,), steps=20_000)
    program.learn(x, deadline=time.monotonic() + 2, progress=lambda share, text: words.append(text))
    assert time.perf_counter() - start < 60
    assert any("out of time" in text for text in words)
    assert not program.cell_mean(x).isnan().any()


def test_a_column_never_seen_and_a_complete_table():
    complete, x = linear_table(60)
    x[:, 3] = NAN
    program = DeepLatentTable(REAL, latent=1, hidden=(), members=2, particles=50, steps=20).learn(x)
    assert not program.complete(x, 2, seeds=torch.arange(60)).isnan().any()
    program.learn(complete)
    assert torch.equal(program.cell_mean(complete), complete)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real": "cauchy"}, "student_t"),
        ({"latent": 0}, "latent=0"),
        ({"members": 2.0}, "members=2.0"),
    ],
)
def test_options_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        DeepLatentTable(REAL, **options)


def test_tables_that_do_not_fit():
    program = DeepLatentTable(REAL)
    with pytest.raises(ValueError, match="expected"):
        program.learn(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="no entry"):
        program.learn(torch.full((3, 5), NAN))
    with pytest.raises(ValueError, match="positive"):
        DeepLatentTable([Column("a", "positive")])


def test_normal_numbers_are_shared_by_rows_without_seeds():
    program = factors(particles=10)
    assert torch.equal(program._latent_noise(None)[:, 0], normals(torch.zeros(1).long(), 20).reshape(10, 2))


@pytest.mark.slow
def test_the_breast_cancer_protocol():
    """Half of the entries missing completely at random, mean squared error of the posterior mean: knowledge 2.1."""

    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer().data
    data = (data - data.mean(0)) / data.std(0)
    np.random.seed(1234)  # noqa: NPY002 the protocol's generator
    mask = np.random.choice(data.size, data.size // 2, replace=False)  # noqa: NPY002
    x = data.copy()
    x.flat[mask] = np.nan
    x = torch.from_numpy(x)
    program = DeepLatentTable([Column(f"x{d}", "real") for d in range(30)]).learn(x)
    error = (program.cell_mean(x) - torch.from_numpy(data))[x.isnan()].square().mean().item()
    assert error < 0.28
