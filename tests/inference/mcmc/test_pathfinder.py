import math

import pytest
import torch

from pyro_gen._random import seeded
from pyro_gen.density import Density
from pyro_gen.inference.mcmc import pathfinder as module
from pyro_gen.inference.mcmc import run
from pyro_gen.inference.mcmc.initial import points
from pyro_gen.inference.mcmc.pathfinder import approximate, pathfinder


def gaussian(dim, seed=0, **options):
    """A correlated Gaussian density, and its mean, covariance and log-integral."""
    with seeded(seed):
        factor = torch.randn(dim, dim, dtype=torch.float64) / dim**0.5
        mean = 3 * torch.randn(dim, dtype=torch.float64)
    covariance = factor @ factor.T + 0.1 * torch.eye(dim)
    precision = torch.linalg.inv(covariance)

    def log_density(z):
        centred = z.double() - mean
        return (-0.5 * (centred @ precision * centred).sum(-1)).to(z.dtype)

    log_z = 0.5 * dim * math.log(2 * math.pi) + 0.5 * float(torch.logdet(covariance))
    return Density.from_functions(log_density, dim, **options), mean, covariance, log_z


def errors(z, mean, covariance):
    """The largest error of a mean and of a standard deviation, in standard deviations, and of a correlation."""
    sd = covariance.diagonal().sqrt()
    z = z.double()
    correlation = torch.corrcoef(z.T) - covariance / sd / sd.unsqueeze(-1)
    return tuple(float(e.abs().max()) for e in ((z.mean(0) - mean) / sd, z.std(0) / sd - 1, correlation))


@pytest.mark.parametrize("dim", [2, 5, 10])
def test_gaussian(dim):
    target, mean, covariance, _ = gaussian(dim)
    draws = 4000
    z = pathfinder(target, draws)
    # Draws with replacement from four times as many, whose weights are nearly equal: independent but for a factor 1.25.
    # With 10 means, 10 deviations and 45 correlations beyond 6 standard errors: 1e-7.
    assert max(errors(z, mean, covariance)) < 6 * (1.25 / draws) ** 0.5


def test_inverse_hessian_is_that_of_the_updates():
    """The factored form against the product form of the BFGS update, with the same diagonal to start from."""
    dim, steps = 12, 5
    s, y = torch.randn(2, steps, dim, dtype=torch.float64)
    curvature = torch.randn(dim, dim, dtype=torch.float64)
    y = s @ (curvature @ curvature.T + torch.eye(dim))
    state = module._Curvature.start(torch.zeros(1, dim, dtype=torch.float64))
    for a, b in zip(s, y, strict=True):
        state = state.update(a.unsqueeze(0), b.unsqueeze(0), torch.ones(1, dtype=torch.bool))
    h = torch.diag(state.alpha[0])
    for a, b in zip(s, y, strict=True):
        rho = 1 / (a @ b)
        left = torch.eye(dim) - rho * torch.outer(a, b)
        h = left @ h @ left.T + rho * torch.outer(a, a)
    vectors, middle = state.factors()
    torch.testing.assert_close(torch.diag(state.alpha[0]) + (vectors @ middle @ vectors.mT)[0], h)
    g = torch.randn(1, dim, dtype=torch.float64)
    torch.testing.assert_close(module._times(state.alpha, vectors, middle, g)[0], h @ g[0])

    # The normal approximation has that covariance, and the densities that belong to its draws.
    flat = Density.from_functions(lambda z: z.new_zeros(z.shape[:-1]), dim, dtype=torch.float64)
    u = torch.randn(20_000, 1, dim, dtype=torch.float64)
    fit = module._normal(flat, torch.zeros(1, dim, dtype=torch.float64), g, state, u[:16])
    z, log_q = fit.draw(u)
    expected = torch.distributions.MultivariateNormal(h @ g[0], h).log_prob(z[:, 0])
    torch.testing.assert_close(log_q[:, 0], expected)
    # 78 entries of a covariance beyond 6 standard errors: 2e-7.
    assert max(errors(z[:, 0], h @ g[0], h)) < 6 / 20_000**0.5


def test_negative_curvature_is_left_out():
    state = module._Curvature.start(torch.zeros(1, 2, dtype=torch.float64))
    s = torch.ones(1, 2, dtype=torch.float64)
    same = state.update(s, -s, torch.ones(1, dtype=torch.bool))
    assert torch.equal(same.alpha, state.alpha) and not bool(same.steps.any())


def test_bound_rises_to_the_log_integral(monkeypatch):
    target, _, _, log_z = gaussian(20)
    monkeypatch.setattr(module, "BOUND_DRAWS", 400)
    start = points(target, "uniform", 8)
    bounds = []
    for iterations in (1, 3, 10, 200):
        monkeypatch.setattr(module, "ITERATIONS", iterations)
        with seeded(1):
            bounds.append(approximate(target, start).bound)
    rising = torch.stack(bounds)
    # The best of a longer path is the better one, by the same random numbers: exactly.
    assert bool((rising.diff(dim=0) >= 0).all())
    assert bool((rising[0] < log_z - 5).all()) and bool((rising[-1].max() > log_z - 1.5).all())
    # A bound: of 400 draws its standard error is below 0.1 where it is within 1.5 nats of the log-integral.
    assert bool((rising[-1] < log_z + 0.6).all())


