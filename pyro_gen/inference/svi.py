r"""Stochastic variational inference: :func:`fit` trains any program on any data.

Each step takes a minibatch :math:`B`, draws the latent variables from the guide and follows the gradient of

.. math:: -\frac{1}{N} \Big( \frac{N}{|B|} \sum_{n \in B} \mathcal{L}_n + \mathcal{L}_\text{global} \Big) ,

an unbiased estimate of the negative bound per datum, with Adam. What a step sees and draws is a function of the seed
and the epoch alone, so a run that is interrupted and resumed ends where the uninterrupted one ends.

References:
    | Stochastic Variational Inference (Hoffman et al., 2013)
    | https://arxiv.org/abs/1206.7055
    | Automated Variational Inference in Probabilistic Programming (Wingate & Weber, 2013)
    | https://arxiv.org/abs/1301.1299
"""

import copy
import csv
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.trace_struct import Trace
from pyro.util import check_site_shape
from torch import Tensor
from torch.utils.data import Dataset

from pyro_gen._archives import read_archive
from pyro_gen._files import atomic
from pyro_gen._identity import digest, settings_of
from pyro_gen._random import seeded, undisturbed
from pyro_gen.data import Batches, as_tensor
from pyro_gen.density import as_inputs
from pyro_gen.density.missing import LatentMissing, find_latent_missing
from pyro_gen.density.shapes import check_broadcasts
from pyro_gen.inference.graph import GradientStep, LossModule, NotTraceableError, compiler_available
from pyro_gen.inference.objectives import Objective, resolve_objective
from pyro_gen.inference.progress import new_bar
from pyro_gen.program import Program, data_size
from pyro_gen.traces import is_local, sample_sites, site_log_prob, structure, trace_pair

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from rich.progress import Progress

__all__ = ["FitResult", "NonFiniteLossError", "fit"]

