"""What commands read: data by name or from a file, and programs as they are before training."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_gen._archives import read_archive
from pyro_gen._errors import Words
from pyro_gen.cli.errors import in_options
from pyro_gen.cli.options import Part
from pyro_gen.data import Transform, as_tensor, read_table
from pyro_gen.data import load as load_data
from pyro_gen.program import Program
from pyro_gen.registry import DATA_SETS
from pyro_gen.saving import SavedProgram
from pyro_gen.targets import build, make_transform

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


def check_context(program: Program, target: str) -> None:
    """Raises ValueError where a model takes more than data."""
    model = getattr(program, "functions", [program.model])[0]  # of Program.from_functions, as it was written
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model).parameters.values()
    if context := [p.name for p in parameters if p.kind in kinds and p.default is p.empty][1:]:
        raise ValueError(
            f"{target} takes context ({', '.join(context)}), which the command line cannot give: use Python."
        )


def built(
    target: str, data: Data, transform: Sequence[str], options: dict[str, Any], seed: int
) -> tuple[Program, Tensor]:
    """A program as it is before training, and the data as it sees them."""
    x = through(make_transform(transform, data.x, data.levels, data.columns), data.x, seed)
    program = build(target, x.shape[1:], options, seed=seed)
    check_context(program, target)
    return program, x


def stem_of(target: str) -> str:
    """What the files that are made of a target are called."""
    return Path(target.replace(".py:", "_").replace(".py", "")).name.removesuffix(".pt")
