"""The score-based SDE against Gaussian data, whose scores are known, and against a ring whose density is.

Statistical checks compare at 5 standard errors: false-alarm rate 6e-7 per number compared, below 5e-5 for a whole test.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.data.mixtures import MIXTURES, PlaneMixture
from pyro_gen.inference import ScoreMatching
from pyro_gen.inference.objectives import Noised
from pyro_gen.models import ScoreSDE
from pyro_gen.models.diffusion.parts import probability_flow
from pyro_gen.models.diffusion.parts.samplers import SAMPLERS
from pyro_gen.models.diffusion.parts.sdes import SDE, SDES, VarianceExploding, VariancePreserving

Z = 5  # standard errors
MEAN, SCALE = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.5, 1.0])
CORRELATION = torch.tensor([[1.0, 0.8, -0.3], [0.8, 1.0, 0.1], [-0.3, 0.1, 1.0]])
LAW = torch.distributions.MultivariateNormal(MEAN, SCALE.diag() @ CORRELATION @ SCALE.diag())


def standardised(sde: str | SDE = "variance exploding", **options: int) -> ScoreSDE:
    """A program that is not trained and knows means and standard deviations of the data."""
    program = ScoreSDE(3, sde, width=8, depth=1, **options).eval()
    program.scaling.loc.copy_(MEAN)
    program.scaling.scale.copy_(SCALE)
    program.initialised.fill_(True)
    return program


def exact(sde: str | SDE = "variance exploding", **options: int) -> ScoreSDE:
    """A program that knows what the datum is in the mean: with y = x + rho e, C (C + rho^2)^-1 y."""
    program = standardised(sde, **options)
    values, vectors = torch.linalg.eigh(CORRELATION)

    def clean(y: Tensor, noise: Tensor, h: Tensor | None = None) -> Tensor:
        shrink = values / (values + noise.square().unsqueeze(-1))
        return ((y @ vectors) * shrink) @ vectors.T

    program.flow.clean = clean  # type: ignore[method-assign]
    return program


@contextmanager
def wrong_diffusion(cls: type[SDE]) -> Iterator[None]:
    """The planted defect: g for g^2, a wrong diffusion coefficient."""
    right = cls.diffusion
    with mock.patch.object(cls, "diffusion", lambda self, t: right(self, t).sqrt()):
        yield


@contextmanager
def no_divergence() -> Iterator[None]:
    """The planted defect: the divergence of the flow is dropped."""

    def without(function: Callable[[Tensor], Tensor], x: Tensor, event_dim: int) -> tuple[Tensor, Tensor]:
        return function(x), x.new_zeros(x.shape[: x.dim() - event_dim])

    with mock.patch.object(probability_flow, "divergence", without):
        yield


@pytest.mark.parametrize("name", SDES)
def test_weights_and_noise_are_those_of_the_equation(name: str) -> None:
    sde = SDES[name]()

    def residual() -> float:
        t = torch.linspace(0.01, 1, 50, dtype=torch.float64).requires_grad_()
        alpha, variance = sde.alpha(t), sde.sigma(t).square()
        slope = torch.autograd.grad(alpha.sum(), t)[0] if alpha.requires_grad else torch.zeros_like(t)
        (growth,) = torch.autograd.grad(variance.sum(), t)
        apart = [slope - sde.drift(t) * alpha, growth - 2 * sde.drift(t) * variance - sde.diffusion(t)]
        return max(a.detach().abs().max().item() for a in apart)

    assert residual() < 1e-9
    with wrong_diffusion(SDES[name]):
        assert residual() > 0.1
    t = torch.linspace(0.001, 1, 50, dtype=torch.float64)
    assert torch.allclose(sde.time(sde.sigma(t) / sde.alpha(t)), t)


@pytest.mark.parametrize("name", SDES)
def test_of_gaussian_data_score_and_density_are_exact(name: str) -> None:
    program, x = exact(name), LAW.sample((20,))
    # The law at time t of standardised data, and at the end, where some noise is left.
    for t in (0.05, 0.5, 1.0):
        alpha, sigma = (float(f(torch.tensor(t))) for f in (program.sde.alpha, program.sde.sigma))
        covariance = alpha**2 * CORRELATION + sigma**2 * torch.eye(3)
        score = -torch.linalg.solve(covariance, x.unsqueeze(-1)).squeeze(-1)
        assert torch.allclose(program.flow.score(x, torch.tensor(t)), score, rtol=1e-3, atol=1e-3)
    seen = torch.distributions.MultivariateNormal(MEAN, LAW.covariance_matrix + (0.01 * SCALE).square().diag())

    def apart() -> float:
        return float((pg.log_likelihood(program, x).value - seen.log_prob(x)).abs().max())

    assert apart() < 1e-3
    with no_divergence():
        assert apart() > 1


DRAWS = 1000


def deviations(program: ScoreSDE, sampler: str) -> float:
    """How far mean and covariance of draws are from the law's, in standard errors: the largest of nine."""
    program.sampler = sampler
    x = (pg.sample(program, DRAWS, seed=1) - MEAN) / SCALE
    products = torch.cat([x, (x.unsqueeze(2) * x.unsqueeze(1)).flatten(1)[:, [0, 1, 2, 4, 5, 8]]], 1)
    expected = torch.cat([torch.zeros(3), CORRELATION.flatten()[[0, 1, 2, 4, 5, 8]]])
    return float(((products.mean(0) - expected) / (products.std(0) / math.sqrt(DRAWS))).abs().max())


