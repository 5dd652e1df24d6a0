"""Every verb computes where its program and its data are: `pytest tests/test_devices.py --device cuda`."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg


@pytest.fixture
def vae(device: torch.device) -> pg.Program:
    return pg.models.VAE((4,), latent=2, hidden=(8,)).to(device)


@pytest.fixture
def x(device: torch.device) -> torch.Tensor:
    return (torch.rand(20, 4) < 0.5).float().to(device)


def test_training_and_likelihoods(vae: pg.Program, x: torch.Tensor, device: torch.device) -> None:
    before = {name: p.clone() for name, p in vae.named_parameters()}
    pg.fit(vae, x, epochs=2, progress=False)
    assert all(p.device.type == device.type for p in vae.parameters())
    assert not all(torch.equal(p, before[name]) for name, p in vae.named_parameters())
    iwae = pg.log_likelihood(vae, x, method="iwae", num_particles=2000)
    ais = pg.log_likelihood(vae, x, method="ais")
    assert iwae.mean() == pytest.approx(ais.mean(), abs=0.05)


def test_generation_and_imputation(vae: pg.Program, x: torch.Tensor, device: torch.device) -> None:
    holes = x.clone()
    holes[:, :2] = torch.nan
    drawn = pg.impute(vae, holes, draws=3)
    assert pg.sample(vae, 5).device.type == drawn.device.type == device.type
    assert torch.equal(drawn[:, :, 2:], x[:, 2:].expand(3, 20, 2))


def test_a_posterior(device: torch.device) -> None:
    y = torch.tensor([1.0, 2.0, 3.0], device=device)

    def model(y: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), device=y.device), 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    found = pg.posterior(model, y, progress=False)
    assert float(found.posterior["loc"].mean()) == pytest.approx(6 / 4, abs=0.05)  # N(sum / (N + 1), 1 / (N + 1))
