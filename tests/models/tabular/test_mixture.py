"""The mixture of factor analysers, against its own formulas written out, and truths that it is to find."""

import math
import time
from dataclasses import replace

import pyro
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, MultivariateNormal, Normal

from pyro_gen._random import seeded
from pyro_gen.data.atoms import atoms_of
from pyro_gen.data.column import Column
from pyro_gen.distributions.monotone_spline import MonotoneSpline
from pyro_gen.evaluation.conformance import check_program
from pyro_gen.models.tabular import mixture
from pyro_gen.models.tabular.gaussian import TableGaussian
from pyro_gen.models.tabular.mixture import PRIOR, TableMixture
from pyro_gen.models.tabular.parts import mixture_rows
from pyro_gen.models.tabular.parts.marginal_transforms import fit_real, powers
from pyro_gen.models.tabular.parts.mixture_sampler import sweep

MIXED = (
    Column("a", "real"),
    Column("visits", "count"),
    Column("b", "real"),
    Column("owner", "binary", levels=("no", "yes")),
    Column("c", "real"),
    Column("city", "nominal", levels=("A", "B", "C")),
    Column("grade", "ordinal", levels=("poor", "fair", "good", "best")),
)
PAIR = (Column("a", "real"), Column("b", "real"))
ATOMS = {0: 0.31, 2: 0.25, 4: 0.1}
TWO_PARTS = tuple(replace(c, atom=ATOMS.get(d)) for d, c in enumerate(MIXED))
NAN = math.nan


def moons(count, noise=0.08):
    """Two half circles that hold hands, standardised."""
    angle = math.pi * torch.rand(count, dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin()], 1)
    x[::2] = torch.tensor([1.0, 0.5]).double() - x[::2]
    x = x + noise * torch.randn(count, 2, dtype=torch.float64)
    return (x - torch.tensor([0.5, 0.25]).double()) / torch.tensor([0.87, 0.5]).double()


def clusters(count):
    """Rows of MIXED in three groups."""
    group = torch.randint(3, (count,))
    loc = torch.tensor([[1.2, 1.0, 0.0], [-1.2, 0.8, 0.5], [0.0, -1.2, -0.8]]).double()[group]
    real = loc + 0.4 * torch.randn(count, 3, dtype=torch.float64)
    visits = torch.poisson(torch.tensor([1.0, 6.0, 20.0]).double()[group])
    owner = torch.bernoulli(torch.tensor([0.1, 0.5, 0.9]).double()[group])
    city = Categorical(torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])[group]).sample().double()
    latent = loc[:, 1] + 0.6 * torch.randn(count, dtype=torch.float64)
    grade = torch.bucketize(latent, torch.tensor([-1.0, 0.0, 1.0]).double()).double()
    return torch.stack([real[:, 0], visits, real[:, 1], owner, real[:, 2], city, grade], 1)


def holes(x, share=0.3):
    return torch.where(torch.rand_like(x) < share, torch.nan, x)


def at_atoms(x, columns, share=0.3):
    """Rows of which so many entries are at the atoms of their columns."""
    atoms = atoms_of(columns)
    return torch.where((torch.rand_like(x) < share) & ~torch.isnan(atoms), atoms, x)


def one_a_row(x):
    """One entry of each row missing, so that scores of entries are independent; and these entries."""
    masked = x.clone()
    masked[torch.arange(len(x)), torch.arange(len(x)) % x.shape[1]] = torch.nan
    return masked, torch.where(torch.isnan(masked), x, torch.nan)


def bent():
    """Curves for the three real columns: of a column that is skewed to the right, a line, and one to the left."""
    with seeded(10):
        skewed = torch.randn(300, dtype=torch.float64).exp()
    skewed = (skewed - skewed.mean()) / skewed.std()
    line = MonotoneSpline(torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[0.0, 1.0]]).double())
    curves = MonotoneSpline.join([fit_real(skewed, [powers]), line, fit_real(-skewed, [powers])])
    assert (curves.x[[0, 2]].diff(dim=1) / curves.z[[0, 2]].diff(dim=1)).std(1).min() > 0.5
    return curves


