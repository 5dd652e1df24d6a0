"""Objectives that compare draws with data: gradients and expectations that are known, and where the games end.

Statistical checks compare means at 4.5 standard errors: false-alarm rate 7e-6 per number. Seeds are fixed.
"""

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference import MMD, Adversarial
from pyro_gen.inference.objectives.discrepancy import squared_mmd
from pyro_gen.inference.objectives.generation import generate
from pyro_gen.program import data_size

Z = 4.5


class Point(pg.Program):
    """x = theta: Mescheder et al.'s Dirac-GAN, together with the critic psi x."""

    def __init__(self, theta: float = 1.0) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([theta]))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            return pg.observe("x", dist.Delta(self.theta, event_dim=1).expand([len(x)]), x)


class LocationScale(pg.Program):
    """x = m + s z, as a generator or by the normal density of x."""

    def __init__(self, implicit: bool = True, start: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.implicit = implicit
        self.m, self.log_s = (nn.Parameter(torch.tensor([v])) for v in start)

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            if not self.implicit:
                return pg.observe("x", dist.Normal(self.m, self.log_s.exp()).to_event(1), x)
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pg.observe("x", dist.Delta(self.m + self.log_s.exp() * z, event_dim=1), x)


def linear(psi: float = 0.5) -> nn.Linear:
    critic = nn.Linear(1, 1, bias=False)
    nn.init.constant_(critic.weight, psi)
    return critic


# ----------------------------------------------------------------------------------------------------------------------
# Adversarial


def gradients(objective: Adversarial, program: pg.Program, x: Tensor) -> list[float]:
    """Of the generator, then of the critic."""
    found = []
    for player in objective.players(program):
        found += [g.item() for g in torch.autograd.grad(player.loss(program, x) / len(x), player.parameters)]
    return found


def test_gradients_of_both_players_for_a_linear_critic() -> None:
    theta, psi, gamma = 1.3, 0.5, 0.7
    x = torch.randn(7, 1, generator=torch.Generator().manual_seed(0))

    def mean_at_data(slope: Any) -> float:
        return float((slope(psi * x) * x).mean())

    def sigmoid(v: float) -> float:
        return 1 / (1 + math.exp(-v))

    cases = {
        "non_saturating": (
            -sigmoid(-psi * theta) * psi,
            mean_at_data(lambda d: -torch.sigmoid(-d)) + sigmoid(0.65) * theta,
        ),
        "wasserstein": (-psi, theta - float(x.mean())),
        "hinge": (-psi, theta - float(x[psi * x < 1].sum()) / 7),
    }
    for loss, (of_generator, of_critic) in cases.items():
        found = gradients(Adversarial(linear(psi), loss, r1=gamma), Point(theta), x)
        assert found == pytest.approx([of_generator, of_critic + gamma * psi], abs=1e-6), loss
    # lambda (|psi| - 1)^2, wherever the points between lie.
    found = gradients(Adversarial(linear(psi), "wasserstein", r1=0, gradient_penalty=10), Point(theta), x)
    assert found == pytest.approx([-psi, theta - float(x.mean()) + 2 * 10 * (psi - 1)], abs=1e-4)


@pytest.mark.parametrize(("r1", "converges"), [(1.0, True), (0.0, False)])
def test_the_penalty_makes_the_game_converge(r1: float, converges: bool) -> None:
    """Without it the two players circle around the data at 0 for ever (Mescheder et al., 2018, figure 1)."""
    objective, program, x = Adversarial(linear(0.0), r1=r1), Point(1.0), torch.zeros(1, 1)
    for _ in range(400):
        for player in objective.players(program):
            (gradient,) = torch.autograd.grad(player.loss(program, x), player.parameters)
            with torch.no_grad():
                player.parameters[0] -= 0.2 * gradient.reshape(player.parameters[0].shape)
    distance = math.hypot(program.theta.item(), objective.critic.weight.item())
    assert (distance < 1e-3) == converges and (distance > 0.2) != converges


def test_the_recorded_game_is_the_eager_one_and_resumes_with_its_critic(tmp_path: Path) -> None:
    x = 2 * torch.randn(64, 1) + 3

    def play(epochs: int = 3, **options: Any) -> tuple[pg.FitResult, Adversarial]:
        pyro.set_rng_seed(0)
        objective = Adversarial((4,), "wasserstein", r1=0.1, gradient_penalty=1.0, critic_steps=2, critic_lr=0.02)
        fixed: dict[str, Any] = {"batch_size": 32, "lr": 0.01, "progress": False}
        return pg.fit(LocationScale(), x, objective=objective, epochs=epochs, **fixed, **options), objective

    (eager, critic), (traced, _) = play(compile=False), play(compile="trace")
    assert traced.mode == "traced" and eager.mode == "eager"
    weights = [torch.cat([p.flatten() for p in r.program.parameters()]) for r in (eager, traced)]
    assert torch.allclose(*weights, atol=1e-6) and weights[0].abs().min() > 0
    checkpoint = tmp_path / "game.ckpt"
    with pytest.raises(KeyboardInterrupt):
        _interrupted(lambda: play(checkpoint=checkpoint, compile=False))
    _, resumed = play(checkpoint=checkpoint, resume=True, compile=False)
    for a, b in zip(critic.critic.parameters(), resumed.critic.parameters(), strict=True):
        assert torch.equal(a, b)


def _interrupted(run: Any) -> None:
    """Stops a run in its second epoch."""
    from pyro_gen.inference.svi.loop import Training

    original = Training._epoch

    def stop(self: Training, epoch: int, bar: Any) -> dict[str, float]:
        if epoch == 1:
            raise KeyboardInterrupt
        return original(self, epoch, bar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_epoch", stop)
        run()


def test_a_critic_of_a_programs_own_objective_is_not_the_generators() -> None:
    program = Point()
    program.objective = Adversarial((4,))
    program.objective.prepare(program, torch.zeros(3, 1))
    generator, critic = program.objective.players(program)
    assert generator.parameters == [program.theta] and len(critic.parameters) == 4
    x = torch.ones(8, 1)
    result = pg.fit(program, x, epochs=2, progress=False)
    assert set(result.history[-1]) >= {"train_loss", "critic_loss"}


def test_a_critic_sees_the_context() -> None:
    """x = c + noise: the generator learns the slope from pairs, of which the marginals tell nothing."""
    torch.manual_seed(0)
    c = torch.randn(2000, 1)
    x = -c + 0.1 * torch.randn(2000, 1)

    class Conditional(pg.Program):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.1))

        def model(self, x: Tensor, c: Tensor) -> Tensor:
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 0.1).to_event(1))
                return pg.observe("x", dist.Delta(self.slope * c + z, event_dim=1), x)

    for objective in (MMD(), Adversarial((16,), r1=0.1)):
        program = Conditional()
        pg.fit(program, (x, c), objective=objective, epochs=20, lr=0.02, schedule="cosine", progress=False)
        assert program.slope.item() == pytest.approx(-1, abs=0.1)


