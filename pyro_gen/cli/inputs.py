"""What commands read: data by name or from a file, and programs as they are before training."""

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen._archives import read_archive
from pyro_gen._errors import Words
from pyro_gen.cli.errors import in_options
from pyro_gen.cli.options import Part, program_options
from pyro_gen.data import Transform, as_tensor, read_table
from pyro_gen.data import load as load_data
from pyro_gen.program import Program
from pyro_gen.registry import DATA_SETS
from pyro_gen.saving import SavedProgram, context_of, load_program
from pyro_gen.targets import build, make_transform

if TYPE_CHECKING:
    import pandas as pd

# What the commands that read a table of numbers say of arguments of read_table.
WORDS: Words = {"drop_all_missing": lambda _: "--drop-empty", "missing": lambda _: "by an empty cell"}


@dataclass(frozen=True)
class Data:
    """Data by name or from a file, before any transform."""

    name: str
    x: Tensor
    columns: tuple[str, ...] | None
    levels: int | None


def read_data(
    name: str, part: Part, data_root: Path | None, drop_empty: bool, decimal: str | None, to_train: bool = True
) -> Data:
    """Reads data; that to train on needs a value in each column and row, other data may have empty ones."""
    if name in DATA_SETS:
        if DATA_SETS[name].from_folder and data_root is None:
            raise ValueError(
                f"{name} does not come with the package: name its folder by --data-root (or PYRO_GEN_DATA)."
            )
        known = load_data(name, root=data_root)
        return Data(name, known.train if part is Part.train else known.test, known.columns, known.levels)
    path = Path(name)
    if path.suffix == ".pt" or path.suffix == ".npy":
        return Data(str(path), _read_array(path, drop_empty, to_train), None, None)
    if not path.exists() and not path.suffix:
        raise ValueError(f"there is no data set {name!r}, nor a file: the data sets are {', '.join(DATA_SETS)}.")
    with in_options(WORDS):
        table = read_table(path, drop_all_missing=drop_empty, allow_all_missing=not to_train, decimal=decimal)
    for note in table.notes:
        print(f"note: {note}", file=sys.stderr)
    return Data(str(path), table.values, table.columns, None)


def read_mixed(
    data: str, part: Part, data_root: Path | None, drop_empty: bool, decimal: str | None
) -> "tuple[str, pd.DataFrame]":
    """Reads a table of numbers and categories, which words in a file are, or a data set; its name, and the table."""
    import pandas as pd

    from pyro_gen.imputation.files import read_mixed_table, with_observed_columns

    if Path(data).is_file() and Path(data).suffix not in (".npy", ".pt"):
        with in_options(WORDS):
            table = read_mixed_table(data, decimal=decimal)
        with in_options(WORDS, f"{data}: "):
            return data, with_observed_columns(table, drop_empty=drop_empty)
    read = read_data(data, part, data_root, drop_empty, decimal, to_train=False)
    values = read.x.flatten(1).double().numpy()
    return read.name, pd.DataFrame(values, columns=list(read.columns or map(str, range(values.shape[1]))))


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


def through(transform: Transform | None, x: Tensor, seed: int) -> Tensor:
    """Data as a program takes it: transformed with all the digits of the file, and then in torch's default dtype."""
    made = x if transform is None else transform(x, torch.Generator().manual_seed(seed))
    return made.to(torch.get_default_dtype())


def aligned(saved: SavedProgram, data: Data) -> Data:
    """Data with the columns of the program, in its order."""
    wanted, given = saved.description["columns"], data.columns
    if wanted is not None and given is not None:
        missing, unknown = ([c for c in a if c not in b] for a, b in ((wanted, given), (given, wanted)))
        complaints = []
        if missing:
            complaints.append(f"has no column {listed(missing)} (add it, empty where it was not observed)")
        if unknown:
            complaints.append(f"has a column {listed(unknown)} that the program does not know (leave it out)")
        if complaints:
            raise ValueError(f"{data.name} {' and '.join(complaints)}; the program's columns are {listed(wanted)}.")
        return replace(data, x=data.x[:, [given.index(c) for c in wanted]], columns=tuple(wanted))
    if data.x.shape[1:] != saved.program.event_shape:
        raise ValueError(
            f"{data.name} has data of shape {tuple(data.x.shape[1:])}, the program is for data of shape "
            f"{tuple(saved.program.event_shape or ())}."
        )
    return data


def listed(columns: Sequence[str]) -> str:
    """Columns as messages name them: at most five."""
    return ", ".join(map(repr, columns[:5])) + (f", ... ({len(columns)} in all)" if len(columns) > 5 else "")


def warn_of_scales(x: Tensor, columns: Sequence[str] | None) -> None:
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


def read_context(
    files: Sequence[str] | None, rows: int | None, decimal: str | None, saved: SavedProgram | None = None
) -> list[Data]:
    """Reads what a model conditions on, with the columns that it was trained with where it was.

    Arguments:
        files: The files, in the order of the model's arguments.
        rows: How many rows the data have, where there are any.
        decimal: The decimal mark in text files.
        saved: The trained program, if it is one.
    """
    found = [read_data(name, Part.train, None, False, decimal, to_train=False) for name in files or ()]
    if saved is not None:
        wanted = context_of(saved.description)
        if len(wanted) != len(found):
            raise ValueError(
                f"the program conditions on {len(wanted)} files and was given {len(found)}: give --context for each, "
                "in the order of the training."
                if wanted
                else "the program conditions on nothing: leave --context out."
            )
        found = [_aligned(data, part["columns"], part["shape"]) for data, part in zip(found, wanted, strict=True)]
    for data in found:
        if data.x.isnan().any():
            row = int(data.x.isnan().flatten(1).any(1).nonzero()[0])
            raise ValueError(
                f"--context {data.name}: row {row}, counted from 0, has a missing value, and what a model conditions "
                "on must be known: fill it, or make it part of the data."
            )
        rows = len(data.x) if rows is None else rows
        if len(data.x) != rows:
            raise ValueError(
                f"--context {data.name}: has {len(data.x)} rows, and the data have {rows}: give a row for each of "
                "them, in their order (rows that --drop-empty leaves out are to be left out here, too)."
            )
    return found


