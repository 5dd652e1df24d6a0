"""Operations that are alike are done together: the graph gives what the recording gives, and does not grow."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_gen.density import base, density
from pyro_gen.density import together as module
from pyro_gen.density.graphs import record
from pyro_gen.density.together import together

CPU = torch.device("cpu")
SCALES = torch.linspace(0.5, 2.0, 60)


def groups(z: Tensor) -> Tensor:
    """A loop of which no turn waits for another: what they share, what is their own, constants, two kinds in turn."""
    total = z[..., 0]
    parts = []
    for t in range(60):
        own = (z[..., 1 + t % 5] * SCALES[t]).sin() if t % 2 else (z[..., 0] - SCALES[t]).square() + z[..., 2]
        parts.append(own * z[..., 3].exp())
        total = total + own
    return total + torch.stack(parts, -1).cumsum(-1).logsumexp(-1)


def graph_of(function: Any, z: Tensor) -> Any:
    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = function(leaf)
            return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    with torch.no_grad():
        return record(both, z)


def test_a_loop_of_turns_by_themselves_is_one_turn() -> None:
    z = torch.randn(7, 6, dtype=torch.float64)
    graph = graph_of(groups, z)
    short = together(graph, CPU)
    assert short is not None and 4 * len(short.graph.nodes) < len(graph.graph.nodes)
    for point in (z, torch.randn_like(z)):
        for found, expected in zip(short(point), graph(point), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_turns_that_feed_each_other_and_short_graphs_stay() -> None:
    def chain(z: Tensor) -> Tensor:
        for _ in range(60):
            z = (z.sin() + 0.1).exp() * 0.3
        return z.sum(-1)

    z = torch.randn(3, 2, dtype=torch.float64)
    assert together(graph_of(chain, z), CPU) is None
    assert together(graph_of(lambda z: z.sin().sum(-1), z), CPU) is None


def test_draws_are_those_of_the_recording() -> None:
    def noisy(z: Tensor) -> Tensor:
        return torch.stack([(z * (t + 0.5)).tanh() * torch.randn_like(z) for t in range(40)]).sum(0)

    z = torch.randn(5, dtype=torch.float64)
    with torch.no_grad():
        graph = record(noisy, z)
    short = together(graph, CPU)
    for one in (graph, short or graph):
        torch.manual_seed(3)
        found = one(z)
        torch.manual_seed(3)
        torch.testing.assert_close(found, noisy(z), rtol=1e-10, atol=1e-10)


def chain_of_states(y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    z: Any = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Categorical(torch.tensor([[0.8, 0.2], [0.3, 0.7]])[z]))
        pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=y[t])


def operations(steps: int) -> tuple[int, list[Tensor]]:
    target, z = density(chain_of_states, torch.linspace(-1, 1, steps)), torch.tensor([[-1.0, 1.0], [0.3, 0.2]])
    sizes: list[int] = []
    plain = base.shortened

    def counted(graph: Any, args: Any) -> Any:
        short = plain(graph, args)
        sizes.append(len(short.graph.nodes))
        return short

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "shortened", counted)
        found = target.log_density_and_grad(z)
    assert target.mode == "traced"
    return sizes[0], list(found)


def test_the_graph_of_a_chain_does_not_grow_with_it() -> None:
    (short, _), (long, _) = operations(50), operations(100)
    assert long < 1.2 * short


def test_what_is_put_together_wrongly_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = operations(50)
    rows = module._Together._rows

    def wrong(self: Any, whole: Any, index: list[int]) -> Any:
        return rows(self, whole, index[::-1])  # the defect: the turns in another order

    monkeypatch.setattr(module._Together, "_rows", wrong)
    size, found = operations(50)
    assert size > 1000  # the recording as it was
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_booleans_do_not_add_up_to_numbers() -> None:
    """The sum of booleans is "or": four that are true are one, where the recording had none."""

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(40), 1.0).to_event(1))
        large, total = w[0] > 3, torch.zeros(())
        for i in range(1, 40):
            total = total - (w[i].exp().sin() + 0.1 * w[i].tanh() - 0.1 * i).square() / (1 + i)
            large = large + (w[i] > 3)
        pyro.factor("f", total - 5 * large.to(total.dtype))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w[0], 1.0), obs=x)

    target = density(model, torch.zeros(5))
    z = torch.zeros(2, 40)
    target.log_density_and_grad(z)  # recorded where none is true
    z[0, :4] = 4.0
    assert torch.allclose(target.log_density_and_grad(z)[0], target.log_density(z), atol=1e-4)


def test_what_differs_far_away_alone_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of booleans taken for sums of numbers, the defect planted, agree where none or one is true."""
    real = module._is_sum

    def wrong(node: Any) -> bool:
        return bool(real(node)) or (node.target is module._ADD and node.meta.get("dtype") is torch.bool)

    def counts(z: Tensor) -> Tensor:
        large = z[:, 0] > 2
        for i in range(1, 300):
            large = large + (z[:, i] > 2)
        return large.to(z.dtype)

    z = torch.zeros(1, 300)
    monkeypatch.setattr(module, "_is_sum", wrong)
    graph = record(counts, z)
    short = together(graph, torch.device("cpu"))
    assert short is not None
    assert torch.equal(short(z), graph(z))
    assert base.shortened(graph, [z]) is graph
