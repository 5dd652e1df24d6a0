"""Objectives of unnormalised densities: each has the gradient of maximum likelihood, or recovers its estimate.

Statistical checks compare means at 4.5 standard errors: false-alarm rate 7e-6 per number compared, below 1e-4 for a
whole test. Estimates are compared with those of maximum likelihood at 3 of the standard errors that maximum likelihood
has; seeds are fixed. Each check has a twin with the defect planted, which must fail.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen import Program, observe
from pyro_gen._random import seeded
from pyro_gen.inference import (
    ELBO,
    ContrastiveDivergence,
    ExactLikelihood,
    NoiseContrastive,
    Objective,
    PseudoLikelihood,
    ScoreMatching,
)
from pyro_gen.inference.mcmc.hmc import Point
from pyro_gen.inference.mcmc.langevin import Langevin
from pyro_gen.inference.mcmc.sampler import MALA
from pyro_gen.inference.objectives import noise_contrastive

Z = 4.5  # standard errors


class Energy(Program):
    """Base N(0, I_2) with features: p(x) = base(x) exp(theta f(x)) / Z, an exponential family."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())
        self.log_partition = nn.Parameter(torch.zeros(()))

    def energy(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            x = observe("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), x)
            pyro.factor("energy", -self.energy(x))
            return x


class Quadratic(Energy):
    """A Gaussian with precision I + [[a, c], [c, b]] and linear term h; theta = (h1, h2, a, b, c)."""

    def energy(self, x: Tensor) -> Tensor:
        h1, h2, a, b, c = self.theta
        x1, x2 = x.unbind(-1)
        return 0.5 * (a * x1**2 + b * x2**2) + c * x1 * x2 - h1 * x1 - h2 * x2

    def law(self) -> Any:
        h1, h2, a, b, c = self.theta.detach()
        precision = torch.eye(2) + torch.stack([a, c, c, b]).reshape(2, 2)
        return dist.MultivariateNormal(torch.linalg.solve(precision, torch.stack([h1, h2])), precision_matrix=precision)

    def exact(self) -> Tensor:
        zero = torch.zeros(1, 2)
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        return (base.log_prob(zero) - self.law().log_prob(zero)).squeeze()

    @staticmethod
    def mle(x: Tensor) -> Tensor:
        precision = torch.linalg.inv(torch.cov(x.T, correction=0))
        h = precision @ x.mean(0)
        return torch.stack([*h, precision[0, 0] - 1, precision[1, 1] - 1, precision[0, 1]])


class Banana(Energy):
    """x1 ~ N(0, 1), x2 | x1 ~ N(b x1^2, 1 / (1 + a)): log Z = -log(1 + a) / 2; theta = (b, a)."""

    def energy(self, x: Tensor) -> Tensor:
        b, a = self.theta
        x1, x2 = x.unbind(-1)
        return 0.5 * (1 + a) * (x2 - b * x1**2) ** 2 - 0.5 * x2**2

    def exact(self) -> Tensor:
        return -0.5 * torch.log1p(self.theta.detach()[1])

    @staticmethod
    def draw(b: float, a: float, n: int) -> Tensor:
        x1, noise = torch.randn(2, n)
        return torch.stack([x1, b * x1**2 + noise / (1 + a) ** 0.5], -1)

    @staticmethod
    def mle(x: Tensor) -> Tensor:
        x1, x2 = x.unbind(-1)
        b = (x1**2 * x2).sum() / (x1**4).sum()
        return torch.stack([b, 1 / (x2 - b * x1**2).square().mean() - 1])


class Spins(Program):
    """A Boltzmann machine of three binary entries: base fair coins, factor b x + w1 x1 x2 + w2 x2 x3."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor([0.5, -0.3, 0.2]))
        self.w = nn.Parameter(torch.tensor([1.0, -1.5]))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            x = observe("x", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1), x)
            pyro.factor("energy", x @ self.b + (x[:, :-1] * x[:, 1:]) @ self.w)
            return x

    def log_p(self, x: Tensor) -> Tensor:
        """The normalised log-density, NaN summed out, by all eight states."""
        states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
        scores = states @ self.b + (states[:, :-1] * states[:, 1:]) @ self.w
        fits = ((x.unsqueeze(1) == states) | x.isnan().unsqueeze(1)).all(-1)  # (N, 8)
        return torch.where(fits, scores, -torch.inf).logsumexp(-1) - scores.logsumexp(-1)


def gradients(program: Program, loss: Tensor) -> Tensor:
    parameters = list(program.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def mean_gradient(objective: Objective, program: Program, x: Tensor, runs: int) -> tuple[Tensor, Tensor]:
    """The mean over runs of the gradient per datum, and its standard error."""
    with seeded(1), pyro.validation_enabled(False):
        return _summary([gradients(program, objective.loss(program, x) / len(x)) for _ in range(runs)])


def _summary(found: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.stack(list(found)).mean(0), torch.stack(list(found)).std(0) / len(found) ** 0.5


def agrees(found: tuple[Tensor, Tensor], exact: Tensor) -> bool:
    mean, error = found
    return bool(((mean - exact).abs() <= Z * error + 1e-5).all())


class Still(Langevin):
    """The planted defect: chains that stay where they are."""

    def step(self, state: Point, progress: float | None) -> tuple[Point, dict[str, Tensor]]:
        return state, {}


# ----------------------------------------------------------------------------------------------------------------------
# Contrastive divergence

POINTS = torch.tensor([[0.3, -0.5], [1.5, 0.7], [-0.4, 0.1], [2.0, 1.5]]).repeat(50, 1)


@pytest.mark.parametrize("kernel", [None, functools.partial(MALA, step_size=0.9, metric="diagonal")])
def test_long_chains_have_the_gradient_of_the_likelihood(kernel: Any) -> None:
    program = Quadratic(torch.tensor([1.0, -0.5, 1.0, 0.5, 0.4]))
    exact = -gradients(program, _log_p(program, POINTS).mean())
    objective = ContrastiveDivergence(40, kernel=kernel)
    assert agrees(mean_gradient(objective, program, POINTS, 12), exact)
    assert not agrees(mean_gradient(ContrastiveDivergence(40, kernel=Still), program, POINTS, 12), exact)


def _log_p(program: Quadratic, x: Tensor) -> Tensor:
    h1, h2, a, b, c = program.theta
    precision = torch.eye(2) + torch.stack([a, c, c, b]).reshape(2, 2)
    mean = torch.linalg.solve(precision, torch.stack([h1, h2]))
    return dist.MultivariateNormal(mean, precision_matrix=precision).log_prob(x)


def test_chains_that_persist_have_it_after_a_while() -> None:
    program = Quadratic(torch.tensor([1.0, -0.5, 1.0, 0.5, 0.4]))
    exact = -gradients(program, _log_p(program, POINTS).mean())
    early, late = [], []
    with seeded(0):
        for _ in range(12):  # each with chains of its own: from step to step they are not independent
            objective = ContrastiveDivergence(5, persistent=200)
            found = [gradients(program, objective.loss(program, POINTS) / len(POINTS)) for _ in range(8)]
            early.append(found[0])
            late.append(found[-1])
    assert agrees(_summary(late), exact)
    assert not agrees(_summary(early), exact)


X3 = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]).repeat(50, 1)


def test_binary_entries_move_by_gibbs_sampling() -> None:
    program = Spins()
    exact = -gradients(program, program.log_p(X3).mean())
    assert agrees(mean_gradient(ContrastiveDivergence(8), program, X3, 12), exact)


def test_missing_entries_are_drawn_given_those_seen() -> None:
    program, x = Spins(), X3.clone()
    x[::2, 1] = torch.nan
    x[::5, 0] = torch.nan
    exact = -gradients(program, program.log_p(x).mean())
    assert agrees(mean_gradient(ContrastiveDivergence(8), program, x, 12), exact)
    filled = -gradients(program, program.log_p(torch.where(x.isnan(), X3.mean(), x).round()).mean())
    assert not agrees(mean_gradient(ContrastiveDivergence(8), program, x, 12), filled)  # the planted defect


def test_missing_numbers_are_drawn_given_those_seen() -> None:
    program, x = Quadratic(torch.tensor([1.0, -0.5, 1.0, 0.5, 0.6])), POINTS.clone()
    x[::2, 1] = torch.nan
    law = program.law()
    c, b = law.precision_matrix[0, 1], law.precision_matrix[1, 1]
    x1 = x[::2, 0]
    mean = law.loc[1] - c / b * (x1 - law.loc[0])
    # E of the gradient over x2 | x1: that of the features, less their expectation under the model.
    full = POINTS[1::2]
    second = torch.cat([mean, full[:, 1]])
    first = torch.cat([x1, full[:, 0]])
    square = torch.cat([mean**2 + 1 / b, full[:, 1] ** 2])
    features = [first.mean(), second.mean(), -(first**2).mean() / 2, -square.mean() / 2, -(first * second).mean()]
    moments = law.covariance_matrix + law.loc[:, None] * law.loc
    model = [law.loc[0], law.loc[1], -moments[0, 0] / 2, -moments[1, 1] / 2, -moments[0, 1]]
    exact = torch.cat([torch.stack(model) - torch.stack(features), torch.zeros(1)])
    assert agrees(mean_gradient(ContrastiveDivergence(40), program, x, 12), exact)


class Alternating(Spins):
    """Spins whose own kernel draws the outer entries given the middle one, then the middle one given these."""

    sweeps = 0

    def kernel(self, x: Tensor, missing: Tensor, beta: float, *context: Any) -> Tensor:
        self.sweeps += 1
        with torch.no_grad():
            for d in (0, 2, 1):
                low, high = x.clone(), x.clone()
                low[..., d], high[..., d] = 0.0, 1.0
                odds = (self.log_p(high.flatten(0, 1)) - self.log_p(low.flatten(0, 1))).reshape(x.shape[:-1])
                drawn = (torch.rand_like(odds) < torch.sigmoid(beta * odds)).to(x)
                x = torch.where(missing & (torch.arange(3) == d), drawn.unsqueeze(-1), x)
        return x


def test_a_kernel_of_the_program_moves_the_chains() -> None:
    program, x = Alternating(), X3.clone()
    x[::2, 1] = torch.nan
    exact = -gradients(program, program.log_p(x).mean())
    assert agrees(mean_gradient(ContrastiveDivergence(8), program, x, 12), exact)
    assert program.sweeps == 2 * 8 * 12


def test_context_goes_with_its_rows() -> None:
    class Shifted(Program):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.5))

        def model(self, x: Tensor, c: Tensor) -> Tensor:
            with self.plate(x):
                x = observe("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), x)
                pyro.factor("tilt", self.w * c * x[:, 0])  # N(w c, 1)
                return x

    c = torch.tensor([3.0, -3.0]).repeat(200)
    x = c[:, None] + 0.5
    program = Shifted()
    exact = -((x[:, 0] - program.w * c) * c).mean().detach()
    with seeded(0):
        found = torch.stack(
            [gradients(program, ContrastiveDivergence(30).loss(program, x, c) / len(x)) for _ in range(12)]
        )
    assert abs(found.mean() - exact) < Z * found.std() / 12**0.5
    with pytest.raises(ValueError, match="use persistent=False"):
        ContrastiveDivergence(persistent=True).loss(program, x, c)


def test_wrong_arguments_are_said() -> None:
    with pytest.raises(ValueError, match="steps=0"):
        ContrastiveDivergence(0)
    with pytest.raises(ValueError, match="langwin"):
        ContrastiveDivergence(kernel="langwin").loss(Spins(), X3)

    class Rates(Program):
        def model(self, x: Tensor) -> None:
            with self.plate(x):
                observe("x", dist.Gamma(torch.ones(2), 1.0).to_event(1), x)
                pyro.factor("energy", -x.sum(-1))

    with pytest.raises(ValueError, match=r"kernel=\.\.\."):
        ContrastiveDivergence().loss(Rates(), torch.ones(3, 2))
    for other in (ScoreMatching(), PseudoLikelihood()):
        with pytest.raises(ValueError, match="Rates"):
            other.loss(Rates(), torch.ones(3, 2))


# ----------------------------------------------------------------------------------------------------------------------
# Score matching, noise contrast, pseudo-likelihood


class WithoutTrace(ScoreMatching):
    def _trace(self, score: Tensor, x: Tensor) -> Tensor:
        return torch.zeros(len(x))


def test_the_fisher_divergence_of_a_gaussian() -> None:
    program = Quadratic(torch.tensor([1.0, -0.5, 1.0, 0.5, 0.4]))
    law = program.law()
    score = (law.loc - POINTS) @ law.precision_matrix
    exact = (0.5 * score.square().sum(-1) - law.precision_matrix.trace()).sum()
    assert torch.allclose(ScoreMatching().loss(program, POINTS), exact, rtol=1e-5)
    assert not torch.allclose(WithoutTrace().loss(program, POINTS), exact, rtol=1e-5)


def test_slices_and_noise_are_unbiased() -> None:
    program = Quadratic(torch.tensor([1.0, -0.5, 1.0, 0.5, 0.4]))
    x = program.law().sample((200,))
    exact = gradients(program, ScoreMatching().loss(program, x) / len(x))
    assert agrees(mean_gradient(ScoreMatching("sliced"), program, x, 40), exact)
    # With noise of variance 1/4 it is least at the precision of the data plus noise.
    noisy = torch.cov(x.T, correction=0) + 0.25 * torch.eye(2)
    precision = torch.linalg.inv(noisy)
    best = Quadratic(torch.stack([*(precision @ x.mean(0)), *(precision.diagonal() - 1), precision[0, 1]]))
    assert agrees(mean_gradient(ScoreMatching("denoising", noise=0.5), best, x, 200), torch.zeros(6))
    clean = Quadratic(Quadratic.mle(x))
    assert not agrees(mean_gradient(ScoreMatching("denoising", noise=0.5), clean, x, 200), torch.zeros(6))
    with pytest.raises(ValueError, match="takes a noise"):
        ScoreMatching("sliced", noise=0.5)
    with pytest.raises(ValueError, match="give the standard deviation of the noise"):
        ScoreMatching("denoising").loss(program, x)


def test_score_matching_of_an_exact_program_is_that_of_its_density() -> None:
    class Normal(Program):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.tensor([0.3, -0.2]))

        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                return observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)

    program = Normal()
    assert torch.allclose(gradients(program, ScoreMatching().loss(program, POINTS)), (program.loc - POINTS).sum(0))


def test_the_pseudo_likelihood_is_that_of_each_entry_given_the_others() -> None:
    program, total = Spins(), torch.zeros(())
    for d in range(3):
        other = X3.clone()
        other[:, d] = torch.nan
        total = total + (program.log_p(X3) - program.log_p(other)).sum()
    assert torch.allclose(PseudoLikelihood().loss(program, X3), -total, rtol=1e-5)
    assert not torch.allclose(-program.log_p(X3).sum(), -total, rtol=1e-2)


class KnownSpins(Spins):
    """They know their sums."""

    def log_sum(self, x: Tensor) -> Tensor:
        states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
        scores = states @ self.b + (states[:, :-1] * states[:, 1:]) @ self.w - 3 * math.log(2.0)
        fits = ((x.unsqueeze(1) == states) | x.isnan().unsqueeze(1)).all(-1)
        return torch.where(fits, scores, -torch.inf).logsumexp(-1).double()


def test_the_exact_likelihood_is_the_likelihood_with_its_gradient() -> None:
    program = KnownSpins()
    holed = X3.clone()
    holed[0, 1] = holed[1] = torch.nan
    for x in (X3, holed):
        loss, exact = ExactLikelihood().loss(program, x), -program.log_p(x).sum()
        assert torch.allclose(loss.double(), exact.double(), rtol=1e-5)
        assert torch.allclose(gradients(program, loss), gradients(program, exact), atol=1e-4)
    with pytest.raises(ValueError, match="programs that know their sum over all data, and this Spins"):
        ExactLikelihood().loss(Spins(), X3)


def test_the_pseudo_likelihood_of_independent_entries_is_their_likelihood() -> None:
    class Levels(Program):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.randn(4, 3))

        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                return observe("x", dist.Categorical(logits=self.logits).to_event(1), x)

    program, x = Levels(), torch.randint(3, (7, 4)).float()
    exact = -pg.log_likelihood(program, x).value.sum()
    assert torch.allclose(PseudoLikelihood().loss(program, x).double(), exact, rtol=1e-5)


def test_noise_contrast_is_least_at_the_truth_whatever_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Quadratic(torch.tensor([1.0, -0.5, 1.0, 0.5, 0.4]))
    program.log_partition.data = program.exact()
    noise = pg.models.Gaussian(2)
    with seeded(0):
        x = program.law().sample((20_000,))
    for objective in (NoiseContrastive(ratio=3), NoiseContrastive(noise, ratio=3)):
        assert _at_the_truth(objective, program, x)
        with monkeypatch.context() as patch:  # the planted defect: the odds without the ratio
            patch.setattr(noise_contrastive, "math", SimpleNamespace(log=lambda _: 0.0))
            assert not _at_the_truth(objective, program, x)
    assert not any(p.requires_grad for p in NoiseContrastive(noise).parameters())
    assert all(p.requires_grad for p in noise.parameters())


def _at_the_truth(objective: Objective, program: Program, x: Tensor) -> bool:
    """Whether the mean gradient over data drawn from the model is 0, in 20 independent parts."""
    with seeded(2):
        found = torch.stack([gradients(program, objective.loss(program, part)) for part in x.chunk(20)])
    # Student's t with 19 degrees of freedom: beyond 6.5 in 3e-6 of the cases.
    return bool((found.mean(0).abs() < 6.5 * found.std(0) / 20**0.5).all())


def test_a_learnt_log_z_needs_its_place() -> None:
    with pytest.raises(ValueError, match=r"set self\.log_partition"):
        NoiseContrastive().loss(Spins(), X3)


# ----------------------------------------------------------------------------------------------------------------------
# Training

CASES = {
    "contrastive divergence": ContrastiveDivergence(20),
    "persistent": ContrastiveDivergence(5, persistent=True),
    "score matching": ScoreMatching(),
    "noise contrast": NoiseContrastive(ratio=5),
}
TWINS: dict[str, Objective] = {
    "contrastive divergence": ContrastiveDivergence(20, kernel=Still),
    "score matching": WithoutTrace(),
}


def fitted(program: Program, objective: Objective, x: Tensor, epochs: int = 80, **options: Any) -> Any:
    settings: dict[str, Any] = {"batch_size": 500, "lr": 0.05, "schedule": "cosine", "progress": False}
    return pg.fit(program, x, objective=objective, epochs=epochs, **(settings | options))


def errors_of(cls: type[Energy], x: Tensor, theta: Tensor) -> Tensor:
    """The standard errors of maximum likelihood: of an exponential family in theta, or by the curvature of it."""

    def mean_log_p(theta: Tensor) -> Tensor:
        if cls is Quadratic:
            h1, h2, a, b, c = theta
            precision = torch.eye(2) + torch.stack([a, c, c, b]).reshape(2, 2)
            loc = torch.linalg.solve(precision, torch.stack([h1, h2]))
            return dist.MultivariateNormal(loc, precision_matrix=precision).log_prob(x).mean()
        b, a = theta
        return dist.Normal(b * x[:, 0] ** 2, (1 + a) ** -0.5).log_prob(x[:, 1]).mean()

    information = -torch.autograd.functional.hessian(mean_log_p, theta) * len(x)
    return torch.linalg.inv(information).diagonal().sqrt()


@pytest.mark.parametrize("cls", [Quadratic, Banana])
@pytest.mark.parametrize("name", CASES)
def test_training_recovers_maximum_likelihood(name: str, cls: type[Energy]) -> None:
    with seeded(3):
        start = torch.tensor([0.6, -0.5, 0.5, 0.3, 0.4] if cls is Quadratic else [0.6, 1.0])
        x = Quadratic(start).law().sample((2000,)) if cls is Quadratic else Banana.draw(0.6, 1.0, 2000)
    mle = cls.mle(x)
    errors = errors_of(cls, x, mle)

    def distance(objective: Objective) -> float:
        program = cls(torch.zeros_like(mle))
        result = fitted(program, objective, x)
        assert result.mode == "traced", result.mode_reason
        if isinstance(objective, NoiseContrastive):
            with torch.no_grad():  # the truth is that of the parameters found
                assert abs(program.log_partition - program.exact()) < 0.05
        return float(((program.theta.detach() - mle).abs() / errors).max())

    assert distance(CASES[name]) < 3
    if name in TWINS:
        assert distance(TWINS[name]) > 6


def test_an_interrupted_run_with_chains_ends_where_the_other_one_does(tmp_path: Path) -> None:
    x = Banana.draw(0.6, 1.0, 300)
    whole, parts = Banana(torch.zeros(2)), Banana(torch.zeros(2))

    def run(program: Program, epochs: int, **options: Any) -> None:
        objective = ContrastiveDivergence(2, persistent=200)
        fitted(program, objective, x, epochs, batch_size=100, schedule="constant", **options)

    run(whole, 6)
    run(parts, 3, checkpoint=tmp_path / "run.pt")
    run(parts, 6, checkpoint=tmp_path / "run.pt", resume=True)
    assert torch.equal(whole.theta, parts.theta)


@pytest.mark.parametrize("name", CASES)
def test_recorded_steps_are_those_of_python(name: str) -> None:
    x = Banana.draw(0.6, 1.0, 200)
    found = []
    for compile in ("trace", False):
        program = Banana(torch.zeros(2))
        objective = CASES[name]
        fitted(program, objective, x, 2, compile=compile)
        found.append(program.theta.detach().clone())
    assert torch.allclose(*found, atol=1e-5)


def test_chains_of_the_programs_own_objective_are_recorded_with_the_steps() -> None:
    x = Banana.draw(0.6, 1.0, 200)
    ends = []
    for compile in ("trace", False):
        program = Banana(torch.zeros(2))
        program.objective = ContrastiveDivergence(2, persistent=100)
        result = pg.fit(program, x, epochs=2, batch_size=50, seed=1, compile=compile, progress=False)
        assert result.mode == ("traced" if compile else "eager"), result.mode_reason
        ends.append((program.theta.detach(), program.objective.chains))
    for recorded, eager in zip(*ends, strict=True):
        assert torch.allclose(recorded, eager, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# What does not go together


class MyELBO(ELBO):
    """A user's own objective, which says nothing of kinds."""


class Tilted(Program):
    """N(0, 1) with factor w x: the maximum of the likelihood is at the mean, the ELBO has none."""

    def __init__(self, objective: Objective | None = None) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        if objective is not None:
            self.objective = objective

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            x = observe("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), x)
            pyro.factor("tilt", x @ self.w)
            return x


def test_a_bound_of_the_users_own_does_not_train_an_energy() -> None:
    x = torch.ones(50, 1)
    program = Tilted()
    with pytest.raises(ValueError, match=r"Tilted is unnormalised .*MyELBO is right for what is exact or bound"):
        fitted(program, MyELBO(), x)
    with pytest.raises(ValueError, match="give objective= one of ContrastiveDivergence"):
        pg.fit(program, x, epochs=1, progress=False)
    assert program.w.item() == 0
    report = pg.check_program(Tilted(MyELBO()), x)
    assert [r.name for r in report.failures] == ["objective"]
    fitted(program, ContrastiveDivergence(20), x, 200, lr=0.03, batch_size=50)
    assert abs(program.w.item() - 1) < 0.1


@pytest.mark.parametrize(
    "objective",
    [ContrastiveDivergence(), ScoreMatching(), ScoreMatching("denoising", noise=0.1), ScoreMatching("sliced")],
)
def test_an_energy_with_an_objective_of_its_own_passes_the_suite(objective: Objective) -> None:
    pg.check_program(Tilted(objective), torch.randn(9, 1)).raise_for_failures()


class Careless(ContrastiveDivergence):
    """The planted defect: it counts on complete data, and does not say so."""

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        return ScoreMatching().loss(program, x.nan_to_num(nan=torch.inf), *context)


def test_an_objective_that_cannot_do_with_missing_entries_is_found_out() -> None:
    report = pg.check_program(Tilted(Careless()), torch.randn(9, 1))
    assert [(r.name, "with NaN in x" in r.message) for r in report.failures] == [("objective", True)]


@pytest.mark.parametrize("objective", [ContrastiveDivergence(), NoiseContrastive()])
def test_a_bound_is_not_trained_by_them(objective: Objective) -> None:
    with pytest.raises(ValueError, match="VAE is bound"):
        pg.fit(pg.models.VAE(3, 2, (4,)), torch.ones(8, 3), objective=objective, epochs=1, progress=False)


@pytest.mark.parametrize("objective", [ScoreMatching(), NoiseContrastive(), PseudoLikelihood()])
def test_missing_entries_are_refused_by_who_cannot_do_with_them(objective: Objective) -> None:
    x = torch.zeros(8, 1)
    x[0] = torch.nan
    with pytest.raises(ValueError, match=f"{type(objective).__name__} is for complete data"):
        objective.loss(Tilted(), x)
    with pytest.raises(ValueError, match="ContrastiveDivergence, which draws them"):
        fitted(Tilted(), objective, x)