# Parts of the identity of a run that are hashes, of which a reader learns nothing.
HASHED = ("learning rates", "settings of the objective", "data", "validation data", "transform", "program")
# Steps after which the half a minute of torch.compile has paid for itself, at about half a millisecond a step.
STEPS_WORTH_COMPILING = 60_000
_WHY = {
    "exact": "no latent variable",
    "bound": "latent variables",
    "unnormalised": "a factor site",
    "implicit": "an observed site that is a Delta",
}
# Rows that a program sees before training, to create its parameters and to start them near the data.
ROWS_TO_INITIALISE = 4096


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient became NaN or infinite; the message names the site.

    The program has the last good weights: those from the start of an epoch whose first step had a finite loss and
    gradient.
    """


_KEPT = (
    "The last weights from the start of an epoch with a finite loss were kept. Try a smaller lr, clip_norm=, or check "
    "the scale of x."
)


@dataclass
class FitResult:
    """What :func:`fit` returns.

    Attributes:
        program: The trained program, the one that was given.
        history: One row per epoch: ``epoch``, ``train_loss`` and ``validation_loss`` (negative bound in nats per
            datum), ``lr``, ``kl_weight``, ``seconds``.
        best_epoch: The epoch with the least validation loss, whose weights the program has when ``patience`` was
            given; ``None`` without validation data.
        stopped: ``"epochs"`` or ``"patience"``.
        steps: Gradient steps taken.
        seconds: Wall-clock time of the training.
        mode: How the steps ran: ``"eager"``, ``"traced"`` or ``"compiled"``.
        mode_reason: Why not faster, where that needs a reason.
    """

    program: Program
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    stopped: str = "epochs"
    steps: int = 0
    seconds: float = 0.0
    mode: str = "eager"
    mode_reason: str = ""

    def __repr__(self) -> str:
        if not self.history:
            return "FitResult(no epochs)"
        last = self.history[-1]
        losses = f"train loss {last['train_loss']:.4f}"
        if self.best_epoch is not None:
            best = self.history[self.best_epoch - 1]
            losses += f", best validation loss {best['validation_loss']:.4f} in epoch {self.best_epoch}"
        return (
            f"FitResult({len(self.history)} epochs, {losses} nats/datum; {self.steps} {self.mode} steps "
            f"in {self.seconds:.1f} s, stopped by {self.stopped})"
        )


@undisturbed()
def fit(
    program: Program,
    data: Any,
    *,
    objective: Objective | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    lr: float = 1e-3,
    validation: Any = None,
    patience: int | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    schedule: str | Callable[[float], float] = "constant",
    clip_norm: float | None = None,
    weight_decay: float = 0.0,
    kl_warmup: int = 0,
    seed: int = 0,
    compile: bool | str = "auto",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    log_dir: str | Path | None = None,
    logger: str = "csv",
    accelerator: str | None = None,
    devices: int | str = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    progress: bool = True,
) -> FitResult:
    """Trains a program by stochastic variational inference, in place.

    Arguments:
        program: The program; its parameters are updated.
        data: The data: a tensor, array or data frame of shape :math:`(N, *)` with NaN where nothing was observed, a
            tuple ``(x, *context)``, or a torch ``Dataset`` of these.
        objective: What is minimised; by default the program's ``objective``, or the ELBO.
        epochs: Passes through the data.
        batch_size: Rows per step, all processes together.
        lr: The learning rate of Adam (AdamW with ``weight_decay``).
        validation: Held-out data, as ``data``; its loss is reported after each epoch.
        patience: Stop after so many epochs without a better validation loss, and return to the best weights.
        transform: Applied to ``x`` of each minibatch: ``pg.data.DynamicBinarize`` say. Validation data takes it too,
            with the same draws in each epoch.
        schedule: ``"constant"``, ``"cosine"`` (to zero), or a function of the progress in [0, 1] that returns a
            factor for ``lr``.
        clip_norm: Greatest norm of the gradient.
        weight_decay: Decoupled weight decay.
        kl_warmup: Epochs over which the weight of the KL term rises linearly from 0 to 1. (For free bits give
            ``objective=ELBO(free_bits=...)``.)
        seed: Seeds order, draws and dropout. The caller's generators are left alone.
        compile: ``"auto"`` records the step as a graph and compiles it when the run is long enough to repay that;
            ``True`` compiles, ``"trace"`` records, ``False`` runs the Python.
        checkpoint: A file, written after each epoch.
        resume: Go on from ``checkpoint`` if it exists; the result is that of the uninterrupted run.
        log_dir: A folder for the history as ``metrics.csv`` or TensorBoard events.
        logger: ``"csv"`` or ``"tensorboard"``.
        accelerator: ``"cpu"``, ``"gpu"``, ``"auto"`` as in Lightning Fabric; by default where the program is.
        devices: Devices per node. More than one is data-parallel training (DDP), started by ``torchrun`` or by Fabric.
        num_nodes: Nodes.
        strategy: Fabric's strategy, ``"ddp"`` say.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The history and how it ended.

    Raises:
        ValueError: Arguments, program or data do not fit.
        NonFiniteLossError: The loss became NaN or infinite.

    Example:
        >>> import torch, pyro_gen as pg
        >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) + 2
        >>> result = pg.fit(pg.models.Gaussian(3), x, epochs=100, lr=0.1, schedule="cosine", progress=False)
        >>> bool((result.program.loc - x.mean(0)).abs().max() < 0.02)
        True
    """
    if not isinstance(program, Program):
        what = "the class itself: create an instance" if isinstance(program, type) else type(program).__name__
        raise TypeError(f"pg.fit trains a pyro_gen.Program, and was given {what}.")
    objective = resolve_objective(program, objective)
    settings = _Settings(epochs, batch_size, lr, patience, schedule, kl_warmup, seed)
    settings.check(validation)
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm={clip_norm}: the greatest norm of the gradient is positive.")
    if resume and checkpoint is None:
        raise ValueError("resume=True goes on from a checkpoint: give checkpoint= too.")
    if checkpoint is not None and not resume and Path(checkpoint).exists():
        _read_checkpoint(Path(checkpoint))  # what is no checkpoint is not written over
    if kl_warmup and not objective.anneals:
        raise ValueError(f"{type(objective).__name__} has no KL weight to warm up: use kl_warmup=0.")

    data, validation = (_typed(program, part, wide=transform is not None) for part in (data, validation))
    dtype = next((p.dtype for p in program.parameters() if p.is_floating_point()), None)
    fabric = _launch(program, data, accelerator, devices, num_nodes, strategy, log_dir, logger)
    with seeded(seed):
        drawn: dict[str, Any] = {"seed": seed, "transform": transform, "dtype": dtype}
        batches = Batches(data, batch_size, rank=fabric.global_rank, world_size=fabric.world_size, **drawn)
        held_out = None
        if validation is not None:
            held_out = Batches(validation, batch_size, **drawn)
            if held_out.event_shape != batches.event_shape:
                raise ValueError(
                    f"Validation data of shape {tuple(held_out.event_shape)} per datum, training data of "
                    f"{tuple(batches.event_shape)}."
                )
        first = next(batches.epoch(0))
        if held_out is not None and (parts := len(next(held_out.epoch(0)))) != len(first):
            raise ValueError(f"Validation data of {parts} parts (x, *context), training data of {len(first)}.")
        # All rows, not this rank's: each epoch deals them anew, and all ranks start at the same parameters.
        everything = Batches(data, batch_size, **drawn)
        missing = _any_missing(everything, held_out)
        if isinstance(getattr(program, "_guide", None), AutoGuide) and batches.batch_size < batches.size:
            _refuse_local_latents(program, first)  # an autoguide has parameters for each datum, and does not read x
        program.initialise(*(r.to(_device(program, data)) for r in _rows(everything, ROWS_TO_INITIALISE)), seed=seed)
        program.to(fabric.device)
        objective.to(fabric.device)
        for rows in (first, *(() if held_out is None else (next(held_out.epoch(0)),))):
            _preflight(program, [b.to(fabric.device) for b in rows], batches.size)
        kind = structure(program, *(b.to(fabric.device) for b in first)).kind
        if kind not in objective.kinds:
            raise ValueError(
                f"{type(program).__name__} is {kind} ({_WHY[kind]}), and {type(objective).__name__} is right for what "
                f"is {' or '.join(objective.kinds)}: give an objective= made for such models (kinds: {kind!r}) "
                "(censored data need no factor, see pg.distributions.Censored; pg.posterior needs no objective)."
            )
        if program.event_shape is None:
            program.event_shape = torch.Size(first[0].shape[1:])
        identity: dict[str, Any] = {}
        if checkpoint is not None:
            identity = {
                "weight_decay": weight_decay,
                "clip_norm": clip_norm,
                "patience": patience,
                "processes": fabric.world_size,
                "data": everything.fingerprint(),
                "validation data": None if held_out is None else held_out.fingerprint(),
                "transform": digest(settings_of(transform)),
                "program": digest(settings_of(program)),
            }
        latent = _latent_missing(program, data, validation, transform, fabric.device) if missing else None
        module = LossModule(program, objective, batches.size, missing, latent)
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(f"{type(program).__name__} has no parameters to train.")
        optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
            if weight_decay
            else torch.optim.Adam(parameters, lr=lr, fused=True)
        )
        was_training = program.training
        csv_file = Path(log_dir) / "metrics.csv" if log_dir is not None and logger == "csv" else None
        try:
            module.train()  # before the step is recorded
            step, mode, reason = _make_step(fabric, module, optimizer, clip_norm, compile, epochs * len(batches), first)
            training = _Training(fabric, module, optimizer, step, batches, held_out, settings)
            training.result.mode, training.result.mode_reason = mode, reason
            if checkpoint is not None:
                training.identity = training.own_identity() | identity
            if checkpoint is not None and resume and Path(checkpoint).exists():
                training.load(Path(checkpoint))
            with _progress_bar(progress and fabric.is_global_zero, epochs * len(batches)) as bar:
                training.run(None if checkpoint is None else Path(checkpoint), csv_file, bar)
        finally:
            module.train()
            program.train(was_training)
    return training.result


@dataclass(frozen=True)
class _Settings:
    epochs: int
    batch_size: int
    lr: float
    patience: int | None
    schedule: str | Callable[[float], float]
    kl_warmup: int
    seed: int

    def check(self, validation: Any) -> None:
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise ValueError(f"epochs={self.epochs}: give a whole number of epochs, at least one.")
        if self.kl_warmup < 0:
            raise ValueError(f"kl_warmup={self.kl_warmup}: give a number of epochs, 0 for none.")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr}: the learning rate is positive.")
        if not callable(self.schedule) and self.schedule not in ("constant", "cosine"):
            raise ValueError(f'schedule={self.schedule!r}: give "constant", "cosine" or a function.')
        if self.patience is not None and validation is None:
            raise ValueError("patience= stops on the validation loss: give validation= too.")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience={self.patience}: give at least one epoch.")

    def lr_at(self, progress: float) -> float:
        if callable(self.schedule):
            return self.lr * self.schedule(progress)
        return self.lr * (0.5 * (1 + math.cos(math.pi * progress)) if self.schedule == "cosine" else 1.0)


def _read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    try:
        state: dict[str, Any] = read_archive(path, device)
        _ = state["identity"], state["module"], state["optimizer"], state["history"]
    except Exception as error:  # a file of any content
        raise ValueError(f"{path} is not a checkpoint of pg.fit: remove it, or give another file.") from error
    return state


class _Training:
    """The loop. Its state after an epoch is its checkpoint."""

    def __init__(
        self,
        fabric: "Fabric",
        module: LossModule,
        optimizer: torch.optim.Optimizer,
        step: Callable[[Sequence[Tensor], Tensor], tuple[float, float]],
        batches: Batches,
        held_out: Batches | None,
        settings: _Settings,
    ) -> None:
        self.fabric, self.module, self.optimizer, self.step = fabric, module, optimizer, step
        self.batches, self.held_out, self.settings = batches, held_out, settings
        self.result = FitResult(module.program)
        self.identity: dict[str, Any] = {}
        self.best: dict[str, Tensor] | None = None
        self.last_good = copy.deepcopy(module.state_dict())

    def run(self, checkpoint: Path | None, csv_file: Path | None, bar: "_Bar") -> None:
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
                self._save(checkpoint)
        for logger in self.fabric.loggers:
            logger.finalize("success")
        self.result.stopped = "patience" if self._out_of_patience() else "epochs"
        if self.settings.patience is not None and self.best is not None:
            self.module.load_state_dict(self.best)

    def _epoch(self, epoch: int, bar: "_Bar") -> dict[str, float]:
        settings, steps = self.settings, len(self.batches)
        torch.manual_seed(_mix(settings.seed, epoch, self.fabric.global_rank))
        self.module.train()
        total, rows = 0.0, 0
        for i, rows_on_host in enumerate(self.batches.epoch(epoch)):
            progress = (epoch * steps + i) / (settings.epochs * steps)
            kl_weight = min(1.0, (epoch + i / steps) / settings.kl_warmup) if settings.kl_warmup else 1.0
            for group in self.optimizer.param_groups:
                group["lr"] = settings.lr_at(progress)
            batch = [b.to(self.fabric.device) for b in rows_on_host]
            try:
                loss, norm = self.step(batch, torch.tensor(kl_weight, device=self.fabric.device))
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise ValueError(
                    f"A minibatch of {len(batch[0])} of {self.batches.size} rows is too small for BatchNorm, which "
                    "takes variances over rows: give a batch_size= that leaves no single row over, or use LayerNorm."
                ) from error
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # a Cholesky factor of a matrix with NaN, say
                raise NonFiniteLossError(f"Epoch {epoch + 1}: {error} {_KEPT}") from error
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise _non_finite(self.module, batch, epoch + 1, loss)
            if i == 0:  # weights are known to be good once a loss was computed with them, not when they are reached
                self.last_good = copy.deepcopy(self.module.state_dict())
            self.optimizer.step()
            total, rows = total + loss * len(batch[0]), rows + len(batch[0])
            self.result.steps += 1
            bar.advance(1, f"epoch {epoch + 1}/{settings.epochs}  loss {total / rows:.4f}{self._validation_text()}")
        row = {"epoch": epoch + 1, "train_loss": total / rows}
        if self.held_out is not None:
            row["validation_loss"] = self._validate(self.held_out)
        return row | {"lr": self.optimizer.param_groups[0]["lr"], "kl_weight": kl_weight}

    @torch.no_grad()
    def _validate(self, held_out: Batches) -> float:
        """The loss per held-out datum; a global latent's divergence is shared by the training data as in training."""
        torch.manual_seed(_mix(self.settings.seed, 0, 0))  # the same draws for each epoch
        self.module.eval()
        total, one = 0.0, torch.ones((), device=self.fabric.device)
        with pyro.validation_enabled(False):
            for batch in held_out.epoch(0):
                on_device = [b.to(self.fabric.device) for b in batch]
                loss = self.module(on_device, one).item()
                if not math.isfinite(loss):
                    raise _non_finite(self.module, on_device, len(self.result.history) + 1, loss, "validation loss")
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
                self.best = copy.deepcopy(self.module.state_dict())

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

    def _save(self, path: Path) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "history": self.result.history,
            "best_epoch": self.result.best_epoch,
            "steps": self.result.steps,
            "seconds": self.result.seconds,
            "identity": self.identity,
        }
        with atomic(path) as partial, partial.open("wb") as file:
            torch.save(state, file)

    def load(self, path: Path) -> None:
        state = _read_checkpoint(path, self.fabric.device)
        identity = state["identity"]
        for what, value in self.identity.items():
            if (was := identity.get(what, "not in it")) != value:
                hashed = what in HASHED and was is not None and value is not None
                differs = f"the {what} differs" if hashed else f"its {what} is {was}, not {value}"
                raise ValueError(
                    f"The checkpoint {path} is of another run: {differs}. Remove it, or give another file."
                )
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.result.history = state["best"], state["history"]
        self.result.best_epoch, self.result.steps = state["best_epoch"], state["steps"]
        self.result.seconds = state["seconds"]
        self.last_good = copy.deepcopy(self.module.state_dict())

    def own_identity(self) -> dict[str, Any]:
        """What must be the same for a run to be the same."""
        settings = self.settings
        return {
            "seed": settings.seed,
            "batch_size": settings.batch_size,
            "lr": settings.lr,
            "kl_warmup": settings.kl_warmup,
            "schedule": settings.schedule if isinstance(settings.schedule, str) else "a function",
            # A schedule goes by the share of all epochs; without one a run may go on for more of them.
            "epochs": None if settings.schedule == "constant" else settings.epochs,
            "learning rates": digest([settings.lr_at(share / 16) for share in range(17)]),
            "objective": type(self.module.objective).__name__,
            "settings of the objective": digest(settings_of(self.module.objective)),
            "rows of data": self.batches.size,
        }


