"""What holds for each program for tables of real columns: known posteriors, draws as scored, rows by themselves."""

import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_gen import check_program, impute, posterior
from pyro_gen.data.column import Column
from pyro_gen.distributions.gaussian import condition
from pyro_gen.inference.mcmc.blocked_gibbs import join_chains
from pyro_gen.models.tabular import TableFactors, TableGaussian, TableProgram, TableStudent

PROGRAMS = [TableGaussian, TableStudent, TableFactors]
LOADINGS = torch.tensor([[1.0, 0.8, -0.6, 0.3], [0.0, 0.5, 0.5, -0.8]], dtype=torch.float64)
NOISE = 0.5
COVARIANCE = LOADINGS.T @ LOADINGS + NOISE**2 * torch.eye(4, dtype=torch.float64)


def columns(count: int = 4) -> list[Column]:
    return [Column(f"c{d}", "real") for d in range(count)]


def table(rows: int, seed: int = 0, missing: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Complete rows of a known Gaussian, and the same with holes."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 2, dtype=torch.float64, generator=generator)
    x = z @ LOADINGS + NOISE * torch.randn(rows, 4, dtype=torch.float64, generator=generator)
    holes = torch.rand(rows, 4, generator=generator) < missing
    return x, x.masked_fill(holes, torch.nan)


@pytest.fixture(scope="module", params=PROGRAMS, ids=lambda p: p.__name__)
def learnt(request: pytest.FixtureRequest) -> TableProgram:
    return request.param(columns()).fit_posterior(table(2000)[1])


def test_many_rows_say_what_the_conditional_moments_are(learnt: TableProgram):
    x, holed = table(300, seed=1)
    mean, variance = condition(holed, torch.zeros(4, dtype=torch.float64), COVARIANCE)
    missing = torch.isnan(holed)
    found = learnt.cell_mean(holed)
    assert torch.equal(found[~missing], holed[~missing])
    # 2000 rows know regression coefficients to about 0.03.
    assert float((found - mean)[missing].square().mean().sqrt()) < 0.06
    exact = dist.Normal(mean, variance.clamp(min=1e-9).sqrt()).log_prob(x)
    scored = learnt.cell_log_prob(holed, x.where(missing, torch.nan))
    assert torch.equal(torch.isnan(scored), ~missing)
    assert abs(float(scored[missing].mean() - exact[missing].mean())) < 0.02


def test_draws_are_distributed_as_scored(learnt: TableProgram):
    """P(X <= x) of draws, by the densities that the program itself gives; false alarm 1e-4, and shorter draws fail."""
    holed = torch.tensor([[0.8, torch.nan, -1.0, 0.2]], dtype=torch.float64)
    draws = learnt.complete(holed.expand(1, 4), 2000, seeds=torch.tensor([5]))[:, 0, 1]
    grid = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    values = torch.full((2001, 4), torch.nan, dtype=torch.float64)
    values[:, 1] = grid
    density = learnt.cell_log_prob(holed.expand(2001, 4), values)[:, 1].exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-4)
    cdf = torch.cumulative_trapezoid(density, grid)

    def p_value(draws: torch.Tensor) -> float:
        at = torch.searchsorted(grid, draws.contiguous()).clamp(1, 2000) - 1
        return float(stats.kstest(cdf[at].numpy(), "uniform").pvalue)

    assert p_value(draws) > 1e-4
    assert p_value(draws.mean() + 0.75 * (draws - draws.mean())) < 1e-4


def test_a_row_alone_gives_what_it_gives_in_a_batch(learnt: TableProgram):
    _, holed = table(7, seed=2)
    seeds = torch.arange(7) + 100
    batch = learnt.complete(holed, 5, seeds=seeds)
    assert torch.equal(batch[:, ~torch.isnan(holed)], holed[~torch.isnan(holed)].expand(5, -1))
    for n in range(7):
        torch.testing.assert_close(learnt.complete(holed[n : n + 1], 5, seeds=seeds[n : n + 1])[:, 0], batch[:, n])
        torch.testing.assert_close(learnt.cell_mean(holed[n : n + 1])[0], learnt.cell_mean(holed)[n])


