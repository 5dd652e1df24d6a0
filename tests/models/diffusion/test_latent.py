"""Latent diffusion of a linear autoencoder is a Gaussian, known in closed form."""

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.models import Autoencoder, LatentDiffusion
from pyro_gen.models.diffusion.parts.schedules import alpha_sigma

DRAWS = 20000


def linear() -> LatentDiffusion:
    with seeded(0):
        program = LatentDiffusion(Autoencoder(3, 2, hidden=(), likelihood="normal"), steps=20, spread=0.5, width=8)
    program.mean.copy_(torch.tensor([0.5, -1.0]))
    program.scale.copy_(torch.tensor([2.0, 0.7]))
    program.initialised.fill_(True)
    program.autoencoder.initialised.fill_(True)
    return program.eval()


def law(program: LatentDiffusion) -> torch.distributions.MultivariateNormal:
    """Without a network a step multiplies and adds noise, and so does the linear decoder."""
    variance = torch.ones(())
    for i in range(program.steps, 0, -1):
        before, now = program.gamma(i - 1), program.gamma(i)
        (alpha, sigma), (alpha_now, _) = alpha_sigma(before), alpha_sigma(now)
        c = -torch.expm1(before - now)
        variance = (alpha * ((1 - c) / alpha_now + c * alpha_now)) ** 2 * variance + c * sigma**2
    alpha, _ = alpha_sigma(program.gamma(0))
    decode = program.autoencoder.decode
    origin = decode(program.mean).base_dist
    slopes = torch.stack([decode(program.mean + e).mean - origin.mean for e in torch.eye(2)], 1)  # (3, 2)
    spread = slopes * program.scale / alpha
    covariance = variance * spread @ spread.T + torch.eye(3) * origin.scale**2
    return torch.distributions.MultivariateNormal(origin.mean.detach(), covariance.detach())


def off(drawn: Tensor, law: torch.distributions.MultivariateNormal, scale: float) -> float:
    """The greatest distance of a covariance of draws from that of the law times a number, in standard errors."""
    covariance = law.covariance_matrix * scale
    variances = covariance.diagonal()
    error = ((torch.outer(variances, variances) + covariance.square()) / DRAWS).sqrt()
    return ((torch.cov(drawn.T) - covariance) / error).abs().max().item()


def test_with_a_linear_autoencoder_draws_are_gaussian() -> None:
    program = linear()
    drawn, exact = pg.sample(program, DRAWS), law(program)
    # Of 6 entries and 3 means one is 5 standard errors off in 5e-6 of seeds.
    assert off(drawn, exact, 1.0) < 5
    assert ((drawn.mean(0) - exact.mean) / (exact.variance / DRAWS).sqrt()).abs().max() < 5
    alpha, _ = alpha_sigma(program.gamma(0))
    assert off(drawn, exact, alpha.square().item()) > 5  # the twin: noise has taken from the codes and nobody gave back


def test_the_bound_is_below_the_density_of_that_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    program = linear()
    exact = law(program)
    with seeded(1):
        x = exact.sample((200,))
    found = pg.log_likelihood(program, x, num_particles=200)
    error = (found.standard_error.square().sum().sqrt() / len(x)).item()  # of the mean, by random steps
    # By chance it is above, at 4 errors, in 3e-5 of seeds at most.
    assert found.mean() < exact.log_prob(x).mean().item() + 4 * error

    step = program.step

    def gained(x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        loss, weight = step(x, time)
        return -loss, weight

    monkeypatch.setattr(program, "step", gained)  # the twin: what steps cost counts as a gain
    assert pg.log_likelihood(program, x, num_particles=200).mean() > exact.log_prob(x).mean().item() + 4 * error


def test_frozen_codes_stay() -> None:
    x = torch.randn(64, 3)
    program = LatentDiffusion(Autoencoder(3, 2, (8,), likelihood="normal"), steps=5, width=8)
    pg.fit(program, x, epochs=1, compile=False, progress=False)
    before = program.known(x)
    pg.fit(program.freeze_codes(), x, epochs=2, compile=False, progress=False)
    torch.testing.assert_close(program.known(x), before)


def test_codes_of_as_many_numbers_as_a_datum_are_not_twisted() -> None:
    program = LatentDiffusion(Autoencoder(3, 3, likelihood="normal"), steps=2, width=8)
    x = torch.tensor([[0.5, torch.nan, -0.5]])
    found = pg.log_likelihood(program, x)
    assert found.method == "elbo"
    assert bool(found.value.isfinite().all())
    with pytest.raises(ValueError, match="is for diffusions"):
        pg.impute(program, x, method="smc")


def test_codes_of_one_datum_have_a_scale() -> None:
    program = LatentDiffusion(Autoencoder(3, 2, likelihood="normal"), steps=2, width=8).initialise(torch.ones(1, 3))
    assert bool(program.scale.isfinite().all())


def test_what_is_no_autoencoder_is_refused() -> None:
    with pytest.raises(ValueError, match="give an Autoencoder"):
        LatentDiffusion(linear())  # type: ignore[arg-type]
