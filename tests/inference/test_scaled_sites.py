"""Sites with a latent scale are found, and only where there are any are users told to write them non-centred."""

import json
from collections.abc import Callable

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density import density
from pyro_gen.inference.scaled_sites import scaled_sites

Model = Callable[[Tensor], object]


def centred(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 10.0), obs=y)


def non_centred(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, 10.0), obs=y)


def vector(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
    z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), scale_tril=torch.diag_embed(scale)))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "found"), [(centred, {"theta": ["tau"]}), (non_centred, {}), (vector, {"z": ["scale"]})]
)
def test_finds_sites_with_a_latent_scale(model: Model, found: dict[str, list[str]]) -> None:
    y = torch.tensor([28.0, 8.0])
    assert scaled_sites(density(model, y)) == found
    assert json.loads(pg.posterior(model, y, chains=4, draws=4, warmup=4).posterior.attrs["scaled_by"]) == found


@pytest.mark.parametrize(
    ("noted", "told"), [({"theta": ["tau"]}, "Write theta (its scale is that of tau) non-centred"), ({}, None)]
)
def test_advice_can_be_followed(noted: dict[str, list[str]], told: str | None) -> None:
    rng = np.random.default_rng(0)
    stats = {"diverging": rng.random((8, 200)) < 0.1, "energy": rng.normal(size=(8, 200)).cumsum(1)}
    idata = az.from_dict(posterior={"mu": rng.normal(size=(8, 200))}, sample_stats=stats)
    idata.posterior.attrs |= {"method": "hmc", "scaled_by": json.dumps(noted)}
    problems = {p.name: p.text for p in pg.diagnose(idata).problems}
    for name in ("divergences", "bfmi"):
        assert (told in problems[name]) if told else ("non-centred" not in problems[name])
    assert "target_acceptance" in problems["divergences"] and "tempering" in problems["divergences"]
