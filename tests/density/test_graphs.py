import pytest
import torch

from pyro_gen._random import seeded
from pyro_gen.density.graphs import mutates, record


def targets(graph):
    return [str(node.target) for node in graph.graph.nodes]


def test_keeps_what_a_function_computes():
    constant = torch.tensor([1.0, 2.0])

    def function(x):
        y = x + torch.zeros_like(x)  # nothing
        y = y * torch.ones(2) / 1.0
        scale = constant.log().exp()  # the same at each call
        return (y - scale).square().unsqueeze(-1).sum(-1) + (y - scale).square()

    graph = record(function, torch.randn(3, 2))
    x = torch.randn(3, 2)
    torch.testing.assert_close(graph(x), function(x))
    names = targets(graph)
    assert not any("zeros" in n or "ones" in n or "log" in n or "sum" in n for n in names)
    assert sum("aten.sub" in n for n in names) == 1  # computed once


def test_operations_in_place():
    def function(x):
        y = x.exp()
        y.masked_fill_(x < 0, -1.0)
        y += 1
        view = y[:1]
        view.mul_(2.0)  # through a view: must stay as it is
        return y

    graph = record(function, torch.randn(4, 2))
    x = torch.randn(4, 2)
    torch.testing.assert_close(graph(x), function(x))


def test_draws_stay_draws():
    def function(x):
        torch.randn(2)  # used by nobody, but the next one comes after it
        return x + torch.randn(3) - torch.randn(3)

    with seeded(0):
        graph = record(function, torch.zeros(3))
    results = []
    for run in (graph, function):
        with seeded(1):
            results.append(run(torch.zeros(3)))
    assert torch.equal(*results)
    assert bool((results[0] != 0).all())  # equal draws are not one draw


def test_gradients_through_a_graph_of_a_gradient():
    def function(x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad((leaf**2 * leaf.sin()).sum(), leaf)[0]

    graph = record(function, torch.randn(5, dtype=torch.float64))
    x = torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(graph(x), 2 * x * x.sin() + x**2 * x.cos())


def test_what_cannot_be_recorded_says_so():
    with pytest.raises(RuntimeError, match=r"data-dependent"):
        record(lambda x: torch.vmap(lambda v: v if v > 0 else -v)(x), torch.randn(3))
    with pytest.raises(RuntimeError, match=r"data-dependent"):
        record(lambda x: x if torch.equal(x, x.abs()) else -x, torch.randn(3))


def test_writing_into_constants():
    index = torch.tensor([0, 2, 2])

    def function(x):
        with torch.enable_grad():  # the gradient of an index writes into zeros
            leaf = x.detach().requires_grad_()
            grad = torch.autograd.grad(leaf[index].square().sum(), leaf)[0]
        filled = torch.zeros_like(x)
        filled[:] = x
        return grad + filled + torch.empty(3).normal_()

    with seeded(0):
        graph = record(function, torch.randn(3))
    x = torch.randn(3)
    for seed in (1, 2):
        results = []
        for run in (graph, function):
            with seeded(seed):
                results.append(run(x))
        torch.testing.assert_close(*results)
    torch.testing.assert_close(graph(x) - graph(x) != 0, torch.tensor([True] * 3))


def test_writing_into_parts_of_constants():
    def function(x):
        whole = torch.zeros(3, 3)
        corner = whole[:2, :2]
        corner.diagonal().copy_(x[:2])
        whole[2] += x  # reads what was a constant, and writes it
        product = x.outer(x).contiguous()
        product.view(-1)[::4] += 1  # the diagonal, through a view of what depends on x
        return whole + product, corner.sum()

    graph = record(function, torch.randn(3))
    for _ in range(2):  # the constants are as they were
        x = torch.randn(3)
        for a, b in zip(graph(x), function(x), strict=True):
            torch.testing.assert_close(a, b)

    def stale(x):
        table = torch.ones(3)
        y = x * table
        table[0] = x[0]
        return y + table

    with pytest.raises(RuntimeError, match="after it was used"):
        record(stale, torch.randn(3))


def test_memory_that_is_used_again_is_that_of_another_tensor():
    def function(x):
        total = x.sum()
        for i in range(20):
            written = torch.zeros(3)
            written[0] = x[0]
            total = total + written.sum()
            del written
            total = total + (x * torch.full((3,), float(i))).sum()  # often in the same place
        return total

    x = torch.randn(3)
    torch.testing.assert_close(record(function, torch.randn(3))(x), function(x))


def test_draws_in_place_are_recorded_as_the_same_draws_out_of_place():
    def draws(x):
        fills = (lambda t: t.normal_(), lambda t: t.normal_(2.0, 3.0), lambda t: t.uniform_(1, 2))
        return x + torch.stack([fill(torch.empty(5)) for fill in (*fills, lambda t: t.exponential_(2.0))])

    graph = record(draws, torch.zeros(5))
    assert not any(mutates(node) for node in graph.graph.nodes)
    torch.manual_seed(3)
    expected = draws(torch.ones(5))
    torch.manual_seed(3)
    assert torch.equal(graph(torch.ones(5)), expected)
    assert not torch.equal(graph(torch.ones(5)), expected)  # drawn anew
