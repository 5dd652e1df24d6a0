"""The Sinkhorn divergence against assignments, a scaled kernel and finite differences; a game without a critic."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference import Sinkhorn
from pyro_gen.inference.objectives import discrepancy
from pyro_gen.inference.objectives.discrepancy import sinkhorn_divergence
from pyro_gen.program import data_size

WEIGHTS = (0.1, 1.0, 30.0)


def points(n: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator, dtype=torch.float64) * (1 + shift) + shift


def by_scaling(x: Tensor, y: Tensor, epsilon: float) -> float:
    """Transport with entropy by scaling the rows and columns of the kernel (Sinkhorn & Knopp, 1967), primal value."""
    n, m = len(x), len(y)
    cost = torch.cdist(x, y).square() / 2
    kernel, v = (-cost / epsilon).exp() / (n * m), torch.ones(m, dtype=torch.float64)
    for _ in range(3000):
        u = 1 / (n * (kernel @ v))
        v = 1 / (m * (kernel.T @ u))
    plan = u.unsqueeze(1) * kernel * v
    return float((plan * cost).sum() + epsilon * (plan * (plan * n * m).log()).sum())


@pytest.mark.parametrize("epsilon", WEIGHTS)
def test_equals_the_scaled_kernel(epsilon: float) -> None:
    x, y = points(5, 0), points(7, 1, 0.5)
    exact = by_scaling(x, y, epsilon) - (by_scaling(x, x, epsilon) + by_scaling(y, y, epsilon)) / 2
    assert sinkhorn_divergence(x, y, epsilon, 1000).item() == pytest.approx(exact, rel=1e-3, abs=1e-6)
    assert sinkhorn_divergence(x, y, epsilon).item() == pytest.approx(exact, rel=0.02, abs=1e-6)
    undebiased = by_scaling(x, y, epsilon)  # the twin: it is another number
    assert abs(undebiased - exact) > 0.04 * exact


def test_limits_are_the_best_assignment_and_the_distance_of_the_means() -> None:
    x, y = points(6, 0), points(6, 1, 0.5)
    cost = (torch.cdist(x, y).square() / 2).numpy()
    rows, columns = linear_sum_assignment(cost)
    assert sinkhorn_divergence(x, y, 2e-3, 2000).item() == pytest.approx(cost[rows, columns].mean(), abs=5e-3)
    means = (x.mean(0) - y.mean(0)).square().sum().item() / 2
    assert sinkhorn_divergence(x, y, 1e5).item() == pytest.approx(means, rel=1e-3)
    assert sinkhorn_divergence(x, x[[2, 0, 1, 5, 4, 3]], 0.5, 500).item() == pytest.approx(0, abs=1e-9)


def gradient_error(x: Tensor, y: Tensor, epsilon: float) -> float:
    y = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sinkhorn_divergence(x, y, epsilon, 200), y)
    y, step = y.detach(), 1e-5
    differences = torch.zeros_like(y)
    for at in torch.cartesian_prod(torch.arange(len(y)), torch.arange(2)).tolist():
        moved = [y.clone(), y.clone()]
        moved[0][tuple(at)] += step
        moved[1][tuple(at)] -= step
        up, down = (sinkhorn_divergence(x, m, epsilon, 200) for m in moved)
        differences[tuple(at)] = (up - down) / (2 * step)
    return (gradient - differences).abs().max().item()


def test_the_gradient_is_that_of_the_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = points(4, 0), points(3, 1, 0.5)
    assert gradient_error(x, y, 1.0) < 1e-7
    transport = discrepancy._transport
    alone = {True: lambda t: t.detach(), False: lambda t: t}  # the twin: what draws cost among themselves is a constant
    monkeypatch.setattr(discrepancy, "_transport", lambda a, b, *rest: alone[a is b](transport(a, b, *rest)))
    assert gradient_error(x, y, 1.0) > 1e-3


class LocationScale(pg.Program):
    """x = m + s z."""

    def __init__(self) -> None:
        super().__init__()
        self.m, self.log_s = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pg.observe("x", dist.Delta(self.m + self.log_s.exp() * z, event_dim=1), x)


class Undebiased(Sinkhorn):
    """The twin: transport alone, whose minimum is narrower than the data."""

    def loss(self, program: pg.Program, x: Tensor, *context: Any, **options: Any) -> Tensor:
        drawn = discrepancy.generate(program, x)
        return len(x) * discrepancy._transport(x, drawn, 2.0, self.iterations)


@pytest.mark.parametrize("twin", [False, True])
def test_recovers_location_and_scale(twin: bool) -> None:
    """From 600 data of N(3, 4): the moments of the data at some 4 standard errors, 0.08 and 0.03 of log s."""
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(600, 1)
    program = LocationScale()
    objective = (Undebiased if twin else Sinkhorn)(epsilon=2.0, iterations=15)
    fixed: dict[str, Any] = {"batch_size": 100, "lr": 0.05, "schedule": "cosine", "progress": False}
    pg.fit(program, x, objective=objective, epochs=40, **fixed)
    assert program.m.item() == pytest.approx(x.mean().item(), abs=0.3)
    assert (abs(program.log_s.item() - x.std().log().item()) < 0.15) != twin


def test_scales_with_the_data_and_refusals() -> None:
    program, x = LocationScale(), 3 + torch.randn(50, 1)
    objective = Sinkhorn()
    with pytest.raises(ValueError, match="prepare"):
        objective.loss(program, x)
    objective.prepare(program, x)
    assert objective.epsilon is not None and objective.epsilon.item() == pytest.approx(0.02 * x.double().var().item())
    torch.manual_seed(1)
    one = objective.loss(program, x).item()
    torch.manual_seed(1)
    with data_size(500):
        assert objective.loss(program, x).item() == pytest.approx(10 * one)
    with pytest.raises(ValueError, match="both are positive"):
        Sinkhorn(epsilon=0.0)
    with pytest.raises(ValueError, match="all rows of the data are alike"):
        Sinkhorn().prepare(program, torch.ones(4, 1))
