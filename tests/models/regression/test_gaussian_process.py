"""Gaussian processes against dense normal densities; the bound of inducing points against the exact evidence."""

import numpy as np
import pytest
import scipy.stats
import torch

import pyro_gen as pg
from pyro_gen.models import GaussianProcess, SparseGaussianProcess
from pyro_gen.traces import trace_pair

F64 = torch.float64


def wave(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = 6 * torch.rand(n, 1, generator=generator, dtype=F64)
    return torch.sin(2 * u[:, 0]) + 0.3 * torch.randn(n, generator=generator, dtype=F64), u


def with_values(program, amplitude=0.8, length=0.6, noise=0.3, mean=0.1):
    program = program.double()
    with torch.no_grad():
        program.covariance.log_amplitude.fill_(np.log(amplitude))
        program.covariance.log_length.fill_(np.log(length))
        program.log_noise.fill_(np.log(noise))
        program.mean.fill_(mean)
    return program


def dense(u, v=None, matern=False):
    r = np.abs(u.numpy() - (u if v is None else v).numpy().T) / 0.6
    if matern:
        return 0.64 * (1 + np.sqrt(5) * r + 5 / 3 * r**2) * np.exp(-np.sqrt(5) * r)
    return 0.64 * np.exp(-0.5 * r**2)


def exact_evidence(y, u, **options):
    covariance = dense(u, **options) + 0.09 * np.eye(len(y))
    return scipy.stats.multivariate_normal(0.1 * np.ones(len(y)), covariance).logpdf(y.numpy())


@pytest.mark.parametrize("kernel", ["squared_exponential", "matern52"])
def test_evidence_is_the_dense_one(kernel):
    y, u = wave(300)
    program = with_values(GaussianProcess(1, 300, kernel))
    exact = exact_evidence(y, u, matern=kernel == "matern52")
    assert pg.log_likelihood(program, y[None], u[None]).value.item() == pytest.approx(exact, abs=1e-6)
    other = exact_evidence(y, u, matern=kernel != "matern52")
    assert abs(other - exact) > 1e-2  # has teeth


def test_new_inputs_are_predicted_as_the_formula_says():
    # 4000 draws; means and standard deviations within 5 standard errors.
    y, u = wave(40)
    new = torch.tensor([[1.0], [8.0]], dtype=F64)
    program = with_values(GaussianProcess(1, 40))
    x, at = torch.cat([y, torch.full((2,), torch.nan, dtype=F64)])[None], torch.cat([u, new])[None]
    drawn = pg.predict(program, x, at, draws=4000)[:, 0, 40:].numpy()
    weights = np.linalg.solve(dense(u) + 0.09 * np.eye(40), dense(u, new)).T
    mean = 0.1 + weights @ (y.numpy() - 0.1)
    scale = np.sqrt(np.diag(dense(new) + 0.09 * np.eye(2) - weights @ dense(u, new)))
    assert (np.abs(drawn.mean(0) - mean) < 5 * scale / 4000**0.5).all()
    assert (np.abs(drawn.std(0) / scale - 1) < 5 / 8000**0.5).all()


def test_the_bound_is_below_the_evidence_and_meets_it_at_all_points():
    y, u = wave(60)
    exact = exact_evidence(y, u)
    few, all_points = with_values(SparseGaussianProcess(u[:8])), with_values(SparseGaussianProcess(u))
    assert few.bound(y, u).item() < exact - 1
    assert all_points.bound(y, u).item() == pytest.approx(exact, abs=1e-3)
    # Without Titsias' term, the variances that are left, it is no bound.
    assert few.bound(y, u).item() + few.weights(u)[1].sum().item() / (2 * 0.09) > exact + 1


def test_bound_is_the_expected_elbo_of_the_best_guide():
    # 400 draws, 5 standard errors.
    y, u = wave(30)
    program = with_values(SparseGaussianProcess(u[:6])).fit_posterior(y, u)

    def elbo():
        model, guide = trace_pair(program, y, u)
        return (model.log_prob_sum() - guide.log_prob_sum()).item()

    def z():
        drawn = np.array([elbo() for _ in range(400)])
        return (drawn.mean() - program.bound(y, u).item()) / (drawn.std() / 20)

    assert abs(z()) < 5
    with torch.no_grad():
        program.loc += 0.5
    assert z() < -5  # any other guide is worse


@pytest.mark.slow
def test_a_hundred_thousand_rows_within_a_minute():
    y, u = wave(100_000)
    y, u = y.float(), u.float()
    program = SparseGaussianProcess(torch.linspace(0, 6, 30)[:, None]).fit_posterior(y[:5000], u[:5000])
    pg.fit(program, (y, u), epochs=3, batch_size=500, lr=0.05, progress=False)
    program.fit_posterior(y, u)
    assert program.log_noise.exp().item() == pytest.approx(0.3, rel=0.1)
    grid = torch.linspace(0.5, 5.5, 50)[:, None]
    mean = pg.predict(program, None, grid, returns="mean")
    assert (mean - torch.sin(2 * grid[:, 0])).abs().max() < 0.05


def test_misfits_are_explained():
    with pytest.raises(ValueError, match="choose one of squared_exponential"):
        GaussianProcess(1, 3, kernel="rbf")


def test_a_process_starts_at_the_moments_of_what_is_seen():
    u = torch.linspace(0, 50, 40)[None, :, None]
    y = 900 + 70 * torch.sin(u[..., 0] / 5)
    y[0, 3] = torch.nan
    program = GaussianProcess(1, 40).initialise(y, u)
    assert program.mean.item() == pytest.approx(y.nanmean().item(), rel=1e-5)
    both = (2 * program.log_noise).exp() + program.covariance.variance()
    assert both.item() == pytest.approx((y - y.nanmean()).square().nanmean().item(), rel=1e-4)
    before = program.mean.clone()
    assert torch.equal(program.initialise(y + 1, u).mean, before)  # once


def test_inducing_points_by_number_are_rows_of_the_data():
    u = torch.randn(200, 2)
    y = 5 + u[:, 0]
    program = SparseGaussianProcess(12, covariates=2).initialise(y, u)
    assert torch.cdist(program.inducing, u).min(1).values.max() < 1e-3
    assert len(torch.unique(program.inducing, dim=0)) == 12
    fitted = pg.predict(program, None, u, returns="mean")
    assert (fitted - y).square().mean() < 0.2 * y.var()
    with pytest.raises(ValueError, match="covariates"):
        SparseGaussianProcess(12)
