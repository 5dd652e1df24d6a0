"""Unnormalised log-densities: against closed forms, with their gradients, recorded, and where there is none."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_gen import Program, observe
from pyro_gen._random import seeded
from pyro_gen.density.energy import sample_base, unnormalised_log_prob, unnormalised_terms
from pyro_gen.density.validation import no_validation
from pyro_gen.program import data_size


class Tilted(Program):
    """N(0, I) with the factor exp(w x): N(w, I) and log Z = |w|^2 / 2."""

    def __init__(self, w: tuple[float, ...] = (3.0, -1.0)) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            x = observe("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), x)
            pyro.factor("tilt", x @ self.w)
            return x


class WithoutBase(Program):
    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            pyro.factor("energy", -x.square().sum(-1))
        return x


class WithLatent(Program):
    def model(self, x: Tensor) -> None:
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            observe("x", dist.Normal(z, 1.0), x)
            pyro.factor("energy", z)


def test_the_terms_are_those_of_the_closed_form_whatever_the_data_size() -> None:
    program, x = Tilted(), torch.randn(5, 2)
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    with data_size(50):  # a minibatch
        terms = unnormalised_terms(program, x)
    assert torch.allclose(terms.base, normal.log_prob(x))
    assert torch.allclose(terms.factor, x @ program.w)
    exact = dist.Normal(program.w, 1.0).to_event(1).log_prob(x) + program.w.square().sum() / 2
    assert torch.allclose(unnormalised_log_prob(program, x), exact, atol=1e-5)


def test_it_is_differentiable_in_data_and_parameters() -> None:
    program, x = Tilted(), torch.randn(5, 2, requires_grad=True)
    by_x, by_w = torch.autograd.grad(unnormalised_log_prob(program, x).sum(), [x, program.w])
    assert torch.allclose(by_x, program.w - x)
    assert torch.allclose(by_w, x.sum(0))


def test_it_can_be_recorded() -> None:
    program, x, other = Tilted(), torch.randn(5, 2), torch.randn(5, 2)
    with no_validation():
        graph = make_fx(lambda x: (unnormalised_log_prob(program, x), sample_base(program, x * torch.nan)))(x)
    with seeded(0):
        log_prob, draws = graph(other)
    assert torch.allclose(log_prob, unnormalised_log_prob(program, other))
    with seeded(0):
        assert torch.equal(draws, sample_base(program, other * torch.nan))


def test_a_base_that_is_not_there_counts_nothing() -> None:
    x = torch.randn(4, 2)
    terms = unnormalised_terms(WithoutBase(), x)
    assert torch.equal(terms.base, torch.zeros(4))
    assert torch.allclose(terms.factor, -x.square().sum(-1))
    with pytest.raises(ValueError, match="no base distribution"):
        sample_base(WithoutBase(), x)


def test_latent_variables_are_refused() -> None:
    with pytest.raises(ValueError, match="latent variable 'z'"):
        unnormalised_log_prob(WithLatent(), torch.zeros(3))


def test_draws_of_the_base_do_not_know_the_factor() -> None:
    with seeded(0):
        draws = sample_base(Tilted(), torch.full((4000, 2), torch.nan))
    # Four standard errors of a mean of 4000 standard normals: two entries fail it once in 8000.
    assert bool((draws.mean(0).abs() < 4 / 4000**0.5).all())
