"""Games of several players: whose parameters a step moves, on which minibatches, in which order, and what is kept."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference import Objective, Player
from pyro_gen.program import data_scale

X = torch.randn(60, 1, generator=torch.Generator().manual_seed(0)) * 2 + 3


class Normal(pg.Program):
    """N(loc, exp(log_scale)^2): two parameters, which two players can share out."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc, self.log_scale.exp()).to_event(1), x)


class Apart(Objective):
    """The likelihood, climbed by one player for each parameter; a third has a module of the objective's own."""

    anneals = False

    def __init__(self, steps: int = 1) -> None:
        super().__init__()
        self.steps = steps
        self.seen: list[tuple[str, int]] = []

    def prepare(self, program: pg.Program, x: Tensor, *context: Any) -> None:
        self.critic = nn.Linear(x.shape[1], 1)

    def players(self, program: pg.Program) -> Sequence[Player]:
        return (
            Player("place", [program.loc], self.likelihood),
            Player("width", [program.log_scale], self.likelihood, steps=self.steps, lr=0.03, betas=(0.5, 0.9)),
            Player("critic", list(self.critic.parameters()), self.fit_mean),
        )

    def likelihood(self, program: pg.Program, x: Tensor) -> Tensor:
        trace = pyro.poutine.trace(program.model).get_trace(x)
        return -trace.log_prob_sum()

    def fit_mean(self, program: pg.Program, x: Tensor) -> Tensor:
        """Its critic learns 2 loc, a value that another player moves."""
        return data_scale(x) * (self.critic(0 * x) - 2 * program.loc).square().sum()


def play(objective: Objective | None = None, **options: Any) -> tuple[pg.FitResult, Normal]:
    program = Normal()
    defaults: dict[str, Any] = dict(epochs=150, batch_size=20, lr=0.05, schedule="cosine", progress=False)
    return pg.fit(program, X, objective=objective or Apart(), **(defaults | options)), program


@pytest.mark.parametrize("compile", [False, "trace"])
def test_the_players_reach_what_one_reaches(compile: bool | str) -> None:
    objective = Apart(steps=2)
    result, program = play(objective, compile=compile)
    assert result.mode == ("traced" if compile else "eager")
    assert result.steps == 150 * 3  # rounds
    assert program.loc.item() == pytest.approx(X.mean().item(), abs=0.02)
    assert program.log_scale.exp().item() == pytest.approx(X.std(correction=0).item(), abs=0.02)
    assert objective.critic.bias.item() == pytest.approx(2 * X.mean().item(), abs=0.1)
    row = result.history[-1]
    assert list(row) == ["epoch", "train_loss", "width_loss", "critic_loss", "lr", "kl_weight", "seconds"]
    assert row["train_loss"] == pytest.approx(row["width_loss"], abs=0.2)


def test_recorded_and_eager_games_are_the_same_computation() -> None:
    (eager, a), (traced, b) = (play(compile=c, epochs=5) for c in (False, "trace"))
    assert torch.equal(a.loc, b.loc) and torch.equal(a.log_scale, b.log_scale)
    assert [r["critic_loss"] for r in eager.history] == pytest.approx([r["critic_loss"] for r in traced.history])
