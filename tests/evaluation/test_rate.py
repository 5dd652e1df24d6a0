"""The measure of what latent variables say: a normal posterior by its closed form."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pyro_gen._random import seeded
from pyro_gen.data.prepared import Prepared
from pyro_gen.data.small import binary_rows
from pyro_gen.models import MADE, VAE
from pyro_gen.registry import MEASURES

MEASURE = MEASURES["rate"].function


def of(x: torch.Tensor) -> Prepared:
    return Prepared(x, None, x, None, None, None, None)


def test_the_rate_of_a_normal_posterior() -> None:
    """A z-score is beyond 4.5 once in 150,000 seeds; the twin is the divergence of the prior from the guide."""
    x = binary_rows(9, 6)
    with seeded(0):
        vae = VAE(6, 2, (10,))
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    found = MEASURE(vae, of(x), num_particles=2000)
    q, p = vae.encode(vae.centre(x)).base_dist, Normal(0.0, 1.0)
    exact = kl_divergence(q, p).sum(1)
    other = kl_divergence(p, q).sum(1)
    assert abs(found.value - exact.mean()) < 4.5 * found.standard_error < abs(found.value - other.mean())
    assert found.sampling_error == pytest.approx(exact.std().item() / 3, rel=0.1)


def test_without_latent_variables_there_is_none() -> None:
    with pytest.raises(ValueError, match="no latent variables"):
        MEASURE(MADE(6, (8,)), of(binary_rows(9, 6)))
