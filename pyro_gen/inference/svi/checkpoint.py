"""Checkpoints: what is written after an epoch, and whether it is of the same run."""

from pathlib import Path
from typing import Any

import torch

from pyro_gen._archives import read_archive
from pyro_gen._files import atomic
from pyro_gen._identity import digest, settings_of
from pyro_gen.inference.objectives import Objective
from pyro_gen.inference.svi.settings import Settings

__all__ = ["identity_of", "read_checkpoint", "require_same_run", "write_checkpoint"]


# Parts of the identity of a run that are hashes, of which a reader learns nothing.
HASHED = ("learning rates", "settings of the objective", "data", "validation data", "transform", "program")


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint onto a device.

    Raises:
        ValueError: The file is none.
    """
    try:
        state: dict[str, Any] = read_archive(path, device)
        _ = state["identity"], state["module"], state["optimizers"], state["history"]
    except Exception as error:  # a file of any content
        raise ValueError(f"{path} is not a checkpoint of pg.fit: remove it, or give another file.") from error
    return state


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all."""
    with atomic(path) as partial, partial.open("wb") as file:
        torch.save(state, file)


def require_same_run(path: Path, was: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuses the checkpoint of another run.

    Raises:
        ValueError: A part of the identities differs; the message says which.
    """
    for what, value in identity.items():
        if (before := was.get(what, "not in it")) != value:
            hashed = what in HASHED and before is not None and value is not None
            differs = f"the {what} differs" if hashed else f"its {what} is {before}, not {value}"
            raise ValueError(f"The checkpoint {path} is of another run: {differs}. Remove it, or give another file.")


def identity_of(settings: Settings, objective: Objective, rows: int) -> dict[str, Any]:
    """What must be the same for a run to be the same."""
    return {
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "kl_warmup": settings.kl_warmup,
        "ema": settings.ema,
        "schedule": settings.schedule if isinstance(settings.schedule, str) else "a function",
        # A schedule goes by the share of all epochs; without one a run may go on for more of them.
        "epochs": None if settings.schedule == "constant" else settings.epochs,
        "learning rates": digest([settings.lr_at(share / 16) for share in range(17)]),
        "objective": type(objective).__name__,
        "settings of the objective": digest(settings_of(objective)),
        "rows of data": rows,
    }
