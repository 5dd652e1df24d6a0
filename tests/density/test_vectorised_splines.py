"""Pyro's splines as torch.func.vmap carries them, against Pyro's own: values, logarithms of slopes, gradients."""

from importlib import import_module

import pytest
import torch
from torch import Tensor

from pyro_gen.density.vectorised import vmappable

SPLINES = import_module("pyro.distributions.transforms.spline")


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("order", ["linear", "quadratic"])
def test_numbers_are_those_of_pyro(order: str, inverse: bool) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        x = 3 * torch.randn(4, 50, 3)  # a third of them outside of the box
        shares = [torch.randn(50, 3, 5).softmax(-1), torch.randn(3, 5).softmax(-1), 2 * torch.rand(3, 4)]
        lambdas = torch.rand(3, 5) if order == "linear" else None

        def both(x: Tensor, *shares: Tensor) -> tuple[Tensor, Tensor]:
            return SPLINES._monotonic_rational_spline(x, *shares, lambdas, inverse=inverse)  # type: ignore[no-any-return]

        inputs = [t.requires_grad_() for t in (x, *shares)]
        expected = [torch.stack(t) for t in zip(*(both(row, *shares) for row in x), strict=True)]
        with vmappable():
            found = torch.vmap(both, in_dims=(0, None, None, None))(x, *shares)
        pairs = list(zip(found, expected, strict=True))
        gradients = (torch.autograd.grad((y.sin() + log_slope).sum(), inputs) for y, log_slope in (found, expected))
        pairs += zip(*gradients, strict=True)
        for a, b in pairs:
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)
    finally:
        torch.set_default_dtype(torch.float32)
