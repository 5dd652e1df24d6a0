"""Chains in the coordinates of a guide are chains for the posterior, however good the guide."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density import Density, density
from pyro_gen.inference import ELBO
from pyro_gen.inference.guides import Flow, FullRank, Guide, LowRank, MeanField, NeuTra, guide_of, neutra
from pyro_gen.inference.mcmc.driver import run


def funnel(x: Tensor) -> Any:
    """Data that tell nothing: the posterior is a funnel, with known moments."""
    log_scale = pyro.sample("log_scale", dist.Normal(0.0, 1.0))
    pyro.sample("z", dist.Normal(torch.zeros(2), (log_scale / 2).exp()).to_event(1))
    with pg.plate(x):
        return pg.observe("x", dist.Normal(0.0, 1.0), x)


def fitted(guide: Guide, epochs: int = 400) -> tuple[pg.Program, Density]:
    program, x = pg.Program.from_functions(funnel, guide), torch.zeros(1)
    pg.fit(program, x, objective=ELBO(32), epochs=epochs, lr=0.02, schedule="cosine", progress=False)
    return program, density(program, x, per_datum=False)


class Dropped(NeuTra):
    """The planted defect: no log|det dT/du|."""

    def terms_of_chain(self, z: Tensor, held: Any) -> tuple[Tensor, Tensor]:
        return self.target.terms_of_chain(self._guide.transport(z)[0], held)


def scores(warped: NeuTra, draws: int = 40) -> Tensor:
    """By how many standard errors the moments of log_scale and of z / exp(log_scale / 2) are off, over 512 chains.

    They start from exact draws, which a sampler of the right density keeps exact, however slowly it mixes.
    """
    samples = run(warped, "hmc", chains=512, warmup=60, draws=draws, init="prior", max_steps=16)
    assert (samples.z[-1] - samples.z[0]).square().mean() > 0.5  # they move
    values = warped.constrain(samples.z.flatten(0, 1))
    log_scale = values["log_scale"].reshape(draws, 512)
    z = (values["z"] * (-values["log_scale"] / 2).exp().unsqueeze(-1)).reshape(draws, 512, 2)
    off = [log_scale, log_scale**2 - 1, z[..., 0], z[..., 1] ** 2 - 1, z[..., 0] * z[..., 1]]
    of_chains = torch.stack(off).mean(1)  # chains are independent of one another
    return of_chains.mean(1).abs() / (of_chains.std(1) / 512**0.5)


def test_moments_of_a_funnel_by_hmc_in_the_coordinates_of_a_flow() -> None:
    """Five scores, each above 5 once in 10^6 seeds of a correct sampler; the twin drops the determinant."""
    program, target = fitted(Flow("affine", layers=2, hidden=(16,)))
    warped = neutra(target, guide_of(program))
    assert scores(warped).max() < 5
    assert scores(Dropped(target, guide_of(program))).max() > 8


@pytest.mark.parametrize("guide", [MeanField, FullRank, lambda: LowRank(2), lambda: Flow("coupling", layers=1)])
def test_the_warped_density_is_the_density_and_the_determinant(guide: Any) -> None:
    program, target = fitted(guide(), epochs=3)
    warped = neutra(target, guide_of(program))
    u = torch.randn(6, 3)
    v = warped.push(u)
    transport = guide_of(program).transport
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda a: transport(a)[0], point) for point in u])
    expected = target.log_density(v) + torch.linalg.slogdet(jacobian)[1]
    assert torch.allclose(warped.log_density(u), expected, atol=1e-3)
    value, grad = warped.log_density_and_grad(u)
    assert torch.allclose(value, expected, atol=1e-3) and grad.shape == u.shape and bool((grad != 0).any())
    for name, of_target in target.constrain(v).items():
        assert torch.allclose(warped.constrain(u)[name], of_target, atol=1e-5)
    prior = warped.sample_prior(2000)
    assert abs(warped.push(prior)[:, 0].std() - 1) < 0.1


def test_an_exact_guide_makes_the_posterior_standard_normal() -> None:
    program, target = fitted(FullRank(), epochs=1)
    conjugate = Density.from_functions(lambda v: -0.5 * (v - 1.0).square().sum(-1) / 4, 3)
    guide = guide_of(program)
    assert isinstance(guide, FullRank)
    with torch.no_grad():
        guide.loc.fill_(1.0)
        guide.log_scale.fill_(torch.tensor(2.0).log())
        guide.lower.zero_()
    object.__setattr__(conjugate, "names", ())
    warped = neutra(conjugate, guide)
    u = torch.randn(5, 3)
    ratio = warped.log_density(u) + 0.5 * u.square().sum(-1)
    assert ratio.std() < 1e-4
    with torch.no_grad():
        guide.loc.add_(5.0)  # training it further changes nothing
    assert torch.allclose(warped.log_density(u) + 0.5 * u.square().sum(-1), ratio)
    assert target.dim == 3


def test_what_neutra_refuses() -> None:
    program, target = fitted(MeanField(), epochs=1)
    per_datum = Density.from_functions(lambda v: -v.square().sum(-1), 3, batch_shape=(2,))
    with pytest.raises(ValueError, match="per_datum=False"):
        neutra(per_datum, guide_of(program))
    with pytest.raises(ValueError, match="the guide of the same program"):
        neutra(Density.from_functions(lambda v: -v.square().sum(-1), 5), guide_of(program))
    with pytest.raises(ValueError, match="nothing yet"):
        neutra(target, MeanField())
