"""What tests of several programs for tables compare with."""

from collections.abc import Callable

import pytest
import torch

Quadrature = Callable[[float, float, float, float], tuple[torch.Tensor, ...]]


@pytest.fixture(scope="session")
def quadrature() -> Quadrature:
    """Of a normal selected by a logistic function: the probability, mean and variance of what is selected, and its
    distribution function on a grid of 120,001 points from -30 to 30.
    """
    grid = torch.linspace(-30.0, 30.0, 120_001).double()

    def moments(loc: float, scale: float, intercept: float, slope: float) -> tuple[torch.Tensor, ...]:
        density = torch.distributions.Normal(loc, scale).log_prob(grid).exp() * torch.sigmoid(intercept + slope * grid)
        total = torch.trapezoid(density, grid)
        mean = torch.trapezoid(density * grid, grid) / total
        variance = torch.trapezoid(density * (grid - mean).square(), grid) / total
        return total, mean, variance, torch.cumulative_trapezoid(density, grid) / total

    return moments
