"""Wake-sleep on models whose latent variables can be summed over: gradients of both players, and the exact MLE."""

import itertools
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference import Objective, Player, ReweightedWakeSleep, WakeSleep
from pyro_gen.inference.objectives.base import vmapped
from pyro_gen.program import Program, data_scale

STATES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)))  # all x, (4, 2)


class Mixture(Program):
    """z in {0, 1, 2}, two coins given z; the guide is a linear classifier of x."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mixing = nn.Parameter(torch.randn(3, generator=generator, dtype=dtype))
        self.coins = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=dtype))
        self.slope = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=dtype))
        self.shift = nn.Parameter(torch.randn(3, generator=generator, dtype=dtype))

    def posterior(self, x: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=x.nan_to_num(0.5) @ self.slope.T + self.shift)

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z = pyro.sample("z", dist.Categorical(logits=self.mixing))
            return pg.observe("x", dist.Bernoulli(logits=self.coins[z]).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("z", self.posterior(x))

    def log_joint(self, x: Tensor) -> Tensor:
        """Log p(x, z) for all z, (N, 3)."""
        given_z = dist.Bernoulli(logits=self.coins).to_event(1).log_prob(x[:, None])
        return self.mixing.log_softmax(0) + given_z

    def log_guide(self, x: Tensor) -> Tensor:
        return (x @ self.slope.T + self.shift).log_softmax(-1)  # (N, 3)


def exact_losses(program: Mixture, x: Tensor, k: int) -> dict[str, Tensor]:
    """Losses with the gradients of the players' expected ones, by sums over the draws of all particles."""
    log_p, log_q = program.log_joint(x), program.log_guide(x)
    q, model, awake = log_q.detach().exp(), x.new_zeros(()), x.new_zeros(())
    for draws in map(list, itertools.product(range(3), repeat=k)):
        chance = q[:, draws].prod(1)
        log_w = log_p[:, draws] - log_q.detach()[:, draws]
        model = model - (chance * (log_w.logsumexp(1) - math.log(k))).sum()
        awake = awake - (chance * (log_w.detach().softmax(1) * log_q[:, draws]).sum(1)).sum()
    states = STATES.to(x)
    asleep = -len(x) * (program.log_joint(states).detach().exp() * program.log_guide(states)).sum()
    return {"model": model, "awake": awake, "asleep": asleep}


X = STATES[[0, 1, 3, 3, 2]].double()
REPEATS, COPIES = 150, 60


def deviations(objective: Objective, player: int, exact: Tensor, program: Mixture) -> Tensor:
    """How many standard errors the gradients of a player are from exact ones, component by component."""
    objective.prepare(program, X)
    who = objective.players(program)[player]
    truth = torch.cat([g.flatten() for g in torch.autograd.grad(exact, who.parameters)])
    rows, draws = X.repeat(COPIES, 1), []
    torch.manual_seed(1)
    for _ in range(REPEATS):
        gradients = torch.autograd.grad(who.loss(program, rows), who.parameters)
        draws.append(torch.cat([g.flatten() for g in gradients]) / COPIES)
    estimates = torch.stack(draws)
    return (estimates.mean(0) - truth).abs() / (estimates.std(0) / REPEATS**0.5)


class Unnormalised(ReweightedWakeSleep):
    """Twin: the guide's weights do not sum to one."""

    def guide_loss(self, program: Program, x: Tensor, *context: Any) -> Tensor:
        log_p, log_q = vmapped(lambda: self._log_densities(program, x), self.num_particles)
        return -data_scale(x) * ((log_p - log_q).exp().detach() * log_q).mean(0).sum()


class Swapped(ReweightedWakeSleep):
    """Twin: the guide follows the loss of the model, through its density."""

    def players(self, program: Program) -> list[Player]:
        model, guide = super().players(program)
        return [model, Player("guide", guide.parameters, self.bound)]

    def bound(self, program: Program, x: Tensor) -> Tensor:
        log_p, log_q = vmapped(lambda: self._log_densities(program, x), self.num_particles)
        return -data_scale(x) * torch.logsumexp(log_p - log_q, 0).sum()


class Awake(WakeSleep):
    """Twin: the guide is asleep and sees the data."""

    def __init__(self) -> None:
        super().__init__()
        self.sleep = 0.0


