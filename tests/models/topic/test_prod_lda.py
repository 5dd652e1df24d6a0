"""ProdLDA against quadrature over its two latent variables."""

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.distributions import NegativeMultinomial
from pyro_gen.models import ProdLDA

NAN = torch.nan
X = torch.tensor([[3.0, 1, 0], [0, NAN, 4], [1, 1, 1]], dtype=torch.float64)


def program_at(scale: float | None = None) -> ProdLDA:
    torch.manual_seed(0)
    program = ProdLDA(3, 2, alpha=0.5, hidden=(5,)).double().eval()
    with torch.no_grad():
        program.weights.copy_(4 * torch.randn(2, 3))
        program.background.copy_(torch.randn(3))
        program.log_length.copy_(torch.tensor([2.0, 0.5]).log())
    if scale is not None:
        program.scale = scale
    return program


def quadrature(program: ProdLDA, x: Tensor) -> Tensor:
    """The log-likelihoods with shape (N,): the sum over a grid of h."""
    at, weights = np.polynomial.hermite_e.hermegauss(60)
    h = torch.cartesian_prod(*(program.scale * torch.tensor(at),) * 2)
    log_weights = torch.cartesian_prod(*(torch.tensor(weights / weights.sum()),) * 2).log().sum(1)
    seen = ~x.isnan()
    a, b = program.log_length.detach().exp()
    with torch.no_grad():
        law = NegativeMultinomial(a, b, program.decode(h).unsqueeze(1), seen)
        return (law.log_prob(x.nan_to_num()) + log_weights.unsqueeze(1)).logsumexp(0)


def test_its_likelihood_is_that_of_quadrature() -> None:
    exact = quadrature(program_at(), X)
    found = pg.log_likelihood(program_at(), X, method="ais", start="prior", chains=64, seed=0)
    error = found.standard_error.clamp(min=1e-3)
    assert bool((error < 0.1).all()) and bool(((found.value - exact).abs() < 6 * error).all())
    twin = pg.log_likelihood(program_at(scale=3.0), X, method="ais", start="prior", chains=64, seed=0)
    assert bool(((twin.value - exact).abs() > 6 * twin.standard_error.clamp(min=1e-3)).any())


def test_training_uses_the_topics() -> None:
    generator = np.random.default_rng(0)
    topics = np.kron(np.eye(3), np.full(4, 0.25))
    shares = generator.dirichlet(np.full(3, 0.2), size=300)
    x = torch.tensor(np.stack([generator.multinomial(40, p) for p in shares @ topics])).float()
    program = ProdLDA(12, 3, alpha=0.2, hidden=(30,))
    pg.fit(program, x, epochs=40, batch_size=50, lr=0.02, progress=False)
    p = program.word_probabilities(x[:50])
    frequencies = (x.sum(0) / x.sum()).expand(50, -1)
    truth = torch.tensor(shares @ topics)[:50]
    assert float((p - truth).abs().sum(1).mean()) < 0.4 < 0.8 < float((frequencies - truth).abs().sum(1).mean())


def test_one_topic_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 topics"):
        ProdLDA(5, 1)
