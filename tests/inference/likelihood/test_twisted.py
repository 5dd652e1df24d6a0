"""Missing entries of diffusions by twisted sequential Monte Carlo, where all steps of the chain are Gaussian.

The mean of the datum given how it looks with noise is known of Gaussian data, and linear. So the law of what a chain of
T steps generates is Gaussian, too, and its covariance is known without error, also where T is small.

Rows are populations of their own, so 40 equal rows are 40 independent estimates, whose spread gives the error. Checks
at 5 standard errors: false-alarm rate 6e-7 per number compared, below 2e-5 for a whole test.
"""

import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference.likelihood import twisted
from pyro_gen.inference.likelihood.twisted import GaussianDiffusion
from pyro_gen.models import DDPM, Gaussian, ScoreSDE
from pyro_gen.models.diffusion.parts.schedules import alpha_sigma

Z, EQUAL = 5, 40
C = torch.tensor([[1.0, 0.8, -0.3], [0.8, 1.0, 0.1], [-0.3, 0.1, 1.0]])
ROW = torch.tensor([1.2, math.nan, math.nan])


def mean_of_datum(y: Tensor, noise: Tensor) -> Tensor:
    """Of y = x + noise e, x with covariance C: C (C + noise^2)^-1 y."""
    values, vectors = torch.linalg.eigh(C)
    return ((y @ vectors) * (values / (values + noise.square().unsqueeze(-1)))) @ vectors.T


class ExactDDPM(DDPM):
    def denoise(self, z: Tensor, gamma: Tensor, *context: Tensor) -> Tensor:
        return mean_of_datum(z / alpha_sigma(gamma)[0].unsqueeze(-1), (gamma / 2).exp())


def ddpm() -> GaussianDiffusion:
    return ExactDDPM(3, steps=30, schedule="cosine", width=8).eval()


def score_sde(sde: str = "variance exploding") -> GaussianDiffusion:
    program = ScoreSDE(3, sde, width=8, steps=30).eval()
    program.flow.clean = lambda y, noise, h=None: mean_of_datum(y, noise)  # type: ignore[method-assign]
    return program


PROGRAMS = {
    "DDPM": ddpm,
    "variance exploding": score_sde,
    "sub-variance preserving": lambda: score_sde("sub-variance preserving"),
}


def covariance(program: GaussianDiffusion) -> Tensor:
    """That of what the chain generates, by the linear maps of its steps."""
    eye = torch.eye(3)
    total = program.start(eye).base_dist.scale[0].square() * eye
    laws = [program.transition(eye, i, program.predict(eye, i)) for i in range(program.steps, 0, -1)]
    for law in (*laws, program.likelihood(eye)):
        step = law.base_dist
        total = step.loc.T @ total @ step.loc + step.scale[0].square() * eye
    return total


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_chain_of_many_steps_has_the_law_of_the_data(name: str) -> None:
    program = PROGRAMS[name]()
    program.steps = 2000
    assert (covariance(program) - C).abs().max() < 0.01


def exact_moments(program: GaussianDiffusion) -> Tensor:
    """Mean and second moments of the last two entries given the first."""
    s = covariance(program)
    mean = s[1:, 0] / s[0, 0] * ROW[0]
    second = s[1:, 1:] - s[1:, :1] @ s[:1, 1:] / s[0, 0] + mean.outer(mean)
    return torch.cat([mean, second.flatten()[[0, 1, 3]]])


def moments_apart(program: GaussianDiffusion, draw: Callable[[Tensor], Tensor]) -> float:
    """How far moments of draws (S, N, 3) of equal rows are from the exact ones, in standard errors: the largest."""
    a = draw(ROW.expand(EQUAL, 3))[..., 1:]
    found = torch.cat([a, (a.unsqueeze(-1) * a.unsqueeze(-2)).flatten(-2)[..., [0, 1, 3]]], -1).mean(0)
    return float(((found.mean(0) - exact_moments(program)) / (found.std(0) / math.sqrt(EQUAL))).abs().max())


def by_impute(program: GaussianDiffusion) -> Callable[[Tensor], Tensor]:
    return lambda x: pg.impute(program, x, draws=200, seed=1, progress=False)  # type: ignore[arg-type]