def test_minor_mode_drops_out():
    """Paths end in two modes far apart, of which one has 1 percent of the mass."""

    def log_density(z):
        major = -0.5 * (z - 1.0).square().sum(-1) / 0.01
        minor = -0.5 * (z + 1.0).square().sum(-1) / 0.01 + math.log(0.01 / 0.99)
        return torch.logaddexp(major, minor)

    target = Density.from_functions(log_density, 3)
    z = pathfinder(target, 2000, paths=32)
    share = float((z[:, 0] < 0).double().mean())
    # Binomial for 2000 draws and the noise of the weights: 0.01 +- 0.003.
    assert 0 < share < 0.03


def eight_schools():
    """Non-centred, in unconstrained space: mu, log tau, and the standardised effects."""
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def log_prior(z):
        mu, log_tau, effect = z[..., 0], z[..., 1], z[..., 2:]
        half_cauchy = math.log(2 / math.pi / 5) - torch.log1p((2 * (log_tau - math.log(5.0))).exp()) + log_tau
        return half_cauchy - 0.5 * (mu / 5).square() - 0.5 * effect.square().sum(-1)

    def log_likelihood(z):
        theta = z[..., :1] + z[..., 1:2].exp() * z[..., 2:]
        return -0.5 * ((y - theta) / sigma).square().sum(-1)

    return Density.from_functions(log_likelihood, 10, log_prior)


def test_eight_schools():
    """Near the posterior, not exact: the mode lies far from its bulk, where paths have not met all of the curvature."""
    target = eight_schools()
    z = pathfinder(target, 2000)
    mu, tau = z[:, 0].mean(), z[:, 1].exp().mean()
    # Of long chains: the mean log-density is -9.05 (sd 2.37), that of mu 4.43 (3.29), of tau 3.60 (3.20), as in
    # posteriordb. Bands in these deviations.
    assert abs(target.log_density(z).mean() + 9.05) < 0.4 * 2.37
    assert target.log_density(points(target, "uniform", 2000)).mean() < -9.05 - 2.37
    assert abs(mu - 4.43) < 3.29 and abs(tau - 3.60) < 0.5 * 3.20
    assert 0.4 < z[:, 0].std() / 3.29 < 1.4 and 0.6 < z[:, 5].std() < 1.4


def test_batch_and_precision(untouched_rng):
    """Many targets at once: each finds its own place, also at other scales and in float64."""
    centres = torch.tensor([[-100.0, 0.0], [0.0, 5.0], [1e4, 1.0]])
    scales = torch.tensor([[10.0, 0.1], [1.0, 1.0], [100.0, 0.01]])
    for dtype in (torch.float32, torch.float64):
        target = Density.from_functions(
            lambda z: -0.5 * ((z - centres.to(z.dtype)) / scales.to(z.dtype)).square().sum(-1),
            2,
            batch_shape=(3,),
            dtype=dtype,
        )
        z = pathfinder(target, 1000, paths=8)
        assert z.shape == (1000, 3, 2) and z.dtype == dtype
        # 12 figures of 1000 draws beyond 6 standard errors: 2e-8.
        assert bool((((z.mean(0) - centres) / scales).abs() < 6 * (1.25 / 1000) ** 0.5).all())
        assert bool(((z.std(0) / scales - 1).abs() < 6 * (1.25 / 2000) ** 0.5).all())
        assert torch.equal(z, pathfinder(target, 1000, paths=8))
        assert not torch.equal(z, pathfinder(target, 1000, seed=1, paths=8))


def test_starts_chains():
    """From points near the posterior a short warm-up is enough, where the posterior is far from (-2, 2)."""
    far = Density.from_functions(lambda z: -0.5 * ((z - 1e4) / 3.0).square().sum(-1), 3)
    z = run(far, chains=64, warmup=30, draws=50, init="pathfinder").z
    # 3200 draws, of which a tenth counts as independent at least: beyond 6 standard errors with probability 1e-8.
    assert bool(((z.mean((0, 1)) - 1e4).abs() < 6 * 3.0 / 320**0.5).all())


def test_support_and_errors():
    def half_line(z):  # NaN and minus infinity off the support
        return (2 * z.squeeze(-1).log() - z.squeeze(-1)) + 0.0

    z = pathfinder(Density.from_functions(half_line, 1), 500)
    assert bool((z > 0).all())
    assert abs(float(z.mean()) - 3.0) < 6 * (3 * 1.25 / 500) ** 0.5 + 0.3  # a Gamma(3, 1), by a Gaussian's weights
    nowhere = Density.from_functions(lambda z: (z.squeeze(-1) - 10).log(), 1)
    with pytest.raises(ValueError, match="starting points"):
        pathfinder(nowhere, 10)
    with pytest.raises(ValueError, match="positive"):
        pathfinder(nowhere, 0)
    with pytest.raises(ValueError, match="no normal approximation"):  # a plane has no curvature and no top
        pathfinder(Density.from_functions(lambda z: 0.0 * z.sum(-1), 1), 10)
