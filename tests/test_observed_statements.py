"""``pyro.sample(..., obs=x)`` in a program serves missing entries as ``pg.observe`` does."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.density import density
from pyro_gen.observation import completions
from pyro_gen.traces import site_log_prob

NAN = torch.nan
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
X = torch.tensor([[0.3, NAN], [NAN, NAN], [1.0, -0.2]])


def by_observe(x: Tensor) -> Tensor:
    with pg.plate(x):
        return pg.observe("x", dist.MultivariateNormal(torch.zeros(2), COVARIANCE), x)


def by_sample(x: Tensor) -> Tensor:
    with pyro.plate("batch", len(x)):
        return pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), COVARIANCE), obs=x)


def trace_of(model: object) -> Trace:
    with seeded(0):
        return pyro.poutine.trace(pg.Program.from_functions(model).model).get_trace(X)


def test_missing_entries_are_marginalised_and_completed() -> None:
    ours, theirs = trace_of(by_observe), trace_of(by_sample)
    assert torch.equal(site_log_prob(ours.nodes["x"]), site_log_prob(theirs.nodes["x"]))
    assert torch.equal(ours.nodes["_RETURN"]["value"], theirs.nodes["_RETURN"]["value"])
    expected = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.3))
    assert torch.allclose(site_log_prob(theirs.nodes["x"])[:2], torch.stack([expected, torch.tensor(0.0)]), atol=1e-6)
    with pyro.validation_enabled(False):
        whole = pyro.poutine.trace(by_sample).get_trace(X)
        whole.compute_log_prob()
    assert bool(whole.nodes["x"]["log_prob"].isnan().any())  # the twin: Pyro alone


def test_without_missing_entries_nothing_changes() -> None:
    x = torch.randn(4, 2)
    trace = pyro.poutine.trace(pg.Program.from_functions(by_sample).model).get_trace(x)
    assert trace.nodes["x"]["value"] is x
    assert isinstance(trace.nodes["x"]["fn"], dist.MultivariateNormal)


@pytest.mark.parametrize("observe", [pg.observe, lambda name, d, x: pyro.sample(name, d, obs=x)])
def test_a_missing_entry_that_feeds_a_later_density_is_latent(observe: object) -> None:
    """b | a ~ N(2a, 1) with a missing: the marginal of b is N(0, 5)."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            a = observe("a", dist.Normal(0.0, 1.0), x[:, 0])
            observe("b", dist.Normal(2 * a, 1.0), x[:, 1])

    program = pg.Program.from_functions(model)
    x = torch.tensor([[NAN, 1.7], [0.2, 0.1]])
    assert density(program, x).names == ("a.missing",)
    found = pg.log_likelihood(program, x, method="ais", chains=64, seed=0)
    expected = dist.Normal(0.0, 5**0.5).log_prob(torch.tensor(1.7)).item()
    assert abs(found.value[0].item() - expected) < 5 * found.standard_error[0].item() + 1e-3
    y = pg.impute(program, x, draws=4000, seed=0)[:, 0, 0]
    assert abs(y.mean().item() - 0.4 * 1.7) < 4 * (0.2 / 4000) ** 0.5 * 2  # four errors of correlated draws
    assert abs(y.var().item() / 0.2 - 1) < 0.2


def test_graphs_with_and_without_missing_entries() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("batch", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    full = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) + 1
    holes = torch.where(torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) < 0.3, NAN, full)
    for x in (full, holes):
        program = pg.Program.from_functions(model)
        result = pg.fit(program, x, epochs=150, batch_size=30, lr=0.05, schedule="cosine", progress=False)
        assert result.mode != "eager"
        assert torch.allclose(next(program.parameters()), x.nanmean(0), atol=0.02)


def test_what_cannot_be_marginalised_says_so() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("batch", len(x)):
            pyro.sample("x", dist.Dirichlet(torch.ones(2)), obs=x)

    with pytest.raises(ValueError, match=r"observe\('x'\): Dirichlet cannot be marginalised over part of an event"):
        pg.Program.from_functions(model).model(torch.tensor([[0.3, NAN]]))


def test_what_is_no_data_is_left_alone() -> None:
    def model(x: Tensor) -> None:
        pyro.deterministic("d", torch.tensor(NAN))
        pyro.factor("f", torch.tensor(0.0))
        with pyro.plate("batch", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with completions() as seen:
        pg.Program.from_functions(model).model(torch.tensor([NAN, 1.0]))
    assert list(seen) == ["x"]
