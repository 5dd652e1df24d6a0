"""A vectorised plate with a row for each datum is the data plate, whatever its name; of that size by chance, none."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroSample
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.plates import DataPlates, data_size
from pyro_gen.traces import sample_sites, site_log_prob, structure, trace_pair

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


def program(open_plate: Callable[[Tensor], Any]) -> pg.Program:
    """A global and a local latent variable, in a plate that is opened in some way."""

    def model(x: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with open_plate(x):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            return pg.observe("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([len(x), 2]).to_event(1), x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 1.0))
        with open_plate(x):
            pyro.sample("z", dist.Normal(x.nan_to_num().mean(1), 1.0))

    return pg.Program.from_functions(model, guide)


def log_probs(p: pg.Program, x: Tensor, size: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    with data_size(size):
        traces = trace_pair(p, x)
    sites = {f"{side}.{n}": s for side, t in zip("mg", traces, strict=True) for n, s in sample_sites(t).items()}
    return {n: site_log_prob(s) for n, s in sites.items()}


def scales(p: pg.Program, x: Tensor, size: int) -> dict[str, Any]:
    with data_size(size):
        return {n: s["scale"] for t in trace_pair(p, x) for n, s in sample_sites(t).items()}


@pytest.mark.parametrize(
    "open_plate",
    [
        lambda x: pyro.plate("data", len(x)),
        lambda x: pyro.plate("batch", x.shape[0]),
        lambda x: pyro.plate("N", len(x), dim=-1),
        lambda x: pyro.plate("rows", 60, subsample_size=len(x)),
        lambda x: pyro.plate("rows", 17, subsample=torch.arange(len(x))),  # whatever Pyro would scale it by
    ],
)
def test_a_plate_of_rows_is_the_data_plate(open_plate: Callable[[Tensor], Any]) -> None:
    ours, theirs = program(pg.plate), program(open_plate)
    assert structure(theirs, X) == structure(ours, X)
    for size in (6, 60):
        assert scales(theirs, X, size) == pytest.approx(scales(ours, X, size), rel=1e-12)
    assert pg.check_program(theirs, X).ok
    for x in (X[:3], X[:1]):  # of a program that has been asked before
        assert scales(theirs, x, 6) == pytest.approx(scales(ours, x, 6), rel=1e-12)


def test_without_the_handler_the_scale_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: as Pyro alone does it, a minibatch counts for itself, and fit and the conformance suite say so."""
    monkeypatch.setattr(DataPlates, "_pyro_sample", lambda self, msg: None)
    p = program(lambda x: pyro.plate("batch", len(x)))
    expected = log_probs(program(pg.plate), X, 60)["m.x"]
    assert torch.allclose(10 * log_probs(p, X, 60)["m.x"], expected)
    assert not pg.check_program(p, X).ok
    with pytest.warns(UserWarning, match="counts a minibatch of 1 / 2 of the data as if it were all of them"):
        pg.fit(program(lambda x: pyro.plate("data", len(x))), X, epochs=1, batch_size=3, progress=False)