CASES = {
    "model": (lambda: ReweightedWakeSleep(2), 0, "model", 2),
    "model, three particles": (lambda: ReweightedWakeSleep(3), 0, "model", 3),
    "guide, awake": (lambda: ReweightedWakeSleep(2), 1, "awake", 2),
    "guide, asleep": (lambda: ReweightedWakeSleep(2, sleep=1.0), 1, "asleep", 2),
    "wake-sleep, model": (WakeSleep, 0, "model", 1),
    "wake-sleep, guide": (WakeSleep, 1, "asleep", 1),
}
TWINS = {
    "not normalised": (lambda: Unnormalised(2), 1, "awake", 2),
    "the wrong loss": (lambda: Swapped(2), 1, "awake", 2),
    "another number of particles": (lambda: ReweightedWakeSleep(2), 0, "model", 1),
    "no dreams": (Awake, 1, "asleep", 1),
}

# At most 9 components of a gradient, each beyond 4.7 standard errors of 150 with a chance of 6e-6: 1e-4 for all cases.
LIMIT = 4.7


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gradient_of_a_player_is_the_exact_one(case: str) -> None:
    make, player, name, k = CASES[case]
    program = Mixture(torch.float64)
    assert deviations(make(), player, exact_losses(program, X, k)[name], program).max() < LIMIT


@pytest.mark.parametrize("twin", TWINS, ids=str)
def test_twin_the_gradient_is_another(twin: str) -> None:
    make, player, name, k = TWINS[twin]
    program = Mixture(torch.float64)
    assert deviations(make(), player, exact_losses(program, X, k)[name], program).max() > 2 * LIMIT


def test_the_value_of_the_loss_is_the_importance_weighted_bound() -> None:
    """Its mean over 300 repeats is within 4.7 standard errors, a chance of 3e-6 to fail; that of K - 1 is not."""
    program, x = Mixture(torch.float64), X.repeat(20, 1)
    torch.manual_seed(2)
    values = torch.stack([ReweightedWakeSleep(3).loss(program, x).detach() / 20 for _ in range(300)])
    error = values.std() / 300**0.5
    assert abs(values.mean() - exact_losses(program, X, 3)["model"]) < LIMIT * error
    assert abs(values.mean() - exact_losses(program, X, 2)["model"]) > LIMIT * error


def test_the_guides_phases_mix() -> None:
    program = Mixture(torch.float64)

    def gradient(sleep: float) -> Tensor:
        draws = []
        torch.manual_seed(3)
        for _ in range(100):
            loss = ReweightedWakeSleep(2, sleep=sleep).guide_loss(program, X.repeat(COPIES, 1))
            draws.append(torch.autograd.grad(loss, program.slope)[0].flatten() / COPIES)
        return torch.stack(draws)

    exact = exact_losses(program, X, 2)
    truth = torch.autograd.grad(0.3 * exact["asleep"] + 0.7 * exact["awake"], program.slope)[0].flatten()
    draws = gradient(0.3)
    assert ((draws.mean(0) - truth).abs() / (draws.std(0) / 10)).max() < LIMIT


TABLE = STATES.repeat_interleave(torch.tensor([3, 1, 2, 6]), 0)  # counts of the four x
BEST = float((torch.tensor([3.0, 1, 2, 6]) * torch.tensor([3.0, 1, 2, 6]).div(12).log()).sum() / 12)


def trained(objective: Objective, **options: Any) -> tuple[Mixture, pg.FitResult]:
    program = Mixture()
    defaults: dict[str, Any] = dict(epochs=400, batch_size=120, lr=0.05, schedule="cosine", progress=False)
    return program, pg.fit(program, TABLE.repeat(10, 1), objective=objective, **(defaults | options))


def log_likelihood(program: Mixture) -> float:
    return program.log_joint(TABLE).logsumexp(1).mean().item()


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (ReweightedWakeSleep(10), {"epochs": 250}),
        (ReweightedWakeSleep(10, sleep=0.5), {"epochs": 250}),
        (WakeSleep(), {"epochs": 600, "lr": 0.2}),  # it has no weights to correct a guide that lags behind
    ],
    ids=["awake", "both", "wake-sleep"],
)
def test_training_reaches_the_maximum_of_the_likelihood(objective: Objective, options: dict[str, Any]) -> None:
    """Three components fit any law of two coins: it is the negative entropy of the counts. The guide is exact too."""
    program, result = trained(objective, **options)
    assert result.mode == "traced"
    assert BEST - 2e-3 < log_likelihood(program) <= BEST + 1e-6
    row = result.history[-1]
    assert {"train_loss", "guide_loss"} < set(row)
    with torch.no_grad():
        posterior, guide = program.log_joint(TABLE).softmax(1), program.log_guide(TABLE).exp()
    assert (posterior - guide).abs().max() < 0.1