# ----------------------------------------------------------------------------------------------------------------------
# Devices


def _launch(
    program: Program,
    data: Any,
    accelerator: str | None,
    devices: int | str,
    num_nodes: int,
    strategy: str,
    log_dir: str | Path | None,
    logger: str,
) -> "Fabric":
    from lightning.fabric import Fabric  # importing Lightning takes seconds
    from lightning.fabric.loggers.tensorboard import TensorBoardLogger

    if logger not in ("csv", "tensorboard"):
        raise ValueError(f'logger={logger!r}: give "csv" or "tensorboard".')
    loggers: list[Any] = []
    if log_dir is not None and logger == "tensorboard":
        loggers = [TensorBoardLogger(root_dir=log_dir, name="", version="")]
    indices: Any = devices
    if accelerator is None:
        device = _device(program, data)
        accelerator = "gpu" if device.type == "cuda" else device.type
        if device.index is not None and devices == 1:
            indices = [device.index]
    fabric = Fabric(accelerator=accelerator, devices=indices, num_nodes=num_nodes, strategy=strategy, loggers=loggers)
    fabric.launch()
    return fabric


def _make_step(
    fabric: "Fabric",
    module: LossModule,
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None,
    compile: bool | str,
    steps: int,
    first: Sequence[Tensor],
) -> tuple[Callable[[Sequence[Tensor], Tensor], tuple[float, float]], str, str]:
    if compile not in (True, False, "auto", "trace"):
        raise ValueError(f'compile={compile!r}: give "auto", "trace", True or False.')
    if fabric.world_size > 1:
        if compile in (True, "trace"):
            raise ValueError(
                'Several devices train in eager mode (DDP averages gradients by hooks): use compile="auto".'
            )
        return _DistributedStep(fabric, module, optimizer, clip_norm), "eager", "several devices"
    if compile is False:
        return GradientStep(module, clip_norm, "eager"), "eager", ""
    if compile is True and fabric.device.type == "cpu" and not compiler_available():
        raise ValueError('compile=True needs a C++ compiler, and none was found: install one, or use compile="trace".')
    reason = ""
    worth = steps >= STEPS_WORTH_COMPILING and (fabric.device.type != "cpu" or compiler_available())
    modes = ["compiled"] if compile is True or (compile == "auto" and worth) else []
    modes += ["traced"] if compile in ("auto", "trace") else []
    for mode in modes:
        try:
            step = GradientStep(module, clip_norm, mode)
            step.prepare([b.to(fabric.device) for b in first])
            return step, mode, reason
        except NotTraceableError as error:
            reason = str(error)
            if compile != "auto":
                raise ValueError(f"The program cannot be {mode} ({reason}): use compile=False.") from error
    return GradientStep(module, clip_norm, "eager"), "eager", reason