def read_posterior(name: str) -> Any:
    """Draws that ``pyro-gen posterior`` wrote, or the word ``guide``."""
    if name == "guide":
        return name
    path = Path(name)
    if path.suffix not in (".nc", ".zarr"):
        raise ValueError(f"--posterior {name}: give a .nc file or .zarr folder of pyro-gen posterior, or guide.")
    if not path.exists():
        raise ValueError(f"--posterior {name}: no such file.")
    import arviz as az

    try:
        return az.from_netcdf(path) if path.suffix == ".nc" else az.from_zarr(path)
    except Exception as error:  # whatever the reader makes of another file
        raise ValueError(f"--posterior {name}: not draws of pyro-gen posterior ({type(error).__name__}).") from error


def tensors_of(context: Sequence[Data]) -> tuple[Tensor, ...]:
    """What is handed to a program."""
    return tuple(data.x.to(torch.get_default_dtype()) for data in context)


def _aligned(data: Data, wanted: Sequence[str] | None, shape: Sequence[int]) -> Data:
    given = data.columns
    if wanted is not None and given is not None and set(wanted) <= set(given):
        return replace(data, x=data.x[:, [given.index(c) for c in wanted]], columns=tuple(wanted))
    if wanted is not None and given is not None:
        absent = [c for c in wanted if c not in given]
        raise ValueError(f"--context {data.name} has no column {listed(absent)}; the program takes {listed(wanted)}.")
    if list(data.x.shape[1:]) != list(shape):
        raise ValueError(
            f"--context {data.name} has shape {tuple(data.x.shape[1:])} for each datum, and the program takes "
            f"{tuple(shape)}."
        )
    return data


def check_context(program: Program, target: str, given: int = 0) -> None:
    """Raises ValueError where a model takes more than data and so many parts of context, or less."""
    model = getattr(program, "functions", [program.model])[0]  # of Program.from_functions, as it was written
    parameters = list(inspect.signature(model).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and given:
        return
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = [p for p in parameters if p.kind in kinds][1:]
    needed = [p.name for p in places if p.default is p.empty]
    if given < len(needed):
        raise ValueError(
            f"{target} takes context ({', '.join(needed)}): give {'a file' if len(needed) == 1 else 'files'} by "
            f"{' '.join(['--context FILE'] * len(needed))}, with a row for each of the data."
        )
    if given > len(places):
        takes = f"context ({', '.join(p.name for p in places)})" if places else "no context"
        raise ValueError(f"{target} takes {takes}, and was given {given} {'file' if given == 1 else 'files'} of it.")


def built(
    target: str, data: Data, transform: Sequence[str], options: dict[str, Any], seed: int, given: int = 0
) -> tuple[Program, Tensor]:
    """A program as it is before training, and the data as it sees them."""
    x = through(make_transform(transform, data.x, data.levels, data.columns), data.x, seed)
    program = build(target, x.shape[1:], options, seed=seed)
    check_context(program, target, given)
    return program, x


class Opened(NamedTuple):
    """A program, trained or not, with data as it sees them and what it conditions on."""

    program: Program
    x: Tensor
    context: tuple[Tensor, ...]
    data: Data
    saved: SavedProgram | None


def opened(
    target: str,
    read: Callable[[bool], Data],
    context: Sequence[str] | None,
    decimal: str | None,
    transform: Sequence[str] | None,
    options: Sequence[str] | None,
    moved: str | None,
    trust: bool,
    seed: int,
) -> Opened:
    """What a target names, with data.

    Arguments:
        target: A file written by fit, or what fit takes.
        read: Reads the data; told whether they are to train on, so that each column needs a value.
        context: Files of what the model conditions on.
        decimal: The decimal mark in text files.
        transform: As for fit, where the target is not trained.
        options: Likewise.
        moved: Where the class of a trained program is.
        trust: Whether its file may be run.
        seed: Seeds the transform and the parameters of what is not trained.
    """
    if target.endswith(".pt"):
        if transform or options:
            raise ValueError(f"{target} has its own transform and arguments: leave --transform and --set out.")
        saved = load_program(target, moved, trust)
        data = aligned(saved, read(False))
        parts = read_context(context, len(data.x), decimal, saved)
        return Opened(saved.program, through(saved.transform, data.x, seed), tensors_of(parts), data, saved)
    if moved is not None:
        raise ValueError("--target is for a file written by pyro-gen fit.")
    data = read(True)
    parts = read_context(context, len(data.x), decimal)
    program, x = built(target, data, transform or [], program_options(options or []), seed, len(parts))
    return Opened(program, x, tensors_of(parts), data, None)


def stem_of(target: str) -> str:
    """What the files that are made of a target are called."""
    return Path(target.replace(".py:", "_").replace(".py", "")).name.removesuffix(".pt")