def test_twin_without_its_guide_the_model_stays_below() -> None:
    class Alone(ReweightedWakeSleep):
        def players(self, program: Program) -> list[Player]:
            return list(super().players(program)[:1])

    program, _ = trained(Alone(1))
    assert log_likelihood(program) < BEST - 2e-2


def test_recorded_and_eager_runs_are_the_same() -> None:
    for objective in (ReweightedWakeSleep(3, sleep=0.5), WakeSleep()):
        runs = [trained(objective, epochs=3, compile=c) for c in (False, "trace")]
        (a, eager), (b, traced) = runs
        assert (eager.mode, traced.mode) == ("eager", "traced")
        for x, y in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_a_model_that_stands_still_gets_a_guide() -> None:
    """Asleep alone, with a model of no parameters: amortised inference from simulations."""
    program = Mixture()
    for parameter in (program.mixing, program.coins):
        parameter.requires_grad_(False)
    result = pg.fit(
        program, TABLE.repeat(20, 1), objective=WakeSleep(), epochs=300, batch_size=240, lr=0.05, progress=False,
        schedule="cosine",
    )  # fmt: skip
    assert "guide_loss" not in result.history[-1]  # the guide is the only player
    with torch.no_grad():
        posterior = program.log_joint(STATES).softmax(1)
        torch.testing.assert_close(program.log_guide(STATES).exp(), posterior, atol=0.06, rtol=0)


def test_missing_entries_are_summed_out_and_dreams_have_the_same_holes() -> None:
    x = TABLE.clone()
    x[::3, 1] = torch.nan
    seen: list[Tensor] = []

    class Watching(Mixture):
        def posterior(self, x: Tensor) -> dist.Categorical:
            seen.append(x)
            return super().posterior(x)

    WakeSleep().guide_loss(Watching(), x)
    assert torch.equal(torch.isnan(seen[-1]), torch.isnan(x))
    assert not torch.equal(seen[-1].nan_to_num(), x.nan_to_num())
    program = Mixture()
    result = pg.fit(
        program, x.repeat(10, 1), objective=ReweightedWakeSleep(10, sleep=0.3), epochs=300, batch_size=120, lr=0.05,
        schedule="cosine", progress=False,
    )  # fmt: skip
    assert result.mode == "traced"
    direct = Mixture()
    optimizer = torch.optim.Adam([direct.mixing, direct.coins], lr=0.05)

    def exact(program: Mixture) -> Tensor:
        given_z = dist.Bernoulli(logits=program.coins).log_prob(x.nan_to_num()[:, None])
        given_z = given_z.masked_fill(torch.isnan(x)[:, None], 0.0).sum(-1)
        return (program.mixing.log_softmax(0) + given_z).logsumexp(1).mean()

    for _ in range(600):
        optimizer.zero_grad()
        (-exact(direct)).backward()
        optimizer.step()
    assert abs(exact(direct) - exact(program)) < 5e-3


class Shared(Mixture):
    def posterior(self, x: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=x @ self.coins.T + self.shift)


class Global(Program):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> Tensor:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with self.plate(x):
            return pg.observe("x", dist.Normal(shift, 1.0).expand([2]).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("shift", dist.Normal(self.loc, 1.0))


class Auxiliary(Mixture):
    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            extra = pyro.sample("extra", dist.Normal(self.shift[0], 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Categorical(logits=extra[:, None] + x @ self.slope.T))


@pytest.mark.parametrize(
    ("program", "objective", "message"),
    [
        (Shared(), ReweightedWakeSleep(2), "'coins' of Shared is one of the model and of the guide"),
        (Global(), ReweightedWakeSleep(2), "'shift' is global"),
        (pg.models.Gaussian(2), WakeSleep(), "Gaussian is exact"),
        (Mixture().requires_grad_(False), WakeSleep(), "no parameters to train"),
    ],
    ids=["shared", "global", "exact", "frozen"],
)
def test_what_it_is_not_for_is_refused(program: Program, objective: Objective, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pg.fit(program, TABLE, objective=objective, epochs=1, progress=False)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        ReweightedWakeSleep(2, sleep=1.5)
    with pytest.raises(ValueError, match="at least one particle"):
        ReweightedWakeSleep(0)
    with pytest.raises(ValueError, match="The guide samples 'extra' and the model does not"):
        WakeSleep().guide_loss(Auxiliary(), TABLE)