def grid_of(program, d):
    """Numbers of a real column, 30 units of the working scale of its curve up and down."""
    z = torch.linspace(-30, 30, 10001, dtype=torch.float64).unsqueeze(1).expand(-1, 3)
    return program.curves.real.inverse(z)[:, (0, 2, 4).index(d)].contiguous()


@pytest.fixture(scope="module", params=["lines", "curves", "atoms"])
def known(request):
    """A program with one draw of known parameters, from the prior of a table of this kind."""
    with seeded(11):
        program = TableMixture(TWO_PARTS if request.param == "atoms" else MIXED, components=3)
        trace = pyro.poutine.trace(program.model).get_trace(torch.full((1, len(MIXED)), NAN, dtype=torch.float64))
        program.store_draws({name: trace.nodes[name]["value"].unsqueeze(0) for name in program._sites})
        if request.param == "curves":
            program.register_buffer("_knots", torch.stack(bent()))
    return program


@pytest.fixture(scope="module")
def learnt():
    with seeded(12):
        return TableMixture(MIXED, components=6).fit_posterior(holes(clusters(300)), seed=3)


# ----------------------------------------------------------------------------------------------------------------------
# Given parameters: known answers


def brute_force(program, row):
    """The log-density of the seen entries of a row, component by component."""
    p = {name: program.posterior_draws(name)[0] for name in program._sites}
    v = torch.cat([p["sticks"], torch.ones(1).double()])
    weights = v * torch.cat([torch.ones(1).double(), (1 - v[:-1]).cumprod(0)])
    terms, atoms = [], [(d, c.atom) for d, c in enumerate(program.columns) if c.atom is not None]
    numbers = [NAN if (d, row[d]) in atoms else row[d] for d in (0, 2, 4)]
    real, log_slope = program.curves.real(torch.tensor([numbers]).double())
    for k in range(program.components):
        real = real.flatten()
        seen = ~torch.isnan(real)
        covariance = p["loadings"][k] @ p["loadings"][k].T + p["noise"][k, :3].diag()
        term = weights[k].log()
        if seen.any():
            d = MultivariateNormal(p["loc"][k, :3][seen], covariance[seen][:, seen])
            term = term + d.log_prob(real[seen])
        if not math.isnan(row[1]):
            log_count = Normal(p["loc"][k, 3], p["noise"][k, 3].sqrt())
            lower = log_count.cdf(torch.tensor(math.log(row[1]))) if row[1] else 0.0
            term = term + (log_count.cdf(torch.tensor(math.log(row[1] + 1))) - lower).log()
        if not math.isnan(row[6]):
            latent, ends = Normal(p["loc"][k, 4], p["noise"][k, 4].sqrt()), program.curves.ends[0]
            term = term + (latent.cdf(ends[int(row[6]) + 1]) - latent.cdf(ends[int(row[6])])).log()
        for j, d in enumerate((3, 5)):
            if not math.isnan(row[d]):
                term = term + p[f"levels_{j}"][k, int(row[d])].log()
        for j, (d, atom) in enumerate(atoms):
            if not math.isnan(row[d]):
                chance = p[f"levels_{2 + j}"][k, 1]
                term = term + (chance if row[d] == atom else 1 - chance).log()
        terms.append(term)
    return torch.stack(terms).logsumexp(0) + log_slope.nansum()


# With atoms, the first entry is at one, and the last real one to fill.
ROWS = (
    (0.31, 2.0, NAN, 1.0, -0.5, NAN, NAN),
    (NAN, NAN, NAN, NAN, NAN, NAN, NAN),
    (NAN, 0.0, 0.7, NAN, NAN, 2.0, 2.0),
)
FILL = (0.4, 3.0, -0.2, 0.0, 0.1, 1.0, 3.0)


def test_densities_and_conditionals_are_those_written_out(known):
    x = torch.tensor(ROWS, dtype=torch.float64)
    scored = pyro.poutine.trace(pyro.poutine.condition(known.model, data=_parameters(known))).get_trace(x)
    scored.compute_log_prob()
    exact = torch.stack([brute_force(known, row) for row in ROWS])
    torch.testing.assert_close(scored.nodes["x"]["log_prob"], exact)
    values = torch.where(torch.isnan(x), torch.tensor(FILL, dtype=torch.float64), torch.nan)
    found = known.cell_log_prob(x, values)
    for n, row in enumerate(ROWS):
        for d in range(len(row)):
            if math.isnan(row[d]):
                filled = (*row[:d], FILL[d], *row[d + 1 :])
                torch.testing.assert_close(found[n, d], brute_force(known, filled) - exact[n])
            else:
                assert math.isnan(found[n, d])


