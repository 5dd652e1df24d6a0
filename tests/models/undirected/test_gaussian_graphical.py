"""Zeros of the precision, the maximum of the likelihood, and missing entries, beside dense Gaussians."""

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.distributions.covariance_selection import select_covariance
from pyro_gen.models.undirected import GaussianGraphicalModel

CIRCLE = [(3, 0), (0, 1), (2, 1), (2, 3)]
NODES = {"nodes": 4, "edges": CIRCLE}


def rows(n: int = 60) -> Tensor:
    x = torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 1] += 0.8 * x[:, 0]
    x[:, 2] += 0.8 * x[:, 1]
    x[:, 3] += 0.5 * x[:, 0] - 0.7 * x[:, 2]
    return x


def random_model() -> GaussianGraphicalModel:
    model = GaussianGraphicalModel(NODES).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return model


def log_likelihood(model: GaussianGraphicalModel, x: Tensor) -> Tensor:
    return pg.log_likelihood(model, x).value


def test_the_precision_has_its_zeros_whatever_the_parameters() -> None:
    model = random_model()
    k = model.precision().detach()
    assert k[0, 2].abs() < 1e-12
    assert k[1, 3].abs() < 1e-12
    assert all(k[i, j].abs() > 0.01 for i, j in CIRCLE)
    x = rows(5)
    dense = torch.distributions.MultivariateNormal(model.loc.detach(), precision_matrix=k)
    assert torch.allclose(log_likelihood(model, x), dense.log_prob(x))
    phi = model.factor().detach()
    phi[1, 3] = 0.0  # the twin: entries without an edge are zero in the factor
    assert (phi.T @ phi)[1, 3].abs() > 0.01


def test_from_data_is_the_maximum_of_the_likelihood() -> None:
    x = rows()
    fitted = GaussianGraphicalModel.from_data(x, NODES)
    covariance = torch.linalg.inv(fitted.precision())
    sample = torch.cov(x.T, correction=0)
    on = fitted.adjacency | torch.eye(4).bool()
    assert torch.allclose(covariance[on], sample[on], rtol=1e-8)
    assert torch.allclose(covariance, select_covariance(sample, fitted.adjacency), rtol=1e-8)
    loss = -torch.distributions.MultivariateNormal(fitted.loc, precision_matrix=fitted.precision()).log_prob(x).mean()
    gradients = torch.autograd.grad(loss, list(fitted.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-7


def test_training_finds_it() -> None:
    x = rows()
    model = GaussianGraphicalModel(NODES).double()
    pg.fit(model, x, epochs=150, batch_size=60, lr=0.1, seed=0)
    best = log_likelihood(GaussianGraphicalModel.from_data(x, NODES), x).mean()
    assert log_likelihood(model, x).mean() == pytest.approx(float(best), abs=5e-3)


def test_missing_entries_are_integrated_out() -> None:
    model = random_model()
    covariance = torch.linalg.inv(model.precision()).detach()
    x = rows(2)
    x[0, 1] = x[0, 3] = torch.nan
    seen = [0, 2]
    marginal = torch.distributions.MultivariateNormal(model.loc.detach()[seen], covariance[seen][:, seen])
    assert torch.allclose(log_likelihood(model, x)[0], marginal.log_prob(x[0, seen]))


def test_partial_correlations_are_those_of_residuals() -> None:
    x = rows(500)
    full = [(i, j) for i in range(4) for j in range(i)]
    found = GaussianGraphicalModel.from_data(x, {"nodes": 4, "edges": full}).partial_correlations()
    z = torch.cat([torch.ones(len(x), 1).double(), x[:, 2:]], 1)
    residual = x[:, :2] - z @ torch.linalg.lstsq(z, x[:, :2]).solution
    assert found[0, 1].item() == pytest.approx(float(torch.corrcoef(residual.T)[0, 1]), abs=1e-10)
    assert torch.allclose(found.diagonal(), torch.ones(4).double())


def test_data_that_do_not_do() -> None:
    with pytest.raises(ValueError, match=r"complete \(N, 4\)"):
        GaussianGraphicalModel.from_data(rows()[:, :3], NODES)
    with pytest.raises(ValueError, match="not positive definite"):
        GaussianGraphicalModel.from_data(rows(3), NODES)
    with pytest.raises(ValueError, match="none of its nodes"):
        GaussianGraphicalModel({"nodes": 3, "edges": [(0, 3)]})
