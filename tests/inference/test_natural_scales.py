"""Regressions on natural scales, at the defaults of :func:`pyro_gen.posterior`, against importance sampling.

The reference is computed another way: in float64, from a Student-t around the mode that Newton's method finds from
parameters that are known to be near, without chains, starting points or metrics; its Pareto k-hat says that it holds.
For the two hierarchical ones it is a quadrature.
"""

import functools
import math

import arviz as az
import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_gen import posterior
from pyro_gen._random import seeded
from pyro_gen.density import ProgramDensity, density
from pyro_gen.inference.likelihood.weights import psis, psis_khat
from tests.inference import hierarchical_quadrature
from tests.inference.natural_scales import REGRESSIONS, Regression

QUICK = ["poisson_doses", "weibull_days", "gamma_dollars", "hierarchical_dollars", "normal_farads"]
WEIGHTED = 100_000  # draws
QUADRATURES = {
    "hierarchical_counts": hierarchical_quadrature.counts,
    "hierarchical_dollars": hierarchical_quadrature.dollars,
}


def mode(target: ProgramDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    """The mode (D,) by Newton's method with halved steps, and minus the inverse Hessian there."""

    def value(z: Tensor) -> Tensor:
        return target.log_density(z.unsqueeze(0))[0]

    for _ in range(100):
        leaf = z.clone().requires_grad_()
        (grad,) = torch.autograd.grad(value(leaf), leaf)
        hessian = torch.autograd.functional.hessian(value, z)
        scale = hessian.diagonal().abs().rsqrt()
        eigenvalues, vectors = torch.linalg.eigh(scale.unsqueeze(1) * hessian * scale)
        root = scale.unsqueeze(1) * vectors / eigenvalues.abs().clamp(min=1e-12).sqrt()
        step = root @ (root.mT @ grad)
        length = 1.0
        while not value(z + length * step) >= value(z) and length > 1e-6:
            length /= 2
        z = z + length * step
        if float(grad @ step) < 1e-9:
            return z, root @ root.mT
    raise AssertionError("Newton's method did not arrive")


def reference(regression: Regression) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Mean, standard deviation and standard error of the mean of each site."""
    target = density(regression.model, *(d.double() for d in regression.data))
    near = {name: torch.as_tensor(v, dtype=torch.float64).unsqueeze(0) for name, v in regression.near.items()}
    with seeded(0):
        centre, covariance = mode(target, target.unconstrain(near)[0])
        t = torch.distributions.StudentT(torch.tensor(6.0, dtype=torch.float64))
        normal = torch.randn(WEIGHTED, target.dim, dtype=torch.float64)
        shrunk = torch.distributions.Chi2(torch.tensor(6.0, dtype=torch.float64)).sample((WEIGHTED, 1)) / 6.0
    u = normal / shrunk.sqrt()
    scale = covariance.diagonal().sqrt()
    root = scale.unsqueeze(1) * torch.linalg.cholesky(covariance / scale.unsqueeze(1) / scale)
    log_q = -0.5 * (t.df + target.dim) * (1 + u.square().sum(1) / t.df).log()
    z = centre + u @ root.mT
    log_p = target.log_density(z).detach().nan_to_num(-math.inf)  # rates overflow far out
    log_w = (log_p - log_q).unsqueeze(1)
    assert float(psis_khat(log_w)[0]) < 0.5
    weights = psis(log_w)[:, 0].softmax(0).numpy()
    found = {}
    for name, values in target.constrain(z).items():
        x = values.numpy()
        w = weights.reshape(-1, *(1 for _ in x.shape[1:]))
        mean = (w * x).sum(0)
        spread = np.sqrt((w * (x - mean) ** 2).sum(0))
        found[name] = mean, spread, np.sqrt((w**2 * (x - mean) ** 2).sum(0))
    return found


# Means of up to 11 numbers and their standard deviations, within 5 standard errors each: about 100 comparisons, at
# 6e-7 each, so that a correct sampler fails one of them for 6e-5 of seeds.
def check(idata: az.InferenceData, known: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    for name, (mean, spread, error) in known.items():
        draws = idata.posterior[name].values.astype(np.float64)
        draws = draws.reshape(*draws.shape[:2], -1)
        for i, (m, s, e) in enumerate(zip(*(np.ravel(a) for a in (mean, spread, error)), strict=True)):
            x = (draws[:, :, i] - m) / s
            ess = float(az.ess(x))
            assert ess >= 400, f"{name}[{i}]: {ess:.0f} effective draws"
            assert abs(x.mean()) < 5 * math.hypot(1 / math.sqrt(ess), e / s), f"{name}[{i}]: {x.mean():.3f} sd off"
            squares = x**2
            noise = float(az.mcse(squares))
            assert abs(squares.mean() - 1) < 5 * math.hypot(noise, 3 * e / s), (
                f"{name}[{i}]: {squares.mean():.3f} variances"
            )


@functools.cache
def run(name: str) -> az.InferenceData:
    regression = REGRESSIONS[name]
    return posterior(regression.model, *regression.data, log_likelihood=False, predictive=False, progress=False)


def test_there_are_twenty() -> None:
    assert len(REGRESSIONS) == 20


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in REGRESSIONS],
)
def test_posterior_at_its_defaults(name: str) -> None:
    check(run(name), QUADRATURES[name]() if name in QUADRATURES else reference(REGRESSIONS[name]))


def test_twin_a_quadrature_of_other_data_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    regression = REGRESSIONS["hierarchical_dollars"]
    region, salary = regression.data
    found = run("hierarchical_dollars")
    monkeypatch.setitem(REGRESSIONS, "hierarchical_dollars", regression._replace(data=(region, salary * 1.02)))
    with pytest.raises(AssertionError, match="sd off"):
        check(found, hierarchical_quadrature.dollars())


def test_twin_a_posterior_of_other_data_is_told_apart() -> None:
    regression = REGRESSIONS["weibull_days"]
    known = reference(regression._replace(data=(regression.data[0] * 1.1,)))
    with pytest.raises(AssertionError, match="sd off"):
        check(run("weibull_days"), known)


def test_the_grid_of_the_poisson_regression() -> None:
    u, y = (d.numpy().astype(np.float64) for d in REGRESSIONS["poisson_doses"].data)
    a, b = np.meshgrid(np.linspace(-4, 4, 1201), np.linspace(-0.15, 0.3, 1201), indexing="ij")
    log_p = -(a**2 + b**2) / 50 + sum(k * (a + b * v) - np.exp(a + b * v) for v, k in zip(u, y, strict=True))
    p = np.exp(log_p - log_p.max())
    grid = (p * a).sum() / p.sum(), (p * b).sum() / p.sum()
    mean, _, error = reference(REGRESSIONS["poisson_doses"])["a"]
    assert abs(mean - grid[0]) < 5 * error
    mean, _, error = reference(REGRESSIONS["poisson_doses"])["b"]
    assert abs(mean - grid[1]) < 5 * error
