"""Residual flows: what contracts, and the log-determinant by Russian roulette."""

import math

import pytest
import torch

from pyro_gen.models.flows import ResidualFlow
from pyro_gen.models.flows.parts.lipschitz import Contraction, jacobian, spectral_bound, transposed_product
from pyro_gen.models.flows.residual import Roulette


def network(constant: float = 0.9) -> Contraction:
    """One that contracts little: its slopes go into one direction."""
    net = Contraction(2, (16, 16), constant=constant).double()
    with torch.no_grad():
        for parameter in net.layers.parameters():
            if parameter.dim() == 2:
                parameter.copy_(5 * torch.eye(*parameter.shape) + 0.2 * torch.randn_like(parameter))
            else:
                parameter.fill_(0.5)
    return net


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (1, 5), (7, 7)])
def test_the_spectral_norm_is_bounded_from_above_and_closely(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    exact = torch.linalg.matrix_norm(weight, 2)
    assert exact <= spectral_bound(weight) * (1 + 1e-5) and spectral_bound(weight) <= 1.04 * exact
    zero = torch.zeros(shape, requires_grad=True)
    spectral_bound(zero).backward()


def test_networks_contract_and_know_their_jacobian() -> None:
    net, x, y = network(), torch.randn(50, 2).double(), torch.randn(50, 2).double()
    weights = net.weights()
    (gx, slopes), (gy, _) = net(x, None, weights), net(y, None, weights)
    assert bool(((gx - gy).norm(dim=1) <= 0.9 * (x - y).norm(dim=1)).all())
    exact = torch.stack([torch.autograd.functional.jacobian(lambda p: net(p, None, weights)[0], row) for row in x])
    found = jacobian(weights, slopes)
    assert torch.allclose(found, exact, atol=1e-10)
    assert torch.allclose(transposed_product(weights, slopes, y), (found.mT @ y.unsqueeze(-1)).squeeze(-1), atol=1e-10)


def test_the_log_determinant_by_roulette_is_unbiased() -> None:
    """Means over 4,000 draws within 4 standard errors of the exact ones: beyond them once in 3,000 seeds for 5 rows.

    The twin: a series that is always cut at the same place.
    """
    net, x = network(), torch.randn(5, 2).double()
    weights = net.weights()
    _, slopes = net(x, None, weights)
    exact = torch.linalg.slogdet(torch.eye(2).double() + jacobian(weights, slopes))[1]
    roulette = Roulette()
    with torch.no_grad():
        draws = torch.stack([roulette(weights, slopes) for _ in range(4000)])
        error = draws.std(0) / math.sqrt(len(draws))
        assert bool(((draws.mean(0) - exact).abs() < 4 * error).all())
        j = jacobian(weights, slopes)
        cut = (j - j @ j / 2 + j @ j @ j / 3).diagonal(dim1=1, dim2=2).sum(1)  # the terms that are always there
        assert bool(((cut - exact).abs() > 4 * error).any())


def test_in_training_the_density_is_estimated_and_in_evaluation_exact() -> None:
    program, x = ResidualFlow(2, 2, (8,)), torch.randn(3, 2)
    assert not torch.equal(program.bijection.inverse(x)[1], program.bijection.inverse(x)[1])
    program.eval()
    assert torch.equal(program.bijection.inverse(x)[1], program.bijection.inverse(x)[1])


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="constant between 0 and 1"):
        ResidualFlow(2, constant=1.0)