def mixture(components: int, first: bool) -> pg.Program:
    """Means of components in a plate of their own, which has as many copies as there are data by chance."""

    def model(x: Tensor) -> Tensor:
        def means() -> Tensor:
            with pyro.plate("components", components):
                return pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))

        loc = means() if first else torch.zeros(components, 2)
        with pyro.plate("batch", len(x)):
            k = dist.Categorical(torch.ones(components))
            law = dist.MixtureSameFamily(k, dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", law, obs=x)
        if not first:
            means()
        return x

    return pg.Program.from_functions(model)


@pytest.mark.parametrize("first", [True, False])
def test_a_plate_of_as_many_copies_by_chance(first: bool) -> None:
    p = mixture(6, first)
    assert structure(p, X).global_ == ("loc",)
    with data_size(60):
        trace = pyro.poutine.trace(p.model).get_trace(X)
    assert trace.nodes["loc"]["scale"] == 1
    assert trace.nodes["x"]["scale"] == 10
    assert mixture(7, first).model(X).shape == X.shape  # as many as the trial has rows


def test_columns_in_a_plate_as_long_as_the_rows() -> None:
    def model(x: Tensor) -> Tensor:
        with pyro.plate("batch", len(x), dim=-2), pyro.plate("columns", x.shape[1], dim=-1):
            return pg.observe("x", dist.Normal(0.0, 1.0), x)

    square = torch.eye(3)
    trace = pyro.poutine.trace(pg.Program.from_functions(model).model).get_trace(square)
    assert [f.name for f in trace.nodes["x"]["cond_indep_stack"] if f.name == "data" and f.dim == -2]
    assert pg.check_program(pg.Program.from_functions(model), square).ok


def test_two_plates_of_rows() -> None:
    def apart(x: Tensor) -> Tensor:
        with pyro.plate("a", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("b", len(x)):
            return pg.observe("x", dist.Normal(z, 1.0), x)

    def nested(x: Tensor) -> Tensor:
        with pyro.plate("a", len(x)), pyro.plate("b", len(x)):
            return pg.observe("x", dist.Normal(0.0, 1.0), x.expand(len(x), len(x)))

    def named(x: Tensor) -> None:
        with pg.plate(x, dim=-2), pyro.plate("b", len(x)):
            pyro.sample("r", dist.Normal(0.0, 1.0))

    assert structure(pg.Program.from_functions(apart), X[:, 0]).local == ("z",)
    with pytest.raises(ValueError, match=r"Plates '.' and '.' of FunctionProgram both have a copy for each of the 6"):
        pg.Program.from_functions(nested).model(X[:, 0])
    trace = pyro.poutine.trace(pg.Program.from_functions(named).model).get_trace(X[:, 0])
    assert sorted(f.name for f in trace.nodes["r"]["cond_indep_stack"]) == ["b", "data"]


def test_a_plate_that_draws_rows_by_itself() -> None:
    def model(data: Tensor) -> None:
        with pyro.plate("batch", len(data), subsample_size=2) as rows:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=data[rows])

    with pytest.raises(ValueError, match=r"draws 2 of the 6 rows of the data by itself: .* give batch_size= to pg.fit"):
        pg.Program.from_functions(model).model(X[:, 0])


def test_finding_out_leaves_no_trace() -> None:
    class Regression(pg.Program):
        def __init__(self) -> None:
            super().__init__()
            self.linear = pyro.nn.PyroModule[nn.Linear](2, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
            self.norm = nn.BatchNorm1d(2)

        def model(self, x: Tensor) -> None:
            mean = self.linear(self.norm(x)).squeeze(-1)
            with pyro.plate("batch", len(x)):
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x[:, 0])

    p = Regression()
    trace = pyro.poutine.trace(p.model).get_trace(X)
    assert "linear.weight" in trace.nodes
    assert torch.allclose(
        trace.nodes["x"]["fn"].loc, p.linear.bias + (p.norm(X) @ trace.nodes["linear.weight"]["value"].T)[:, 0]
    )
    assert int(p.norm.num_batches_tracked) == 2  # that of the run and that of this test

    def model(x: Tensor) -> None:
        with pyro.plate("batch", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", lambda: torch.randn(2)), 1.0).to_event(1), obs=x)

    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    p = pg.Program.from_functions(model)
    p.model(X)
    assert torch.equal(next(p.parameters()).detach(), expected)


def test_minibatches_of_a_plate_of_pyro_train_global_variables_right() -> None:
    """The posterior of a mean of 200 data: N(200 m / 201, 1 / 201), by an autoguide, in minibatches of 20."""

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("batch", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    x = torch.randn(200, generator=torch.Generator().manual_seed(1)) + 1
    p = pg.Program.from_functions(model, AutoNormal)
    pg.fit(p, x, epochs=60, batch_size=20, lr=0.05, schedule="cosine", progress=False)
    loc, scale = p.given_guide.quantiles([0.5, 0.841344746])["w"]
    assert abs(loc.item() - 200 / 201 * x.mean().item()) < 0.05  # of a standard deviation of 0.07
    assert abs((scale - loc).item() / 201**-0.5 - 1) < 0.3  # unscaled it would be 3.2 times as wide
