"""The multivariate Student-t, against SciPy's density, its own prior, and rows that are far off."""

import pyro
import pytest
import torch
from scipy import stats

from pyro_gen._random import seeded
from pyro_gen.data.column import Column
from pyro_gen.inference.mcmc.blocked_gibbs import Schedule
from pyro_gen.models.tabular import TableGaussian, TableStudent, student_t
from pyro_gen.models.tabular.parts import normal_posterior
from pyro_gen.models.tabular.parts.normal_posterior import (
    LOC_SCALE,
    LOG_DF_LOC,
    LOG_DF_SCALE,
    NormalParameters,
    StudentTParameters,
    degrees,
    may_have_heavy_tails,
    moments,
    sample_normal_parameters,
    weight_conditional,
    weight_quantile,
)

COLUMNS = tuple(Column(name, "real") for name in "abc")
NAN = torch.nan


def test_weights_out_the_density_is_that_of_scipy():
    """Model over guide is the same for all weights, and the multivariate t's density of what is seen."""
    program = TableStudent(COLUMNS)
    x = torch.tensor([[0.5, NAN, -2.0], [4.0, 3.0, 1.0]], dtype=torch.float64)
    loc, covariance = moments({name: program.posterior_draws(name)[0] for name in program._sites})
    df = float(degrees(program.posterior_draws("log_df")[0]))
    row = x[0, [0, 2]].numpy(), loc[[0, 2]].numpy(), covariance[[0, 2]][:, [0, 2]].numpy()
    exact = stats.multivariate_t(row[1], row[2], df).logpdf(row[0])
    exact += stats.multivariate_t(loc.numpy(), covariance.numpy(), df).logpdf(x[1].numpy())
    for seed in range(3):
        with seeded(seed):
            guide = pyro.poutine.trace(program.guide).get_trace(x)
        model = pyro.poutine.trace(pyro.poutine.replay(program.model, trace=guide)).get_trace(x)
        for trace in (guide, model):
            trace.compute_log_prob()
        local = model.nodes["weight"]["log_prob_sum"] - guide.nodes["weight"]["log_prob_sum"]
        seen = sum(node["log_prob_sum"] for name, node in model.nodes.items() if node.get("is_observed"))
        assert float(local + seen) == pytest.approx(exact, abs=1e-9)


def test_weights_by_uniform_numbers_have_their_distribution():
    u = (torch.arange(4000).double() + 0.5) / 4000
    df, squares, count = torch.tensor(5.0).double(), torch.tensor(3.0).double(), torch.tensor(2)
    shape, rate = weight_conditional(df, squares, count)
    w = weight_quantile(u, df, squares, count)
    torch.testing.assert_close(w.mean(), shape / rate, rtol=1e-3, atol=0)
    torch.testing.assert_close(w.var(), shape / rate**2, rtol=1e-2, atol=0)


def replicates(count: int, break_it: bool = False) -> torch.Tensor:
    """Parameters from the prior, rows from the parameters, then sweeps: the parameters must have the prior again."""
    program, found = TableStudent(COLUMNS[:2]), []
    like = torch.zeros((), dtype=torch.float64)
    for _ in range(count):
        log_df = LOG_DF_LOC + LOG_DF_SCALE * torch.randn(1, dtype=torch.float64)
        trace = pyro.poutine.trace(lambda: sample_normal_parameters(like, 2)).get_trace()
        loc, factor = trace.nodes["_RETURN"]["value"]
        normal = NormalParameters(
            trace.nodes["log_strength"]["value"][None],
            trace.nodes["variances"]["value"][None],
            (factor @ factor.T)[None],
            loc[None],
        )
        half = (degrees(log_df) / 2).expand(12)
        w = torch._standard_gamma(half) / half
        x = loc + torch.randn(12, 2).double() @ torch.linalg.inv(factor) / w.sqrt().unsqueeze(-1)
        x[torch.rand(12, 2) < 0.2] = NAN
        state = StudentTParameters(normal, log_df)
        for _ in range(3):
            state = program._sweep(x, state)
            if break_it:
                state = state._replace(log_df=state.log_df + 0.3)
        found.append(torch.cat([state.log_df, state.normal.variances[0], state.normal.loc[0]]))
    return torch.stack(found)


