"""Columns with an atom: their curves against what is known of them, and the copula against censored normals."""

import math

import pytest
import torch

from pyro_gen._random import seeded
from pyro_gen.data.atoms import at_atom
from pyro_gen.data.column import Column
from pyro_gen.distributions.monotone_spline import MonotoneSpline
from pyro_gen.evaluation.conformance import check_program
from pyro_gen.models.tabular.copula import TableCopula
from pyro_gen.models.tabular.parts.copula_sampler import CopulaRows
from pyro_gen.models.tabular.parts.marginal_transforms import SplineWithAtom
from pyro_gen.models.tabular.parts.normal_posterior import normal_of_draw

CUT, SLOPE = 0.4, 0.7
COLUMNS = (Column("a", "real"), Column("b", "real", atom=0.0))


def censored(count):
    """Rows of a normal variable, and of one that is seen above CUT alone, less CUT: zero on 66 rows of a hundred."""
    a = torch.randn(count, dtype=torch.float64)
    b = SLOPE * a + math.sqrt(1 - SLOPE**2) * torch.randn(count, dtype=torch.float64)
    return torch.stack([a, (b - CUT).clamp(min=0)], 1)


def standard(z):
    return (-z.square() / 2).exp() / math.sqrt(2 * math.pi)


def two_sided(count):
    values = torch.randn(count, dtype=torch.float64)
    return torch.where(torch.rand(count) < 0.3, 0.5, values)


with seeded(0):
    LOW, MIDDLE = censored(800)[:, 1], two_sided(800)


# ----------------------------------------------------------------------------------------------------------------------
# Curves


