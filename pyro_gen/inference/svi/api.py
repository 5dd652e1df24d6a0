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

from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen._identity import digest, settings_of
from pyro_gen._random import checked_seed, seeded, undisturbed
from pyro_gen.data import Batches
from pyro_gen.data.batches import on_device
from pyro_gen.data.transforms.base import require_function
from pyro_gen.density.missing import LatentMissing
from pyro_gen.inference.objectives import (
    Objective,
    asked_to_enumerate,
    missing_refused,
    require_suitable,
    resolve_objective,
)
from pyro_gen.inference.progress import training_bar
from pyro_gen.inference.svi.checkpoint import identity_of, read_checkpoint
from pyro_gen.inference.svi.devices import device_of, launch, make_steps
from pyro_gen.inference.svi.loop import Training
from pyro_gen.inference.svi.players import Learner, make_optimizer, players_of
from pyro_gen.inference.svi.preflight import (
    ROWS_TO_INITIALISE,
    any_missing,
    first_rows,
    latent_missing_of,
    preflight_all,
    refuse_local_latents,
    typed,
)
from pyro_gen.inference.svi.result import FitResult
from pyro_gen.inference.svi.settings import Settings, check_numbers
from pyro_gen.inference.svi.step import LossModule
from pyro_gen.packing import packs_training_data
from pyro_gen.program import Program
from pyro_gen.traces import structure

__all__ = ["fit"]