def by_replacement(program: GaussianDiffusion) -> Callable[[Tensor], Tensor]:
    """The planted defect: seen entries, with noise, are put in the place of those of each step (Song et al., 2021)."""

    def draw(x: Tensor) -> Tensor:
        x = x.repeat(200, 1)
        seen, known = ~x.isnan(), x.nan_to_num()
        z = program.start(x).sample()
        for i in range(program.steps, -1, -1):
            alpha, sigma = program.noise(i)
            z = torch.where(seen, alpha * known + sigma * torch.randn_like(z), z)
            if i:
                z = program.transition(z, i, program.predict(z, i)).sample()
        return torch.where(seen, x, program.likelihood(z).sample()).view(200, EQUAL, 3)

    def with_seed(x: Tensor) -> Tensor:
        with seeded(1):
            return draw(x)

    return with_seed


@pytest.mark.parametrize("name", PROGRAMS)
def test_missing_entries_have_the_moments_of_the_conditional_law(name: str) -> None:
    program = PROGRAMS[name]()
    assert isinstance(program, GaussianDiffusion)
    assert moments_apart(program, by_impute(program)) < Z
    assert moments_apart(program, by_replacement(program)) > 2 * Z


def evidence_apart(program: GaussianDiffusion) -> float:
    """How far the mean of estimates of p(seen) is from it, in standard errors."""
    s = covariance(program)
    exact = torch.distributions.Normal(0.0, s[0, 0].sqrt()).log_prob(ROW[0])
    found = pg.log_likelihood(program, ROW.expand(EQUAL, 3), seed=2, particles=16)  # type: ignore[arg-type]
    assert (found.kind, found.method) == ("stochastic lower bound", "smc")
    ratio = (found.diagnostics["islands"] - exact).exp().flatten()
    return float((ratio.mean() - 1).abs() / (ratio.std() / math.sqrt(len(ratio))))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_evidence_of_seen_entries_is_unbiased(name: str) -> None:
    program = PROGRAMS[name]()
    assert evidence_apart(program) < Z
    with mock.patch.object(twisted, "_of_bend", lambda step, bend, moved: moved.new_zeros(moved.shape[:2])):
        assert evidence_apart(program) > Z  # weights that say nothing of the bend


def test_with_nothing_seen_it_generates_and_with_all_seen_it_scores() -> None:
    program = ddpm()
    nothing = pg.impute(program, torch.full((500, 3), math.nan), draws=1, seed=3, progress=False)[0]  # type: ignore[arg-type]
    error = torch.sqrt((C.square() + 1) / 500)
    assert ((torch.cov(nothing.T) - covariance(program)).abs() < Z * error).all()
    x = torch.distributions.MultivariateNormal(torch.zeros(3), C).sample((40,))
    exact = torch.distributions.MultivariateNormal(torch.zeros(3), covariance(program)).log_prob(x)
    found = pg.log_likelihood(program, x, method="smc", particles=256, seed=4)  # type: ignore[arg-type]
    assert abs(found.mean() - float(exact.mean())) < 0.05 + Z * found.mean_standard_error()


def test_what_does_not_apply_is_said() -> None:
    x = torch.tensor([[0.0, math.nan, 1.0]])
    with pytest.raises(ValueError, match="for diffusions"):
        pg.impute(Gaussian(3), x, method="smc")
    with pytest.raises(ValueError, match="no option 'chains': choose from particles, islands"):
        pg.impute(ddpm(), x, options={"chains": 8})  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="count by their weights"):
        pg.impute(ddpm(), torch.tensor([[9.0, -9.0, math.nan]]), options={"particles": 2, "islands": 2}, draws=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give particles="):
        pg.log_likelihood(ddpm(), x, num_particles=8)  # type: ignore[arg-type]


def test_islands_of_which_one_counts_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their particles have one ancestor, and are alike however many of them count."""
    log_w, x = torch.zeros(64, 4, 1, dtype=torch.float64), torch.tensor([[0.0, 1.0, math.nan]])
    monkeypatch.setattr(twisted, "_islands", lambda *given: [(slice(0, 1), torch.zeros(64, 4, 1, 3), log_w)])
    twisted.twisted_draws(ddpm(), x, draws=8)
    log_w[:, 1:] = -20.0  # the defect: three islands do not count, and 64 particles do
    with pytest.warns(UserWarning, match="one of 4 islands of particles outweighs"):
        twisted.twisted_draws(ddpm(), x, draws=8)
