"""The settings of a training run, checked."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from pyro_gen._errors import AdviceError

__all__ = ["Settings", "check_numbers"]


def check_numbers(**given: Any) -> None:
    """Refuses arguments of :func:`pyro_gen.fit` that are given, and are no numbers."""
    for name, value in given.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise AdviceError(f"{{{name}}}: give a number.", **{name: value})


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
    ema: float | None = None

    def check(self, validation: Any) -> None:
        """Raises where a setting has no meaning."""
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise AdviceError("{epochs}: give a whole number of epochs, at least one.", epochs=self.epochs)
        check_numbers(kl_warmup=self.kl_warmup, lr=self.lr, ema=self.ema, patience=self.patience)
        if self.kl_warmup < 0:
            raise AdviceError("{kl_warmup}: give a number of epochs, 0 for none.", kl_warmup=self.kl_warmup)
        if not self.lr > 0:
            raise AdviceError("{lr}: the learning rate is positive.", lr=self.lr)
        if self.ema is not None and not 0 < self.ema < 1:
            raise AdviceError("{ema}: the decay of the average of the weights is between 0 and 1.", ema=self.ema)
        if not callable(self.schedule) and self.schedule not in ("constant", "cosine"):
            raise AdviceError('{schedule}: give "constant", "cosine" or a function.', schedule=self.schedule)
        if self.patience is not None and validation is None:
            raise AdviceError(
                "{patience} stops on the validation loss: give {validation} too.", patience=..., validation=...
            )
        if self.patience is not None and self.patience < 1:
            raise AdviceError("{patience}: give at least one epoch.", patience=self.patience)

    def lr_at(self, progress: float, lr: float | None = None) -> float:
        """The learning rate after a share of the run, of a player that has an ``lr`` of its own from that."""
        rate = self.lr if lr is None else lr
        if callable(self.schedule):
            return rate * self.schedule(progress)
        return rate * (0.5 * (1 + math.cos(math.pi * progress)) if self.schedule == "cosine" else 1.0)
