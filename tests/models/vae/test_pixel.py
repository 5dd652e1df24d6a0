"""The PixelVAE: a density over images, exact by quadrature over one latent variable."""

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.models import PixelVAE

IMAGES = torch.cartesian_prod(*4 * [torch.tensor([0.0, 1.0])]).unflatten(1, (2, 2))  # (16, 2, 2)


def small(scale: float = 0.3, prior: str = "standard") -> PixelVAE:
    with seeded(0):
        vae = PixelVAE((2, 2), latent=1, hidden=(8,), channels=4, layers=2, prior=prior)
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
    return vae


def quadrature(vae: PixelVAE) -> Tensor:
    """Log p(x) of all images, by the trapezoidal rule over z."""
    z = torch.linspace(-8, 8, 801)
    with torch.no_grad():
        log_p = vae.decode(z[:, None, None].expand(801, 16, 1)).log_prob(IMAGES.expand(801, 16, 2, 2))
        log_prior = vae.prior(vae.posterior).log_prob(z[:, None]).log_softmax(0)
    return (log_p + log_prior[:, None]).logsumexp(0).double()  # type: ignore[no-any-return]


def test_it_is_a_density_over_images() -> None:
    vae = small()
    assert torch.allclose(quadrature(vae).exp().sum(), torch.tensor(1.0).double(), atol=1e-5)
    vae.first.mask[1, 1] = 1  # the twin: a first layer that sees the pixel itself
    assert abs(quadrature(vae).exp().sum() - 1) > 0.01


def test_a_pixel_sees_those_before_it_and_the_latent_variable() -> None:
    vae = PixelVAE((3, 3), latent=2, hidden=(8,), channels=4, layers=2)

    def logits(values: Tensor, z: Tensor) -> Tensor:
        return vae.network(values, 0, z).logits  # type: ignore[no-any-return]

    of_values, of_z = torch.autograd.functional.jacobian(logits, (torch.rand(9), torch.randn(2)))
    assert not of_values.triu().any() and bool((of_z != 0).any())
    assert of_values[4, :4].all()  # the middle pixel sees all before it


def test_ais_has_the_likelihood_by_quadrature() -> None:
    """The squared z-scores of 16 images, chi-squared, are beyond 46 once in 10^4 seeds."""
    vae = small()
    found = pg.log_likelihood(vae, IMAGES, method="ais", seed=1, spread=0.2)
    assert ((found.value - quadrature(vae)) / found.standard_error).square().sum() < 46
    with torch.no_grad():
        vae.offset.add_(0.5)  # the twin: another model
    assert ((found.value - quadrature(vae)) / found.standard_error).square().sum() > 100


def test_draws_have_the_probabilities() -> None:
    """A frequency of 4,000 draws is beyond 5 standard errors once in 10^5 seeds, for 16 images."""
    vae = small()
    drawn = pg.sample(vae, 4000, seed=1).flatten(1)
    index = (drawn @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    p = quadrature(vae).exp()
    frequency = torch.bincount(index, minlength=16) / 4000
    assert bool(((frequency - p).abs() < 5 * (p * (1 - p) / 4000).sqrt() + 1e-4).all())


HOLES = torch.tensor([[[torch.nan, 1.0], [torch.nan, 0.0]]])  # before what is seen: 4 images are possible


def possible() -> Tensor:
    return ((IMAGES == HOLES) | HOLES.isnan()).flatten(1).all(1)


def test_the_likelihood_of_an_image_with_holes_before_what_is_seen() -> None:
    """A z-score is beyond 4 once in 15,000 seeds; the twin leaves out one of the images that are possible."""
    vae = small(1.0, "mixture")
    exact = quadrature(vae)[possible()].logsumexp(0).item()
    one_less = quadrature(vae)[possible()][:-1].logsumexp(0).item()
    found = pg.log_likelihood(vae, HOLES, seed=1, particles=1000, islands=60)
    assert found.method == "smc"
    assert abs(found.mean() - exact) < 4 * found.mean_standard_error() < abs(found.mean() - one_less)


def test_holes_before_what_is_seen_are_drawn_given_it() -> None:
    """A frequency of 400 nearly independent draws is beyond 4.5 standard errors once in 30,000 seeds, of 4 images.

    The twin draws holes as they come, given what is before them alone.
    """
    vae = small(1.0)
    p, cells = quadrature(vae)[possible()].softmax(0), IMAGES[possible()]
    drawn = pg.impute(vae, HOLES, draws=400, method="ais", seed=1, options={"chains": 800, "temperatures": 12})[:, 0]
    share = (drawn.unsqueeze(1) == cells).flatten(2).all(2).double().mean(0)
    error = (p * (1 - p) / 400).sqrt()
    assert bool(((share - p).abs() < 4.5 * error).all())
    q = quadrature(vae).exp().unflatten(0, (2, 2, 2, 2))
    first, third = q.sum((1, 2, 3)), q[:, 1].sum(2) / q[:, 1].sum((1, 2))[:, None]
    forward = (first[:, None] * third).flatten()
    assert bool(((forward - p).abs() > 4.5 * error).any())


def test_misfits_are_explained() -> None:
    for options in ({"event_shape": 6}, {"event_shape": (2, 2), "kernel": 2}):
        with pytest.raises(ValueError, match="odd kernel"):
            PixelVAE(**options)
