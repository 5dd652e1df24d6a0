"""Approximate posteriors: exact ones where the model is linear, and every tool of the package with each of them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.data.small import binary_rows
from pyro_gen.models import VAE
from pyro_gen.models.vae.parts.posteriors import POSTERIORS, FullCovariance
from pyro_gen.models.vae.parts.priors import PRIORS

W = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, -1.0]])
B = torch.tensor([0.1, -0.2, 0.3])
NOISE = 0.5


def linear_vae(guide: str) -> Any:
    r"""Probabilistic PCA, :math:`x = W z + b + \sigma \epsilon`, with its posterior's mean and scales as the encoder.

    The posterior is :math:`\mathcal{N}(M^{-1} W^\top (x - b), \sigma^2 M^{-1})`, :math:`M = W^\top W + \sigma^2 I`
    (Tipping & Bishop, 1999, equation 12).
    """
    vae: Any = VAE(
        3, 2, likelihood="normal", scale=NOISE, guide=guide, decoder=nn.Linear(2, 3, bias=False),
        encoder=nn.Linear(3, 5 if guide == "full covariance" else 4),
    )  # fmt: skip
    inverse = torch.linalg.inv(W.T @ W + NOISE**2 * torch.eye(2))
    factor = torch.linalg.cholesky(NOISE**2 * inverse)
    with torch.no_grad():
        vae.decoder.weight.copy_(W)
        vae.offset.copy_(B)
        vae.mean.copy_(B)  # the encoder sees x - b
        vae.encoder.weight.zero_()
        vae.encoder.weight[:2] = inverse @ W.T
        scale = factor.diagonal() if guide == "full covariance" else (NOISE**2 * inverse).diagonal().sqrt()
        raw = (scale - 1e-4).expm1().log()
        vae.encoder.bias.copy_(torch.cat([torch.zeros(2), raw, 2 * factor[1:, 0]])[: len(vae.encoder.bias)])
    return vae


def exact(x: Tensor, noise: float = NOISE) -> Tensor:
    law = torch.distributions.MultivariateNormal(B, W @ W.T + noise**2 * torch.eye(3))
    return law.log_prob(x)  # type: ignore[no-any-return]


def test_full_covariance_is_exact_where_the_decoder_is_linear() -> None:
    """Every single draw has the weight log p(x): no statistics. The mean field, the twin, has a gap that is known."""
    x = torch.randn(8, 3)
    full, mean_field = linear_vae("full covariance"), linear_vae("mean field")
    found = pg.log_likelihood(full, x, method="elbo", num_particles=1)
    assert torch.allclose(found.value, exact(x).double(), atol=1e-4)
    # KL(N(m, diag s^2) || N(m, S)) with s^2 the diagonal of S: half of log |S| - log |diag s^2| + tr(...) - 2.
    covariance = NOISE**2 * torch.linalg.inv(W.T @ W + NOISE**2 * torch.eye(2))
    diagonal = covariance.diagonal().diag()
    gap = 0.5 * (
        torch.logdet(covariance) - torch.logdet(diagonal) + (torch.linalg.inv(covariance) @ diagonal).trace() - 2
    )
    assert gap > 0.01
    bound = pg.log_likelihood(mean_field, x, method="elbo", num_particles=4000)
    error = bound.standard_error.square().sum().sqrt() / len(x)
    assert abs((exact(x) - bound.value).mean() - gap) < 4 * error  # once in 10^4 seeds


def test_ais_has_the_likelihood_of_probabilistic_pca() -> None:
    """The squared z-scores of 12 data, chi-squared, are beyond 40 once in 10^4 seeds."""
    x = torch.randn(12, 3)
    found = pg.log_likelihood(linear_vae("mean field"), x, method="ais", seed=2, spread=0.2)
    assert ((found.value - exact(x)) / found.standard_error).square().sum() < 40
    assert ((found.value - exact(x, noise=0.7)) / found.standard_error).square().sum() > 100  # the twin


def test_the_factor_is_lower_triangular_with_a_positive_diagonal() -> None:
    q = FullCovariance(4)
    law = q(3 * torch.randn(7, 2, q.features))
    assert q.features == 14 and law.batch_shape == (7, 2)
    assert torch.equal(law.scale_tril, law.scale_tril.tril()) and bool((law.scale_tril.diagonal(0, -2, -1) > 0).all())
    assert bool((law.scale_tril[..., 3, 2] != 0).all())


COMBINATIONS = [*(({"prior": p}) for p in PRIORS), *({"guide": q} for q in POSTERIORS if q != "mean field")]
LIKELIHOODS = {"ais": {"chains": 8, "temperatures": 10}, "iwae": {"num_particles": 20}}


@pytest.mark.filterwarnings("ignore:.*the guide misses")
@pytest.mark.parametrize("options", [*COMBINATIONS, {"prior": "vamp", "guide": "spline"}], ids=str)
def test_every_tool_takes_every_prior_and_posterior(options: dict[str, Any]) -> None:
    with seeded(0):
        vae = VAE(6, 2, (8,), **options)
    x = binary_rows(20, 6)
    result = pg.fit(vae, x, epochs=1, batch_size=10, progress=False)
    assert math.isfinite(result.history[0]["train_loss"])
    found = [pg.log_likelihood(vae, x[:2], method=m, **o) for m, o in LIKELIHOODS.items()]  # type: ignore[arg-type]
    assert all(bool(f.value.isfinite().all()) and f.mean() < 0 for f in found)
    holes = x[:3].clone()
    holes[:, 3:] = torch.nan
    painted = pg.impute(vae, holes, draws=2, method="guide", num_proposals=50)
    assert painted.shape == (2, 3, 6) and not painted.isnan().any() and torch.equal(painted[0, :, :3], x[:3, :3])
    assert pg.latents(vae, x[:3], method="guide", num_proposals=50)["z"].mean.shape == (3, 2)
    assert pg.interpolate(vae, x[:1], x[1:2], steps=3).shape[-1] == 6
