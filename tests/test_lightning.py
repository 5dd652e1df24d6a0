"""SVIModule under Lightning's Trainer trains what pg.fit trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_gen as pg
from pyro_gen.inference import ELBO, IWAE, DReG, Player, ScoreMatching
from pyro_gen.lightning import SVIModule

# Lightning's advice where a module could validate and the Trainer was given no data for it.
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

X = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.5]) + 1.0


def trainer(folder: Path, **options: Any) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return lightning.Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **quiet, **options)


def test_it_reaches_the_optimum_of_fit_and_its_checkpoint_loads(tmp_path: Path) -> None:
    module = SVIModule(pg.models.Gaussian(2), size=60, lr=0.05)
    run = trainer(tmp_path, max_epochs=150, enable_checkpointing=False)
    run.fit(module, DataLoader(X, batch_size=60), DataLoader(X, batch_size=20))
    fitted = pg.fit(pg.models.Gaussian(2), X, epochs=150, lr=0.05, progress=False)
    torch.testing.assert_close(module.program.loc, X.mean(0), atol=2e-3, rtol=0)
    for name, value in fitted.program.state_dict().items():
        torch.testing.assert_close(module.state_dict()[f"program.{name}"], value, atol=1e-4, rtol=0)
    # both are per datum: the last validation loss is that of the optimum
    assert float(run.callback_metrics["validation_loss"]) == pytest.approx(fitted.history[-1]["train_loss"], abs=1e-3)

    run.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    again = SVIModule(pg.models.Gaussian(2), size=60)
    again.load_state_dict(state)
    assert torch.equal(again.program.loc, module.program.loc)


class Regression(pg.Program):
    """y_n ~ N(slope x_n, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def model(self, x: Tensor, context: Tensor) -> Tensor:
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.slope * context, 1.0).to_event(1), x)


def test_context_comes_as_further_parts_of_a_batch(tmp_path: Path) -> None:
    y, x = 2 * X[:, :1], X[:, :1]
    module = SVIModule(Regression(), size=60, lr=0.1)
    loader = DataLoader(TensorDataset(y, x), batch_size=30, shuffle=True)
    trainer(tmp_path, max_epochs=60, enable_checkpointing=False).fit(module, loader)
    torch.testing.assert_close(module.program.slope, torch.tensor([2.0]), atol=1e-2, rtol=0)


class Labelled(pg.Program):
    """A label, and a number with a mean for each of its two values."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.logit = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(()))

    def model(self, x: dict[str, Tensor]) -> None:
        with self.plate(x):
            label = pg.observe("label", dist.Bernoulli(logits=self.logit), x["label"])
            pg.observe("number", dist.Normal(self.loc[label.long()], 1.0), x["number"])


def test_batches_of_several_variables_count_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = (torch.arange(60) % 3 == 0).float()
    rows = [{"label": a, "number": b} for a, b in zip(label, X[:, 0] + 2 * label, strict=True)]
    counted: list[int] = []
    monkeypatch.setattr(SVIModule, "log", lambda self, *args, batch_size, **options: counted.append(batch_size))
    module = SVIModule(Labelled(), size=60, lr=0.1)
    trainer(tmp_path, max_epochs=60, enable_checkpointing=False).fit(module, DataLoader(rows, batch_size=40))
    assert counted[:2] == [40, 20]
    assert module.program.logit.detach().sigmoid().item() == pytest.approx(1 / 3, abs=0.05)
    means = [float((X[:, 0] + 2 * label)[label == k].mean()) for k in (0, 1)]
    torch.testing.assert_close(module.program.loc.detach(), torch.tensor(means), atol=0.1, rtol=0)


def test_the_kl_weight_rises_over_its_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    original = IWAE.loss

    def loss(self: IWAE, *args: Any, kl_weight: float) -> Tensor:
        weights.append(kl_weight)
        return original(self, *args, kl_weight=kl_weight)

    monkeypatch.setattr(IWAE, "loss", loss)
    vae = pg.models.VAE(2, latent=1, hidden=(4,), likelihood="normal")
    module = SVIModule(vae, IWAE(3), size=60, kl_warmup=2)
    trainer(tmp_path, max_epochs=3, enable_checkpointing=False).fit(module, DataLoader(X, batch_size=30))
    assert weights == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="size=0"):
        SVIModule(pg.models.Gaussian(2), size=0)
    with pytest.raises(ValueError, match="DReG has no KL weight"):
        SVIModule(pg.models.Gaussian(2), DReG(2), size=60, kl_warmup=3)


def test_a_game_is_for_fit() -> None:
    class Game(ELBO):
        def players(self, program: pg.Program) -> Sequence[Player]:
            return [Player("a", list(program.parameters()), self.loss)]

    with pytest.raises(ValueError, match="Game is a game of several players"):
        SVIModule(pg.models.Gaussian(2), Game(), size=60)


class Tilted(pg.Program):
    """N(0, 1) with factor w x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            x = pg.observe("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), x)
            pyro.factor("tilt", x @ self.w)
            return x


def test_a_bound_of_an_unnormalised_density_is_refused(tmp_path: Path) -> None:
    module = SVIModule(Tilted(), size=60)
    run = trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"Tilted is unnormalised .*ELBO is right for"):
        run.fit(module, DataLoader(X[:, :1], batch_size=60))
    run = trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    run.fit(SVIModule(module.program, ScoreMatching(), size=60), DataLoader(X[:, :1], batch_size=60))
    assert module.program.w.item() != 0
