"""Model comparison: how often the model that made the data is picked, of four, in 20 folds; leave-one-out.

Regressions on polynomials of degree 1, 2 and 3 and on a wave, weights N(0, 1) before, noise 0.5; a fold is made by one
of them in turn with weights between 0.5 and 1 in absolute value. Evidence and leave-one-out are known in closed form.
"""

import math
import time

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_gen as pg
from structure_parts import Bar, Result

FOLDS, ROWS, NOISE = 20, 60, 0.5


def powers(t: Tensor, degree: int) -> Tensor:
    return torch.stack([torch.special.legendre_polynomial_p(t, torch.tensor(k)) for k in range(degree + 1)], -1)


def wave(t: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(t), torch.sin(2 * math.pi * t), torch.cos(2 * math.pi * t)], -1)


BASES = {f"degree {k}": lambda t, k=k: powers(t, k) for k in (1, 2, 3)} | {"wave": wave}


def program(name: str) -> pg.Program:
    def model(y: Tensor, t: Tensor) -> Tensor:
        h = BASES[name](t)
        w = pyro.sample("w", dist.Normal(torch.zeros(h.shape[1]), 1.0).to_event(1))
        with pg.plate(y):
            return pg.observe("y", dist.Normal(h @ w, NOISE), y)

    return pg.Program.from_functions(model)


def exact(name: str, y: Tensor, t: Tensor) -> tuple[float, float]:
    """The log-evidence, and the mean log-density of a datum given the others."""
    h, y = BASES[name](t).double(), y.double()
    covariance = NOISE**2 * torch.eye(len(y)).double() + h @ h.T
    q = torch.linalg.inv(covariance)
    loo = dist.Normal(0.0, q.diagonal().rsqrt()).log_prob(q @ y / q.diagonal())
    evidence = dist.MultivariateNormal(torch.zeros(len(y)).double(), covariance).log_prob(y)
    return float(evidence), float(loo.mean())


def run() -> Result:
    picks = {"evidence": 0, "loo": 0, "held_out": 0, "stacking": 0}
    ideal, loo_error, z = 0, 0.0, 0.0
    start = time.perf_counter()
    for fold in range(FOLDS):
        truth = list(BASES)[fold % len(BASES)]
        rng = torch.Generator().manual_seed(fold)
        t = 2 * torch.rand(2 * ROWS, generator=rng) - 1
        h = BASES[truth](t)
        sign = 2.0 * (torch.rand(h.shape[1], generator=rng) < 0.5) - 1
        y = h @ (sign * (0.5 + 0.5 * torch.rand(h.shape[1], generator=rng)))
        y = y + NOISE * torch.randn(2 * ROWS, generator=rng)
        found = pg.compare(
            {name: program(name) for name in BASES},
            y[:ROWS],
            t[:ROWS],
            held_out=(y[ROWS:], t[ROWS:]),
            seed=fold,
            progress=False,
        )
        for by in ("evidence", "loo", "held_out"):
            picks[by] += found.best(by) == truth
        picks["stacking"] += max(found.weights, key=lambda name: found.weights[name]) == truth
        known = {name: exact(name, y[:ROWS], t[:ROWS]) for name in BASES}
        ideal += max(known, key=lambda name: known[name][0]) == truth
        for name, entry in found.entries.items():
            assert entry.evidence is not None and entry.loo is not None
            loo_error = max(loo_error, abs(entry.loo.mean() - known[name][1]))
            z = max(z, abs(entry.evidence.mean() - known[name][0]) / entry.evidence.mean_standard_error())
    seconds = (time.perf_counter() - start) / FOLDS
    figures = {
        "picked of 20": picks,
        "picked of 20 by the exact evidence": ideal,
        "largest error of leave-one-out, nats per datum": loo_error,
        "largest error of an evidence, standard errors, of 80": z,
        "seconds of a comparison of four models": seconds,
    }
    for name, value in figures.items():
        print(f"    {name}: {value}")
    bars = [
        Bar("the generating model is picked by evidence, of 20", picks["evidence"], 18),
        Bar("leave-one-out against the exact one, nats per datum", loo_error, 1e-2, least=False),
    ]
    return Result(figures, bars)
