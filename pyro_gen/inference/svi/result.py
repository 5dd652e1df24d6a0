"""What a training run returns, and the error that ends one."""

from dataclasses import dataclass, field

from pyro_gen._errors import Advice
from pyro_gen.program import Program

__all__ = ["KEPT", "FitResult", "NonFiniteLossError"]


class NonFiniteLossError(Advice, ArithmeticError):
    """The loss or its gradient became NaN or infinite; the message names the site.

    The program has the last good weights: those from the start of an epoch whose first step had a finite loss and
    gradient.
    """


KEPT = (
    "The last weights from the start of an epoch with a finite loss were kept. Try a smaller {lr}, {clip_norm}, or "
    "check the scale of x."
)


@dataclass
class FitResult:
    """What :func:`fit` returns.

    Attributes:
        program: The trained program, the one that was given.
        history: One row per epoch: ``epoch``, ``train_loss`` and ``validation_loss`` (negative bound in nats per
            datum), ``<name>_loss`` of each further player of a game, ``lr``, ``kl_weight``, ``seconds``.
        best_epoch: The epoch with the least validation loss, whose weights the program has when ``patience`` was
            given; ``None`` without validation data.
        stopped: ``"epochs"`` or ``"patience"``.
        steps: Gradient steps taken; in a game its rounds.
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
