"""Where the steps run, and how: devices by Lightning Fabric, and the fastest mode that the program allows."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor

from pyro_gen.inference.svi.step import GradientStep, LossModule, NotTraceableError, compiler_available
from pyro_gen.program import Program

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["device_of", "launch", "make_step"]


# Steps after which the half a minute of torch.compile has paid for itself, at about half a millisecond a step.
STEPS_WORTH_COMPILING = 60_000


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
    fabric = Fabric(accelerator=accelerator, devices=indices, num_nodes=num_nodes, strategy=strategy, loggers=loggers)
    fabric.launch()
    return fabric


def make_step(
    fabric: "Fabric",
    module: LossModule,
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None,
    compile: bool | str,
    steps: int,
    first: Sequence[Tensor],
) -> tuple[Callable[[Sequence[Tensor], Tensor], tuple[float, float]], str, str]:
    """Makes the step of a training run; also its mode, and why it is not a faster one."""
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


def device_of(program: Program, data: Any = None) -> torch.device:
    """Where the program is; one of plain functions has no parameters yet, and goes where the data is."""
    x = data[0] if isinstance(data, tuple) and data else data
    default = x.device if isinstance(x, Tensor) else torch.device("cpu")
    return next((p.device for p in program.parameters()), default)
