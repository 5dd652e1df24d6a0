"""Gaussian process regression: the evidence of 2,000 points against the dense formula, 100,000 by inducing points.

A sine with noise of .3, seen at points between 0 and 6. The dense formula is scipy's normal density of the same
covariance. With 30 inducing points kernel, noise, points and guide are trained by minibatches, three passes, and the
mean is compared with the sine.
"""

import time

import numpy as np
import scipy.stats
import torch

import pyro_gen as pg
from pyro_gen.models import GaussianProcess, SparseGaussianProcess
from structure_parts import Bar, Result


def wave(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    u = 6 * torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    return torch.sin(2 * u[:, 0]) + 0.3 * torch.randn(rows, generator=generator, dtype=torch.float64), u


def run() -> Result:
    y, u = wave(2000)
    program = GaussianProcess(1, 2000).double()
    with torch.no_grad():
        program.covariance.log_length.fill_(-0.5)
        program.log_noise.fill_(-1.2)
    started = time.perf_counter()
    found = pg.log_likelihood(program, y[None], u[None]).value.item()
    exact_seconds = time.perf_counter() - started
    square = (u - u.T).square().numpy()
    covariance = np.exp(-0.5 * square * np.exp(1.0)) + np.exp(-2.4) * np.eye(2000)
    off = abs(found - scipy.stats.multivariate_normal(np.zeros(2000), covariance).logpdf(y.numpy()))

    y, u = (v.float() for v in wave(100_000))
    started, worked = time.perf_counter(), time.process_time()  # the second does not count what else the machine does
    sparse = SparseGaussianProcess(torch.linspace(0, 6, 30)[:, None]).fit_posterior(y[:5000], u[:5000])
    pg.fit(sparse, (y, u), epochs=3, batch_size=500, lr=0.05, progress=False)
    sparse.fit_posterior(y, u)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    grid = torch.linspace(0.5, 5.5, 50)[:, None]
    error = (pg.predict(sparse, None, grid, returns="mean") - torch.sin(2 * grid[:, 0])).abs().max().item()
    figures = {
        "exact_points": 2000,
        "exact_seconds": exact_seconds,
        "sparse_rows": 100_000,
        "inducing_points": 30,
        "sparse_seconds": seconds,
        "sparse_cpu_seconds": cpu_seconds,
        "greatest_error_of_the_mean": error,
        "noise": sparse.log_noise.exp().item(),
    }
    bars = [
        Bar("log evidence of 2,000 points off the dense formula, nats", off, 1e-6, least=False),
        Bar("100,000 rows by 30 inducing points, seconds of the processor", cpu_seconds, 60.0, least=False),
        Bar("their mean's greatest error", error, 0.05, least=False),
    ]
    return Result(figures, bars, ("numpy", "scipy"))