class _DistributedStep:
    """A step on several devices: Fabric's DDP averages the gradients over them."""

    def __init__(
        self, fabric: "Fabric", module: LossModule, optimizer: torch.optim.Optimizer, clip_norm: float | None
    ) -> None:
        self.fabric, self.optimizer = fabric, optimizer
        self.max_norm = math.inf if clip_norm is None else clip_norm
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.module = fabric.setup_module(module)

    def __call__(self, batch: Sequence[Tensor], kl_weight: Tensor) -> tuple[float, float]:
        self.optimizer.zero_grad()
        with pyro.validation_enabled(False):
            loss = self.module(batch, kl_weight)
            self.fabric.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        mean = self.fabric.all_reduce(loss.detach(), reduce_op="mean")
        return mean.item(), norm.item()  # type: ignore[union-attr]


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


# ----------------------------------------------------------------------------------------------------------------------
# What can be wrong


def _any_missing(batches: Batches, held_out: Batches | None) -> bool:
    """Looks at all data once, so that a recorded graph need not."""
    return any(
        part.is_floating_point() and bool(torch.isnan(part).any())
        for source in (batches, held_out)
        if source is not None
        for batch in source.epoch(0)
        for part in batch
    )


def _latent_missing(
    program: Program, data: Any, validation: Any, transform: Callable[[Tensor], Tensor] | None, device: torch.device
) -> LatentMissing:
    """Which missing values of all data feed a later density, so that no step need find that out."""
    found = [
        find_latent_missing(program, *(b.to(device) for b in rows))
        for part in (data, validation)
        if part is not None
        for rows in Batches(part, ROWS_TO_INITIALISE, seed=0, transform=transform).epoch(0)
    ]
    return LatentMissing.union(program, found)


