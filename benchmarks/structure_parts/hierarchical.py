"""Hierarchical regression on 85 groups, radon-like: posterior means against exact ones, effective draws, seconds.

919 simulated houses in 85 counties, few in most. The exact means are those of a grid over the two scales, with all else
normal given these (tests/models/regression/test_hierarchical.py). The rival is NUTS of NumPyro on the non-centred
model with its default of 1,000 steps of warming up and 1,000 draws, four chains, compilation included as ours is.
"""

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import torch

import pyro_gen as pg
from pyro_gen.models import Hierarchical
from structure_parts import Bar, Result

TESTS = Path(__file__).parents[2] / "tests" / "models" / "regression"
NAMES = ("mu", "beta", "tau", "sigma", "theta")


def judged(idata: Any, means: torch.Tensor, spreads: torch.Tensor) -> tuple[float, float]:
    """The smallest effective sample size, and the greatest |z| of a posterior mean by its own."""
    each = az.ess(idata, var_names=list(NAMES))
    sizes = np.concatenate([np.asarray(each[name]).ravel() for name in NAMES])
    found = np.concatenate([np.asarray(idata.posterior[name].mean(("chain", "draw"))).ravel() for name in NAMES])
    z = (found - means.numpy()) / (spreads.numpy() / np.sqrt(sizes))
    return float(sizes.min()), float(np.abs(z).max())


def nuts(y: torch.Tensor, u: torch.Tensor, group: torch.Tensor) -> Any:
    import jax
    import numpyro
    import numpyro.distributions as dist

    floor, county, outcome = (np.asarray(v) for v in (u[:, 0], group, y))

    def model() -> None:
        mu, beta = numpyro.sample("mu", dist.Normal(0.0, 2.5)), numpyro.sample("beta", dist.Normal(0.0, 2.5))
        tau, sigma = numpyro.sample("tau", dist.HalfNormal(2.5)), numpyro.sample("sigma", dist.HalfNormal(2.5))
        epsilon = numpyro.sample("epsilon", dist.Normal(0.0, 1.0).expand([85]).to_event(1))
        theta = numpyro.deterministic("theta", mu + tau * epsilon)
        numpyro.sample("y", dist.Normal(theta[county] + beta * floor, sigma), obs=outcome)

    kernel = numpyro.infer.NUTS(model)
    sampler = numpyro.infer.MCMC(
        kernel, num_warmup=1000, num_samples=1000, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    sampler.run(jax.random.PRNGKey(0))
    draws = {name: np.asarray(v) for name, v in sampler.get_samples(group_by_chain=True).items()}
    return az.from_dict({name: draws[name] for name in NAMES})


def run() -> Result:
    sys.path.insert(0, str(TESTS))
    known = importlib.import_module("test_hierarchical")
    y, u, group = known.radon()
    means, spreads = known.exact_means(y, u, group)
    figures: dict[str, Any] = {"rows": len(y), "groups": 85}
    started, worked = time.perf_counter(), time.process_time()  # the second does not count what else the machine does
    idata = pg.posterior(
        Hierarchical(group, 1), y.float(), u.float(), group,
        chains=32, draws=32, compile="off", predictive=False, log_likelihood=False, progress=False,
    )  # fmt: skip
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    ess, z = judged(idata, means, spreads)
    figures["ours"] = {"seconds": seconds, "cpu_seconds": cpu_seconds, "least_ess": ess, "most_z": z}
    packages: tuple[str, ...] = ("arviz",)
    if importlib.util.find_spec("numpyro"):
        started, worked = time.perf_counter(), time.process_time()
        rival = nuts(y, u, group)
        times = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - worked}
        rival_ess, rival_z = judged(rival, means, spreads)
        figures["numpyro"] = {**times, "least_ess": rival_ess, "most_z": rival_z}
        packages = (*packages, "numpyro", "jax")
    bars = [
        Bar("greatest |z| of 89 posterior means", z, 5.0, least=False),
        Bar("least effective sample size", ess, 400.0),
        Bar("seconds of the processor", cpu_seconds, 10.0, least=False),
    ]
    return Result(figures, bars, packages)