# ----------------------------------------------------------------------------------------------------------------------
# MMD

W = 1.5


def expected(m: Tensor, s: Tensor, x: Tensor) -> Tensor:
    """E k(y, y') - 2 E k(x, y) for y ~ N(m, s^2), at each x: N values whose mean is the squared MMD less a constant."""
    cross = W / (W**2 + s**2).sqrt() * (-((x - m) ** 2) / (2 * (W**2 + s**2))).exp()
    return W / (W**2 + 2 * s**2).sqrt() - 2 * cross


class Biased(MMD):
    """The twin: an average over all pairs, also of a draw with itself, in which draws do not repel enough."""

    def loss(self, program: pg.Program, x: Tensor, *context: Any, **options: Any) -> Tensor:
        n = len(x)
        unbiased = super().loss(program, x, *context) / n
        return n * ((1 - 1 / n) * unbiased + 2 / n)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("twin", [False, True])
def test_the_expectation_of_the_loss_is_the_discrepancy(implicit: bool, twin: bool) -> None:
    m, s = torch.tensor(0.5), torch.tensor(0.6)
    of_data = W / (W**2 + 2) ** 0.5
    grid = torch.linspace(-8, 8, 4001)
    exact = torch.trapezoid(dist.Normal(0.0, 1.0).log_prob(grid).exp() * expected(m, s, grid), grid) + of_data
    objective, program = (Biased if twin else MMD)(widths=(W,)), LocationScale(implicit, (0.5, math.log(0.6)))
    losses = torch.tensor([objective.loss(program, torch.randn(6, 1)).item() / 6 for _ in range(1500)])
    off = abs(losses.mean() - exact) > Z * losses.std() / len(losses) ** 0.5
    assert bool(off) == twin


def test_energy_distance_of_two_points() -> None:
    assert MMD(kernel="energy").loss(Point(-2.0), torch.ones(3, 1)).item() == pytest.approx(3 * 2 * 3.0)
    with data_size(30):
        assert MMD(kernel="energy").loss(Point(-2.0), torch.ones(3, 1)).item() == pytest.approx(30 * 2 * 3.0)
    rational = MMD(widths=(3.0, 3.0), kernel="rational_quadratic").loss(Point(-2.0), torch.ones(3, 1))
    assert rational.item() == pytest.approx(3 * 2 * (1 - 1 / 1.5))