@pytest.mark.parametrize("values", [LOW, -LOW, MIDDLE], ids=["low", "high", "middle"])
def test_a_curve_gives_the_shares_that_it_was_learnt_from_and_a_density_elsewhere(values):
    atom = 0.5 if bool((values == 0.5).any()) else 0.0
    curve = SplineWithAtom.fit(values, atom)
    _, below, above = curve.edges[:, 0]
    share = [(values < atom).double().mean(), (values == atom).double().mean()]
    torch.testing.assert_close(torch.special.ndtr(below), share[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.special.ndtr(above), share[0] + share[1], rtol=0, atol=1e-3)

    x = torch.linspace(-30, 30, 200_001, dtype=torch.float64).unsqueeze(1)
    x = x[((x - atom).abs() > 1e-6)[:, 0]]
    lower, upper, log_slope = curve.interval(x)
    assert torch.equal(lower, upper)
    one_sided = (x > atom) if math.isinf(below) else (x < atom) if math.isinf(above) else x == x
    density = torch.where(one_sided, standard(lower) * log_slope.exp(), 0.0)
    total = torch.trapezoid(density[:, 0], x[:, 0]) + torch.special.ndtr(above) - torch.special.ndtr(below)
    assert abs(total.item() - 1) < 2e-3  # of the grid


@pytest.mark.parametrize("values", [LOW, MIDDLE], ids=["low", "middle"])
def test_values_are_those_that_intervals_are_of(values):
    atom = 0.5 if bool((values == 0.5).any()) else 0.0
    curve = SplineWithAtom.fit(values, atom)
    lower, upper, _ = curve.interval(values.unsqueeze(1))
    at = values == atom
    assert torch.equal(lower[~at], upper[~at]) and bool((lower[at] < upper[at]).all())
    torch.testing.assert_close(curve.values(lower)[~at, 0], values[~at], rtol=0, atol=1e-8)
    start, end = curve.edges[1:, 0].clamp(min=-5)
    between = torch.lerp(start, end, torch.linspace(0.001, 0.999, 51).double()).unsqueeze(1)
    assert torch.equal(curve.values(between), torch.full_like(between, atom))
    order = values.unsqueeze(1).sort(0).values
    assert bool((curve.interval(order)[1].diff(dim=0) >= 0).all())  # increasing, the atom included
    step = 1e-6
    away = values[~at & ((values - atom).abs() > 1e-3)].unsqueeze(1)
    slope = (curve.interval(away + step)[0] - curve.interval(away - step)[0]) / (2 * step)
    torch.testing.assert_close(slope.log(), curve.interval(away)[2], rtol=0, atol=1e-2)


def test_no_value_is_on_the_side_of_the_atom_where_none_was():
    curve = SplineWithAtom.fit(LOW, 0.0)
    assert float(curve.values(torch.linspace(-8, 8, 4001, dtype=torch.float64).unsqueeze(1)).min()) == 0.0


def test_little_to_learn_a_curve_from():
    far = torch.cat([torch.zeros(90), 1000 + torch.randn(10)]).double()
    few = torch.tensor([0.0] * 30 + [1.0, -2.0]).double()
    nothing = torch.zeros(20).double()
    for values in (far, few, nothing, torch.cat([nothing, torch.full((1,), 1e-12).double()]), torch.ones(5).double()):
        curve = SplineWithAtom.fit(values, 0.0)
        lower, upper, log_slope = curve.interval(values.unsqueeze(1))
        assert not bool(torch.isnan(lower).any() | torch.isnan(upper).any()) and bool(log_slope.isfinite().all())
        assert bool((lower <= upper).all())
        assert not bool(torch.isnan(curve.values(torch.linspace(-5, 5, 101).double().unsqueeze(1))).any())
    between = SplineWithAtom.fit(far, 0.0).values(torch.linspace(-5, 5, 10_001).double().unsqueeze(1))
    assert float(((between > 1) & (between < 900)).double().mean()) < 0.01  # nothing lies there


def test_where_an_entry_is_at_its_atom():
    x = torch.tensor([[0.1 + 0.2, 0.3], [math.nan, 0.3 + 1e-6]]).double()
    assert at_atom(x, torch.tensor([0.3, 0.3]).double()).tolist() == [[True, True], [False, False]]


# ----------------------------------------------------------------------------------------------------------------------
# The copula


@pytest.fixture(scope="module")
def learnt():
    with seeded(3):
        x = censored(2000)
        return TableCopula(COLUMNS).fit_posterior(torch.where(torch.rand_like(x) < 0.2, torch.nan, x), seed=3)


def chance_of_zero(a):
    return torch.special.ndtr((CUT - SLOPE * a) / math.sqrt(1 - SLOPE**2))


def test_the_copula_finds_the_chance_of_the_atom(learnt):
    a = torch.linspace(-2, 2, 9, dtype=torch.float64)
    x = torch.stack([a, torch.full_like(a, torch.nan)], 1)
    zero = torch.stack([torch.full_like(a, torch.nan), torch.zeros_like(a)], 1)
    found = learnt.cell_log_prob(x, zero)[:, 1].exp()
    # 1280 complete rows: posterior standard deviations are below 0.02; five of them.
    torch.testing.assert_close(found, chance_of_zero(a), rtol=0, atol=0.1)
    often = learnt.num_posterior_draws  # each row 16 times, with seeds of its own
    drawn = learnt.complete(x.repeat(16, 1), often, seeds=torch.arange(16 * 9))[..., 1].reshape(16 * often, 9)
    assert float(drawn.min()) == 0.0
    # 4096 draws, a standard error of at most 0.008 each: five of them, a false alarm in 9 x 6e-7.
    torch.testing.assert_close((drawn == 0).double().mean(0), found, rtol=0, atol=0.04)
    torch.testing.assert_close(learnt.cell_mean(x)[:, 1], drawn.mean(0), rtol=0, atol=0.06)


def test_a_copula_that_is_not_told_does_not():
    with seeded(3):
        x = censored(2000)
    plain = TableCopula((COLUMNS[0], Column("b", "real"))).fit_posterior(x, seed=3)
    rows = torch.tensor([[-1.0, math.nan]]).double()
    drawn = plain.complete(rows, 1000, seeds=torch.zeros(1, dtype=torch.int64))[..., 1]
    assert float((drawn.abs() < 0.01).double().mean()) < chance_of_zero(torch.tensor(-1.0)) - 0.3


def test_the_atom_and_the_density_beside_it_sum_to_one(learnt):
    grid = torch.linspace(1e-6, 12, 1201, dtype=torch.float64)
    for a in (-1.5, 0.0, 1.5):
        values = torch.stack([torch.full_like(grid, torch.nan), grid], 1)
        x = torch.tensor([[a, math.nan]]).double()
        beside = torch.trapezoid(learnt.cell_log_prob(x.expand(len(grid), -1), values)[:, 1].exp(), grid)
        atom = learnt.cell_log_prob(x, torch.tensor([[math.nan, 0.0]]).double())[0, 1].exp()
        assert abs(float(beside + atom) - 1) < 5e-3


def test_the_density_of_a_row_is_that_of_the_censored_normal():
    program = TableCopula(COLUMNS)
    curves = SplineWithAtom(
        MonotoneSpline(*torch.tensor([[[0.0, 1.0]], [[CUT, CUT + 1]]]).double()),
        torch.tensor([[0.0], [-math.inf], [CUT]]).double(),
    )
    marginals = program.marginals._replace(
        mixed=curves, real=MonotoneSpline(*torch.tensor([[[0.0, 1.0]]] * 2).double())
    )
    covariance = torch.tensor([[1.0, SLOPE], [SLOPE, 1.0]]).double()
    x = torch.tensor([[0.3, 0.0], [0.3, 0.9], [-1.0, 0.0], [0.5, 2.0]]).double()
    for u in (0.2, 0.9):  # what is beside the atom, and one interval, do not depend on it
        rows = CopulaRows(
            marginals, torch.zeros(2).double(), covariance, torch.ones(4).double(), torch.full((4, 1), u).double()
        )
        normal = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance)
        joint = normal.log_prob(torch.stack([x[:, 0], x[:, 1] + CUT], 1))
        atom = standard(x[:, 0]).log() + chance_of_zero(x[:, 0]).log()
        torch.testing.assert_close(rows.log_prob(x), torch.where(x[:, 1] == 0, atom, joint))


