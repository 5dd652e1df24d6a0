"""Several programs as one: how far their draws spread, against errors that are known."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_gen.data.column import Column
from pyro_gen.imputation.stacking.linear_pool import CENTRE_DRAWS, LinearPool

COLUMNS = (Column("x", "real"), Column("y", "real"), Column("n", "count"))
NAN = math.nan


class Expert:
    """Says of y that it is normal, with the mean and standard deviation of its part of what is to be known."""

    def __init__(self, slope: float, scale: float) -> None:
        self.columns, self.slope, self.scale = COLUMNS, slope, scale

    def complete(self, x: Tensor, draws: int, *, seeds: Tensor, which: range | None = None) -> Tensor:
        which = range(draws) if which is None else which
        out = x.expand(len(which), *x.shape).clone()
        for i, k in enumerate(which):
            noise = torch.stack(
                [torch.randn((), generator=torch.Generator().manual_seed(int(s) % 2**31 + k)) for s in seeds]
            )
            out[i, :, 1] = self.slope * x[:, 0] + self.scale * noise.double()
            out[i, :, 2] = 7.0
        return torch.where(torch.isnan(x), out, x)

    def cell_expected(self, x: Tensor) -> list[Tensor]:
        return [x[:, :1], self.slope * x[:, :1], torch.full_like(x[:, :1], 7.0)]

    def cell_log_prob(self, x: Tensor, values: Tensor) -> Tensor:
        out = torch.zeros_like(values)
        out[:, 1] = torch.distributions.Normal(self.slope * x[:, 0], self.scale).log_prob(values[:, 1])
        return torch.where(torch.isnan(values), torch.nan, out)


def rows(count: int = 300) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(count, 3, dtype=torch.float64)
    x[:, 1:] = NAN
    return x


def together(spread: float = 1.0) -> LinearPool:
    experts = {"up": Expert(1.0, 1.0), "down": Expert(-0.2, 1.5)}
    return LinearPool(experts, {"up": 0.25, "down": 0.75}, spread)  # type: ignore[arg-type]


def exact() -> float:
    """The c of rows: V = (1 + 3 * 2.25) / 4, and A is 0.27 times the square of x, which is 1 on average."""
    inside, between = 0.25 * 1.0 + 0.75 * 2.25, 0.25 * 0.75 * 1.2**2 * float(rows()[:, 0].square().mean())
    return math.sqrt((inside - between) / (inside + between))


def test_the_spread_is_that_of_the_formula():
    # Of 60,000 draws the sums are known to about one in a hundred: 0.02 is some five standard errors of c.
    assert together().estimate_spread(rows(), seed=0) == pytest.approx(exact(), abs=0.02)


def test_one_program_and_programs_that_agree_are_left_alone():
    one = LinearPool({"up": Expert(1.0, 1.0)}, {"up": 1.0})  # type: ignore[dict-item]
    assert one.estimate_spread(rows(), seed=0) == 1.0
    same = LinearPool({"a": Expert(1.0, 1.0), "b": Expert(1.0, 1.0)}, {"a": 0.5, "b": 0.5})  # type: ignore[dict-item]
    assert same.estimate_spread(rows(), seed=0) == 1.0
    assert together().estimate_spread(rows().nan_to_num(), seed=0) == 1.0


def test_draws_of_forecasts_that_are_right_cover_what_they_say():
    """Two who each see a part of the truth, and say rightly how much is left: of their mixture too much is covered."""
    torch.manual_seed(1)
    a, b, rest = torch.randn(3, 4000, dtype=torch.float64)
    truth = a + b + rest
    means, scale = torch.stack([a, b]), math.sqrt(2)
    mean = means.mean(0)
    between = float((means - mean).square().mean())
    spread = math.sqrt((2 - between) / (2 + between))
    draws = means[torch.arange(1000) % 2] + scale * torch.randn(1000, 4000, dtype=torch.float64)

    def covered(draws: Tensor) -> float:
        low, high = draws.quantile(torch.tensor([0.025, 0.975]).double(), dim=0)
        return float(((low < truth) & (truth < high)).double().mean())

    tolerance = 5 * math.sqrt(0.95 * 0.05 / 4000)  # five standard errors: 6e-7
    assert covered(mean + spread * (draws - mean)) == pytest.approx(0.95, abs=tolerance)
    assert covered(draws) > 0.95 + tolerance  # the twin: as they are


def test_draws_are_pulled_to_what_is_expected():
    x, weights, scales = rows(1000), torch.tensor([0.25, 0.75]).double(), torch.tensor([1.0, 1.5]).double()
    variance = float((weights * scales).square().sum() / CENTRE_DRAWS)

    def p_values(found: LinearPool) -> tuple[float, float]:  # of the errors' squares; of their slope
        error = (found.centre(x, torch.arange(1000))[:, 1] - (0.25 - 0.75 * 0.2) * x[:, 0]) / math.sqrt(variance)
        squares, slope = float(error.square().sum()), float(error @ x[:, 0] / x[:, 0].norm())
        return float(stats.chi2(1000).sf(squares)), 2 * float(stats.norm.sf(abs(slope)))

    assert min(p_values(together())) > 1e-6
    even = LinearPool({"up": Expert(1.0, 1.0), "down": Expert(-0.2, 1.5)}, {"up": 0.5, "down": 0.5})  # type: ignore[dict-item]
    assert min(p_values(even)) < 1e-6  # the twin: a mean without the weights


def test_columns_with_an_atom_are_not_pulled():
    x, both = rows(50), together(0.8)
    for expert in both.programs:
        expert.columns = (COLUMNS[0], Column("y", "real", atom=0.0), COLUMNS[2])
    told = LinearPool(dict(zip("ab", both.programs, strict=True)), {"a": 0.25, "b": 0.75}, 0.8)
    seeds, missing = torch.arange(50), x.isnan()
    drawn = [of.complete(x, of.centre(x, seeds)[missing], [0, 1], seeds, range(2)) for of in (told, both)]
    plain = together().complete(x, x.new_empty(0), [0, 1], seeds, range(2))
    assert torch.equal(drawn[0], plain) and not torch.equal(drawn[1], plain)  # the twin reads columns once, before
    assert told.estimate_spread(x, seed=0) == 1.0


def test_draws_are_pulled_and_scored_alike():
    c, x = 0.8, rows(1).expand(4000, -1)
    both = together(c)
    owners, seeds = [0, 1, 1, 1], torch.arange(4000)
    centre = both.centre(x, seeds)
    assert bool(centre[:, [0, 1]].isfinite().all()) and bool(centre[:, 2].isnan().all())
    drawn = both.complete(x, centre[x.isnan()], owners, seeds, range(4))
    plain = together().complete(x, centre[x.isnan()], owners, seeds, range(4))
    torch.testing.assert_close(drawn[:, :, 1], centre[:, 1] + c * (plain[:, :, 1] - centre[:, 1]))
    assert bool((drawn[..., 2] == 7).all()) and torch.equal(drawn[..., 0], plain[..., 0])

    grid = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    values = torch.full((4001, 3), NAN, dtype=torch.float64)
    values[:, 1] = grid

    def cdf(found: LinearPool) -> Tensor:
        return torch.cumulative_trapezoid(found.cell_log_prob(x[:1].expand(4001, -1), values)[:, 1].exp(), grid)

    def p_value(cdf: Tensor) -> float:  # one draw of a row each, so that they are independent
        own = drawn[torch.arange(4000) % 4, torch.arange(4000), 1].contiguous()
        return float(stats.kstest(cdf[torch.searchsorted(grid, own).clamp(1, 4000) - 1].numpy(), "uniform").pvalue)

    assert float(cdf(both)[-1]) == pytest.approx(1.0, abs=1e-6)
    assert p_value(cdf(both)) > 1e-6
    assert p_value(cdf(together())) < 1e-6  # the twin: scored as if they were not pulled
