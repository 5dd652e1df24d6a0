"""The inverse is zero where the graph has no edge, and entries at edges are as given; a tree's by hand."""

import torch

from pyro_gen.distributions.covariance_selection import select_covariance


def random_covariances(number: int, d: int) -> torch.Tensor:
    x = torch.randn(number, 2 * d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.mT @ x


def test_zeros_of_the_inverse_and_entries_at_edges() -> None:
    sigma = random_covariances(20, 6)
    upper = (torch.rand(20, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.4).triu(1)
    a = upper | upper.mT
    found = select_covariance(sigma, a)
    kept = a | torch.eye(6, dtype=torch.bool)
    scale = sigma.diagonal(dim1=-2, dim2=-1).sqrt()
    precision = torch.linalg.inv(found) * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    assert precision[~kept].abs().max() < 1e-7
    assert torch.allclose(found[kept], sigma[kept], rtol=1e-8)
    assert torch.linalg.eigvalsh(found).min() > 0
    assert torch.equal(found, found.mT)


def test_all_edges_leave_it_and_none_keeps_the_diagonal() -> None:
    sigma = random_covariances(1, 4)[0]
    assert torch.allclose(select_covariance(sigma, torch.ones(4, 4).bool()), sigma)
    assert torch.allclose(select_covariance(sigma, torch.zeros(4, 4).bool()), sigma.diagonal().diag())


def test_single_precision_settles_too() -> None:
    sigma = random_covariances(1, 12)[0]
    upper = (torch.rand(12, 12, generator=torch.Generator().manual_seed(1)) < 0.4).triu(1)
    found = select_covariance(sigma.float(), upper | upper.mT)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), select_covariance(sigma, upper | upper.mT), atol=1e-4)