def _device(program: Program, data: Any = None) -> torch.device:
    """Where the program is; one of plain functions has no parameters yet, and goes where the data is."""
    x = data[0] if isinstance(data, tuple) and data else data
    default = x.device if isinstance(x, Tensor) else torch.device("cpu")
    return next((p.device for p in program.parameters()), default)


def _refuse_local_latents(program: Program, batch: Sequence[Tensor]) -> None:
    if local := structure(program, *batch).local:
        raise ValueError(
            f"An autoguide has parameters of '{local[0]}' for each datum, so it cannot be trained in minibatches: give "
            "batch_size= the size of the data, or write a guide that computes them from x."
        )


def _typed(program: Program, data: Any, wide: bool) -> Any:
    """Data in memory in the dtype of the program; where it is still to be transformed, ``x`` with all its digits."""
    if data is None or isinstance(data, Dataset):
        return data
    x, *context = data if isinstance(data, tuple) and data else (data,)
    inputs = as_inputs(program, x, *context)
    return (as_tensor(x, "data", torch.float64), *inputs[1:]) if wide else inputs


def _rows(batches: Batches, count: int) -> list[Tensor]:
    """At least ``count`` rows of the data, where there are so many."""
    taken: list[tuple[Tensor, ...]] = []
    for batch in batches.epoch(0):
        taken.append(batch)
        if sum(len(b[0]) for b in taken) >= count:
            break
    return [torch.cat(part) for part in zip(*taken, strict=True)]