@undisturbed()
@packs_training_data
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
    ema: float | None = None,
    kl_warmup: int = 0,
    fill_missing: float | None = None,
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
    progress: bool | Callable[[float], None] = True,
) -> FitResult:
    """Trains a program by stochastic variational inference, in place.

    Arguments:
        program: The program; its parameters are updated.
        data: The data: a tensor, array or data frame of shape :math:`(N, *)` with NaN where nothing was observed, a
            tuple ``(x, *context)``, or a torch ``Dataset`` of these. Several variables are a mapping of such tensors by
            name, ``{"image": x, "label": y}``, or a tuple of them as the first element of a tuple, ``((x, y),)``; a
            plain tuple ``(x, y)`` is x with its context y, which is conditioned on and not modelled.
        objective: What is minimised; by default the program's ``objective``, or the ELBO, with sites that are marked
            ``infer={"enumerate": "parallel"}`` summed out (:class:`~pyro_gen.inference.EnumELBO`). In a game its
            players take their steps in turn, ``steps`` of the result are its rounds, and ``clip_norm``,
            ``weight_decay`` and ``schedule`` hold for each of them.
        epochs: Passes through the data.
        batch_size: Rows per step, all processes together.
        lr: The learning rate of Adam (AdamW with ``weight_decay``).
        validation: Held-out data, as ``data``; its loss is reported after each epoch.
        patience: Stop after so many epochs without a better validation loss, and return to the best weights.
        transform: Applied to ``x`` of each minibatch: ``pg.data.DynamicBinarize`` say; of several variables to all
            together, or a mapping with one for some of them. Validation data takes it too, with the same draws in each
            epoch.
        schedule: ``"constant"``, ``"cosine"`` (to zero), or a function of the progress in [0, 1] that returns a
            factor for ``lr``.
        clip_norm: Greatest norm of the gradient.
        weight_decay: Decoupled weight decay.
        ema: The decay of an exponential moving average of the program's weights, 0.999 say, which validation sees and
            the program has in the end; ``None`` for the weights themselves.
        kl_warmup: Epochs over which the weight of the KL term rises linearly from 0 to 1. (For free bits give
            ``objective=ELBO(free_bits=...)``.)
        fill_missing: What the guide sees in the place of missing entries, of the training data and from then on, as
            ``program.fill_missing``: 0 for a network that was not written for NaN. The model sees NaN, and scores what
            was seen.
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
        progress: Whether to show a progress bar on standard error; or a function to be called with the fraction done.

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
    if fill_missing is not None:
        if isinstance(fill_missing, bool) or not isinstance(fill_missing, Real):
            raise AdviceError("{fill_missing}: give a number, 0 say.", fill_missing=fill_missing)
        program.fill_missing = float(fill_missing)
    require_function(transform)
    seed = checked_seed(seed)
    default = objective is None and getattr(program, "objective", None) is None
    objective = resolve_objective(program, objective)
    settings = Settings(epochs, batch_size, lr, patience, schedule, kl_warmup, seed, ema)
    settings.check(validation)
    check_numbers(clip_norm=clip_norm, weight_decay=weight_decay)
    if clip_norm is not None and not clip_norm > 0:
        raise AdviceError("{clip_norm}: the greatest norm of the gradient is positive.", clip_norm=clip_norm)
    if resume and checkpoint is None:
        raise AdviceError("{resume} goes on from a checkpoint: give {checkpoint} too.", resume=True, checkpoint=...)
    if checkpoint is not None and not resume and Path(checkpoint).exists():
        read_checkpoint(Path(checkpoint))  # what is no checkpoint is not written over
    _refuse_warmup(objective, kl_warmup)
    data, validation = (typed(program, part, wide=transform is not None) for part in (data, validation))
    dtype = next((p.dtype for p in program.parameters() if p.is_floating_point()), None)
    fabric = launch(program, data, accelerator, devices, num_nodes, strategy, log_dir, logger)
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
        missing = any_missing(program, everything, held_out)
        if missing and not objective.serves_missing:
            raise ValueError(missing_refused(objective))
        if isinstance(program.given_guide, AutoGuide) and batches.batch_size < batches.size:
            refuse_local_latents(program, first)  # an autoguide has parameters for each datum, and does not read x
        rows = first_rows(everything, ROWS_TO_INITIALISE)
        program.initialise(*on_device(rows, device_of(program, data)), seed=seed)
        program.to(fabric.device)
        preflight_all(program, batches, everything, fabric.device)
        if held_out is not None:
            preflight_all(program, held_out, held_out, fabric.device)
        if default and (asked := asked_to_enumerate(program, *on_device(first, fabric.device))) is not None:
            objective = asked
            _refuse_warmup(objective, kl_warmup)
        objective.to(fabric.device)
        require_suitable(program, objective, structure(program, *on_device(first, fabric.device)).kind)
        if program.event_shape is None:
            program.found_shape(torch.Size(first[0].shape[1:]))
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
        latent = LatentMissing(program, (), {})
        if missing:
            latent = latent_missing_of(program, data, validation, transform, fabric.device)
        with latent.again():
            objective.prepare(program, *on_device(rows, fabric.device))
        objective.to(fabric.device)
        module = LossModule(program, objective, batches.size, missing, latent)
        players = players_of(program, objective)
        modules = [LossModule(program, objective, batches.size, missing, latent, player) for player in players]
        optimizers = [make_optimizer(m, p, lr, weight_decay) for m, p in zip(modules, players, strict=True)]
        was_training = program.training
        csv_file = Path(log_dir) / "metrics.csv" if log_dir is not None and logger == "csv" else None
        try:
            module.train()  # before the step is recorded
            rounds = epochs * len(batches)
            steps, mode, reason = make_steps(fabric, modules, optimizers, clip_norm, compile, rounds, first)
            orders = [batches, *(batches.reordered(i) for i in range(1, len(players)))]
            learners = list(map(Learner, players, modules, optimizers, steps, orders))
            training = Training(fabric, module, learners, held_out, settings)
            training.result.mode, training.result.mode_reason = mode, reason
            if checkpoint is not None:
                training.identity = identity_of(settings, objective, batches.size) | identity
            if checkpoint is not None and resume and Path(checkpoint).exists():
                training.load(Path(checkpoint))
            with training_bar(fabric.is_global_zero and progress, rounds) as bar:
                training.run(None if checkpoint is None else Path(checkpoint), csv_file, bar)
        finally:
            module.train()
            program.train(was_training)
    return training.result


def _refuse_warmup(objective: Objective, kl_warmup: int) -> None:
    if kl_warmup and not objective.anneals:
        raise AdviceError(f"{type(objective).__name__} has no KL weight to warm up: use {{kl_warmup}}.", kl_warmup=0)
