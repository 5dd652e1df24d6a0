"""Priors of latent variables: their densities against hand computations, and data's, where the decoder is linear."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference import ELBO
from pyro_gen.models import VAE
from pyro_gen.models.vae.parts.posteriors import MeanField, normal
from pyro_gen.models.vae.parts.priors import (
    PRIORS,
    AutoregressivePrior,
    CorrelatedPrior,
    FlowPrior,
    MixturePrior,
    VampPrior,
    make_prior,
)
from pyro_gen.nets import MissingInput


def perturbed(prior: nn.Module, scale: float = 0.1) -> nn.Module:
    """With other parameters than those it was made with."""
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return prior


def encode(x: Tensor) -> Any:
    """A posterior of two dimensions given data of two."""
    return normal(torch.cat([x.tanh(), 0.3 * x], -1))


FUNCTIONS: tuple[Any, ...] = (
    lambda z: z[:, 0].tanh(),
    lambda z: z[:, 1].tanh(),
    lambda z: (z[:, 0] * z[:, 1]).tanh(),
)


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_is_a_density_and_draws_from_it(name: str) -> None:
    """Means of 5,000 draws against integrals: beyond 5 standard errors once in 10^6 seeds, for each of 3 functions."""
    p: Any = perturbed(make_prior(name, 2, (2,)))(encode)
    assert p.event_shape == (2,) and p.expand((5,)).log_prob(torch.zeros(5, 2)).shape == (5,)
    axis = torch.linspace(-9, 9, 301)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = p.log_prob(grid).double().exp() * (axis[1] - axis[0]).double() ** 2
        z = p.sample((5_000,))
    assert abs(density.sum() - 1) < 2e-3
    for f in FUNCTIONS:
        values = f(z).double()
        assert abs(values.mean() - (density * f(grid)).sum()) < 5 * values.std() / math.sqrt(len(z)) + 2e-3


def test_the_mixture_and_the_vamp_prior_by_hand() -> None:
    z = torch.randn(6, 2)
    mixture = perturbed(MixturePrior(2, components=3))
    assert isinstance(mixture, MixturePrior)
    scale = 1e-3 + nn.functional.softplus(mixture.raw_scale)
    by_hand = sum(
        mixture.logits.softmax(0)[c] * dist.Normal(mixture.loc[c], scale[c]).log_prob(z).sum(-1).exp() for c in range(3)
    )
    assert torch.allclose(mixture(encode).log_prob(z).exp(), by_hand, rtol=1e-5)

    vamp = VampPrior((2,), components=3)
    vamp.initialise(torch.tensor([[0.5, torch.nan], [1.5, 2.0]]))
    assert {tuple(u) for u in vamp.pseudo_inputs.tolist()} <= {(0.5, 0.0), (1.5, 2.0)}
    by_hand = sum(encode(vamp.pseudo_inputs[c]).log_prob(z).exp() for c in range(3)) / 3
    assert torch.allclose(vamp(encode).log_prob(z).exp(), by_hand, rtol=1e-5)
    # The twin: a sum in the place of the mean is off by log 3.
    assert not torch.allclose(vamp(encode).log_prob(z).exp(), 3 * by_hand, rtol=0.5)


def test_the_conditionals_of_an_autoregressive_prior_see_earlier_entries_only() -> None:
    prior = perturbed(AutoregressivePrior(4, components=2, hidden=(12, 12)))
    assert isinstance(prior, AutoregressivePrior)
    z = torch.randn(4)
    jacobian = torch.autograd.functional.jacobian(lambda point: prior.conditionals(point).mean, z)
    earlier = torch.ones(4, 4, dtype=torch.bool).tril(-1)
    assert not jacobian[~earlier].any() and bool((jacobian[earlier] != 0).all())


def linear(prior: nn.Module) -> Any:
    """A VAE with a linear decoder x = W z + b + .5 noise, and a linear encoder: everything is Gaussian given z."""
    vae: Any = VAE(
        3,
        2,
        likelihood="normal",
        scale=0.5,
        encoder=MissingInput(nn.Linear(3, 4)),
        decoder=nn.Linear(2, 3, bias=False),
        prior=prior,
    )
    with torch.no_grad():
        vae.decoder.weight.copy_(torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, -1.0]]))
        vae.offset.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return vae


@pytest.mark.parametrize("kind", ["mixture", "vamp"])
def test_a_linear_decoder_of_a_mixture_is_a_mixture_of_gaussians(kind: str) -> None:
    """The squared z-scores of 12 data, chi-squared, are beyond 40 once in 10^4 seeds."""
    vae = linear(MixturePrior(2, 3) if kind == "mixture" else VampPrior((3,), 3))
    x = torch.randn(12, 3)
    x[:3, 1] = torch.nan
    p, weight = vae.prior(vae.encode), vae.decoder.weight
    loc, scale = p.component_distribution.base_dist.loc, p.component_distribution.base_dist.scale
    logits = p.mixture_distribution.logits.log_softmax(-1)

    def exact(noise: float) -> Tensor:
        covariance = weight @ torch.diag_embed(scale.square()) @ weight.T + noise**2 * torch.eye(3)
        means, rows = loc @ weight.T + vae.offset, []
        for row, seen in zip(x, ~x.isnan(), strict=True):
            law = dist.MultivariateNormal(means[:, seen], covariance[:, seen][:, :, seen])
            rows.append((law.log_prob(row[seen]) + logits).logsumexp(-1))
        return torch.stack(rows).detach()

    found = pg.log_likelihood(vae, x, method="ais", seed=1, spread=0.2)
    chi_squared = ((found.value - exact(0.5)) / found.standard_error).square().sum()
    assert chi_squared < 40
    assert ((found.value - exact(0.8)) / found.standard_error).square().sum() > 100  # the twin


@pytest.mark.parametrize("prior", [FlowPrior(2, layers=1, hidden=(8,)), AutoregressivePrior(2, 2, (8,))])
def test_a_prior_of_given_size_is_trained_with_the_rest(prior: nn.Module) -> None:
    before = [p.clone() for p in prior.parameters()]
    vae = linear(prior)
    pg.fit(vae, torch.randn(40, 3), epochs=2, batch_size=20, objective=ELBO(), progress=False)
    assert vae.prior is prior and all(not torch.equal(a, b) for a, b in zip(before, prior.parameters(), strict=True))


def test_a_prior_of_ones_own() -> None:
    class Wide(nn.Module):
        def forward(self, posterior: Any) -> Any:
            return dist.Normal(torch.zeros(2), 3.0).to_event(1)

    z = pg.sample(linear(Wide()), 3)
    assert z.shape == (3, 3) and VAE(3, 2, guide=MeanField(2)).posterior.features == 4
    with pytest.raises(ValueError, match="choose one of standard, mixture"):
        VAE(3, 2, prior="gamma")
    with pytest.raises(ValueError, match="choose one of mean field, full covariance"):
        VAE(3, 2, guide="full rank")
    with pytest.raises(ValueError, match="attribute features"):
        VAE(3, 2, guide=nn.Linear(2, 2))


def test_the_correlated_prior_is_an_autoregression_with_a_least_divergence() -> None:
    """Razavi et al. (2019), at the variances 1 / Lambda_ii; the twin without correlation has none."""
    alpha, k = 0.7, 5
    prior = CorrelatedPrior(k, alpha).double()
    z = torch.randn(4, k, dtype=torch.float64)
    chain = dist.Normal(0.0, 1.0).log_prob(z[:, 0])
    chain = chain + dist.Normal(alpha * z[:, :-1], math.sqrt(1 - alpha**2)).log_prob(z[:, 1:]).sum(-1)
    p = prior(encode)
    assert torch.allclose(p.log_prob(z), chain, atol=1e-5)
    # of the tridiagonal precision: 1 / (1 - alpha^2) at the ends, (1 + alpha^2) / (1 - alpha^2) between
    delta = (k - 2) / 2 * math.log(1 + alpha**2) - math.log(1 - alpha**2) / 2
    assert abs(prior.least_divergence() - delta) < 1e-5
    assert abs(CorrelatedPrior(k, 0.0).least_divergence()) < 1e-6
    raw = torch.zeros(k, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([raw], max_iter=100)

    def divergence() -> Tensor:
        q = torch.distributions.MultivariateNormal(torch.zeros_like(raw), scale_tril=raw.exp().diag())
        return torch.distributions.kl_divergence(q, p)

    def step() -> Tensor:
        optimiser.zero_grad()
        value = divergence()
        value.backward()
        return value

    optimiser.step(step)  # type: ignore[no-untyped-call]
    assert abs(float(divergence().detach()) - delta) < 1e-4
    with pytest.raises(ValueError, match="between -1 and 1"):
        CorrelatedPrior(3, 1.0)
