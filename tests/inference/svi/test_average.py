"""The moving average of weights: its formula, what sees it, and what a checkpoint keeps of it."""

from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference.svi import loop
from pyro_gen.inference.svi.average import MovingAverage

X = torch.randn(60, 1, generator=torch.Generator().manual_seed(0)) + 3


class Place(pg.Program):
    """N(loc, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)


def run(epochs: int = 8, ema: float | None = 0.9, **options: Any) -> tuple[Place, pg.FitResult]:
    program = Place()
    defaults: dict[str, Any] = dict(batch_size=20, lr=0.1, progress=False, validation=X[:20])
    return program, pg.fit(program, X, epochs=epochs, ema=ema, **(defaults | options))


def loss_of(loc: Tensor) -> float:
    return float(-dist.Normal(loc, 1.0).log_prob(X[:20]).mean())


def test_it_is_the_average_of_the_weights_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    path: list[Tensor] = []
    step = torch.optim.Adam.step

    def noted(self: torch.optim.Adam, *arguments: Any) -> None:
        step(self, *arguments)
        path.append(self.param_groups[0]["params"][0].detach().clone())

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    program, result = run(epochs=8)
    average, seen = torch.zeros(1), []
    for t, loc in enumerate(path, 1):
        decay = min(0.9, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * loc
        seen.append(average)
    torch.testing.assert_close(program.loc.detach(), average)
    losses = [loss_of(average) for average in seen[2::3]]  # three steps an epoch
    assert [row["validation_loss"] for row in result.history] == pytest.approx(losses, abs=1e-5)
    plain, _ = run(epochs=8, ema=None)
    assert torch.equal(plain.loc.detach(), path[-1])  # the run itself is the same
    assert abs(program.loc.item() - plain.loc.item()) > 0.05


def test_an_interrupted_run_has_the_average_of_the_uninterrupted_one(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    whole, _ = run(epochs=6)
    run(epochs=3, checkpoint=file)
    resumed, result = run(epochs=6, checkpoint=file, resume=True)
    assert torch.equal(whole.loc, resumed.loc)
    again, _ = run(epochs=6, checkpoint=file, resume=True)  # nothing is left to do
    assert torch.equal(again.loc, whole.loc) and result.steps == 18
    with pytest.raises(ValueError, match=r"its ema is 0\.9, not 0\.99"):
        run(epochs=7, ema=0.99, checkpoint=file, resume=True)


def test_patience_returns_to_the_best_average() -> None:
    program, result = run(epochs=60, patience=2, lr=0.5)
    assert result.stopped == "patience" and result.best_epoch is not None
    best = result.history[result.best_epoch - 1]["validation_loss"]
    assert loss_of(program.loc.detach()) == pytest.approx(best, abs=1e-5)


def test_after_a_loss_that_is_not_finite_the_last_good_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs, plain = iter(range(9)), run(epochs=1, ema=None)[0]
    gradient = loop.Training._step

    def broken(self: Any, *arguments: Any) -> float:
        if next(epochs) == 6:
            raise pg.inference.NonFiniteLossError("broken")
        return gradient(self, *arguments)

    monkeypatch.setattr(loop.Training, "_step", broken)
    program = Place()
    with pytest.raises(pg.inference.NonFiniteLossError):
        pg.fit(program, X, epochs=4, batch_size=20, lr=0.1, ema=0.9, progress=False)
    assert torch.equal(program.loc, plain.loc)


def test_its_decay_is_checked() -> None:
    for ema in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            run(ema=ema)


def test_what_stands_still_and_what_is_no_weight_is_left_alone() -> None:
    module = nn.BatchNorm1d(2)
    module.weight.requires_grad_(False)
    average = MovingAverage(module, 0.5)
    assert list(average.values) == ["bias"]