@pytest.mark.parametrize(
    ("name", "sampler"),
    [("variance exploding", "flow"), *((name, sampler) for sampler in SAMPLERS for name in list(SDES)[:2])],
)
def test_of_gaussian_data_all_samplers_have_mean_and_covariance(name: str, sampler: str) -> None:
    assert deviations(exact(name, steps=200), sampler) < Z
    if sampler == "euler-maruyama":
        with wrong_diffusion(SDES[name]):
            assert deviations(exact(name, steps=200), sampler) > Z


def test_heuns_steps_in_time_are_the_flow() -> None:
    program, nothing = exact("sub-variance preserving", steps=400), torch.zeros(5, 3)
    program.sampler = "heun"

    def apart() -> float:
        with seeded(3):
            drawn = program.draw(torch.Size([5]))
        with seeded(3):
            noise = program.start(nothing).sample()
        alpha, sigma = program.noise(program.steps)
        return float((program.bijection(noise / (alpha**2 + sigma**2).sqrt())[0] - drawn).abs().max())

    assert apart() < 0.01
    with wrong_diffusion(SDES["sub-variance preserving"]):
        assert apart() > 0.1


class HalfWeight(ScoreSDE):
    """The planted defect: the weight is half of that of the likelihood."""

    def perturb(self, x: Tensor, time: Tensor, *context: Tensor) -> Noised:
        found = super().perturb(x, time, *context)
        return found._replace(weight=found.weight / 2)


@pytest.mark.parametrize(
    ("name", "method"),
    [*((name, "denoising") for name in SDES), *((n, m) for n in list(SDES)[:1] for m in ("sliced", "exact"))],
)
def test_the_loss_is_above_that_of_the_exact_score_by_the_divergence_in_nats(name: str, method: str) -> None:
    """KL(p, q) is the integral of g^2 |s_p - s_q|^2 / 2 over all times, for two laws that one equation blurs."""
    divergence = float((CORRELATION.trace() - 3 - torch.logdet(CORRELATION)) / 2)  # to independent entries
    x = LAW.sample((1000,))

    def loss(program: ScoreSDE) -> Tensor:
        rows = []
        for i in range(20):
            with seeded(100 + i):
                rows.append(ScoreMatching(method).loss(program, x).detach() / len(x))
        return torch.stack(rows)

    def apart(cls: type[ScoreSDE]) -> float:
        right, rough = exact(name), standardised(name)
        rough.__class__ = right.__class__ = cls
        gap = loss(rough) - loss(right)
        assert gap.std() < 0.3 * divergence
        return abs(float(gap.mean()) - divergence) / float(gap.std() / math.sqrt(len(gap)))

    assert apart(ScoreSDE) < Z
    assert apart(HalfWeight) > Z


def ring(scale: float) -> PlaneMixture:
    return PlaneMixture(MIXTURES["ring_of_gaussians"].centres, scale)


def log_density(mixture: PlaneMixture, x: Tensor) -> Tensor:
    distances = (x.unsqueeze(1) - mixture.centres.to(x)).square().sum(-1) / (2 * mixture.scale**2)
    return (-distances).logsumexp(1) - math.log(len(mixture.centres) * 2 * math.pi * mixture.scale**2)


def test_it_learns_a_ring_and_integrates_to_one() -> None:
    mixture = ring(0.3)
    program = ScoreSDE(2, width=64, waves=3)
    x, _ = mixture.draw(8000, 0)
    result = pg.fit(program, x, epochs=60, batch_size=400, lr=0.005, schedule="cosine", ema=0.99, progress=False)
    assert result.mode == "traced", result.mode_reason
    y, _ = mixture.draw(500, 1)
    found = pg.log_likelihood(program, y)
    assert found.kind == "exact"
    gap = log_density(mixture, y).mean() - found.mean()  # at the same points; a Gaussian has 1.1
    assert -0.05 < gap < 0.25

    def integral(step: float) -> float:
        axis = torch.arange(-3.6, 3.6, step)
        return float(pg.log_likelihood(program, torch.cartesian_prod(axis, axis)).value.exp().sum()) * step**2

    # What is learned is finer than the mixture: steps of half a standard deviation are too wide.
    assert abs(integral(0.075) - 1) < 1e-3
    with no_divergence():
        assert abs(integral(0.15) - 1) > 0.1


def test_it_is_finite_far_out() -> None:
    program = ScoreSDE(2, width=16, waves=3)
    torch.nn.init.normal_(program.flow.network.last.weight, std=0.1)
    far = torch.tensor([[1e4, -1e4], [-1e4, 0.0]]).requires_grad_()
    (slope,) = torch.autograd.grad(program.eval().bijection.inverse(far)[1].sum(), far)
    assert bool(pg.log_likelihood(program, far).value.isfinite().all()) and bool(slope.isfinite().all())


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="choose one of variance exploding, variance preserving"):
        ScoreSDE(2, "ve")
    program = ScoreSDE(2, VariancePreserving(beta_1=10.0), width=8)
    with pytest.raises(ValueError, match="choose one of flow, heun"):
        program.sampler = "ddim"
    with pytest.raises(ValueError, match="at all levels of noise"):
        ScoreMatching("denoising", noise=0.1).loss(program, torch.zeros(3, 2))
    for wrong in ({"least": 1.0, "most": 0.1}, {"least": 0.0}):
        with pytest.raises(ValueError, match="the least one first"):
            VarianceExploding(**wrong)
    for wrong in ({"least": 1e9}, {"beta_0": 0.0}, {"beta_0": 30.0}):
        with pytest.raises(ValueError, match="rates that do not fall"):
            VariancePreserving(**wrong)