def _parameters(program):
    return {name: program.posterior_draws(name)[0] for name in program._sites}


def scores(program, row, d, values):
    """The densities or probabilities of numbers in a column of a row."""
    table = torch.full((len(values), len(row)), torch.nan, dtype=torch.float64)
    table[:, d] = values
    return program.cell_log_prob(row.expand(len(values), -1), table)[:, d].exp()


def at_atom_of(program, row, d):
    """The probability of an atom, and the atom; zeros where there is none."""
    atom = program.columns[d].atom
    return (
        (0.0, 0.0)
        if atom is None
        else (scores(program, row, d, torch.tensor([atom], dtype=torch.float64)).item(), atom)
    )


def test_expectations_are_those_of_the_densities(known, monkeypatch):
    monkeypatch.setattr(mixture_rows, "QUADRATURE_NODES", 31)  # components from the prior are wider than any of a table
    x = torch.tensor(ROWS, dtype=torch.float64)
    mean = known.cell_mean(x)
    for n, d in ((0, 2), (1, 0), (2, 4)):
        grid = grid_of(known, d)
        density = scores(known, x[n], d, grid)
        chance, atom = at_atom_of(known, x[n], d)
        assert torch.trapezoid(density, grid).item() + chance == pytest.approx(1.0, abs=2e-3)
        exact = torch.trapezoid(density * grid, grid) + chance * atom
        deviation = torch.trapezoid(density * (grid - exact).square(), grid).sqrt().item()
        assert mean[n, d].item() == pytest.approx(exact.item(), abs=1e-2 * deviation)
    for n, d, size in ((0, 5, 3), (1, 3, 2), (0, 6, 4)):
        chances = scores(known, x[n], d, torch.arange(size))
        assert chances.sum().item() == pytest.approx(1.0)
        torch.testing.assert_close(known.cell_expected(x)[d][n], chances)
        assert mean[n, d] == chances.argmax()


def test_draws_are_those_of_the_scores(known):
    """Binomial, Kolmogorov-Smirnov and chi-square of draws given a row, at 1e-5 each."""
    x = torch.tensor(ROWS[:1], dtype=torch.float64)
    draws = known.complete(x.expand(4000, -1), 1, seeds=torch.arange(4000))[0]
    grid = grid_of(known, 2)
    chance, atom = at_atom_of(known, x[0], 2)
    there = draws[:, 2] == atom
    if chance:
        assert stats.binomtest(int(there.sum()), 4000, chance).pvalue > 1e-5
        assert stats.binomtest(int((there & (torch.arange(4000) % 5 > 0)).sum()), 4000, chance).pvalue < 1e-5
    cdf = torch.cumulative_trapezoid(scores(known, x[0], 2, grid), grid) / (1 - chance)
    numbers = draws[~there, 2]

    def p_value(drawn):
        return stats.kstest(
            cdf[torch.searchsorted(grid, drawn.contiguous()).clamp(1, len(cdf)) - 1].numpy(), "uniform"
        )[1]

    assert p_value(numbers) > 1e-5
    assert p_value(numbers.mean() + 0.8 * (numbers - numbers.mean())) < 1e-5  # the twin
    for d, size in ((5, 3), (6, 4)):
        chances = scores(known, x[0], d, torch.arange(size))
        assert stats.chisquare(draws[:, d].long().bincount(minlength=size), 4000 * chances).pvalue > 1e-5
        assert stats.chisquare(draws[:, d].long().bincount(minlength=size), 4000 * chances.flip(0)).pvalue < 1e-5


# ----------------------------------------------------------------------------------------------------------------------
# Learning