class Gathered(MMD):
    """The twin: draws do not repel each other."""

    def loss(self, program: pg.Program, x: Tensor, *context: Any, **options: Any) -> Tensor:
        n, drawn = len(x), generate(program, x)
        k = (-torch.cdist(drawn, drawn).square() / (2 * W**2)).exp()
        among_draws = (k.sum() - k.diagonal().sum()) / (n * (n - 1))
        return n * (squared_mmd(x, drawn, "gaussian", self.widths) - among_draws)


@pytest.mark.parametrize("twin", [False, True])
def test_recovers_location_and_scale(twin: bool) -> None:
    """Within 3 standard errors of the minimum of the discrepancy, by the sandwich formula: 1 seed in 190 fails."""
    truth = torch.tensor([3.0, math.log(2.0)])
    x = truth[0] + truth[1].exp() * torch.randn(2000, 1)
    program = LocationScale()
    objective = (Gathered if twin else MMD)(widths=(W,))
    pg.fit(program, x, objective=objective, epochs=60, batch_size=250, lr=0.05, schedule="cosine", progress=False)
    found = torch.cat([program.m, program.log_s]).detach()

    def terms(t: Tensor) -> Tensor:
        return expected(t[0], t[1].exp(), x[:, 0])

    scores = torch.func.jacrev(terms)(truth)
    inverse = torch.func.jacrev(torch.func.grad(lambda t: terms(t).mean()))(truth).inverse()
    error = (inverse @ scores.T.cov() @ inverse / len(x)).diagonal().sqrt()
    assert bool(((found - truth).abs() > 3 * error).any()) == twin
    assert error.max() < 0.1


def test_widths_follow_the_data() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0]])  # distances 1, 1, 2
    objective = MMD()
    with pytest.raises(ValueError, match="prepare"):
        objective.loss(Point(), x)
    objective.prepare(Point(), x)
    assert objective.widths.tolist() == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert MMD(widths=(2,)).widths.tolist() == [2.0]


# ----------------------------------------------------------------------------------------------------------------------
# What they refuse


class Coin(pg.Program):
    """A class of the given probability chooses between two points."""

    def __init__(self, learned: bool, likelihood: bool = False) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()), requires_grad=learned)
        self.points = nn.Parameter(torch.tensor([-1.0, 1.0]))
        self.likelihood = likelihood

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            k = pyro.sample("k", dist.Bernoulli(logits=self.logit.expand(len(x))))
            point = torch.where(k > 0, self.points[1], self.points[0]).unsqueeze(-1)
            law = dist.Bernoulli(logits=point) if self.likelihood else dist.Delta(point)
            return pg.observe("x", law.to_event(1), x)


@pytest.mark.parametrize("objective", [MMD(widths=(1.0,)), Adversarial(linear())])
def test_draws_through_which_no_gradient_goes_are_refused(objective: Any) -> None:
    x = torch.zeros(4, 1)
    objective.loss(Coin(learned=False), x).backward()  # noise of a fixed law is noise
    with pytest.raises(ValueError, match=r"'k' \(Bernoulli\) cannot be reparameterised"):
        objective.loss(Coin(learned=True), x)
    with pytest.raises(ValueError, match=r"'x' .* cannot be reparameterised"):
        objective.loss(Coin(learned=False, likelihood=True), x)


def test_refusals() -> None:
    holes = torch.tensor([[0.0], [math.nan], [1.0]])
    for objective in (MMD(), Adversarial()):
        with pytest.raises(ValueError, match="for complete data"):
            pg.fit(LocationScale(), holes, objective=objective, epochs=1, progress=False)
    with pytest.raises(ValueError, match="two rows"):
        pg.fit(LocationScale(), holes[:1], objective=MMD((1.0,)), epochs=1, progress=False)
    pg.fit(LocationScale(), holes[[0, 0, 2]], objective=MMD((1.0,)), batch_size=2, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"returns shape \(3, 2\)"):
        Adversarial(nn.Linear(1, 2)).loss(Point(), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="choose one of non_saturating"):
        Adversarial(loss="maximin")
    with pytest.raises(ValueError, match="or call prepare"):
        Adversarial().players(Point())
    for wrong in ({"kernel": "cosine"}, {"widths": (0.0,)}, {"widths": (1.0,), "kernel": "energy"}):
        with pytest.raises(ValueError, match="MMD"):
            MMD(**wrong)  # type: ignore[arg-type]
