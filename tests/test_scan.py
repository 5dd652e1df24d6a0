"""A scan is the loop that is written out: in densities, gradients, guides, missing entries and graphs."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen import sequences
from pyro_gen.density import base, density
from pyro_gen.density.graphs import compiler_available
from pyro_gen.density.loops import roll
from pyro_gen.inference.objectives import ELBO, EnumELBO
from pyro_gen.traces import sample_sites

NAN = torch.nan
STEPS = 5


class Written(pg.Program):
    """A deep Markov model in small, its loop written out."""

    event_shape = torch.Size([STEPS, 2])

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transition, self.emission, self.encoder = (nn.Linear(n, 2).double() for n in (2, 2, 4))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z, completed = x.new_zeros(len(x), 2), []
            for t in range(x.shape[1]):
                z = pyro.sample(f"z_{t}", dist.Normal(self.transition(z).tanh(), 0.7).to_event(1))
                completed.append(pg.observe(f"x_{t}", dist.Normal(self.emission(z), 0.5).to_event(1), x[:, t]))
            return torch.stack(completed, 1)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            z = x.new_zeros(len(x), 2)
            for t in range(x.shape[1]):
                loc = self.encoder(torch.cat([z, x[:, t].nan_to_num()], -1))
                z = pyro.sample(f"z_{t}", dist.Normal(loc, 0.6).to_event(1))


class Scanned(Written):
    def model(self, x: Tensor) -> Tensor:
        def step(z: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
            z = pyro.sample("z", dist.Normal(self.transition(z).tanh(), 0.7).to_event(1))
            return z, pg.observe("x_{t}", dist.Normal(self.emission(z), 0.5).to_event(1), x_t)

        with self.plate(x):
            completed: Tensor = pg.scan(step, x.new_zeros(len(x), 2), x, dim=1)[1]
            return completed

    def guide(self, x: Tensor) -> None:
        def step(z: Tensor, x_t: Tensor) -> tuple[Tensor, None]:
            loc = self.encoder(torch.cat([z, x_t.nan_to_num()], -1))
            return pyro.sample("z", dist.Normal(loc, 0.6).to_event(1)), None

        with self.plate(x):
            pg.scan(step, x.new_zeros(len(x), 2), x, dim=1)


class Forgetful(Scanned):
    """The defect: each step is given what the first one was given."""

    def model(self, x: Tensor) -> Tensor:
        def forget(body: Any, carry: Any, xs: Any, **options: Any) -> Any:
            return sequences.scan(lambda _, x: body(carry, x), carry, xs, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pg, "scan", forget)
            return super().model(x)


def data() -> Tensor:
    x = torch.randn(4, STEPS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[0, 2], x[1, 1, 0], x[2, 3:] = NAN, NAN, NAN
    return x


def loss(program: pg.Program) -> list[Tensor]:
    """The ELBO and its gradient."""
    torch.manual_seed(3)
    value = ELBO().loss(program, data())
    return [value.detach(), *torch.autograd.grad(value, list(program.parameters()))]


def largest_difference(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((s - t).abs().max()) for s, t in zip(a, b, strict=True))


def test_the_density_and_its_gradient_are_those_of_the_loop() -> None:
    assert largest_difference(loss(Scanned()), loss(Written())) < 1e-10
    assert largest_difference(loss(Forgetful()), loss(Written())) > 1e-3


def test_sites_have_the_names_of_the_loop() -> None:
    names = [list(sample_sites(pyro.poutine.trace(p.model).get_trace(data()))) for p in (Scanned(), Written())]
    assert names[0] == names[1]


def test_missing_entries_are_completed_as_in_the_loop() -> None:
    x = data()
    found, expected = (pg.reconstruct(program, x, draws=3, seed=0) for program in (Scanned(), Written()))
    torch.testing.assert_close(found, expected)
    assert not found.isnan().any()


class Autoregression(pg.Program):
    """What is missing feeds what follows: a latent variable at each step."""

    def model(self, x: Tensor) -> Tensor:
        def step(last: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
            x_t = pg.observe("x", dist.Normal(0.8 * last, 1.0), x_t)
            return x_t, x_t

        with self.plate(x):
            completed: Tensor = pg.scan(step, torch.zeros(len(x)), x, dim=1)[1]
            return completed


def test_a_missing_step_is_integrated_out() -> None:
    x = torch.tensor([[0.5, NAN, 1.0, NAN]])
    two_steps = dist.Normal(0.64 * 0.5, (1 + 0.64) ** 0.5).log_prob(torch.tensor(1.0))
    expected = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)) + two_steps
    found = pg.log_likelihood(Autoregression(), x, seed=0)
    assert abs(float(found.value) - float(expected)) < 0.05
    draws = pg.impute(Autoregression(), x, draws=1000, seed=0)[:, 0]
    weight = 0.8 / 1.64  # of x_1 given its neighbours
    assert abs(float(draws[:, 1].mean()) - weight * 1.5) < 0.12  # of 1000 draws, 4.8 standard errors
    assert draws[:, [0, 2]].unique(dim=0).tolist() == [[0.5, 1.0]]


def test_sequences_of_different_length() -> None:
    def walk(x: Tensor) -> None:
        with pg.plate(x):
            ends = pg.lengths(x)
            pg.scan(step, torch.zeros(len(x)), x, dim=1, lengths=ends)

    def step(last: Tensor, x_t: Tensor) -> tuple[Tensor, None]:
        return pg.observe("x", dist.Normal(last, 1.0), x_t), None

    program = pg.Program.from_functions(walk)
    x = torch.tensor([[0.3, 1.0, -0.5], [0.2, NAN, NAN]])
    found = pg.log_likelihood(program, x).value
    torch.testing.assert_close(found[1:], pg.log_likelihood(program, x[1:, :1]).value)
    assert pg.impute(program, x, draws=1)[0, 1, 1:].isnan().all()


def test_discrete_states_are_summed_out() -> None:
    transition = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    place = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)

    def step(z: Tensor, x_t: Tensor) -> tuple[Tensor, None]:
        z = pyro.sample("z", dist.Categorical(transition[z]))
        pg.observe("x", dist.Normal(place[z], 1.0), x_t)
        return z, None

    x = data()[..., 0]
    program = pg.Program.from_functions(lambda x: chains(step, x))
    emission = dist.Normal(place, 1.0)
    whole = dist.DiscreteHMM(torch.tensor([1.0, 0.0]).double().log(), transition.log(), emission, duration=STEPS)
    expected = pg.log_likelihood(pg.Program.from_functions(lambda x: observed(whole, x)), x).value
    torch.testing.assert_close(pg.log_likelihood(program, x).value, expected)
    torch.testing.assert_close(-EnumELBO().loss(program, x).detach(), expected.sum())


def observed(law: dist.DiscreteHMM, x: Tensor) -> None:
    with pg.plate(x):
        pg.observe("x", law, x)


def test_scans_may_stand_in_each_other() -> None:
    def row(total: Tensor, xs: Tensor) -> tuple[Tensor, None]:
        return pg.scan(cell, total, xs)[0], None

    def cell(total: Tensor, x: Tensor) -> tuple[Tensor, None]:
        return total + pg.observe("x", dist.Normal(total, 1.0), x), None

    trace = pyro.poutine.trace(lambda: pg.scan(row, torch.zeros(()), torch.randn(2, 3))).get_trace()
    assert list(sample_sites(trace)) == ["x_0_0", "x_1_0", "x_2_0", "x_0_1", "x_1_1", "x_2_1"]


def test_the_carry_and_outputs_may_be_trees() -> None:
    def fibonacci(pair: tuple[Tensor, Tensor], _: None) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        a, b = pair
        return (b, a + b), {"value": a, "even": a % 2 == 0}

    last, out = pg.scan(fibonacci, (torch.tensor(0), torch.tensor(1)), length=7)
    assert out["value"].tolist() == [0, 1, 1, 2, 3, 5, 8]
    assert [int(t) for t in last] == [13, 21] and int(out["even"].sum()) == 3


@pytest.mark.parametrize(
    ("xs", "options", "message"),
    [
        (None, {}, "give one number of steps"),
        (torch.zeros(0, 2), {}, "at least 1"),
        ((torch.zeros(3), torch.zeros(4)), {}, r"xs of shapes \[\(3,\), \(4,\)\]"),
        (torch.zeros(3, 4), {"length": 4}, "length=4"),
        (torch.zeros(3), {"lengths": torch.ones(3)}, "dim=1"),
    ],
)
def test_what_is_wrong_is_said(xs: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pg.scan(lambda carry, x: (carry, None), None, xs, **options)


def test_an_output_that_depends_on_what_is_summed_out_is_refused() -> None:
    def step(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        z = pyro.sample("z", dist.Categorical(torch.full((2, 2), 0.5)[z]))
        pyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=x)
        return z, z

    def model(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        pg.scan(step, torch.tensor(0), x)

    with pytest.raises(ValueError, match="cannot stack outputs of the shapes"):
        density(model, torch.zeros(3)).log_density(torch.zeros(1, 1))


def chains(step: Callable[[Any, Any], tuple[Any, Any]], x: Tensor) -> Any:
    with pg.plate(x):
        return pg.scan(step, torch.zeros(len(x), dtype=torch.long), x, dim=1)


def oscillator(y: Tensor) -> None:
    """A latent rate, its path by 60 steps of an ODE solver, observed at each with noise."""
    rate = pyro.sample("rate", dist.LogNormal(0.0, 0.3))

    def step(state: tuple[Tensor, Tensor], y_t: Tensor) -> tuple[tuple[Tensor, Tensor], None]:
        u, v = state
        for _ in range(2):
            du, dv = v, -rate * u - 0.1 * v.tanh()
            u, v = u + 0.05 * du, v + 0.05 * dv
        pyro.sample("y", dist.Normal(u, 0.3), obs=y_t)
        return (u, v), None

    pg.scan(step, (torch.ones(()), torch.zeros(())), y)


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
def test_the_body_is_recorded_and_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rolled: list[Any] = []
    monkeypatch.setattr(base, "MOST_COMPILED", 300)

    def kept(graph: Any) -> Any:
        rolled.append((graph, roll(graph)))
        return rolled[-1][1]

    monkeypatch.setattr(base, "roll", kept)
    y = torch.linspace(0, 3, 60).cos()
    target = density(oscillator, y, compile="on")
    z = torch.linspace(-1, 1, 16).unsqueeze(1)
    found, expected = target.log_density_and_grad(z), density(oscillator, y).log_density_and_grad(z)
    (graph, folded), *_ = rolled
    assert target.mode == "compiled" and folded.operations < len(graph.graph.nodes) / 5
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_scan_is_in_its_place() -> None:
    assert pg.scan is sequences.scan


def test_xs_may_have_none_inside() -> None:
    carry, outputs = pg.scan(lambda c, x: (c + x[0], c), torch.zeros(()), (torch.arange(3.0), None))
    assert carry == 3
    assert outputs.tolist() == [0, 0, 1]


@pytest.mark.parametrize(("names", "clash"), [(("z", "z_1"), True), (("z_2", "z"), True), (("z", "z_3"), False)])
def test_names_that_meet_in_some_step_are_refused(names: tuple[str, str], clash: bool) -> None:
    def body(last: Tensor, x: Tensor) -> tuple[Tensor, None]:
        first = pyro.sample(names[0], dist.Normal(last, 1.0))
        pyro.sample("x", dist.Normal(pyro.sample(names[1], dist.Normal(first, 1.0)), 1.0), obs=x)
        return first, None

    def model(x: Tensor) -> None:
        pg.scan(body, torch.zeros(()), x)

    trace = pyro.poutine.trace(model)
    if not clash:  # three steps: 0, 1 and 2
        assert {"z_2", "z_3_2"} <= set(trace.get_trace(torch.zeros(3)).nodes)
        return
    with pytest.raises(ValueError, match=r"sites 'z' and 'z_[12]'"):
        trace.get_trace(torch.zeros(3))
