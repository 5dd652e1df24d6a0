"""The command line: a thin door to the functions of the package.

Results go to standard output (with ``--json`` as JSON and nothing else), progress and errors to standard error. The
exit code is 0, or 1 where the answer is no (a program fails a check, a figure does not hold), or 2 for bad input.
"""

import inspect
import json
import math
import re
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from pyro_gen import zoo
from pyro_gen._archives import read_archive
from pyro_gen._errors import AdviceError, said
from pyro_gen._files import atomic
from pyro_gen._version import __version__
from pyro_gen.console import Shell, print_json, results_alone
from pyro_gen.data import DataSet, Transform, as_tensor, read_table
from pyro_gen.data import load as load_data
from pyro_gen.data.column import DISCRETE, KINDS, Column
from pyro_gen.data.problems import Problems, problems
from pyro_gen.inference.objectives import Objective
from pyro_gen.inference.progress import progress_bar
from pyro_gen.inference.svi import fit as train
from pyro_gen.outputs import check_distinct, check_output
from pyro_gen.program import Program
from pyro_gen.registry import DATA_SETS, MODELS
from pyro_gen.saving import SavedProgram, load_program, save_program
from pyro_gen.targets import build, file_and_name, make_transform, transform_with_ladj

if TYPE_CHECKING:
    import pandas as pd

    from pyro_gen.imputation.imputer import Imputer

__all__ = ["app", "main"]

app = Shell(
    name="pyro-gen",
    help="Generative models as Pyro programs: train, measure and use them.",
    epilog="Every command takes --help, and --debug, which shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
zoo_app = Shell(help="Programs with their recipes and the figures these must reproduce.", no_args_is_help=True)
app.add_typer(zoo_app, name="zoo")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"pyro-gen {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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
Saved = Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A file written by pyro-gen fit.")]
Moved = Annotated[str | None, typer.Option("--target", help="Where the program's class is, my_file.py:MyProgram.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write over files that the command reads, or did not write itself.")
]
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


class ObjectiveName(StrEnum):
    """The objectives that need no more than a number of draws."""

    elbo = "ELBO"
    iwae = "IWAE"
    dreg = "DReG"


class Method(StrEnum):
    """The methods of pg.log_likelihood."""

    auto = "auto"
    exact = "exact"
    elbo = "elbo"
    iwae = "iwae"
    ais = "ais"
    bdmc = "bdmc"
    smc = "smc"


class Sampling(StrEnum):
    """The methods of pg.posterior that take no more than numbers."""

    auto = "auto"
    hmc = "hmc"
    nuts = "nuts"
    mala = "mala"
    rwm = "rwm"
    tempering = "tempering"
    guide = "guide"
    smc = "smc"


class Single(StrEnum):
    """What stands in the holes of one completed table."""

    mean = "mean"
    median = "median"
    mode = "mode"


class Start(StrEnum):
    """Where chains start."""

    uniform = "uniform"
    prior = "prior"
    guide = "guide"
    pathfinder = "pathfinder"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Arguments:
        arguments: What stands behind ``pyro-gen``; by default that of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    with results_alone(to_the_end=arguments is None) if "--json" in words else nullcontext():
        try:
            with warnings.catch_warnings():
                # Pyro warns of NaN where an error that names the site follows.
                warnings.filterwarnings("ignore", "Encountered (NaN|[+-]?inf)", UserWarning)
                return app([w for w in words if w != "--debug"], prog_name="pyro-gen", standalone_mode=False) or 0
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
                return 2
            if debug and not hasattr(error, "format_message"):
                raise
            line = _one_line(error).encode("utf-8", "backslashreplace").decode()  # names of files may be no text
            print(f"error: {line}", file=sys.stderr)
            return 2


def _one_line(error: Exception) -> str:
    """What an exception says, without the tensors that torch and Pyro print into their messages."""
    if hasattr(error, "format_message"):  # of typer, about the words of the command
        context = getattr(error, "ctx", None)
        where = "pyro-gen" if context is None else context.command_path
        return f"{' '.join(error.format_message().split()).rstrip('.')} (see {where} --help)."
    if isinstance(error, AdviceError):
        return error.on_the_command_line()
    text = said(error).partition(": ")[2].split("tensor(")[0].strip()
    if text.endswith("but found invalid values:"):
        text = _about_invalid_values(text.removesuffix(":"), error)
    text = _in_words_of_the_shell(text)
    # Messages of this package are whole sentences; others may be a word, or nothing.
    if not isinstance(error, ValueError | TypeError | ArithmeticError) or " " not in text:
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    limit = 3000 if isinstance(error, Problems) else 700
    return text if len(text) <= limit else text[:limit] + " ..."


def _about_invalid_values(text: str, error: Exception) -> str:
    """What torch's validation of values and parameters of distributions says, and what to do about it."""
    frames = list(_frames(error))
    if "Expected value argument" in text:
        sites = [frame.f_locals["site"] for frame in frames if isinstance(frame.f_locals.get("site"), dict)]
        if any(site.get("is_observed") for site in sites[-1:]):
            return text + " in the data: transform it (--transform) or choose another likelihood (--set)."
        return text + ": the guide draws outside of the support that the model gives this site, or NaN."
    sides = [
        frame.f_code.co_name
        for frame in frames
        if frame.f_code.co_name in ("guide", "model") and isinstance(frame.f_locals.get("self"), Program)
    ]
    if found := re.search(r"parameter (\w+) .*of distribution (\w+)\(.*constraint (.*), but", text):
        text = f"the parameter {found[1]} of {found[2]} is NaN or infinite, or breaks the constraint {found[3]}"
    return (
        f"in the {sides[0] if sides else 'program'}, {text}. If the data has missing values, x has NaN in it: give "
        "networks torch.nan_to_num(x), and x.isnan() beside it."
    )


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The frames that an exception and what it was raised from went through, from the outermost on."""
    at = error.__traceback__
    while at is not None:
        yield at.tb_frame
        at = at.tb_next
    if error.__context__ is not None:
        yield from _frames(error.__context__)


# Arguments of functions of the package that the command line takes as options of the same name.
_ARGUMENTS = (
    *("batch_size", "checkpoint", "chains", "clip_norm", "draws", "epochs", "init", "kl_warmup", "lr", "method"),
    *("num_particles", "patience", "resume", "schedule", "seed", "target", "temperatures", "thin", "validation"),
    *("warmup",),
)


def _in_words_of_the_shell(text: str) -> str:
    """Advice for Python, ``give validation= too``, as advice for the command line, ``give --validation too``."""

    def option(found: re.Match[str]) -> str:
        value = found["value"].strip("\"'")
        return f"--{found['name'].replace('_', '-')}" + (f" {value}" if value and value != "True" else "")

    pattern = rf"(?<![\w.(/-])(?<!--set )(?P<name>{'|'.join(_ARGUMENTS)})=(?P<value>(\"[^\"]*\"|'[^']*'|[-\w.+]*\w)?)"
    return re.sub(pattern, option, text).replace("Try a smaller lr", "Try a smaller --lr")


# ----------------------------------------------------------------------------------------------------------------------
# Data


@dataclass(frozen=True)
class _Data:
    """Data by name or from a file, before any transform."""

    name: str
    x: Tensor
    columns: tuple[str, ...] | None
    levels: int | None


def _read(
    name: str, part: Part, data_root: Path | None, drop_empty: bool, decimal: str | None, to_train: bool = True
) -> _Data:
    """Reads data; that to train on needs a value in each column and row, other data may have empty ones."""
    if name in DATA_SETS:
        if DATA_SETS[name].from_folder and data_root is None:
            raise ValueError(
                f"{name} does not come with the package: name its folder by --data-root (or PYRO_GEN_DATA)."
            )
        known = load_data(name, root=data_root)
        return _Data(name, known.train if part is Part.train else known.test, known.columns, known.levels)
    path = Path(name)
    if path.suffix == ".pt" or path.suffix == ".npy":
        return _Data(str(path), _read_array(path, drop_empty, to_train), None, None)
    if not path.exists() and not path.suffix:
        raise ValueError(f"there is no data set {name!r}, nor a file: the data sets are {', '.join(DATA_SETS)}.")
    try:
        table = read_table(path, drop_all_missing=drop_empty, allow_all_missing=not to_train, decimal=decimal)
    except ValueError as error:
        text = str(error).replace("drop_all_missing=True", "--drop-empty")
        text = text.replace("(decimal='.' or ',')", "(--decimal . or --decimal ,)")
        raise ValueError(text) from error
    for note in table.notes:
        print(f"note: {note}", file=sys.stderr)
    return _Data(str(path), table.values, table.columns, None)


def _read_array(path: Path, drop_empty: bool, to_train: bool) -> Tensor:
    import numpy as np

    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    try:
        array = read_archive(path) if path.suffix == ".pt" else np.array(np.load(path, "r", allow_pickle=False))
    except Exception as error:
        raise ValueError(f"{path}: not an array of numbers ({type(error).__name__}).") from error
    x = as_tensor(array, str(path), torch.float64)
    empty = x.isnan().reshape(len(x), -1).all(1)
    if empty.all():
        raise ValueError(f"{path}: no value is observed in the whole array.")
    if empty.any() and to_train and not drop_empty:
        raise ValueError(
            f"{path}: {int(empty.sum())} of {len(x)} rows without any observed value (the first is row "
            f"{int(empty.nonzero()[0])}, counted from 0); --drop-empty leaves them out."
        )
    return x[~empty] if drop_empty else x


def _through(transform: Transform | None, x: Tensor, seed: int) -> Tensor:
    """Data as a program takes it: transformed with all the digits of the file, and then in torch's default dtype."""
    made = x if transform is None else transform(x, torch.Generator().manual_seed(seed))
    return made.to(torch.get_default_dtype())


def _aligned(saved: SavedProgram, data: _Data) -> _Data:
    """Data with the columns of the program, in its order."""
    wanted, given = saved.description["columns"], data.columns
    if wanted is not None and given is not None:
        missing, unknown = ([c for c in a if c not in b] for a, b in ((wanted, given), (given, wanted)))
        complaints = []
        if missing:
            complaints.append(f"has no column {_names(missing)} (add it, empty where it was not observed)")
        if unknown:
            complaints.append(f"has a column {_names(unknown)} that the program does not know (leave it out)")
        if complaints:
            raise ValueError(f"{data.name} {' and '.join(complaints)}; the program's columns are {_names(wanted)}.")
        return replace(data, x=data.x[:, [given.index(c) for c in wanted]], columns=tuple(wanted))
    if data.x.shape[1:] != saved.program.event_shape:
        raise ValueError(
            f"{data.name} has data of shape {tuple(data.x.shape[1:])}, the program is for data of shape "
            f"{tuple(saved.program.event_shape or ())}."
        )
    return data


def _names(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns[:5])) + (f", ... ({len(columns)} in all)" if len(columns) > 5 else "")