def replicates(rows, sweeps, count, columns=MIXED[:2] + TWO_PARTS[2:4] + MIXED[6:], break_it=False):
    """Parameters from the prior, rows from the parameters, then sweeps: the parameters must have the prior again."""
    found = []
    program = TableMixture(columns, components=3)
    for _ in range(count):
        trace = pyro.poutine.trace(program.model).get_trace(torch.full((rows, len(columns)), NAN, dtype=torch.float64))
        x = holes(trace.nodes["_RETURN"]["value"], 0.2)
        state = {name: trace.nodes[name]["value"].unsqueeze(0) for name in program._sites}
        for _ in range(sweeps):
            state = sweep(program.prepare_rows(x), state, PRIOR)
            if break_it:
                state["loc"] = 0.5 * state["loc"]
        found.append(
            [
                state["concentration"][0],
                state["use"][0, 0],
                state["alike"][0, 0],
                *state["common_noise"][0],
                *state["loc"][0, 0],
                *state["loc"][0, 2],
                *(state["common_loadings"][0, :, 0] * state["use"][0, 0].sqrt()),
                (state["loadings"][0, 1, 0, 0] - state["common_loadings"][0, 0, 0]) * state["alike"][0, 0].sqrt(),
                *(PRIOR.noise * state["common_noise"][0] / state["noise"][0, 0]),
                state["levels_0"][0, 0, 0],
                state["levels_1"][0, 0, 1],
            ]
        )
    return torch.tensor(found, dtype=torch.float64).T


def prior_p_values(found):
    normal = stats.norm.cdf
    priors = [
        stats.gamma(PRIOR.concentration[0], scale=1 / PRIOR.concentration[1]).cdf,
        stats.gamma(PRIOR.use[0], scale=1 / PRIOR.use[1]).cdf,
        stats.gamma(PRIOR.alike[0], scale=1 / PRIOR.alike[1]).cdf,
        *4 * [stats.gamma(PRIOR.common_noise[0], scale=1 / PRIOR.common_noise[1]).cdf],
        *11 * [normal],
        *4 * [stats.gamma(PRIOR.noise).cdf],
        *2 * [stats.uniform.cdf],
    ]
    return [stats.kstest(v.numpy(), prior).pvalue for v, prior in zip(found, priors, strict=True)]


def test_the_sampler_leaves_the_joint_distribution_alone():
    # Twenty-four tests of independent replicates at 4e-6: a false alarm in 1e-4.
    assert min(prior_p_values(replicates(rows=10, sweeps=2, count=250))) > 4e-6
    assert min(prior_p_values(replicates(rows=10, sweeps=2, count=250, break_it=True))) < 4e-6


def test_two_moons_are_no_gaussian():
    with seeded(13):
        train, test = holes(moons(400), 0.15), moons(600)
    masked, values = one_a_row(test)
    found = TableMixture(PAIR).fit_posterior(train).cell_log_prob(masked, values).nansum(1)
    gaussian = TableGaussian(PAIR).fit_posterior(train).cell_log_prob(masked, values).nansum(1)
    gain = found - gaussian
    assert gain.mean() > 0.25
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5


def test_one_cloud_is_a_gaussian():
    """Where nothing is to be found, the mixture loses little."""
    with seeded(14):
        x = torch.randn(800, 1, dtype=torch.float64) + 0.5 * torch.randn(800, 4, dtype=torch.float64)
    columns = [Column(name, "real") for name in "abcd"]
    masked, values = one_a_row(x[300:] / 1.25**0.5)
    train = x[:300] / 1.25**0.5
    found = TableMixture(columns).fit_posterior(train).cell_log_prob(masked, values).nansum(1).mean()
    gaussian = TableGaussian(columns).fit_posterior(train).cell_log_prob(masked, values).nansum(1).mean()
    assert found > gaussian - 0.05


def test_it_finds_groups_in_mixed_columns(learnt):
    """Given all but the group's city, the city is known; and all scores are close to those of the true groups."""
    with seeded(15):
        x = clusters(400)
    masked = x.clone()
    masked[:, 5] = torch.nan
    values = torch.where(torch.isnan(masked), x, torch.nan)
    found = learnt.cell_log_prob(masked, values).nansum(1).mean().item()
    # Groups known, the entropy is 0.64 nats; nothing known, log 3 = 1.10.
    assert -found < 0.75
    assert (learnt.cell_mean(masked)[:, 5] == x[:, 5]).double().mean() > 0.72


