"""Games of several players: whose parameters a step moves, on which minibatches, in which order, and what is kept."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference import NonFiniteLossError, Objective, Player
from pyro_gen.inference.progress import TrainingBar
from pyro_gen.inference.svi.step import GradientStep, LossModule, compiler_available
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
        self.seen: list[tuple[str, Tensor]] = []

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


def test_the_players_reach_what_one_reaches() -> None:
    objective = Apart(steps=2)
    result, program = play(objective)
    assert result.mode == "traced"
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


@pytest.mark.slow
@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")
def test_compiled_games_are_the_same_computation_each_player_with_its_own_optimiser() -> None:
    (eager, a), (compiled, b) = (play(compile=c, epochs=5) for c in (False, True))
    assert compiled.mode == "compiled"
    torch.testing.assert_close([b.loc, b.log_scale], [a.loc, a.log_scale], rtol=1e-5, atol=1e-6)
    assert [r["critic_loss"] for r in compiled.history] == pytest.approx([r["critic_loss"] for r in eager.history])


def test_twin_the_other_players_parameters_as_constants_are_another_game(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that keeps what the others were at first: the verification finds it, and without that the figures."""
    functional = GradientStep._functional

    def forgetful(self: GradientStep, like: Sequence[Any], *flat: Tensor) -> list[Tensor]:
        n, m = len(self.parameters), len(self.others)
        return functional(self, like, *flat[:n], *(p.detach() for p in self.others), *flat[n + m :])

    monkeypatch.setattr(GradientStep, "_functional", forgetful)
    with pytest.raises(ValueError, match="another result than the program"):
        play(compile="trace", epochs=1)
    monkeypatch.setattr(GradientStep, "_verify", lambda *_: None)
    objective = Apart()
    play(objective, compile="trace")
    assert abs(objective.critic.bias.item()) < 1  # of 2 loc at the start, and not of what loc becomes


class Watched(Apart):
    """Notes who sees which rows, and whose parameters have a gradient."""

    def likelihood(self, program: pg.Program, x: Tensor) -> Tensor:
        self.seen.append(("likelihood", x.flatten()))
        return super().likelihood(program, x)

    def fit_mean(self, program: pg.Program, x: Tensor) -> Tensor:
        self.seen.append(("critic", x.flatten()))
        return super().fit_mean(program, x)


def test_the_players_take_turns_each_with_minibatches_of_its_own() -> None:
    objective = Watched(steps=2)
    play(objective, epochs=2, compile=False)
    assert [name for name, _ in objective.seen] == (["likelihood"] * 3 + ["critic"]) * 6
    firsts = [objective.seen[k][1] for k in range(4)]
    assert not any(torch.equal(a, b) for i, a in enumerate(firsts) for b in firsts[:i])
    passes = [torch.cat([objective.seen[4 * i + k][1] for i in range(3)]) for k in (0, 3)]
    passes += [
        torch.cat([objective.seen[4 * i + k][1] for i in (0, 1, 2) for k in (1, 2)][3 * j :][:3]) for j in (0, 1)
    ]
    for order in passes:
        assert torch.equal(order.sort().values, X.flatten().sort().values)


def test_a_step_moves_the_parameters_of_its_player_alone() -> None:
    program, objective = Normal(), Apart()
    objective.prepare(program, X)
    for player in objective.players(program):
        module = LossModule(program, objective, len(X), missing=False, player=player)
        for parameter in module.parameters():
            parameter.grad = None
        for mode in ("eager", "traced"):
            before = {p: p.clone() for p in module.parameters()}
            GradientStep(module, torch.optim.Adam(module.own.values()), None, mode)([X], torch.ones(()))
            moved = {id(p) for p, value in before.items() if not torch.equal(p, value)}
            assert moved and moved <= {id(p) for p in player.parameters}  # the critic's weight has no gradient


@pytest.mark.parametrize("compile", [False, "trace"])
def test_an_interrupted_game_ends_where_the_uninterrupted_one_does(tmp_path: Path, compile: bool | str) -> None:
    options: dict[str, Any] = dict(compile=compile, schedule="constant", validation=X[:20])
    file, objectives = tmp_path / "checkpoint.pt", [Apart(2), Apart(2), Apart(2)]
    whole, a = play(objectives[0], epochs=6, **options)
    play(objectives[1], epochs=3, checkpoint=file, **options)
    resumed, b = play(objectives[2], epochs=6, checkpoint=file, resume=True, log_dir=tmp_path, **options)
    assert torch.equal(a.loc, b.loc) and torch.equal(a.log_scale, b.log_scale)
    assert torch.equal(objectives[0].critic.weight, objectives[2].critic.weight)
    assert whole.steps == resumed.steps == 18
    for row, other in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}
    with (tmp_path / "metrics.csv").open() as log:
        assert [float(row["critic_loss"]) for row in csv.DictReader(log)] == [r["critic_loss"] for r in whole.history]
    with pytest.raises(ValueError, match="settings of the objective differs"):
        play(Apart(3), epochs=7, checkpoint=file, resume=True, **options)