def _warn_of_scales(x: Tensor, columns: Sequence[str] | None) -> None:
    """One line on standard error where the columns of a table, (N, D), are on scales that hardly train together."""
    if x.ndim != 2:
        return
    wide = x.double()
    mean = wide.nanmean(0)
    scale = (wide - mean).square().nanmean(0).sqrt()
    binary = ((wide == 0) | (wide == 1) | wide.isnan()).all(0)  # their scale says how rare the ones are
    shown = ((scale > 0) & ~binary).nonzero().flatten()
    if len(shown) == 0:
        return

    def name(i: int) -> str:
        return repr(columns[i]) if columns is not None else f"number {i + 1}"

    mean, scale = mean[shown], scale[shown]
    low, high, far = int(scale.argmin()), int(scale.argmax()), int((mean.abs() / scale).argmax())
    if scale[high] > 100 * scale[low]:
        what = (
            f"the standard deviations of the columns go from {float(scale[low]):.3g} ({name(int(shown[low]))}) to "
            f"{float(scale[high]):.3g} ({name(int(shown[high]))})"
        )
    elif mean[far].abs() > 100 * scale[far]:
        what = (
            f"column {name(int(shown[far]))} has mean {float(mean[far]):.5g} and standard deviation "
            f"{float(scale[far]):.3g}"
        )
    else:
        return
    print(f"warning: {what}: add --transform standardize, or training may fail.", file=sys.stderr)