def rain(count):
    """Heat, and rain, of which there is none on hot days more often; and how often there is none, (N)."""
    heat = torch.randn(count, dtype=torch.float64)
    dry = (2 * heat).sigmoid()
    amount = (0.5 * torch.randn(count, dtype=torch.float64) - 0.5 * heat).exp()
    return torch.stack([heat, torch.where(torch.rand_like(dry) < dry, 0.0, amount)], 1), dry


def test_rain_is_nothing_as_often_as_it_was():
    """On cool and on hot days, in rows not learnt from; where it rains, as much as it did."""
    with seeded(21):
        train, _ = rain(1500)
        test, dry = rain(2000)
    columns = (Column("heat", "real"), Column("rain", "real", atom=0.0))
    two_parts, one_part = (TableMixture(c, components=6).fit_posterior(train) for c in (columns, PAIR))
    masked = torch.stack([test[:, 0], torch.full_like(dry, torch.nan)], 1)
    draws, twin = (p.complete(masked, 16, seeds=torch.arange(2000))[:, :, 1] for p in (two_parts, one_part))
    for group in (test[:, 0] < -0.5, test[:, 0] > 0.5):
        # Of 450 rows learnt from the share is known to 0.016, but the steps of six components bend it, by 0.03 where it
        # is hot (six seeds): what is left is four standard errors, a false alarm in 1e-4.
        truth = dry[group].mean()
        assert abs((draws[:, group] == 0).double().mean() - truth) < 0.09
        assert abs((twin[:, group] == 0).double().mean() - truth) > 0.09
        # The logarithms of 75 rains at least, which have a standard deviation below 0.6.
        wet, fell = draws[:, group], test[group, 1]
        assert abs(wet[wet > 0].log().mean() - fell[fell > 0].log().mean()) < 0.3
    # What is expected is the mean of draws, within five of its standard errors.
    row = torch.tensor([[0.3, torch.nan]], dtype=torch.float64)
    many = two_parts.complete(row.expand(500, -1), two_parts.num_posterior_draws, seeds=torch.arange(500))[
        :, :, 1
    ].flatten()
    error = (many.mean() - two_parts.cell_mean(row)[0, 1]).abs()
    assert error < 5 * many.std() / len(many) ** 0.5
    assert error + 0.1 * many.mean() > 5 * many.std() / len(many) ** 0.5  # the test sees a tenth


def test_levels_in_order_are_known_by_their_neighbours():
    """Of 10 levels in 120 rows as many are rare; to a nominal column their order is unknown."""
    with seeded(23):
        z = torch.randn(1120, dtype=torch.float64)
        grade = torch.bucketize(z + 0.4 * torch.randn(1120), torch.linspace(-2, 2, 9).double()).double()
    x = torch.stack([z, grade], 1)
    masked = torch.stack([z, torch.full_like(z, torch.nan)], 1)[120:]
    values = torch.where(torch.isnan(masked), x[120:], torch.nan)
    levels = tuple("abcdefghij")
    found, twin = (
        TableMixture((PAIR[0], Column("grade", kind, levels)), components=6)
        .fit_posterior(x[:120])
        .cell_log_prob(masked, values)[:, 1]
        for kind in ("ordinal", "nominal")
    )
    gain = found - twin
    assert gain.mean() > 0.1  # five seeds: 0.20 to 0.26
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5


def test_a_column_may_be_at_its_atom_throughout():
    with seeded(22):
        x = torch.randn(60, 2, dtype=torch.float64)
    x[:, 1] = 0.7
    x[::4, 1] = torch.nan
    program = TableMixture((Column("a", "real"), Column("b", "real", atom=0.7)), components=3).fit_posterior(x)
    drawn = program.complete(x, 32, seeds=torch.arange(60))[:, ::4, 1]
    # Beta(46, 1) for all rows, and never less than Beta(1, 1) for a component; of 480 draws.
    assert (drawn == 0.7).double().mean() > 0.85
    assert torch.isfinite(drawn).all()
    assert program.cell_mean(x)[::4, 1].sub(0.7).abs().max() < 0.3