def test_twin_without_the_optimisers_state_the_resumed_game_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "checkpoint.pt"
    _, a = play(epochs=6, schedule="constant")
    play(epochs=3, schedule="constant", checkpoint=file)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "load_state_dict", lambda *_: None)
        _, b = play(epochs=6, schedule="constant", checkpoint=file, resume=True)
    assert not torch.equal(a.loc, b.loc)


def test_settings_of_fit_hold_for_all_and_those_of_a_player_for_itself() -> None:
    seen: list[tuple[float, tuple[float, float], float]] = []
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        group = self.param_groups[0]
        seen.append((group["lr"], group["betas"], group["weight_decay"]))
        return step(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", noted)
        play(epochs=2, weight_decay=0.1, schedule=lambda share: 1 - share, compile=False)
    assert seen[0] == (0.05, (0.9, 0.999), 0.1) and seen[1] == (0.03, (0.5, 0.9), 0.1)
    assert seen[9][0] == pytest.approx(0.05 * 0.5) and seen[10][0] == pytest.approx(0.03 * 0.5)


class Breaks(Apart):
    """Its critic's loss is infinite from the third epoch on."""

    def fit_mean(self, program: pg.Program, x: Tensor) -> Tensor:
        self.rounds = getattr(self, "rounds", 0) + 1
        return super().fit_mean(program, x) * (torch.inf if self.rounds > 6 else 1.0)


def test_the_guard_names_the_player_and_keeps_good_weights() -> None:
    program, two_epochs = Normal(), Normal()
    options: dict[str, Any] = dict(batch_size=20, lr=0.05, progress=False, compile=False)
    with pytest.raises(NonFiniteLossError, match="The loss of the player 'critic' became inf in epoch 3"):
        pg.fit(program, X, objective=Breaks(), epochs=4, **options)
    # The third epoch began with weights at which a player has an infinite loss: those of the second are kept.
    pg.fit(two_epochs, X, objective=Apart(), epochs=1, **options)
    assert torch.equal(program.loc, two_epochs.loc)


class Validated(Apart):
    """Reports a loss that no player has."""

    def loss(self, program: pg.Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        return data_scale(x) * (x - program.loc).square().sum()


def test_validation_is_by_the_first_player_or_by_the_objectives_own_loss() -> None:
    result, program = play(epochs=3, validation=X)
    expected = -dist.Normal(program.loc, program.log_scale.exp()).log_prob(X).mean()
    assert result.history[-1]["validation_loss"] == pytest.approx(expected.item(), abs=1e-5)
    result, program = play(Validated(), epochs=3, validation=X)
    expected = (X - program.loc).square().mean()
    assert result.history[-1]["validation_loss"] == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize(
    ("players", "message"),
    [
        (lambda p, o: [], "Given has no players"),
        (lambda p, o: [Player("a", [p.loc], o.likelihood), Player("b", [p.loc], o.likelihood)], "moves 'loc', and 'a'"),
        (lambda p, o: [Player("a", [p.loc], o.likelihood), Player("a", [p.log_scale], o.likelihood)], "of another"),
        (lambda p, o: [Player("a", [nn.Parameter(torch.ones(3))], o.likelihood)], "neither the program's nor"),
        (lambda p, o: [Player("a", [], o.likelihood)], "no parameters to train"),
        (lambda p, o: [Player("a", [p.loc], o.likelihood, steps=0)], "both are positive"),
        (lambda p, o: [Player("a", [p.loc], o.likelihood, lr=-1.0)], "both are positive"),
    ],
)
def test_players_that_cannot_play_are_refused(players: Any, message: str) -> None:
    class Given(Apart):
        def players(self, program: pg.Program) -> Sequence[Player]:
            return players(program, self)

    with pytest.raises(ValueError, match=message):
        play(Given(), epochs=1)


def test_an_objective_needs_a_loss_or_players() -> None:
    with pytest.raises(NotImplementedError, match="neither a loss nor players"):
        play(type("Nothing", (Objective,), {})(), epochs=1)


def test_the_progress_bar_shows_the_loss_of_each_player(capsys: pytest.CaptureFixture[str]) -> None:
    texts: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingBar, "advance", lambda self, steps: True)
        patch.setattr(TrainingBar, "show", lambda self, text: texts.append(text))
        play(epochs=1)
    assert re.fullmatch(r"epoch 1/1  loss \d+\.\d{4}  width \d+\.\d{4}  critic \d+\.\d{4}", texts[-1])