def _check_context(program: Program, target: str) -> None:
    model = getattr(program, "_model", program.model)  # that of Program.from_functions
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model).parameters.values()
    if context := [p.name for p in parameters if p.kind in kinds and p.default is p.empty][1:]:
        raise ValueError(
            f"{target} takes context ({', '.join(context)}), which the command line cannot give: use Python."
        )


def _built(
    target: str, data: _Data, transform: Sequence[str], options: dict[str, Any], seed: int
) -> tuple[Program, Tensor]:
    """A program as it is before training, and the data as it sees them."""
    x = _through(make_transform(transform, data.x, data.levels, data.columns), data.x, seed)
    program = build(target, x.shape[1:], options, seed=seed)
    _check_context(program, target)
    return program, x


def _stem(target: str) -> str:
    """What the files that are made of a target are called."""
    return Path(target.replace(".py:", "_").replace(".py", "")).name.removesuffix(".pt")


def _options(pairs: Sequence[str]) -> dict[str, Any]:
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


# ----------------------------------------------------------------------------------------------------------------------
# demo


@app.command("demo")
def _demo(
    out: Annotated[
        Path, typer.Option(help="The picture, or a folder for it; a picture's name ends in .png, .pdf or .svg.")
    ] = Path("pyro_gen_demo.png"),
    overwrite: Overwrite = False,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Train a VAE on the digits, measure it, and draw what it does. Takes one to two minutes on a CPU."""
    from pyro_gen.demo import run

    if not out.suffix or out.is_dir():
        out = out / "pyro_gen_demo.png"
    _check_picture(out)
    check_output(out, "--out", overwrite=overwrite)
    found = run(out, seed=seed, progress=progress)
    if as_json:
        print_json(found)
        return
    table = Table(title="Test log-likelihood, nats per image", title_justify="left", caption_justify="left")
    for name in ("", "nats", "± estimate", "± test data", "kind"):
        table.add_column(name, justify="left" if name in ("", "kind") else "right", no_wrap=True)
    for method in found["test_log_likelihood"]:
        error, sampling = found["standard_error"][method], found["sampling_error"][method]
        value = found["test_log_likelihood"][method]
        table.add_row(f"VAE, {method.upper()}", f"{value:.2f}", f"{error:.3f}", f"{sampling:.2f}", "lower bound")
    table.add_section()
    for name, value in found["baselines"].items():
        label = {"mixture_of_bernoullis": "mixture of 50 Bernoullis"}.get(name, "independent Bernoullis")
        table.add_row(label, f"{value:.2f}", "", "", "exact")
    table.caption = (
        f"BDMC gap {found['bdmc_gap']:.3f} nats: a bound on the mean error of AIS, on simulated data.\n"
        "The VAE trained on grey images binarised at a jittered threshold, the baselines on those at pixel >= 8.\n"
        f"{found['test_images']} test images; {found['seconds']:.0f} s, of which training "
        f"{found['train_seconds']:.0f} s; {found['peak_memory_gib']:.2f} GiB."
    )
    console = Console()
    console.print(table)
    console.print(f"Picture: {found['picture']}", soft_wrap=True, highlight=False)


def _check_picture(path: Path) -> None:
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{path}: a picture's name ends in .png, .pdf or .svg.")


# ----------------------------------------------------------------------------------------------------------------------
# zoo


@zoo_app.command("list")
def _zoo_list(as_json: Json = False) -> None:
    """List the entries, with the time they took where there is a stored result."""
    entries = [zoo.load(name) for name in zoo.names()]
    if as_json:
        print_json([_described(entry) for entry in entries])
        return
    table, results = Table("entry", "what", "must reproduce", "takes"), zoo.stored()
    for e in entries:
        time = f"about {zoo.clock(60 * e.minutes)}{' on a GPU' if e.gpu else ''}"
        if e.name in results:
            time = f"{zoo.clock(results[e.name]['seconds'])} ({results[e.name]['device']})"
        table.add_row(e.name, e.title, f"{e.figure} ({e.figure.method})", time)
    Console().print(table)


def _described(entry: zoo.Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "model": entry.model,
        "options": entry.options,
        "data": entry.data,
        "transform": list(entry.transform),
        "training": entry.training,
        "figure": str(entry.figure),
        "method": entry.figure.method,
        "source": entry.figure.source,
        "minutes": entry.minutes,
        "gpu": entry.gpu,
    }


Name = Annotated[str, typer.Argument(metavar="NAME", help="An entry, see pyro-gen zoo list.")]


@zoo_app.command("show")
def _zoo_show(name: Name, as_json: Json = False) -> None:
    """Show the recipe of an entry and its stored result."""
    entry, result = zoo.load(name), zoo.stored().get(name)
    if as_json:
        print_json(_described(entry) | {"result": result})
        return
    print(entry.text.strip())
    if result is not None:
        print(f"\n# stored result\n{json.dumps(result, indent=2)}")


@zoo_app.command("reproduce")
def _zoo_reproduce(
    name: Name,
    seed: Seed = 0,
    data_root: DataRoot = None,
    device: Annotated[Device | None, typer.Option(help="By default a GPU if there is one.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Written after each epoch; a run that finds it goes on from there.")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Keep the result for the tables of the documentation.")
    ] = False,
    progress: Progress = True,
    as_json: Json = False,
) -> int:
    """Train an entry, measure it, and say whether its figure holds (exit code 1 if not)."""
    check_output(checkpoint, "--checkpoint", overwrite=True)  # what is no checkpoint is refused by fit
    kept: dict[str, Any] = {} if checkpoint is None else {"checkpoint": checkpoint, "resume": True}
    _check_device(device)
    found = zoo.reproduce(name, seed=seed, data_root=data_root, device=device, progress=progress, **kept)
    if store:
        print(f"stored in {zoo.store(found)}", file=sys.stderr)
    if as_json:
        print_json(found.to_dict())
    else:
        print(found)
    return 0 if found.holds else 1


@zoo_app.command("table")
def _zoo_table(
    write: Annotated[
        Path | None, typer.Option(help="A Markdown page to put the tables into, between their marks.")
    ] = None,
) -> None:
    """Print the table of the stored results as Markdown."""
    if write is None:
        print(zoo.table())
        return
    print(f"{write}: {'updated' if zoo.write_tables(write) else 'up to date'}")


# ----------------------------------------------------------------------------------------------------------------------
# fit, sample, evaluate, check


@app.command("fit")
def _fit(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET)],
    data: Annotated[
        str | None,
        typer.Option(help=f"A data set ({', '.join(DATA_SETS)}), or a .csv, .tsv, .parquet, .npy or .pt file."),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(help="What the data goes through first: standardize, binarize=8, ...; repeatable."),
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="An argument of the program, latent=8 say; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file of the trained program; by default TARGET.pt.")] = None,
    overwrite: Overwrite = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes through the data (100, or the recipe's).")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per step (128, or the recipe's).")] = None,
    lr: Annotated[float | None, typer.Option(help="The learning rate (0.001, or the recipe's).")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant or cosine.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="The greatest norm of the gradient.")] = None,
    validation: Annotated[float | None, typer.Option(help="The share of the data to hold out.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better one.")] = None,
    objective: Annotated[
        ObjectiveName | None,
        typer.Option(case_sensitive=False, help="What is maximised; by default the program's own objective."),
    ] = None,
    particles: Annotated[int | None, typer.Option(min=1, help="Draws per datum of the objective.")] = None,
    kl_warmup: Annotated[
        int | None, typer.Option(help="Epochs over which the weight of the KL term rises to 1 (0, or the recipe's).")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Written after each epoch.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint if it is there.")] = False,
    device: Annotated[
        Device | None, typer.Option(help="By default the CPU; for an entry of the zoo a GPU if there is one.")
    ] = None,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="Leave out rows without any value.")] = False,
    decimal: Decimal = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Train a program and save it as one file, for sample and evaluate."""
    _check_device(device)
    chosen = {
        **{"epochs": epochs, "batch_size": batch_size, "lr": lr, "schedule": schedule, "clip_norm": clip_norm},
        **{"patience": patience, "kl_warmup": kl_warmup, "checkpoint": checkpoint},
        **{"objective": _objective(objective, particles)},
    }
    arguments: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    arguments["resume"] = resume
    path = out or Path(f"{_stem(target)}.pt")
    read_too = (data, file_and_name(target)[0])
    check_output(path, "--out", inputs=read_too, overwrite=overwrite)
    check_output(checkpoint, "--checkpoint", overwrite=True)  # what is no checkpoint is refused by fit
    check_distinct({"--out": path, "--checkpoint": checkpoint})
    entry = zoo.load(target) if target in zoo.names() else None
    if entry is not None and (data or transform or options or validation is not None):
        raise ValueError(
            f"{target} is an entry of the zoo, with data and program of its own: for other ones name its model, "
            f"{entry.model}, instead."
        )
    if entry is not None:
        prepared = zoo.prepare(entry, data_root)
        result = zoo.train(entry, prepared, seed=seed, device=device, progress=progress, **arguments)
        name, given, columns, source = entry.model, entry.options, prepared.columns, entry.data
        kept = prepared.transform
    else:
        _refuse_tabular(target, data)
        if data is None:
            raise ValueError(f"say what to train {target} on, by --data.")
        name, given = target, _options(options or [])
        read = _read(data, Part.train, data_root, drop_empty, decimal)
        x, held_out = read.x, None
        if validation is not None:
            x, held_out = DataSet(read.name, read.x, read.x[:0]).split(validation, seed)
        kept = make_transform(transform or [], x, read.levels, read.columns)
        columns, source = read.columns, read.name
        program = build(name, x.shape[1:], given, seed=seed)
        _check_context(program, target)
        redraw = kept if kept is not None and kept.draws else None
        if redraw is None:
            x, held_out = _through(kept, x, seed), None if held_out is None else _through(kept, held_out, seed)
        arguments |= {"validation": held_out, "transform": redraw, "accelerator": device}
        _warn_of_scales(_through(redraw, x, seed), columns)
        result = train(program, x, seed=seed, progress=progress, **arguments)
    save_program(path, result.program, name, options=given, transform=kept, columns=columns, data=source)
    last = result.history[-1]
    if as_json:
        print_json(
            {
                "weights": str(path.resolve()),
                "train_loss": last["train_loss"],
                "validation_loss": last.get("validation_loss"),
                "best_epoch": result.best_epoch,
                "unit": "nats per datum",
                "epochs": len(result.history),
                "steps": result.steps,
                "seconds": result.seconds,
                "mode": result.mode,
                "stopped": result.stopped,
                "seed": seed,
                "versions": zoo.versions(),
            }
        )
        return
    print(result)
    print(f"Saved: {path.resolve()}")


def _refuse_tabular(target: str, data: str | None) -> None:
    """Programs for tables with holes learn by their own samplers, not by fit."""
    if target in MODELS and MODELS[target].command == "impute":
        from pyro_gen.models.tabular import METHODS

        method = next(name for name, cls in METHODS.items() if cls is MODELS[target].cls)
        raise ValueError(
            f"{target} is not trained by fit: type pyro-gen impute {data or 'TABLE.csv'} --method {method}, which "
            "learns it and fills the holes of the table."
        )


def _objective(name: ObjectiveName | None, particles: int | None) -> Objective | None:
    if name is None:
        if particles is not None:
            raise ValueError(f"--particles {particles}: say of which objective, by --objective.")
        return None
    if particles is None and name is not ObjectiveName.elbo:
        raise ValueError(f"--objective {name.value}: say how many draws per datum, by --particles.")
    return zoo.make_objective({"name": name.value, "num_particles": particles or 1})


def _check_device(device: Device | None) -> None:
    if device is Device.cuda and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here.")


@app.command("sample")
def _sample(
    weights: Saved,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many data to draw.")] = 24,
    out: Annotated[
        Path | None, typer.Option(help="A .csv, .npy or .pt file, or for images a .png, .pdf or .svg picture.")
    ] = None,
    overwrite: Overwrite = False,
    target: Moved = None,
    trust: Trust = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw data from a trained program: a picture of images, a table of rows, on the scale of the data it was given."""
    from pyro_gen import pictures
    from pyro_gen.inference.predictive import sample

    read_too = (weights, None if target is None else file_and_name(target)[0])
    check_output(out, "--out", inputs=read_too, overwrite=overwrite)
    saved = load_program(weights, target, trust)
    drawn = sample(saved.program, n, seed=seed)
    scale = "the data's"
    if saved.transform is not None:
        try:
            drawn = saved.transform.inverse(drawn.double())
        except TypeError:  # binarisation cannot be undone
            scale = f"after {saved.transform}"
    picture = pictures.is_image(drawn.shape[1:])
    path = out or Path(f"{weights.stem}_samples.{'png' if picture else 'csv'}")
    check_output(path, "--out", inputs=read_too, overwrite=overwrite, named=out is not None)
    match path.suffix:
        case ".csv":
            _write_csv(path, drawn, saved.description["columns"])
        case ".npy":
            import numpy as np

            with atomic(path) as partial:
                np.save(partial, drawn.numpy())
        case ".pt":
            with atomic(path) as partial, partial.open("wb") as file:
                torch.save(drawn, file)
        case ".png" | ".pdf" | ".svg" if picture:
            pictures.write(pictures.image_grid(drawn, f"{n} samples of {weights.name}"), path)
        case _:
            kinds = ".csv, .npy, .pt, .png, .pdf or .svg" if picture else ".csv, .npy or .pt (no picture: no images)"
            raise ValueError(f"{path}: the name of the samples' file ends in {kinds}.")
    if as_json:
        print_json({"samples": str(path.resolve()), "shape": list(drawn.shape), "scale": scale, "seed": seed})
        return
    print(f"{n} samples of shape {tuple(drawn.shape[1:])}, scale: {scale}. Saved: {path.resolve()}")


def _write_csv(path: Path, x: Tensor, columns: Sequence[str] | None) -> None:
    import pandas as pd

    from pyro_gen.imputation.files import write_table

    flat = x.flatten(1)
    write_table(pd.DataFrame(flat.numpy(), columns=pd.Index(columns or [f"x{i}" for i in range(flat.shape[1])])), path)


@app.command("evaluate")
def _evaluate(
    weights: Saved,
    data: Annotated[str, typer.Option(help="A data set (of which the test data is taken), or a file, as for fit.")],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.test,
    method: Annotated[Method, typer.Option(help="auto: exact where that applies, else ais.")] = Method.auto,
    num_particles: Annotated[int | None, typer.Option(min=1, help="Draws of the guide, for elbo and iwae.")] = None,
    chains: Annotated[int | None, typer.Option(min=1, help="Chains per datum (16), or islands of smc (4).")] = None,
    temperatures: Annotated[int | None, typer.Option(min=1, help="Temperatures, for ais and bdmc.")] = None,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="Leave out rows without any value.")] = False,
    decimal: Decimal = None,
    target: Moved = None,
    trust: Trust = False,
    data_root: DataRoot = None,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Estimate the log-likelihood of data under a trained program."""
    from pyro_gen.inference.likelihood.door import log_likelihood

    saved = load_program(weights, target, trust)
    read = _aligned(saved, _read(data, part, data_root, drop_empty, decimal, to_train=False))
    if empty := int(read.x.isnan().reshape(len(read.x), -1).all(1).sum()):
        print(
            f"note: {empty} of {len(read.x)} rows without any observed value count as log-likelihood 0; --drop-empty "
            "leaves them out.",
            file=sys.stderr,
        )
    several = "islands" if method is Method.smc else "chains"
    chosen = {"num_particles": num_particles, several: chains, "temperatures": temperatures}
    options: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    x, jacobian = (read.x, None) if saved.transform is None else transform_with_ladj(saved.transform, read.x, seed)
    with progress_bar(f"log-likelihood ({method.value})", progress) as report:
        x = x.to(torch.get_default_dtype())
        found = log_likelihood(saved.program, x, method=method.value, seed=seed, progress=report, **options)
    result = found.to_dict() | {"data_set": read.name, "seed": seed, "transform": saved.description["transform"]}
    note = ""
    if saved.transform is not None:
        note = f"of the data after {saved.transform}"
        if jacobian is not None:
            result["mean_on_the_scale_of_the_data"] = found.mean() + float(jacobian.mean())
            result["bits_per_dim"] = found.bits_per_dim(jacobian)
            note += f"; {result['mean_on_the_scale_of_the_data']:.3f} on the scale of the data"
    if as_json:
        print_json(result)
        return
    print(found)
    if note:
        print(note)


SHOWN = 40  # parameters in the table


@app.command("posterior")
def _posterior(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=f"{TARGET} Or a file written by pyro-gen fit.")],
    data: Annotated[str, typer.Option(help="A data set (of which the training data is taken), or a file, as for fit.")],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.train,
    method: Annotated[
        Sampling, typer.Option(help="auto: hmc. guide: weighted draws of a trained program's guide.")
    ] = Sampling.auto,
    chains: Annotated[int | None, typer.Option(min=1, help="Chains (64), or islands of smc (8).")] = None,
    draws: Annotated[
        int | None, typer.Option(min=4, help="Draws per chain (200), of the guide (1000), particles per island (512).")
    ] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Iterations before the first draw (120 to 1000).")] = None,
    thin: Annotated[int, typer.Option(min=1, help="Of so many transitions the last is kept.")] = 1,
    init: Annotated[Start, typer.Option(help="Where the chains start.")] = Start.uniform,
    transform: Annotated[list[str] | None, typer.Option(help="As for fit.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="As for fit.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A .nc file or .zarr folder for the draws; by default TARGET_posterior.nc.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    overwrite: Overwrite = False,
    plot: Annotated[Path | None, typer.Option(help="A folder for pictures: traces, ranks, pairs, intervals.")] = None,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="Leave out rows without any value.")] = False,
    decimal: Decimal = None,
    moved: Moved = None,
    trust: Trust = False,
    data_root: DataRoot = None,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Draw from the posterior of a program's latent variables, and say whether to believe the draws."""
    from pyro_gen.inference.diagnose import diagnose, summary
    from pyro_gen.inference.export import check_path
    from pyro_gen.inference.posterior import posterior

    path = check_path(out or Path(f"{_stem(target)}_posterior.nc"))
    if path.suffix == ".nc":
        check_output(path, "--out", inputs=(data, target, file_and_name(target)[0]), overwrite=overwrite)
    if plot is not None and plot.exists() and not plot.is_dir():
        raise ValueError(f"--plot {plot}: is a file, give a folder.")
    for name in ("trace", "rank", "pair", "forest"):
        check_output(plot and plot / f"{name}.png", "--plot", overwrite=overwrite)
    if target.endswith(".pt"):
        if transform or options:
            raise ValueError(f"{target} has its own transform and arguments: leave --transform and --set out.")
        saved = load_program(target, moved, trust)
        read = _aligned(saved, _read(data, part, data_root, drop_empty, decimal, to_train=False))
        program, x = saved.program, _through(saved.transform, read.x, seed)
    else:
        if moved is not None:
            raise ValueError("--target is for a file written by pyro-gen fit.")
        read = _read(data, part, data_root, drop_empty, decimal)
        program, x = _built(target, read, transform or [], _options(options or []), seed)
    idata: Any = posterior(
        program,
        x,
        method=method.value,
        chains=chains,
        draws=draws,
        warmup=warmup,
        thin=thin,
        init=init.value,
        seed=seed,
        progress=progress,
        save=path,
        resume=resume,
        overwrite=overwrite or path.suffix == ".nc",  # a file has been looked at above
    )
    diagnosis, table = diagnose(idata), summary(idata)
    written: list[Path] = []
    if plot is not None:
        import matplotlib

        from pyro_gen.pictures import posterior_pictures

        matplotlib.use("Agg")
        written = posterior_pictures(idata, plot, seed)
    if as_json:
        print_json(
            {
                "posterior": str(path.resolve()),
                "method": idata.posterior.attrs["method"],
                "chains": idata.posterior.sizes["chain"],
                "draws": idata.posterior.sizes["draw"],
                "parameters": {
                    name: {k: _finite(v) for k, v in row.items()} for name, row in table.to_dict("index").items()
                },
                "diagnosis": diagnosis.to_dict(),
                "log_evidence": idata.posterior.attrs.get("log_evidence"),
                "pictures": [str(picture) for picture in written],
                "data_set": read.name,
                "seed": seed,
                "versions": zoo.versions(),
            }
        )
        return
    _print_parameters(table)
    print(diagnosis)
    if "log_evidence" in (notes := idata.posterior.attrs):
        print(f"log-evidence {notes['log_evidence']:.3f} +- {notes['log_evidence_error']:.3f} nats")
    if written:
        print(f"Pictures: {', '.join(p.name for p in written)} in {written[0].parent}")
    print(f"Saved: {path.resolve()}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _print_parameters(parameters: Any) -> None:
    """The summary as a table, of so many parameters as can be read."""
    rhat = "rhat_nested" if "rhat_nested" in parameters else "rhat"
    heads = {"mean": "mean", "sd": "sd", "5%": "5%", "50%": "50%", "95%": "95%"}
    heads |= {"ess_bulk": "ESS", "ess_tail": "tail-ESS", "ess": "ESS", rhat: "R-hat"}
    columns = {name: head for name, head in heads.items() if name in parameters}
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False)
    for head in columns.values():
        table.add_column(head, justify="right", no_wrap=True)
    for label, row in parameters.head(SHOWN).iterrows():
        numbers = (_figure(name, row[name]) for name in columns)
        table.add_row(Text(str(label)), *numbers)
    Console().print(table)
    if len(parameters) > SHOWN:
        print(f"The first {SHOWN} of {len(parameters):,} parameters; --json shows all.")


def _figure(name: str, value: float) -> str:
    return f"{value:,.0f}" if name.startswith("ess") else f"{value:.3f}" if name.startswith("rhat") else f"{value:.3g}"


@app.command("impute")
def _impute(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="A table with holes: a .csv, .tsv or .parquet file; or a folder of .parquet files."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .parquet or .csv file, by default DATA_imputed.parquet: the completed tables one below the other, "
            "with their number in the column .imp and that of the row in .id. For a folder a folder, which goes on "
            "with what it lacks if it was begun before."
        ),
    ] = None,
    overwrite: Overwrite = False,
    draws: Annotated[int, typer.Option(min=1, help="How many completed tables.")] = 20,
    single: Annotated[
        Single | None, typer.Option(help="Write one table in their place: to look at, not to analyse.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="A .html page on what was missing and imputed. Learns again, to see whether to trust it."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="auto weighs all programs that suit the columns; or the name of one, or several: a,b.")
    ] = "auto",
    kinds: Annotated[
        list[str] | None,
        typer.Option("--type", help="What a column is, where the guess is wrong: age=count; repeatable."),
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(help="A .json file: kinds by column, or the schema that --json prints.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="A column (names, dates) to hand on, as the last, neither used nor imputed; repeatable."),
    ] = None,
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="Leave out columns without any observed value.")
    ] = False,
    time_limit: Annotated[float | None, typer.Option(help="Seconds to learn for at most, about.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a text file: cp1250, say; by default guessed.")] = None,
    separator: Annotated[str | None, typer.Option(help="Of columns in a text file; by default guessed.")] = None,
    decimal: Decimal = None,
    marks: Annotated[
        list[str] | None, typer.Option("--missing", help="What stands for missing: -999, unknown; repeatable.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that impute the files of a folder; more than one need Dask.")
    ] = 1,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Fill the holes of a table many times, by draws that differ as much as there is doubt: multiple imputation."""
    from pyro_gen.imputation import files
    from pyro_gen.imputation.imputer import Imputer
    from pyro_gen.imputation.report import over_impute
    from pyro_gen.imputation.report import report as write_report

    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"--time-limit {time_limit:g}: give a positive number of seconds.")
    methods, overrides = _methods(method), _kinds(kinds or [], schema)
    if not data.exists():
        raise ValueError(f"{data}: no such file or folder.")
    if data.is_dir():
        for option, given in {
            "--single": single,
            "--report": report,
            "--drop-empty": drop_empty,
            "--encoding": encoding,
            "--separator": separator,
            "--decimal": decimal,
            "--missing": marks,
        }.items():
            if given:
                raise ValueError(f"{option}: is for a file, and {data} is a folder; leave it out.")
        imputer = Imputer(
            methods, draws=draws, schema=overrides, random_state=seed, time_limit=time_limit, progress=progress
        )
        folder = out or Path(f"{data.resolve().name}_imputed")
        _impute_folder(data, folder, imputer, ignore or [], workers, progress, as_json)
        return
    if workers > 1:
        raise ValueError(f"--workers {workers}: is for a folder of files, and {data} is none; leave it out.")
    path = out or Path(f"{data.stem}_imputed.parquet")
    for file, option, endings in ((path, "--out", (".parquet", ".csv")), (report, "--report", (".html",))):
        if file is not None and file.suffix not in endings:
            raise ValueError(f"{option} {file}: the name of this file ends in {' or '.join(endings)}.")
        check_output(
            file, option, inputs=(data, schema), overwrite=overwrite, named=file is not path or out is not None
        )
    check_distinct({"--out": path, "--report": report})
    numeric = [
        name for name, kind in overrides.items() if (kind if isinstance(kind, str) else kind.kind) not in DISCRETE
    ]
    how: dict[str, Any] = {"encoding": encoding, "separator": separator, "decimal": decimal, "missing": marks or []}
    table = files.read_file(data, numbers=numeric, **how)
    frame = table.frame
    aside = list(dict.fromkeys(ignore or []))
    _check_columns("--ignore", aside, frame)
    _check_columns("--type" if schema is None else "--type or --schema", overrides, frame)
    try:
        used, known = files.usable(table, overrides, ignore=aside, drop_empty=drop_empty)
    except (TypeError, ValueError) as error:
        each = error.each if isinstance(error, Problems) else [str(error)]
        raise problems([_in_words_for_tables(text) for text in each], f"{data}: ") from error
    missing, written = used.isna().to_numpy(), files.as_written(table)
    if table.cells is not None:  # dates that are handed on stay as they are
        frame = frame.assign(**{c: table.cells[c].where(frame[c].notna()) for c in aside if c in table.dates})
    for note in table.notes:
        print(f"note: {note}", file=sys.stderr)
    dropped = [name for name in frame.columns if name not in used.columns and name not in aside]
    if dropped:
        print(f"note: left out, without any observed value: {_names(dropped)}.", file=sys.stderr)
    told: dict[str, Any] = {
        "imputed": str(path.resolve()),
        "report": None,
        "rows": len(used),
        "columns": used.shape[1],
        "missing": int(missing.sum()),
        "dropped": dropped,
        "ignored": aside,
        "notes": list(table.notes),
        "seed": seed,
        "versions": zoo.versions(),
    }
    if known is None:
        kept = frame.drop(columns=dropped)
        files.write_table(written(kept) if path.suffix == ".csv" else kept, path)
        if as_json:
            print_json(told | {"draws": 0})
            return
        print(f"No value is missing: nothing to do. Saved as it was: {path.resolve()}")
        return
    # With a report it learns twice.
    limits = (time_limit, None) if report is None or time_limit is None else (0.6 * time_limit, 0.4 * time_limit)
    imputer = Imputer(methods, draws=draws, schema=known, random_state=seed, time_limit=limits[0], progress=progress)
    imputer.fit(used)
    with _busy("drawing and writing", progress):
        completed = imputer.impute(used)
        # The rows of each table are those of the file.
        whole = completed.derive(**{name: lambda _, name=name: frame[name] for name in aside})
        if single is not None:
            one = getattr(whole, single.value)()
            files.write_table(written(one) if path.suffix == ".csv" else one, path)
        elif path.suffix == ".csv":
            whole.to_csv(path, written=written)
        else:
            whole.to_parquet(path)
    if report is not None:
        found = over_impute(imputer.set_params(time_limit=limits[1]), used, seed=seed)
        completed.info = {**completed.info, "calibration": found}
        if not found:
            why = "no cell of a column of numbers or ordered levels was hidden"
            print(f"note: {why}: the report does not say how far to trust the draws.", file=sys.stderr)
        with progress_bar("report", progress) as tick:
            told["report"] = str(write_report(completed, report, title=f"Imputation of {data.name}", progress=tick))
    info = completed.info
    if as_json:
        scores = {name: _finite(score) for name, score in info["scores"].items()}
        coverage = {name: found["coverage95"] for name, found in info.get("calibration", {}).items()}
        told |= {
            "draws": draws,
            "single": single and single.value,
            "method": info["method"],
            "weights": info["weights"],
        }
        told |= {"scores": scores, "coverage95": coverage, "seconds": info["seconds"], "warnings": info["warnings"]}
        print_json(told | {"schema": known.to_dict()})
        return
    _print_imputation(told, info, draws)


def _impute_folder(
    data: Path, out: Path, imputer: "Imputer", ignore: Sequence[str], workers: int, progress: bool, as_json: bool
) -> None:
    from pyro_gen.imputation.partitions import impute_partitions, imputer_of

    with ExitStack() as stack:
        client = None
        if workers > 1:
            try:
                from dask import distributed
            except ImportError:
                raise ValueError(
                    f"--workers {workers}: needs Dask; install it by pip install 'pyro-gen[dask]', or leave this out."
                ) from None
            engine: Any = distributed  # which has no types
            cluster = engine.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            client = stack.enter_context(engine.Client(stack.enter_context(cluster)))
        try:
            written = impute_partitions(data, out, imputer, ignore=ignore, client=client, progress=progress)
        except (TypeError, ValueError) as error:
            raise ValueError(_in_words_for_tables(str(error))) from error
    info: Mapping[str, Any] = imputer_of(out).info_
    if as_json:
        told = {"imputed": [str(path.resolve()) for path in written], "draws": imputer.draws}
        print_json(told | {key: info[key] for key in ("method", "weights", "seconds", "warnings", "seed", "versions")})
        return
    for text in info["warnings"]:
        print(f"warning: {text}", file=sys.stderr)
    print(f"{len(written)} file{'' if len(written) == 1 else 's'} imputed, {imputer.draws} times each.")
    print(f"Saved: {out.resolve()}")


def _methods(text: str) -> str | list[str]:
    from pyro_gen.models.tabular import METHODS

    names = [name.strip() for name in text.split(",")]
    if names == ["auto"]:
        return "auto"
    if unknown := [name for name in names if name not in METHODS]:
        raise ValueError(f"--method {unknown[0]}: give auto, or some of {', '.join(METHODS)}, joined by commas.")
    return names[0] if len(names) == 1 else names


def _kinds(pairs: Sequence[str], schema: Path | None) -> dict[str, str | Column]:
    """What columns are, from a file and from options, which go first."""
    found: dict[str, str | Column] = {} if schema is None else _read_schema(schema)
    for pair in pairs:
        name, sign, kind = pair.rpartition("=")
        if not sign or not name:
            raise ValueError(f"--type {pair}: give a column and its kind as column=kind.")
        if kind not in KINDS:
            raise ValueError(f"--type {pair}: the kinds are {', '.join(KINDS)}.")
        found[name] = kind
    return found


def _read_schema(path: Path) -> dict[str, str | Column]:
    if not path.is_file():
        raise ValueError(f"--schema {path}: no such file.")
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(given, dict) and isinstance(given.get("columns"), list):  # a schema as --json prints it
            given = {column["name"]: column for column in given["columns"]}
        return {
            name: kind if isinstance(kind, str) else Column(**{"name": name, **kind}) for name, kind in given.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        own = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
        reason = str(error).rstrip(".") if own else f"not a schema ({error})"
        raise ValueError(
            f'--schema {path}: {reason}. Give kinds by column: {{"age": "count", "share": {{"kind": "bounded", '
            '"lower": 0, "upper": 1}, "grade": {"kind": "ordinal", "levels": ["low", "high"]}}.'
        ) from error


def _check_columns(option: str, names: Iterable[str], frame: "pd.DataFrame") -> None:
    for name in names:
        if name not in frame.columns:
            raise ValueError(
                f"{option} {name}: the table has no such column; its columns are {_names(list(frame.columns))}."
            )


def _in_words_for_tables(text: str) -> str:
    """Advice of a schema about a column, as advice for the command line."""
    found = re.match(r"column (['\"])(.*?)\1", text)
    name = "" if found is None else found[2]
    advice = {
        "drop_empty=True": "--drop-empty",
        "(decimal='.' or ',')": "(--decimal . or --decimal ,)",
        "or make all of it levels (nominal)": f"or make all of it levels (--type {shlex.quote(name + '=nominal')})",
        "leave the column out": f"leave the column out (--ignore {shlex.quote(name)})",
        "leave it out": f"leave it out (--ignore {shlex.quote(name)})",
        f"(overrides={{{name!r}: 'nominal'}})": f"(--type {shlex.quote(name + '=nominal')})",
    }
    for python, shell in advice.items():
        text = text.replace(python, shell)
    text = re.sub(r"\(missing=\[(.*)\]\)", lambda mark: f"(--missing {shlex.quote(mark[1][1:-1])})", text)
    says = {"bounded": '"lower": 0, "upper": 1', "ordinal": '"levels": ["the lowest", "..."]'}
    before, sign, after = text.partition("Give Column(")
    for kind, what in says.items():
        if sign and f"'{kind}'" in after:
            text = f'{before}Say it in a file for --schema: {{{json.dumps(name)}: {{"kind": "{kind}", {what}}}}}.'
    return text


@contextmanager
def _busy(text: str, show: bool) -> Iterator[None]:
    """Shows on standard error that something is done whose length is not known."""
    if not show:
        yield
        return
    with Console(stderr=True).status(text):
        yield


def _print_imputation(told: dict[str, Any], info: Mapping[str, Any], draws: int) -> None:
    cells = told["rows"] * told["columns"]
    print(
        f"{told['missing']:,} of {cells:,} cells ({told['missing'] / cells:.1%}) imputed, {draws} "
        f"time{'' if draws == 1 else 's'}; learning took {zoo.clock(info['seconds'])}."
    )
    if info["scores"]:
        table = Table("program", box=box.SIMPLE_HEAD, pad_edge=False)
        for head in ("weight", "nats per hidden cell"):
            table.add_column(head, justify="right", no_wrap=True)
        for name, score in sorted(info["scores"].items(), key=lambda item: -item[1]):
            table.add_row(Text(name), f"{info['weights'].get(name, 0.0):.2f}", f"{score:.3f}")
        Console().print(table)
    for text in info["warnings"]:
        print(f"warning: {text}", file=sys.stderr)
    print(f"Saved: {told['imputed']}")
    if told["report"] is not None:
        print(f"Report: {told['report']}")


@app.command("check")
def _check(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET)],
    data: Annotated[
        str | None, typer.Option(help="Data to check with, as for fit; by default some simulated from the program.")
    ] = None,
    transform: Annotated[list[str] | None, typer.Option(help="As for fit.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="As for fit.")] = None,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="Leave out rows without any value.")] = False,
    decimal: Decimal = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> int:
    """Put a program through the conformance suite (exit code 1 if a check fails)."""
    from pyro_gen.evaluation.conformance import Report, check_program

    read = (drop_empty, decimal, data_root)
    program, x = _program_and_data(target, data, transform or [], _options(options or []), *read, seed)
    report = check_program(program, x, seed=seed)
    if as_json:
        print_json(report.to_dict())
    else:
        # What failed last: the end of a long table is what is in view.
        print(Report(report.program, tuple(sorted(report, key=lambda result: result.status == "failed"))))
    return 0 if report.ok else 1


def _program_and_data(
    target: str,
    data: str | None,
    transform: Sequence[str],
    options: dict[str, Any],
    drop_empty: bool,
    decimal: str | None,
    data_root: Path | None,
    seed: int,
) -> tuple[Program, Tensor]:
    from pyro_gen.inference.predictive import sample

    if target in zoo.names():
        entry = zoo.load(target)
        prepared = zoo.prepare(entry, data_root)
        return build(entry.model, prepared.test.shape[1:], entry.options, seed=seed), prepared.test
    if data is not None:
        return _built(target, _read(data, Part.train, data_root, drop_empty, decimal), transform, options, seed)
    if target in MODELS:
        raise ValueError(f"{target} takes the shape of its data: say which, by --data.")
    program = build(target, None, options, seed=seed)
    _check_context(program, target)
    if program.event_shape is None:
        raise ValueError(f"{target} does not know the shape of one datum (event_shape): give some data, by --data.")
    return program, sample(program, 64, seed=seed)
