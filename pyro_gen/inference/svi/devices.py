"""Where the steps run, and how: devices by Lightning Fabric, and the fastest mode that the program allows."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn

from pyro_gen._errors import said
from pyro_gen.data.batches import on_device
from pyro_gen.inference.svi.step import GradientStep, LossModule, NotTraceableError, compiler_available
from pyro_gen.program import Program

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["device_of", "launch", "make_steps"]


MODES = ("eager", "traced", "compiled")  # from slow to fast


def launch(
    program: Program,
    data: Any,
    accelerator: str | None,
    devices: int | str,
    num_nodes: int,
    strategy: str,
    log_dir: str | Path | None,
    logger: str,
) -> "Fabric":
    """Starts Fabric on the devices that are asked for, by default where the program is."""
    from lightning.fabric import Fabric  # importing Lightning takes seconds
    from lightning.fabric.loggers.tensorboard import TensorBoardLogger

    if logger not in ("csv", "tensorboard"):
        raise ValueError(f'logger={logger!r}: give "csv" or "tensorboard".')
    loggers: list[Any] = []
    if log_dir is not None and logger == "tensorboard":
        loggers = [TensorBoardLogger(root_dir=log_dir, name="", version="")]
    indices: Any = devices
    if accelerator is None:
        device = device_of(program, data)
        accelerator = "gpu" if device.type == "cuda" else device.type
        if device.index is not None and devices == 1:
            indices = [device.index]
    given = {"accelerator": accelerator, "devices": indices, "num_nodes": num_nodes, "strategy": strategy}
    try:
        fabric = Fabric(**given, loggers=loggers)
    except (RuntimeError, TypeError, ValueError) as error:
        asked = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(
            f"fit({asked}) does not suit this machine: {said(error)} Leave them out to train where the program is, on "
            f"{device_of(program, data)}."
        ) from error
    fabric.launch()
    return fabric


Step = Callable[[Sequence[Tensor], Tensor], tuple[float, float]]


def make_steps(
    fabric: "Fabric",
    modules: Sequence[LossModule],
    optimizers: Sequence[torch.optim.Optimizer],
    clip_norm: float | None,
    compile: bool | str,
    steps: int,
    first: Sequence[Tensor],
) -> tuple[list[Step], str, str]:
    """Makes the steps of the players of a training run; also the slowest of their modes, and why it is not faster."""
    if compile not in (True, False, "auto", "trace"):
        raise ValueError(f'compile={compile!r}: give "auto", "trace", True or False.')
    if fabric.world_size > 1:
        if compile in (True, "trace"):
            raise ValueError(
                'Several devices train in eager mode (DDP averages gradients by hooks): use compile="auto".'
            )
        pairs = zip(modules, optimizers, strict=True)
        return [_DistributedStep(fabric, m, o, clip_norm) for m, o in pairs], "eager", "several devices"
    if compile is True and fabric.device.type == "cpu" and not compiler_available():
        raise ValueError('compile=True needs a C++ compiler, and none was found: install one, or use compile="trace".')
    made = [
        _make_step(fabric.device, module, optimizer, clip_norm, compile, steps, first)
        for module, optimizer in zip(modules, optimizers, strict=True)
    ]
    slowest, reason = min(made, key=lambda step_and_reason: MODES.index(step_and_reason[0].mode))
    if reason and len(made) > 1:
        reason = f"player '{slowest.module.name}': {reason}"
    return [step for step, _ in made], slowest.mode, reason


def _make_step(
    device: torch.device,
    module: LossModule,
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None,
    compile: bool | str,
    steps: int,
    first: Sequence[Tensor],
) -> tuple[GradientStep, str]:
    """Makes the step of a player; also why it is not a faster one."""
    reason = ""
    if compile is False:
        return GradientStep(module, optimizer, clip_norm, "eager"), reason
    batch = on_device(first, device)
    try:
        step = GradientStep(module, optimizer, clip_norm, "traced")
        step.prepare(batch)
    except NotTraceableError as error:
        if compile != "auto":
            raise ValueError(f"The program cannot be traced ({error}): use compile=False.") from error
        return GradientStep(module, optimizer, clip_norm, "eager"), str(error)
    if compile is True or (compile == "auto" and repays_compiling(device, step.operations, steps)):
        try:
            step.compile(batch)
        except NotTraceableError as error:
            reason = str(error)
            if compile is True:
                raise ValueError(f'The program cannot be compiled ({reason}): use compile="trace".') from error
    return step, reason


def repays_compiling(device: torch.device, operations: int, steps: int) -> bool:
    """Whether a run is so long that compiling its step saves time.

    By counting, not by the clock: the same run must be the same each time. A compiler takes some 5 s and 30 ms an
    operation, and each step saves some 2 us an operation.
    """
    there = device.type != "cpu" or compiler_available()
    return there and steps * 2e-6 * operations > 5 + 0.03 * operations


class _DistributedStep:
    """A step on several devices: Fabric's DDP averages the gradients over them.

    It waits for the gradients of this player's parameters alone: those of the others need none, here and when the
    module is wrapped.
    """

    def __init__(
        self, fabric: "Fabric", module: LossModule, optimizer: torch.optim.Optimizer, clip_norm: float | None
    ) -> None:
        self.fabric, self.optimizer = fabric, optimizer
        self.max_norm = math.inf if clip_norm is None else clip_norm
        self.parameters, self.others = list(module.own.values()), list(module.others.values())
        with _frozen(self.others):
            self.module = fabric.setup_module(module)

    def __call__(self, batch: Sequence[Tensor], kl_weight: Tensor) -> tuple[float, float]:
        self.optimizer.zero_grad()
        with pyro.validation_enabled(False), _frozen(self.others):
            loss = self.module(batch, kl_weight)
            self.fabric.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        mean: Tensor = self.fabric.all_reduce(loss.detach(), reduce_op="mean")  # type: ignore[assignment]
        if math.isfinite(mean.item()) and math.isfinite(norm.item()):
            self.optimizer.step()
        return mean.item(), norm.item()


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """A block in which parameters need no gradient."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def device_of(program: Program, data: Any = None) -> torch.device:
    """Where the program is; one of plain functions has no parameters yet, and goes where the data is."""
    x = data[0] if isinstance(data, tuple) and data else data
    default = x.device if isinstance(x, Tensor) else torch.device("cpu")
    return next((p.device for p in program.parameters()), default)
