"""The loop over epochs and steps."""

import copy
import csv
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen._files import atomic
from pyro_gen.data import Batches
from pyro_gen.data.batches import on_device
from pyro_gen.inference.progress import TrainingBar
from pyro_gen.inference.svi.average import MovingAverage
from pyro_gen.inference.svi.checkpoint import read_checkpoint, require_same_run, write_checkpoint
from pyro_gen.inference.svi.players import Learner
from pyro_gen.inference.svi.result import KEPT, FitResult, NonFiniteLossError
from pyro_gen.inference.svi.settings import Settings
from pyro_gen.inference.svi.step import LossModule
from pyro_gen.traces import sample_sites, site_log_prob, trace_pair

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["Training"]


class Training:
    """The loop. Its state after an epoch is its checkpoint.

    In each round of a game its players take their steps in turn, each on minibatches of its own.
    """

    def __init__(
        self,
        fabric: "Fabric",
        module: LossModule,
        learners: Sequence[Learner],
        held_out: Batches | None,
        settings: Settings,
    ) -> None:
        self.fabric, self.module, self.learners = fabric, module, learners
        self.held_out, self.settings = held_out, settings
        self.result = FitResult(module.program)
        self.identity: dict[str, Any] = {}
        self.best: dict[str, Tensor] | None = None
        self.last_good = copy.deepcopy(module.state_dict())
        self.average = None if settings.ema is None else MovingAverage(module.program, settings.ema)

    def run(self, checkpoint: Path | None, csv_file: Path | None, bar: "TrainingBar") -> None:
        start = time.perf_counter() - self.result.seconds
        bar.advance(self.result.steps)
        while len(self.result.history) < self.settings.epochs and not self._out_of_patience():
            try:
                row = self._epoch(len(self.result.history), bar)
            except NonFiniteLossError:
                self.module.load_state_dict(self.last_good)
                raise
            self.result.history.append(row)
            self._keep_best()
            self.result.seconds = row["seconds"] = time.perf_counter() - start
            self.fabric.log_dict(row, step=int(row["epoch"]))
            if csv_file is not None and self.fabric.is_global_zero:
                self._write_history(csv_file)
            if checkpoint is not None and self.fabric.is_global_zero:
                self.save(checkpoint)
        for logger in self.fabric.loggers:
            logger.finalize("success")
        self.result.stopped = "patience" if self._out_of_patience() else "epochs"
        if self.settings.patience is not None and self.best is not None:
            self.module.load_state_dict(self.best)
        elif self.average is not None:
            self.average.install()

    def _epoch(self, epoch: int, bar: "TrainingBar") -> dict[str, float]:
        settings, rounds = self.settings, len(self.learners[0].batches)
        torch.manual_seed(_mix(settings.seed, epoch, self.fabric.global_rank))
        self.module.train()
        streams = [learner.minibatches(epoch) for learner in self.learners]
        turns = [k for k, learner in enumerate(self.learners) for _ in range(learner.player.steps)]
        totals, rows = [0.0] * len(streams), [0] * len(streams)
        weight, kl_weight = 1.0, torch.ones((), device=self.fabric.device)
        for i in range(rounds):
            progress = (epoch * rounds + i) / (settings.epochs * rounds)
            if settings.kl_warmup:
                weight = min(1.0, (epoch + i / rounds) / float(settings.kl_warmup))
                kl_weight = torch.tensor(weight, device=self.fabric.device)
            reached: dict[str, Tensor] | None = None
            for k in turns:
                learner = self.learners[k]
                for group in learner.optimizer.param_groups:
                    group["lr"] = settings.lr_at(progress, learner.player.lr)
                batch = on_device(next(streams[k]), self.fabric.device)
                if i == 0 and reached is None:
                    reached = copy.deepcopy(self.module.state_dict())
                loss = self._step(learner, batch, kl_weight, epoch + 1)
                totals[k], rows[k] = totals[k] + loss * len(batch[0]), rows[k] + len(batch[0])
            if reached is not None:  # weights are known to be good once losses were computed with them
                self.last_good = reached
            self.result.steps += 1
            if self.average is not None:
                self.average.update(self.result.steps)
            if bar.advance(1):
                losses = self._losses_text(_means(totals, rows))
                bar.show(f"epoch {epoch + 1}/{settings.epochs}  {losses}{self._validation_text()}")
        means = _means(totals, rows)
        row = {"epoch": epoch + 1, "train_loss": means[0]}
        row |= {f"{learner.player.name}_loss": m for learner, m in zip(self.learners[1:], means[1:], strict=True)}
        if self.held_out is not None:
            with self._averaged():
                row["validation_loss"] = self._validate(self.held_out)
        return row | {"lr": self.learners[0].optimizer.param_groups[0]["lr"], "kl_weight": weight}

    def _step(self, learner: Learner, batch: Sequence[Any], kl_weight: Tensor, epoch: int) -> float:
        """Moves a player's parameters, and returns its loss before that."""
        try:
            loss, norm = learner.step(batch, kl_weight)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise AdviceError(
                f"A minibatch of {len(batch[0])} of {learner.batches.size} rows is too small for BatchNorm, which "
                "takes variances over rows: give a {batch_size} that leaves no single row over, or use LayerNorm.",
                batch_size=...,
            ) from error
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # a Cholesky factor of a matrix with NaN, say
            raise NonFiniteLossError(f"Epoch {epoch}: {error} {KEPT}", lr=..., clip_norm=...) from error
        if not (math.isfinite(loss) and math.isfinite(norm)):
            name = f"loss of the player '{learner.player.name}'" if len(self.learners) > 1 else "loss"
            raise _non_finite(learner.module, batch, epoch, loss, name)
        if (bound := learner.player.clip) is not None:
            with torch.no_grad():
                for parameter in learner.player.parameters:
                    parameter.clamp_(-bound, bound)
        return loss

    def _losses_text(self, means: Sequence[float]) -> str:
        others = zip(self.learners[1:], means[1:], strict=True)
        return "  ".join((f"loss {means[0]:.4f}", *(f"{learner.player.name} {m:.4f}" for learner, m in others)))

    @torch.no_grad()
    def _validate(self, held_out: Batches) -> float:
        """The loss per held-out datum; a global latent's divergence is shared by the training data as in training."""
        torch.manual_seed(_mix(self.settings.seed, 0, 0))  # the same draws for each epoch
        self.module.eval()
        total, one = 0.0, torch.ones((), device=self.fabric.device)
        with pyro.validation_enabled(False):
            for rows in held_out.epoch(0):
                batch = on_device(rows, self.fabric.device)
                loss = self.module(batch, one).item()
                if not math.isfinite(loss):
                    raise _non_finite(self.module, batch, len(self.result.history) + 1, loss, "validation loss")
                total += loss * len(batch[0])
        return total / held_out.size

    def _validation_text(self) -> str:
        if self.held_out is None or not self.result.history:
            return ""
        return f"  validation {self.result.history[-1]['validation_loss']:.4f}"

    def _keep_best(self) -> None:
        if self.held_out is None:
            return
        losses = [row["validation_loss"] for row in self.result.history]
        best = int(np.argmin(losses)) + 1
        if best == len(losses):
            self.result.best_epoch = best
            if self.settings.patience is not None:
                with self._averaged():
                    self.best = copy.deepcopy(self.module.state_dict())

    def _averaged(self) -> AbstractContextManager[None]:
        """A block in which the weights are those that are reported: the average where one is kept."""
        return nullcontext() if self.average is None else self.average.installed()

    def _out_of_patience(self) -> bool:
        if self.settings.patience is None or self.result.best_epoch is None:
            return False
        return len(self.result.history) - self.result.best_epoch >= self.settings.patience

    def _write_history(self, path: Path) -> None:
        """Writes the whole history: a resumed run has its first epochs in it too, an interrupted one all it did."""
        with atomic(path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.result.history[0]))
            writer.writeheader()
            writer.writerows(self.result.history)

    def save(self, path: Path) -> None:
        """Writes the state after an epoch."""
        state = {
            "module": self.module.state_dict(),
            "optimizers": [learner.optimizer.state_dict() for learner in self.learners],
            "average": None if self.average is None else self.average.values,
            "best": self.best,
            "history": self.result.history,
            "best_epoch": self.result.best_epoch,
            "steps": self.result.steps,
            "seconds": self.result.seconds,
            "identity": self.identity,
        }
        write_checkpoint(path, state)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint."""
        state = read_checkpoint(path, self.fabric.device)
        require_same_run(path, state["identity"], self.identity)
        self.module.load_state_dict(state["module"])
        for learner, of_its_optimizer in zip(self.learners, state["optimizers"], strict=True):
            learner.optimizer.load_state_dict(of_its_optimizer)
        if self.average is not None:
            self.average.values = state["average"]
        self.best, self.result.history = state["best"], state["history"]
        self.result.best_epoch, self.result.steps = state["best_epoch"], state["steps"]
        self.result.seconds = state["seconds"]
        self.last_good = copy.deepcopy(self.module.state_dict())


def _means(totals: Sequence[float], rows: Sequence[int]) -> list[float]:
    return [t / n for t, n in zip(totals, rows, strict=True)]


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _non_finite(
    module: LossModule, batch: Sequence[Any], epoch: int, loss: float, name: str = "loss"
) -> NonFiniteLossError:
    what = (
        f"The {name} became {loss}" if not math.isfinite(loss) else f"The gradient of the {name} became NaN or infinite"
    )
    head = f"{what} in epoch {epoch}"
    with torch.no_grad(), pyro.validation_enabled(False):
        for _ in range(10):  # the draws of the failing step are gone; others find the site nearly always
            model_trace, guide_trace = trace_pair(module.program, *batch)
            for where, trace in (("guide", guide_trace), ("model", model_trace)):  # the guide makes the values
                for name, site in sample_sites(trace).items():
                    if not torch.isfinite(site["value"]).all():
                        return NonFiniteLossError(
                            f"{head}: the {where}'s site '{name}' has a non-finite value. {KEPT}", lr=..., clip_norm=...
                        )
                    if not torch.isfinite(site_log_prob(site)).all():
                        return NonFiniteLossError(
                            f"{head}: the {where}'s site '{name}' has a non-finite log_prob. {KEPT}",
                            lr=...,
                            clip_norm=...,
                        )
    bad = [n for n, p in module.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    few = ", ".join(bad[:2]) + (f" and {len(bad) - 2} more" if len(bad) > 2 else "")
    return NonFiniteLossError(
        f"{head}: through the parameters {few or 'of the program'}. {KEPT}", lr=..., clip_norm=...
    )