def test_a_draw_is_the_same_by_itself_as_among_others(learnt: TableProgram):
    _, holed = table(7, seed=2)
    seeds = torch.arange(7) + 100
    together = learnt.complete(holed, 60, seeds=seeds)  # more than are kept
    for which in (range(0, 1), range(3, 6), range(59, 60)):
        torch.testing.assert_close(
            learnt.complete(holed, 60, seeds=seeds, which=which), together[which.start : which.stop]
        )


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.usefixtures("untouched_rng")
def test_a_seed_gives_the_same_posterior(program: type[TableProgram]):
    holed = table(30)[1]
    a, b, c = (program(columns()).fit_posterior(holed, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not all(torch.equal(a[n], c[n]) for n in a)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_pair_keeps_the_contract(program: type[TableProgram]):
    _, holed = table(40, seed=3)
    report = check_program(program(columns()).fit_posterior(holed), holed)
    assert report.ok, str(report)


@pytest.mark.parametrize("program", PROGRAMS)
def test_impute_deals_out_the_posterior(program: type[TableProgram]):
    x, holed = table(60, seed=4)
    learnt = program(columns()).fit_posterior(holed)
    completed = impute(learnt, holed, draws=40)
    missing = torch.isnan(holed)
    mean = learnt.cell_mean(holed)
    assert torch.equal(completed[:, ~missing], x[~missing].expand(40, -1))
    # The mean of 40 draws of some 70 entries, each with a standard deviation below 1.2.
    assert float((completed.mean(0) - mean)[missing].square().mean().sqrt()) < 0.3


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_column_without_an_entry_leaves_the_others_as_they_are(program: type[TableProgram]):
    """The rows that are drawn from a long table to learn from may have none."""
    holed = table(300, seed=6)[1]
    holed[:, 3] = torch.nan
    learnt = program(columns()).fit_posterior(holed)
    assert bool(learnt.complete(holed, 3, seeds=torch.arange(300)).isfinite().all())
    mean = condition(holed, torch.zeros(4, dtype=torch.float64), COVARIANCE)[0]
    found = learnt.cell_mean(holed)
    assert float((found - mean)[:, :3].square().mean().sqrt()) < 0.12  # 300 rows know coefficients to about 0.06


def test_kinds_that_do_not_suit_are_named():
    with pytest.raises(ValueError, match=r"column 'sex' is binary.*real"):
        TableGaussian([Column("sex", "binary", levels=(0, 1))])
    with pytest.raises(ValueError, match="at least one column"):
        TableFactors([])


# ----------------------------------------------------------------------------------------------------------------------
# The posterior of the Gaussian against another sampler


def test_data_augmentation_and_hmc_agree():
    """Posterior means of both, on 25 rows of which a third is missing: within 5 standard errors (false alarm 1e-5)."""
    holed = table(25, seed=5)[1][:, :2]
    program = TableGaussian(columns(2))
    found = posterior(program, holed, chains=64, draws=60, log_likelihood=False, predictive=False, progress=False)
    runs: dict[str, list[torch.Tensor]] = {name: [] for name in ("loc", "chi2", "below", "variances", "log_strength")}
    for seed in range(12):
        program.fit_posterior(holed, seed=seed)
        for name, means in runs.items():
            means.append(program.posterior_draws(name).mean(0))
    for name, means in runs.items():
        mine = torch.stack(means)
        hmc = torch.tensor(found.posterior[name].values)
        chains = hmc.mean(1)  # a mean for each chain
        error = (mine.var(0) / len(mine) + chains.var(0) / len(chains)).sqrt()
        z = (mine.mean(0) - chains.mean(0)).abs() / error
        assert float(z.max()) < 7, name  # t with 11 degrees of freedom


def test_more_factors_than_needed_do_no_harm():
    _, holed = table(2000)
    x, new = table(300, seed=1)
    missing = torch.isnan(new)
    scores = []
    for rank in (2, 3):
        program = TableFactors(columns(), rank=rank).fit_posterior(holed)
        loadings, noise = program.posterior_draws("loadings"), program.posterior_draws("noise")
        covariance = (loadings @ loadings.mT + torch.diag_embed(noise)).mean(0)
        torch.testing.assert_close(covariance, COVARIANCE, atol=0.12, rtol=0)
        scores.append(float(program.cell_log_prob(new, x.where(missing, torch.nan))[missing].mean()))
    assert scores[0] == pytest.approx(scores[1], abs=0.005)


def test_few_draws_are_of_all_chains():
    program = TableGaussian(columns(1))
    program.store_draws({"chain": join_chains([torch.tensor([[0.0], [1.0]])] * 25)})
    for draws in (2, 5, 10, 25, 50):
        assert 0.39 < float(program.posterior_draws("chain")[program.draw_indices(draws)].mean()) < 0.61
    # Twin: in the order in which they are made, five draws are of one chain.
    program.store_draws({"chain": torch.tensor([[0.0], [1.0]] * 25)})
    assert float(program.posterior_draws("chain")[program.draw_indices(5)].mean()) == 1