def ranks(program, x, truth, shrink=1.0):
    """Chi-square of the ranks of true entries among draws, ties broken at random, in ten classes."""
    draws = program.complete(x, 49, seeds=torch.arange(len(x)))
    middle = draws.mean(0)
    draws = torch.where(torch.isnan(x) & (torch.arange(x.shape[1]) != 5), middle + shrink * (draws - middle), draws)
    missing = torch.isnan(x)
    noise = 1e-6 * torch.rand(50, *x.shape, dtype=torch.float64)
    rank = (draws + noise[1:] < truth + noise[0]).sum(0)[missing]
    counts = (rank // 5).bincount(minlength=10).double()
    expected = len(rank) / 10
    return ((counts - expected).square() / expected).sum().item()


def test_truths_rank_uniformly_among_draws(learnt):
    with seeded(16):
        truth = clusters(900)
        x, _ = one_a_row(truth)
        # The chi-square of 9 degrees exceeds 33.7 in 1e-4; what 300 rows leave unknown adds a little.
        assert ranks(learnt, x, truth) < 37
        assert ranks(learnt, x, truth, shrink=0.6) > 37


# ----------------------------------------------------------------------------------------------------------------------
# What every program for tables keeps


def test_rows_alone_and_seen_entries_and_new_rows(learnt, untouched_rng):
    with seeded(17):
        x = holes(clusters(30))
    seeds = torch.arange(100, 130)
    draws = learnt.complete(x, 5, seeds=seeds)
    seen = ~torch.isnan(x)
    assert not torch.isnan(draws).any()
    assert torch.equal(draws[:, seen], x[seen].expand(5, -1))
    mean = learnt.cell_mean(x)
    for n in (0, 7, 29):
        torch.testing.assert_close(learnt.complete(x[n : n + 1], 5, seeds=seeds[n : n + 1])[:, 0], draws[:, n])
        torch.testing.assert_close(learnt.cell_mean(x[n : n + 1])[0], mean[n])
    assert not torch.equal(learnt.complete(x, 5, seeds=seeds + 1000), draws)
    assert torch.equal(mean[seen], x[seen])


def test_learning_is_reproducible_and_stops_in_time(untouched_rng):
    with seeded(18):
        x = holes(clusters(60))
    said = []
    first, again, other = (
        TableMixture(MIXED).fit_posterior(
            x, seed=s, progress=lambda share, words: said.append(share), deadline=time.monotonic()
        )
        for s in (0, 0, 1)
    )
    assert len(said) == 3  # one sweep each
    assert torch.equal(first.posterior_draws("loadings"), again.posterior_draws("loadings"))
    assert not torch.equal(first.posterior_draws("loadings"), other.posterior_draws("loadings"))


@pytest.mark.parametrize("columns", [MIXED, PAIR, *([c] for c in MIXED[:2] + MIXED[5:]), TWO_PARTS, TWO_PARTS[:1]])
def test_it_keeps_the_contract(columns, untouched_rng):
    names = [c.name for c in MIXED]
    with seeded(19):
        x = at_atoms(clusters(20)[:, [names.index(c.name) for c in columns]], columns)
    check_program(TableMixture(columns), x).raise_for_failures()
    learnt = TableMixture(columns).fit_posterior(x, deadline=0.0)
    check_program(learnt, x).raise_for_failures()
    with seeded(20):
        check_program(learnt, holes(x)).raise_for_failures()


def test_more_rows_may_have_more_components(monkeypatch):
    monkeypatch.setattr(mixture, "ROWS_FOR_MORE_COMPONENTS", 60)
    monkeypatch.setattr(mixture, "SCHEDULE", mixture.SCHEDULE._replace(burn_in=5))
    x = torch.randn(60, 2, dtype=torch.float64)
    program = TableMixture(PAIR)
    assert program.fit_posterior(x[:59]).components == 12
    assert program.fit_posterior(x).components == 24 == program.posterior_draws("loadings").shape[1]
    assert TableMixture(PAIR, components=3).fit_posterior(x).components == 3


def test_what_it_cannot_be():
    with pytest.raises(ValueError, match="column 'x' is positive"):
        TableMixture([Column("x", "positive")])
    with pytest.raises(ValueError, match="components=1"):
        TableMixture(PAIR, components=1)
