"""A generator with a linear network is a Gaussian; a game on narrow modes ends on them."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import pyro_gen as pg
from pyro_gen.data.mixtures import MIXTURES
from pyro_gen.evaluation.samples import modes
from pyro_gen.inference import Adversarial
from pyro_gen.models import GAN


def test_draws_and_likelihood_of_a_linear_generator() -> None:
    gan = GAN((2, 3), 4, nn.Linear(4, 6))
    w, b = gan.generator.weight.detach(), gan.generator.bias.detach()
    x = pg.sample(gan, 4000, seed=1)
    assert x.shape == (4000, 2, 3) and torch.linalg.matrix_rank((x.flatten(1) - b).double(), rtol=1e-5) == 4
    # Each entry's mean at 4.5 standard errors: 6 entries, 4e-5.
    assert bool(((x.flatten(1).mean(0) - b).abs() < 4.5 * (w @ w.T).diagonal().sqrt() / 4000**0.5).all())
    noisy = x[:20] + 0.2 * torch.randn(20, 2, 3)
    exact = MultivariateNormal(b, w @ w.T + 0.04 * torch.eye(6)).log_prob(noisy.flatten(1)).double()
    found = pg.log_likelihood(gan, noisy, noise=0.2, chains=128)
    assert abs(found.mean() - exact.mean().item()) < 0.05
    assert abs(pg.log_likelihood(gan, noisy, noise=0.1).mean() - exact.mean().item()) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "epochs", "covered", "good"), [("ring_of_gaussians", 40, 8, 0.85), ("grid_of_gaussians", 100, 23, 0.55)]
)
def test_modes_covered_and_good_samples(name: str, epochs: int, covered: int, good: float, seed: int) -> None:
    """The recipes gan-ring and gan-grid, whose figures assert one of the two numbers each."""
    torch.manual_seed(seed)
    gan, mixture = GAN((2,)), MIXTURES[name]
    fixed = {"batch_size": 256, "lr": 2e-3, "schedule": "cosine", "seed": seed, "progress": False}
    pg.fit(gan, pg.data.load(name).train, objective=Adversarial(r1=0.2), epochs=epochs, **fixed)
    found = modes(pg.sample(gan, 10_000, seed=seed), mixture.centres, mixture.scale)
    assert found.covered >= covered and found.good >= good
