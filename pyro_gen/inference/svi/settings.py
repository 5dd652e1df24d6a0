"""The settings of a training run, checked."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """What the user asks of a run; :func:`pyro_gen.fit` says what each means."""

    epochs: int
    batch_size: int
    lr: float
    patience: int | None
    schedule: str | Callable[[float], float]
    kl_warmup: int
    seed: int

    def check(self, validation: Any) -> None:
        """Raises where a setting has no meaning."""
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
        """The learning rate after a share of the run."""
        if callable(self.schedule):
            return self.lr * self.schedule(progress)
        return self.lr * (0.5 * (1 + math.cos(math.pi * progress)) if self.schedule == "cosine" else 1.0)