def _preflight(program: Program, batch: Sequence[Tensor], size: int) -> None:
    """Runs the program once with Pyro's validation on: the user meets Pyro's messages, and no silent broadcast."""
    with torch.no_grad(), pyro.validation_enabled(True), data_size(size):
        try:
            model_trace, guide_trace = trace_pair(program, *batch)
        except (RuntimeError, ValueError) as error:
            if len(batch[0]) == size:
                raise
            raise ValueError(
                f"{type(program).__name__} does not run on a minibatch of {len(batch[0])} of {size} rows: "
                f"{str(error).strip().splitlines()[0]} A guide with parameters for each row is not amortised: give "
                f"batch_size={size}, or a guide that computes the local latent variables from x."
            ) from error
        for where, trace in (("guide", guide_trace), ("model", model_trace)):
            trace.compute_log_prob()
            for site in sample_sites(trace).values():
                try:
                    check_site_shape(site, max_plate_nesting=1000)
                except ValueError as error:
                    raise ValueError(f"{where} of {type(program).__name__}, {str(error).strip()}") from None
            check_broadcasts(trace)
        _say_what_is_not_scaled(program, model_trace, guide_trace, size / len(batch[0]))


def _say_what_is_not_scaled(program: Program, model: Trace, guide: Trace, scale: float) -> None:
    """Warns where a minibatch stands for itself alone, and not for all of the data."""
    if scale == 1:
        return
    observed = [s for s in sample_sites(model).values() if s["is_observed"] and not s["infer"].get("_deterministic")]
    sites = [s for t in (model, guide) for s in sample_sites(t).values() if is_local(s)]
    sites += [] if any(is_local(s) for s in observed) else observed[:1]
    plain = [s["name"] for s in sites if not isinstance(s["scale"], Tensor) and s["scale"] == 1.0]
    if plain:
        warnings.warn(
            f"fit: site '{plain[0]}' of {type(program).__name__} counts a minibatch of 1 / {scale:.3g} of the data as "
            "if it were all of them, so the loss is not that of a datum, and global latent variables weigh too much "
            "against the data: open the data plate by self.plate(x), pg.plate(x) in a function, which scales to the "
            "data size.",
            stacklevel=4,
        )


