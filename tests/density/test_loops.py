"""Loops that are found in recorded graphs, against the graphs as they were recorded."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, fx

from pyro_gen.density import base, density, loops
from pyro_gen.density.graphs import compiler_available, record
from pyro_gen.density.loops import roll

STEPS = 60


def oscillator(z: Tensor) -> Tensor:
    """A damped oscillator by the midpoint rule: where it is after each step, and at the end."""
    x, v = z[..., 0], z[..., 1]
    out = torch.zeros_like(x)
    for _ in range(STEPS):
        middle, slope = x + 0.05 * v, v - 0.05 * (x.sin() + 0.3 * v)
        x, v = x + 0.1 * slope, v - 0.1 * (middle.sin() + 0.3 * slope)
        out = out + x.square()
    return out


Y = torch.randn(STEPS, generator=torch.Generator().manual_seed(0))
TABLE = torch.randn(STEPS, 3, generator=torch.Generator().manual_seed(1))


def series(z: Tensor) -> Tensor:
    """An autoregression on data of its own at each step, with an innovation for each."""
    level, total = z[..., 0], torch.zeros_like(z[..., 0])
    for t in range(STEPS):
        level = 0.9 * level + 0.1 * z[..., t] * TABLE[t].sum().tanh()
        total = total - (Y[t] - level).square() * (1 + level.square()).reciprocal()
    return total


def with_gradient(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = function(leaf)
            return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    return both


def recorded(function: Callable[[Tensor], Tensor], z: Tensor) -> fx.GraphModule:
    with torch.no_grad():
        return record(with_gradient(function), z)


@pytest.mark.parametrize(("function", "columns"), [(oscillator, 2), (series, STEPS)])
def test_a_rolled_graph_is_the_recorded_one(function: Callable[[Tensor], Tensor], columns: int) -> None:
    z = torch.randn(8, columns, dtype=torch.float64)
    graph = recorded(function, z)
    rolled = roll(graph)
    assert rolled is not None and len(rolled.bodies) >= 2  # forwards and backwards
    assert rolled.operations < len(graph.graph.nodes) / 5
    for point in (z, torch.randn_like(z)):
        for found, expected in zip(rolled.graph(point), graph(point), strict=True):
            assert torch.equal(found, expected)


def test_what_has_no_loop_is_left_alone() -> None:
    assert roll(recorded(lambda z: z.sin().sum(-1), torch.randn(3, 2))) is None


def test_what_changes_and_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def powers(z: Tensor) -> Tensor:
        x = z[..., 0]
        for t in range(STEPS):  # an exponent is no tensor, and all of the next turn waits for it
            x = (1 + x.square()).pow(1 / (t + 2)) * 0.5 + x.sin() * x.cos()
        return x

    monkeypatch.setattr(loops, "MIN_OPERATIONS", 100)
    z = torch.randn(3, 1, dtype=torch.float64)
    graph = recorded(powers, z)
    rolled = roll(graph)
    for found, expected in zip((rolled.graph if rolled else graph)(z), graph(z), strict=True):
        assert torch.equal(found, expected)


def test_draws_stay_outside_of_the_body() -> None:
    def walk(z: Tensor) -> Tensor:
        x = z
        for _ in range(STEPS):
            noise = torch.randn_like(z)
            x = (x + 0.1 * noise).tanh() + 0.01 * x.sin() * x.cos() + 0.2 * x.exp().log1p() - 0.1 * x.square()
        return x

    z = torch.randn(5, dtype=torch.float64)
    with torch.no_grad():
        graph = record(lambda z: walk(z), z)
    rolled = roll(graph)
    assert rolled is not None and not any("randn" in str(n.target) for n in rolled.bodies["body_0"].graph.nodes)
    torch.manual_seed(3)
    expected = graph(z)
    torch.manual_seed(3)
    assert torch.equal(rolled.graph(z), expected)


def orbit(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(oscillator(z), 1.0), obs=y)


@pytest.fixture
def little_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MOST_COMPILED", 300)


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
def test_a_density_with_a_loop_is_compiled(little_is_compiled: None) -> None:
    z = torch.randn(16, 2)
    target = density(orbit, torch.tensor(3.0), compile="on")
    found, plain = target.log_density_and_grad(z), density(orbit, torch.tensor(3.0)).log_density_and_grad(z)
    assert target.mode == "compiled"
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
def test_a_loop_that_is_folded_wrongly_is_found_out(little_is_compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = loops._Loop._source

    def wrong(self: Any, slot: tuple[fx.Node, ...], inside: set[int]) -> Any:
        source = fold(self, slot, inside)  # the defect: each turn takes what the first one took
        return (source[0],) * len(source) if isinstance(source, tuple) else source

    monkeypatch.setattr(loops._Loop, "_source", wrong)
    z = torch.randn(16, 2)
    target = density(orbit, torch.tensor(3.0), compile="on")
    with pytest.warns(UserWarning, match="the compiled graph gives other numbers than the recorded one"):
        found = target.log_density_and_grad(z)
    assert target.mode == "traced"
    torch.testing.assert_close(found, density(orbit, torch.tensor(3.0)).log_density_and_grad(z))