def test_many_columns_with_atoms_at_once():
    """Latent variables behind atoms, beside numbers that are known: the correlation of two censored columns."""
    with seeded(5):
        z = 0.8 * torch.randn(1500, 1, dtype=torch.float64) + 0.6 * torch.randn(1500, 3, dtype=torch.float64)
        x = torch.where(z > torch.tensor([0.5, -0.3, 0.0]), z, torch.tensor([0.5, -0.3, 0.0]).double())

    def correlations(atoms):
        columns = [Column(name, "real", atom=atom) for name, atom in zip("abc", atoms, strict=True)]
        program = TableCopula(columns).fit_posterior(x, seed=5)
        found = torch.stack(
            [normal_of_draw(program.posterior_draws, s)[1] for s in range(program.num_posterior_draws)]
        ).mean(0)
        scale = found.diagonal().sqrt()
        return (found / scale / scale[:, None])[[0, 0, 1], [1, 2, 2]]

    # 0.64; posterior standard deviations are 0.02 of 1500 rows of which few are at two atoms: five of them, 6e-7 each.
    assert float((correlations((0.5, -0.3, 0.0)) - 0.64).abs().max()) < 0.1
    assert float((correlations((None, None, None)) - 0.64).abs().max()) > 0.1  # the twin: it is not told


def test_the_copula_with_an_atom_is_a_program(learnt):
    with seeded(8):
        rows = censored(6)
        rows[0, 0] = rows[1, 1] = torch.nan
    check_program(learnt, rows).raise_for_failures()
