import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import lean as module
from pyro_gen.density.graphs import record
from pyro_gen.density.lean import lean

CONSTANT = torch.linspace(-1, 1, 6)


def varied(x: Tensor, y: Tensor) -> Any:
    a = torch.where(x > 0.3, x, -math.inf).exp() * 2 + 1.0 / (y.square() + 0.5)
    b = torch.cat([a, CONSTANT.expand(4, 6)], 1).sum(1, keepdim=True) ** 3 - a.mT.contiguous().view(4, 6)
    values, places = b.sort(-1, descending=True)
    return {"value": (b.clamp(min=-1, max=None).log1p(), values), "places": places.to(torch.float64)}, x @ y.mT


def test_gives_what_was_recorded_to_the_last_bit() -> None:
    x, y = torch.randn(4, 6), torch.randn(4, 6)
    graph = record(varied, x, y)
    for _ in range(2):
        x, y = torch.randn(4, 6), torch.randn(4, 6)
        found, expected = (torch.utils._pytree.tree_flatten(f(x, y)) for f in (lean(graph), graph))
        assert len(found[0]) == len(expected[0]) == 4
        assert all(torch.equal(a, b) for a, b in zip(found[0], expected[0], strict=True))


def test_the_gradient_of_a_model_and_its_draws() -> None:
    def function(x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad((torch.randn(5) * leaf[:, 1:].sin().logsumexp(-1)).sum(), leaf)[0]

    x = torch.randn(5, 3)
    with seeded(0):
        graph = record(function, x)
    with seeded(1):
        expected = graph(x)
    with seeded(1):
        assert torch.equal(lean(graph)(x), expected)


@pytest.mark.parametrize("target", sorted(module._DIRECT, key=str), ids=str)
def test_the_direct_function_is_that_overload(target: Any) -> None:
    """What each name of torch comes down to, given what the overload takes."""
    x = torch.rand(3, 3) + 0.5
    name, overload = target._opname, target._overloadname
    special: dict[str, tuple[Any, ...]] = {
        "where": (x > 1, x, -x),
        "masked_fill": (x, x > 1, 2.0),
        "cat": ([x, x], 1),
        "stack": ([x, x], 1),
        "bmm": (x[None], x[None]),
        "mm": (x, x),
        "view": (x, [9]),
        "reshape": (x, [9]),
        "expand": (x[None], [2, 3, 3]),
        "permute": (x, [1, 0]),
        "sum": (x, [1], True),
        "amax": (x, [1]),
        "flip": (x, [1]),
        "select": (x, 1, 2),
        "clamp": (x, None, 1.0),
    }
    args: tuple[Any, ...] = (x,)
    if name in special:
        args = special[name]
    elif name in ("squeeze", "unsqueeze", "cumsum", "logcumsumexp"):
        args = (x[None] if name == "squeeze" else x, 0)
    elif name.startswith("logical"):
        args = (x > 1,) if name == "logical_not" else (x > 1, x < 2)
    elif overload in ("Tensor", "Tensor_Tensor") or name == "logaddexp":
        args = (x, x.flip(0))
    elif overload in ("Scalar", "Tensor_Scalar"):
        args = (x, 2.0)
    found, expected = module._DIRECT[target](*args), target(*args)
    assert torch.equal(found, expected) and found.dtype == expected.dtype
