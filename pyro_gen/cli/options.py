"""What several commands take, with the choices that registries and functions of the package offer."""

import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import torch
import typer

from pyro_gen.inference import mcmc
from pyro_gen.inference.guides import GUIDES
from pyro_gen.inference.likelihood.api import METHODS as LIKELIHOOD_METHODS
from pyro_gen.inference.likelihood.evidence import METHODS as EVIDENCE_METHODS
from pyro_gen.inference.mcmc.initial import SOURCES
from pyro_gen.inference.posterior import METHODS as SAMPLING_METHODS
from pyro_gen.registry import OBJECTIVES

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
Progress = Annotated[bool, typer.Option(help="Show progress bars.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(envvar="PYRO_GEN_DATA", help="The folder that holds MNIST in torchvision's layout."),
]
Decimal = Annotated[
    str | None, typer.Option(help="The decimal mark in a text file, . or a comma; by default its numbers say it.")
]
DropEmpty = Annotated[bool, typer.Option("--drop-empty", help="Leave out rows without any value.")]
Saved = Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A file written by pyro-gen fit.")]
ContextFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        help="What the model conditions on, behind the data: a .csv, .tsv, .parquet, .npy or .pt file with a row for "
        "each of the data; repeatable, in the order of the model's arguments.",
    ),
]
Moved = Annotated[str | None, typer.Option("--target", help="Where the program's class is, my_file.py:MyProgram.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write over files that the command reads, or did not write itself.")
]
Report = Annotated[Path | None, typer.Option(help="An .html page: the answer in words, pictures, tables.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the Python file that the program came from, if it is what it was.")
]

TARGET = (
    "A model of the zoo (VAE), an entry of it (vae-digits), or a file of yours: my_file.py:MyProgram, a class or an "
    "instance. A class is given event_shape (or features) if its __init__ takes it, and --set."
)


class Part(StrEnum):
    """The parts of a named data set."""

    train = "train"
    test = "test"


class Device(StrEnum):
    """The devices to train on."""

    cpu = "cpu"
    cuda = "cuda"


class Single(StrEnum):
    """What stands in the holes of one completed table."""

    mean = "mean"
    median = "median"
    mode = "mode"


# ----------------------------------------------------------------------------------------------------------------------
# Choices that the package offers, read where it lists them


def _needed(function: Any) -> set[str]:
    """The arguments of a function that have no default."""
    return {p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty}


def _with_draws_alone() -> Iterator[str]:
    """The objectives that need nothing, or a number of draws alone."""
    for name, cls in OBJECTIVES.items():
        if _needed(cls) <= {"num_particles"}:
            yield name


def _without_blocks() -> Iterator[str]:
    """The methods of pg.posterior that take no more than numbers."""
    for name in SAMPLING_METHODS:
        if name not in mcmc.SAMPLERS or "blocks" not in _needed(mcmc.SAMPLERS[name]):
            yield name


if TYPE_CHECKING:
    ObjectiveName: TypeAlias = str
    Method: TypeAlias = str
    Sampling: TypeAlias = str
    Start: TypeAlias = str
    Evidence: TypeAlias = str
    GuideName: TypeAlias = str
else:

    def _choice(name: str, values: Iterable[str]) -> type[StrEnum]:
        return StrEnum(name, {value: value for value in values})

    ObjectiveName = _choice("ObjectiveName", _with_draws_alone())
    Method = _choice("Method", LIKELIHOOD_METHODS)
    Sampling = _choice("Sampling", _without_blocks())
    Start = _choice("Start", SOURCES)
    Evidence = _choice("Evidence", EVIDENCE_METHODS)
    GuideName = _choice("GuideName", GUIDES)


def takes_particles(objective: str) -> bool:
    """Whether an objective has a number of draws."""
    return "num_particles" in inspect.signature(OBJECTIVES[objective]).parameters


def needs_particles(objective: str) -> bool:
    """Whether an objective has no number of draws by default."""
    return "num_particles" in _needed(OBJECTIVES[objective])


def program_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Arguments of a program out of ``name=value``, the value in JSON or else a text."""
    options = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise ValueError(f"--set {pair}: give an argument of the program as name=value.")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options


def check_device(device: Device | None) -> None:
    """Raises ValueError where there is no such device."""
    if device is Device.cuda and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here.")
