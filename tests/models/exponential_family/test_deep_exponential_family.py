"""Deep exponential families: the normal one is a Gaussian, the gamma one's guide shares counts out exactly."""

import math

import pytest
import torch

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.models import DeepExponentialFamily

NAN = torch.nan


def gaussian_log_prob(program: DeepExponentialFamily, x: torch.Tensor) -> torch.Tensor:
    """The exact log-density of the normal family."""
    mean, covariance = torch.zeros(program.sizes[-1]), torch.eye(program.sizes[-1])
    for depth in range(len(program.sizes) - 2, -1, -1):
        w = program.weight(depth)
        mean = mean @ w + program.bias[depth]
        covariance = w.mT @ covariance @ w + program.log_shape[depth].mul(2).exp() * torch.eye(w.shape[1])
    values = []
    for row in x:
        seen = ~row.isnan()
        law = torch.distributions.MultivariateNormal(mean[seen], covariance[seen][:, seen])
        values.append(law.log_prob(row[seen]))
    return torch.stack(values).detach()


# The error of a row's estimate is known to about a tenth, so |z| > 5 has probability 1e-5 for a correct program. The
# twin has noise of another scale in the middle layer.
@pytest.mark.parametrize(("planted", "holds"), [(0.0, True), (1.5, False)], ids=["right", "another scale"])
def test_the_normal_family_is_a_gaussian(planted, holds) -> None:
    with seeded(0):
        program = DeepExponentialFamily(3, (3, 2), "normal", (4,)).eval()
        with torch.no_grad():
            program.bias[1].copy_(torch.randn(3))
            program.weights[1].mul_(3)
            program.log_shape.copy_(torch.tensor([-0.5, 0.3]))
        x = torch.randn(4, 3)
    x[0, 1] = x[1, :2] = NAN
    found = pg.log_likelihood(program, x, method="ais", chains=32, temperatures=100, seed=0)
    with torch.no_grad():
        program.log_shape[1] += planted
    z = (found.value - gaussian_log_prob(program, x)) / found.standard_error.clamp(min=1e-3)
    assert bool((z.abs() < 5).all()) is holds


def test_one_gamma_layer_of_one_unit_has_the_conjugate_posterior_and_likelihood() -> None:
    with seeded(0):
        program = DeepExponentialFamily(3, (1,), hidden=(4,), shape=1.7).eval()
    x = torch.tensor([[3.0, 0.0, 5.0], [1.0, NAN, 2.0]])
    w, shape = program.weight(0)[0].detach(), program.log_shape.exp().item()
    seen = ~x.isnan()
    law = program.approximate(1, program.encoder(x.log1p()), x, None)
    assert torch.allclose(law.concentration[:, 0], shape + x.nansum(1), rtol=1e-3)  # one cause has all of each count
    # A negative multinomial: z ~ Gamma(a, a) and counts Poisson(z w).
    total, rate = x.nansum(1), (w * seen).sum(1)
    exact = torch.lgamma(shape + total) - math.lgamma(shape) + shape * math.log(shape)
    exact = exact - (shape + total) * torch.log(shape + rate)
    each = x.nan_to_num() * w.log() - torch.lgamma(x.nan_to_num() + 1)
    exact = exact + torch.where(seen, each, 0.0).sum(1)
    found = pg.log_likelihood(program, x, method="iwae", num_particles=4000, seed=0)
    assert bool(((found.value - exact).abs() < 5 * found.standard_error + 1e-3).all())
    assert not bool(((found.value - exact - 0.3).abs() < 5 * found.standard_error + 1e-3).all())


def test_a_layer_above_changes_the_mean_of_the_one_below() -> None:
    with seeded(0):
        program = DeepExponentialFamily(4, (3, 2), hidden=(4,), shape=50.0)
    above = torch.tensor([[2.0, 0.5]])
    law = program.layer(1, above)
    assert torch.allclose(law.mean, above @ program.weight(1), rtol=1e-4)
    assert torch.allclose(program.layer(2, None).mean, torch.ones(2))


def test_poisson_layers_are_trained_by_the_score_function() -> None:
    with seeded(0):
        x = torch.poisson(torch.tensor([[8.0, 8.0, 0.5, 0.5], [0.5, 0.5, 8.0, 8.0]]).repeat(20, 1))
        program = DeepExponentialFamily(4, (2,), "poisson", (8,))
    result = pg.fit(program, x, epochs=6, batch_size=20, lr=0.05, progress=False, compile=False)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] - 1.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DeepExponentialFamily(4, family="beta"), "gamma, poisson, normal"),
        (lambda: DeepExponentialFamily(4, ()), "a layer or more"),
        (lambda: DeepExponentialFamily(4, shape=0.0), "a positive shape"),
        (lambda: DeepExponentialFamily(2).initialise(torch.tensor([[0.5, 1.0]])), "integers from 0 on"),
    ],
)
def test_errors_name_what_is_wrong(make, said) -> None:
    with pytest.raises(ValueError, match=said):
        make()