def _non_finite(
    module: LossModule, batch: Sequence[Tensor], epoch: int, loss: float, name: str = "loss"
) -> NonFiniteLossError:
    what = f"The {name} became {loss}" if not math.isfinite(loss) else "The gradient of the loss became NaN or infinite"
    head = f"{what} in epoch {epoch}"
    with torch.no_grad(), pyro.validation_enabled(False):
        for _ in range(10):  # the draws of the failing step are gone; others find the site nearly always
            model_trace, guide_trace = trace_pair(module.program, *batch)
            for where, trace in (("guide", guide_trace), ("model", model_trace)):  # the guide makes the values
                for name, site in sample_sites(trace).items():
                    if not torch.isfinite(site["value"]).all():
                        return NonFiniteLossError(
                            f"{head}: the {where}'s site '{name}' has a non-finite value. {_KEPT}"
                        )
                    if not torch.isfinite(site_log_prob(site)).all():
                        return NonFiniteLossError(
                            f"{head}: the {where}'s site '{name}' has a non-finite log_prob. {_KEPT}"
                        )
    bad = [n for n, p in module.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    few = ", ".join(bad[:2]) + (f" and {len(bad) - 2} more" if len(bad) > 2 else "")
    return NonFiniteLossError(f"{head}: through the parameters {few or 'of the program'}. {_KEPT}")


# ----------------------------------------------------------------------------------------------------------------------
# Progress


class _Bar:
    """A progress bar that costs nothing per step."""

    def __init__(self, progress: "Progress | None", total: int) -> None:
        self.progress = progress
        self.task = None if progress is None else progress.add_task("training", total=total)
        self.done, self.shown_at = 0, 0.0

    def advance(self, steps: int, text: str = "training") -> None:
        self.done += steps
        now = time.monotonic()
        if self.progress is not None and self.task is not None and now - self.shown_at > 0.1:
            self.progress.update(self.task, completed=self.done, description=text)
            self.shown_at = now


@contextmanager
def _progress_bar(show: bool, total: int) -> Iterator[_Bar]:
    if not show:
        yield _Bar(None, total)
        return
    with new_bar() as progress:
        yield _Bar(progress, total)
