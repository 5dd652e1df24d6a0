"""Training under Lightning's own Trainer, for those who have their callbacks and loggers there already.

:func:`pyro_gen.fit` does the same without it, and faster: it records the step as a graph.
"""

from typing import Any

import lightning
import pyro
import torch
from torch import Tensor

from pyro_gen.inference.objectives import Objective, require_suitable, resolve_objective
from pyro_gen.packing import packed_inputs
from pyro_gen.program import Program, data_size
from pyro_gen.traces import structure

__all__ = ["SVIModule"]


class SVIModule(lightning.LightningModule):
    """A program and its objective as a LightningModule; the program's weights are under ``program.`` in its state.

    Batches are ``x``, a tensor or a mapping of several, or a tuple or list ``(x, *context)``. It logs ``train_loss``
    and ``validation_loss``, the negative bound in nats per datum.

    Arguments:
        program: The program; lazily created parameters must exist, see :meth:`Program.initialise`.
        objective: What is minimised; by default the program's ``objective``, or the ELBO.
        size: The number of rows of the training data, which minibatches are scaled to.
        lr: The learning rate of Adam.
        kl_warmup: Epochs over which the weight of the KL term rises linearly from 0 to 1.

    Objectives of several players are for :func:`pyro_gen.fit` alone: each step of a player takes a minibatch of its
    own, and a Trainer hands one out for all. One that prepares itself from data does so before the Trainer starts:
    ``module.objective.prepare(program, x)``.

    Raises:
        ValueError: The size is not positive, the objective has no KL weight to warm up, or several players; in the
            first step, the objective is wrong for what the program is.

    Example:
        >>> import pyro_gen as pg
        >>> module = SVIModule(pg.models.Gaussian(2), size=100)
        >>> sorted(module.state_dict())
        ['program.loc', 'program.scale_tril_unconstrained']
    """

    def __init__(
        self, program: Program, objective: Objective | None = None, *, size: int, lr: float = 1e-3, kl_warmup: int = 0
    ) -> None:
        super().__init__()
        self.program = program
        self.objective = resolve_objective(program, objective)
        if size < 1:
            raise ValueError(f"size={size}: give the number of rows of the training data.")
        if kl_warmup and not self.objective.anneals:
            raise ValueError(f"{type(self.objective).__name__} has no KL weight to warm up: use kl_warmup=0.")
        if type(self.objective).players is not Objective.players:
            raise ValueError(f"{type(self.objective).__name__} is a game of several players: train it by pg.fit.")
        self.size, self.lr, self.kl_warmup = size, lr, kl_warmup
        self._suits = False  # whether the objective is known to be right for the program, which a first batch tells

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        progress = self.current_epoch + batch_idx / self.trainer.num_training_batches
        return self._loss("train_loss", batch, min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss("validation_loss", batch, 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def _loss(self, name: str, batch: Any, kl_weight: float) -> Tensor:
        first, *context = batch if isinstance(batch, tuple | list) else (batch,)
        program, x = packed_inputs(self.program, first)
        options: dict[str, Any] = {"kl_weight": kl_weight} if self.objective.anneals else {}
        if not self._suits:
            require_suitable(program, self.objective, structure(program, x, *context).kind)
            self._suits = True
        # Pyro's validation looks at values: on a GPU each look is a wait.
        with data_size(self.size), pyro.validation_enabled(False):
            loss = self.objective.loss(program, x, *context, **options) / self.size
        self.log(name, loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(x))
        return loss
