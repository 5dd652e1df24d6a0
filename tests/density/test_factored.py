import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_gen.density import density, shortened
from pyro_gen.density import factored as module
from pyro_gen.density.factored import factored
from pyro_gen.density.graphs import record

CHAINS, ROWS = 32, 400


def with_gradient(function: Any) -> Any:
    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = torch.vmap(function)(leaf)
            (grad,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), grad

    return both


def large_operations(graph: Any, numbers: int = CHAINS * ROWS) -> list[str]:
    return [
        str(node.target).removeprefix("aten.")
        for node in graph.graph.nodes
        if node.op == "call_function"
        and (node.meta.get("shape") or torch.Size()).numel() >= numbers
        and not str(node.target).startswith(("aten.permute", "aten.expand", "aten.unsqueeze", "aten.select"))
    ]


def compare(function: Any, dim: int) -> tuple[Any, Any]:
    """The recording of a function and of its gradient, and what is made of it; the same at points of all sizes."""
    torch.manual_seed(0)
    graph = record(with_gradient(function), torch.randn(CHAINS, dim, dtype=torch.float64))
    short = factored(graph)
    for scale in (0.1, 1.0, 3.0):
        z = scale * torch.randn(CHAINS, dim, dtype=torch.float64)
        for a, b in zip(short(z), graph(z), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    return graph, short


X = torch.randn(ROWS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = X.sum(-1) + torch.randn(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def regression(z: Tensor) -> Any:
    scale = z[3].exp()
    return dist.Normal(X @ z[:3], scale.expand(ROWS), validate_args=False).log_prob(Y).sum()


def test_of_a_regression_only_the_residuals_are_left_to_do() -> None:
    graph, short = compare(regression, 4)
    assert len(large_operations(graph)) > 15
    # The prediction, the residual, its square.
    assert sorted(large_operations(short)) == ["mm.default", "pow.Tensor_Scalar", "sub.Tensor"]


def mixture(z: Tensor) -> Tensor:
    parts = dist.Normal(z[:2, None], z[2:4, None].exp(), validate_args=False).log_prob(Y)
    share = torch.nn.functional.logsigmoid(torch.stack([z[4], -z[4]]))
    return torch.logaddexp(share[0] + parts[0], share[1] + parts[1]).sum()


def test_mixtures_and_their_responsibilities() -> None:
    graph, short = compare(mixture, 5)
    assert len(large_operations(short)) < 0.75 * len(large_operations(graph))
    assert "sigmoid.default" in large_operations(short)
    assert "exp.default" in large_operations(graph)
    assert "exp.default" not in large_operations(short)
    # Where exp(a - b) overflows, one component has it all.
    z = torch.tensor([[-30.0, 30.0, -2.0, -2.0, 0.0]], dtype=torch.float64).expand(CHAINS, 5)
    for a, b in zip(short(z), graph(z), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: dist.Poisson((X @ z[:3]).exp(), validate_args=False).log_prob(Y.abs().round()).sum(),
        lambda z: dist.Cauchy(X @ z[:3], z[3].exp(), validate_args=False).log_prob(Y).sum(),
        lambda z: dist.Bernoulli(logits=2 * (X @ z[:3]) - z[3], validate_args=False).log_prob((Y > 0).double()).sum(),
        lambda z: dist.Gamma(z[0].exp(), z[1].exp() + Y.square(), validate_args=False).log_prob(Y.abs() + 0.1).sum(),
        lambda z: ((X - z[:3]) @ (X - z[:3]).T.sin() / z[3].exp()).square().mean(),
        lambda z: (-(z[0] * Y[:, None] - z[1] * Y) / 2.0 / z[2].exp() - 1.0).square().sum((0, 1)).neg(),
        lambda z: (z[:3].exp() * X).sum(0).square().sum() - (2.0 - z[3] * X.T).unsqueeze(0).squeeze(0).sum((0, 1)) ** 2,
        lambda z: torch.where(z[0] < Y, -(Y - z[0]) * z[1].exp(), (Y - z[0]) / z[2].exp()).cumsum(0).tanh().sum(),
    ],
)
def test_other_likelihoods(function: Any) -> None:
    compare(function, 4)


def test_a_difference_is_not_taken_apart() -> None:
    """Of data about 10^6 with differences of 1, the sum of deviations would be lost in float32 with the others."""
    y = 1e6 + torch.arange(ROWS).remainder(7).float()

    def function(z: Tensor) -> Tensor:
        return -0.5 * ((y - z[0]) / z[1].exp()).square().sum()

    z = torch.tensor([[1e6 + 3, 0.3]]).expand(CHAINS, 2).contiguous()
    graph = record(with_gradient(function), z)
    exact = record(with_gradient(lambda z: function(z.double())), z.double())(z.double())
    for a, b in zip(factored(graph)(z), exact, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-3)


def test_no_step_overflows_that_did_not() -> None:
    """Of data about 10^-12 the squared precision is 10^48, beyond float32; times the squared residuals it is not."""
    y = 1e-12 * torch.linspace(0.5, 3, ROWS)

    def function(z: Tensor) -> Tensor:
        value: Tensor = dist.Normal(z[0] * 1e-12, (z[1] - 27.6).exp(), validate_args=False).log_prob(y).sum()
        return value

    graph = record(with_gradient(function), torch.rand(CHAINS, 2))
    short = factored(graph)
    assert short is not graph
    z = torch.rand(CHAINS, 2)
    for a, b in zip(short(z), graph(z), strict=True):
        assert bool(b.isfinite().all())
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_gradients_of_all_parts_stand_side_by_side() -> None:
    def function(z: Tensor) -> Tensor:
        return z[0].sin() * z[1:3].exp().sum() * z[3:].square().sum()

    graph, short = compare(lambda z: sum(function(z + i) for i in range(3)), 8)
    compare(lambda z: z[0] * z[2:6].sum(), 8)  # parts that are missing have gradient zero
    compare(lambda z: z[0] * z[:6].exp().sum(), 8)  # parts that overlap
    assert any("backward" in str(n.target) for n in graph.graph.nodes)
    assert not any("backward" in str(n.target) for n in short.graph.nodes)


def test_draws_and_small_graphs_stay_as_they_are() -> None:
    for function in (lambda x: x + torch.randn(ROWS), lambda x: (x * 2).exp()):
        graph = record(function, torch.zeros(3, 1))
        assert factored(graph) is graph


def test_a_scale_that_differs_within_a_sum_stays_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails with the defect planted: a part of the scale that is taken out of the sum where it differs."""
    weights = torch.linspace(0.5, 2.0, ROWS, dtype=torch.float64)

    def function(z: Tensor) -> Tensor:
        value: Tensor = -(weights * (X @ z).square()).sum()
        return value

    compare(function, 3)
    monkeypatch.setattr(module, "is_constant_along", lambda node, dims: True)
    with pytest.raises((AssertionError, RuntimeError)):
        compare(function, 3)


def test_what_is_rewritten_wrongly_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(x: Tensor, y: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.HalfNormal(torch.tensor(1.0).double()))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(x @ beta, scale), obs=y)

    z = torch.randn(CHAINS, 4, dtype=torch.float64)
    expected = density(model, X, Y).log_density_and_grad(z)
    negative = module._negative
    monkeypatch.setattr(module, "_negative", lambda form: form)  # the defect: signs get lost
    made: list[Any] = []

    def noted(graph: Any) -> Any:
        made.append(factored(graph))
        return made[-1]

    monkeypatch.setattr(shortened, "factored", noted)
    found = density(model, X, Y).log_density_and_grad(z)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert made and not math.isclose(float(made[0](z)[0].sum()), float(expected[0].sum()), rel_tol=1e-3)
    assert negative(module._Form()).number == -1
