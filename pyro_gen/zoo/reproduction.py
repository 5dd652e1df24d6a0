"""Reproducing the figure of an entry: train by the recipe, measure, compare."""

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_gen._version import __version__
from pyro_gen.data.prepared import Prepared
from pyro_gen.inference.progress import progress_bar
from pyro_gen.program import Program
from pyro_gen.registry import MEASURES, Measured
from pyro_gen.zoo.entries import Entry, load
from pyro_gen.zoo.training import prepare, train

__all__ = ["Reproduction", "measure", "reproduce", "versions"]


def measure(
    entry: Entry,
    program: Program,
    data: Prepared,
    *,
    seed: int = 0,
    progress: bool | Callable[[float], None] = False,
    **overrides: Any,
) -> Measured:
    """Measures the figure of an entry.

    Arguments:
        entry: The entry.
        program: Its program, trained or not.
        data: Its data, of :func:`prepare`.
        seed: Seeds the draws.
        progress: Whether to show a progress bar on standard error; or a function to be called with the fraction done.
        overrides: Options of the measure other than the recipe's.

    Raises:
        ValueError: The measure does not apply; the message names the recipe.
    """
    options = entry.figure.options | overrides
    try:
        with progress_bar(f"{entry.figure.measure} of the test data", progress) as report:
            return MEASURES[entry.figure.measure].function(program, data, seed=seed, progress=report, **options)
    except ValueError as error:
        raise ValueError(f"recipe {entry.name}: {error}") from error


@dataclass(frozen=True)
class Reproduction:
    """What :func:`reproduce` found.

    Attributes:
        name: The entry.
        value: The measured figure, in ``unit``.
        standard_error: Its Monte Carlo standard error (0 where exact); not the error from the choice of test data.
        sampling_error: Its standard error as an estimate for the population that the test data comes from.
        unit: Of the figure.
        kind: What kind of estimate it is.
        method: The method.
        figure: What was to be reproduced, as text.
        holds: Whether it was.
        data: How many test data.
        epochs: Epochs trained.
        train_seconds: Wall-clock time of the training.
        seconds: Wall-clock time of everything.
        device: The processor.
        seed: The seed.
        versions: Of pyro_gen, torch, pyro and Python.
    """

    name: str
    value: float
    standard_error: float
    sampling_error: float
    unit: str
    kind: str
    method: str
    figure: str
    holds: bool
    data: int
    epochs: int
    train_seconds: float
    seconds: float
    device: str
    seed: int
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Numbers and text only, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        # Of a single datum, a series say, nothing is known of how others would differ.
        sampling = "" if math.isnan(self.sampling_error) else f", sampling error {self.sampling_error:.3f}"
        how = ", ".join(dict.fromkeys((self.method, self.kind)))  # of what is exact they are one word
        return (
            f"{self.name}: {self.value:.3f} +- {self.standard_error:.3f} {self.unit} ({how}; "
            f"{self.data} test data{sampling}); the figure {self.figure} {verdict}; "
            f"{self.seconds:.0f} s on {self.device}"
        )


def reproduce(
    name: str,
    *,
    seed: int = 0,
    data_root: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    **overrides: Any,
) -> Reproduction:
    """Trains an entry by its recipe, measures it on test data, and says whether its figure holds.

    Arguments:
        name: The entry.
        seed: Seeds everything; the caller's generators are left alone.
        data_root: The folder of the data sets that do not come with scikit-learn; by default ``$PYRO_GEN_DATA``.
        device: Where to compute, by default on a GPU if there is one.
        progress: Whether to show progress on standard error.
        overrides: Arguments of :func:`pyro_gen.fit` other than the recipe's: ``compile=False``, or
            ``checkpoint="run.ckpt", resume=True`` for a run that may be interrupted.

    Raises:
        ValueError: There is no such entry, its data is not there, or the checkpoint is of another run.

    Example:
        >>> reproduce("gaussian-iris", progress=False).holds
        True
    """
    start = time.perf_counter()
    entry = load(name)
    data = prepare(entry, data_root)
    result = train(entry, data, seed=seed, device=device, progress=progress, **overrides)
    found = measure(entry, result.program, data, seed=seed, progress=progress)
    used = next(iter((*result.program.parameters(), *result.program.buffers()))).device
    return Reproduction(
        name=name,
        value=found.value,
        standard_error=found.standard_error,
        sampling_error=found.sampling_error,
        unit=entry.figure.unit,
        kind=found.kind,
        method=found.method,
        figure=str(entry.figure),
        holds=entry.figure.holds(found.value),
        data=data.rows,
        epochs=len(result.history),
        train_seconds=result.seconds,
        seconds=time.perf_counter() - start,
        device=torch.cuda.get_device_name(used) if used.type == "cuda" else _processor(),
        seed=seed,
        versions=versions(),
    )


def _processor() -> str:
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


def versions() -> dict[str, str]:
    """The versions of what results depend on."""
    return {
        "pyro_gen": __version__,
        "torch": str(torch.__version__),
        "pyro": str(pyro.__version__),
        "python": platform.python_version(),
    }
