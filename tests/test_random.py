"""Draws under vmap: those of Dirichlet and Beta laws are Gamma draws, with their moments and gradients."""

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_gen import _random
from pyro_gen._random import seeded, vmap_draws

A = torch.tensor([0.05, 0.5, 3.0], dtype=torch.float64)
N = 40_000


def gradient(particle_mean: Tensor, a: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(particle_mean, a)
    return found


def off(seed: int) -> float:
    """How many standard errors a moment or its gradient is off, at most."""
    a, weights = A.clone().requires_grad_(), torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    with seeded(seed):
        x = vmap_draws(lambda: dist.Dirichlet(a).rsample(), N)
    law = dist.Dirichlet(A)
    value = (x @ weights).square()
    exact = a / a.sum() @ weights
    covariance = (torch.diag(a / a.sum()) - torch.outer(a, a) / a.sum() ** 2) / (a.sum() + 1)
    second = exact.square() + weights @ covariance @ weights
    (exact_gradient,) = torch.autograd.grad(second, a, retain_graph=True)
    found_gradient = gradient(value.mean(), a)
    moments = (x.detach().mean(0) - law.mean) / (law.variance / N).sqrt()
    return max(float(moments.abs().max()), 20 * float(((found_gradient - exact_gradient) / exact_gradient).abs().max()))


def test_dirichlet_draws_have_their_moments_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    assert off(0) < 5  # the gradients within a quarter, of which the standard errors are 2%; false alarms: 2e-6
    own = torch._standard_gamma
    monkeypatch.setattr(_random.torch, "_standard_gamma", lambda a: own(a) + 0.3)  # the twin
    assert off(0) > 5


def test_they_are_vectorised_and_leave_torchs_own_in_place(untouched_rng: None) -> None:
    before = torch.distributions.Dirichlet.rsample
    with seeded(0):
        shares = vmap_draws(lambda: dist.Beta(torch.tensor(0.01), torch.tensor(0.01)).rsample(), 1000)
        assert ((shares >= 0) & (shares <= 1)).all() and shares.isfinite().all()
        assert abs(float(shares.mean()) - 0.5) < 5 * 0.5 / 1000**0.5
    assert torch.distributions.Dirichlet.rsample is before