def worst(found: torch.Tensor) -> float:
    """The least p-value of Kolmogorov-Smirnov tests of all parameters against their priors."""
    tests = [stats.kstest(found[:, 0], stats.norm(LOG_DF_LOC, LOG_DF_SCALE).cdf).pvalue]
    tests += [stats.kstest(v, stats.expon.cdf).pvalue for v in found[:, 1:3].T]
    tests += [stats.kstest(v, stats.norm(0, LOC_SCALE).cdf).pvalue for v in found[:, 3:].T]
    return min(tests)


def test_the_sampler_leaves_the_joint_distribution_alone():
    with seeded(0):
        # Five independent tests at 2e-5: a false alarm in 1e-4.
        assert worst(replicates(400)) > 2e-5
        assert worst(replicates(400, break_it=True)) < 2e-5


def test_rows_far_off_do_not_spoil_the_rest():
    with seeded(1):
        z = torch.randn(300, 1).double()
        x = z + 0.4 * torch.randn(300, 3).double()
        x[:12] = 12 * torch.randn(12, 3).double()
        holed = x.masked_fill(torch.rand(300, 3) < 0.3, NAN)
    missing = torch.isnan(holed) & (torch.arange(300) >= 12).unsqueeze(1)
    score, error = {}, {}
    for program in (TableStudent, TableGaussian):
        learnt = program(COLUMNS).fit_posterior(holed)
        score[program] = float(learnt.cell_log_prob(holed, x.where(missing, NAN))[missing].mean())
        error[program] = float((learnt.cell_mean(holed) - x)[missing].square().mean())
    assert score[TableStudent] > score[TableGaussian] + 0.4  # nats a cell
    assert error[TableStudent] < 0.7 * error[TableGaussian]
    learnt = TableStudent(COLUMNS).fit_posterior(holed)
    # The interval of an entry is the longer the farther off its row is.
    rows = torch.tensor([[0.0, 0.2, NAN], [9.0, -9.0, NAN]], dtype=torch.float64)
    draws = learnt.complete(rows, 400, seeds=torch.tensor([1, 2]))[:, :, 2]
    assert draws[:, 1].std() > 3 * draws[:, 0].std()


def test_tails_stay_normal_where_half_of_a_column_is_one_value():
    with seeded(2):
        z = torch.randn(400, 1).double()
        x = torch.cat([z + 0.5 * torch.randn(400, 2).double(), (z - 1.5).clamp(min=0)], 1)
    x = (x - x.mean(0)) / x.std(0)
    holed = x.clone()
    holed[::4, 0] = NAN
    mean = TableStudent(COLUMNS).fit_posterior(holed).cell_mean(holed)
    assert float((mean - x)[::4, 0].square().mean()) < 0.4
    # Twin: without the few rows that are not at the value the column has no variance, and they are infinitely far off.
    with seeded(2):
        state = StudentTParameters.centre(torch.ones(1, 3).double())
        for _ in range(60):
            state = TableStudent(COLUMNS)._sweep(holed, state)
    assert float(state.normal.covariance()[0, 2, 2]) < 1e-4
    assert may_have_heavy_tails(holed[:, :2])
    assert not may_have_heavy_tails(holed)
    noise = 1e-3 * torch.rand(400, 3).double()  # as rounded columns get: no value is there twice, and none is elsewhere
    assert not may_have_heavy_tails(holed + noise)


@pytest.mark.parametrize(
    ("eta", "right"), [(normal_posterior.LOG_DF_OF_NORMAL, True), (40.0, False)]
)  # whose densities have no digits
def test_densities_with_normal_tails_integrate_to_one(monkeypatch, eta, right):
    monkeypatch.setattr(normal_posterior, "LOG_DF_OF_NORMAL", eta)
    monkeypatch.setattr(student_t, "SCHEDULE", Schedule(burn_in=5, draws=2, thin=1))
    with seeded(3):
        x = torch.randn(100, 3).double()
    x[:60, 2] = 0.5
    learnt = TableStudent(COLUMNS).fit_posterior(x)
    grid = torch.linspace(-12, 12, 1001).double()
    values = torch.stack([grid, *2 * [torch.full_like(grid, NAN)]], 1)
    rows = torch.tensor([[NAN, 0.3, 0.5]]).double().expand(1001, -1)
    density = learnt.cell_log_prob(rows, values)[:, 0].exp()
    assert (abs(float(torch.trapezoid(density, grid)) - 1) < 1e-3) == right
