"""Training an entry of the zoo by its recipe."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_gen.data import DataSet
from pyro_gen.data import load as load_data
from pyro_gen.data.prepared import Prepared, few_labels, rows_of, with_context
from pyro_gen.data.transforms import Transform
from pyro_gen.inference.svi import FitResult, fit
from pyro_gen.registry import DATA_SETS
from pyro_gen.targets import build, make_transform, transform_with_ladj
from pyro_gen.zoo.entries import Entry, make_objective

__all__ = ["prepare", "train"]


def _require_entry(entry: Any) -> None:
    if not isinstance(entry, Entry):
        shown = repr(entry) if isinstance(entry, str) else type(entry).__name__
        raise TypeError(f"an entry of the zoo is needed, and {shown} is none: give pyro_gen.zoo.load(name).")


def prepare(entry: Entry, data_root: str | Path | None = None) -> Prepared:
    """Loads the data of an entry and transforms it.

    Arguments:
        entry: The entry.
        data_root: The folder of the data sets that do not come with scikit-learn; by default ``$PYRO_GEN_DATA``.

    Raises:
        ValueError: The data is not there.
    """
    _require_entry(entry)
    root = data_root or os.environ.get("PYRO_GEN_DATA")
    if DATA_SETS[entry.data].from_folder and root is None:
        raise ValueError(
            f"{entry.name} needs {entry.data}, which does not come with the package: name its folder as data_root "
            "(--data-root on the command line, or PYRO_GEN_DATA)."
        )
    data = load_data(entry.data, root=root)
    train, context, transform = _formed(entry, data, data.train, data.train_target)
    if entry.labels_per_class:
        train = {**train, "y": few_labels(train["y"], entry.labels_per_class).to(train["y"])}
    test, test_context, _ = _formed(entry, data, data.test, data.test_target)
    test, jacobian = _transformed(transform, test)
    fit_transform = transform
    if "transform" in entry.training:
        fit_transform = make_transform(entry.training["transform"], data.train, data.levels)
    if fit_transform is not None and not fit_transform.draws:  # once is enough
        train, fit_transform = _transformed(fit_transform, train)[0], None
    validation = None
    if (share := entry.training.get("validation")) is not None:
        every = torch.arange(len(data.train))
        rows, held_out = DataSet(data.name, every, every[:0]).split(share)
        validation = rows_of(with_context(train, context), held_out)
        train, context = rows_of((train, context), rows)
    columns = data.columns if entry.form == "rows" else None
    return Prepared(train, validation, test, fit_transform, transform, jacobian, columns, context, test_context)


def _formed(
    entry: Entry, data: DataSet, x: Tensor, target: Tensor | None
) -> tuple[Any, tuple[Tensor, ...], Transform | None]:
    """What is modelled of rows and targets, what that is given, and what the former goes through still."""
    transform = make_transform(entry.transform, data.train, data.levels)
    if entry.form == "rows":
        return x, (), transform
    if entry.form == "steps":
        steps = torch.linspace(0.0, 1.0, x.shape[1]).view(1, -1, 1)
        return x, (steps.expand(len(x), -1, 1),), transform
    if entry.form == "given_rows":
        if transform is not None:
            raise ValueError(f"recipe {entry.name}: rows that are given themselves are as they are, without transform.")
        return x, (x,), None
    if entry.form == "quarter":
        if x.dim() < 3 or (transform is not None and transform.draws):
            raise ValueError(
                f'recipe {entry.name}: the form "quarter" is of images (N, *, H, W), and of a transform that draws '
                "nothing: give such a one to [training] alone."
            )
        given = torch.zeros(x.shape[1:], dtype=torch.bool)
        given[..., x.shape[-2] // 2 :, : x.shape[-1] // 2] = True
        whole = x if transform is None else transform(x)
        return x.masked_fill(given, math.nan), (whole.masked_fill(~given, math.nan),), transform
    if target is None or data.train_target is None:
        raise ValueError(f"recipe {entry.name}: {entry.data} has no target, so its form is no {entry.form!r}.")
    if entry.form == "labelled":
        return {"x": x, "y": target.to(x.dtype)}, (), transform
    if entry.form == "given_label":
        return x, (target.to(x.dtype),), transform
    groups: tuple[Tensor, ...] = ()
    train = data.train
    if entry.group:
        columns = list(data.columns or ())
        if entry.group not in columns:
            raise ValueError(f"recipe {entry.name}: {entry.data} has no column {entry.group!r} of groups.")
        at = columns.index(entry.group)
        rest = [i for i in range(len(columns)) if i != at]
        groups, x, train = (x[:, at].long(),), x[:, rest], train[:, rest]
    covariates = make_transform(entry.transform, train, data.levels)
    of_outcome = make_transform(entry.outcome, data.train_target.to(x.dtype))
    return target.to(x.dtype), (x if covariates is None else covariates(x), *groups), of_outcome


def _transformed(transform: Transform | None, x: Any) -> tuple[Any, Tensor | None]:
    """Data through a transform, ``x`` of a mapping, and its log-Jacobian, (N)."""
    if isinstance(x, Mapping):
        value, jacobian = _transformed(transform, x["x"])
        return {**x, "x": value}, jacobian
    if transform is None:
        return x, torch.zeros(len(x)).double()
    return transform_with_ladj(transform, x)


def train(
    entry: Entry,
    data: Prepared,
    *,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
    **overrides: Any,
) -> FitResult:
    """Builds and trains the program of an entry.

    Arguments:
        entry: The entry.
        data: Its data.
        seed: Seeds initial parameters and training; the caller's generators are left alone.
        device: Where to train, by default on a GPU if there is one.
        progress: Whether to show a progress bar on standard error.
        overrides: Arguments of :func:`pyro_gen.fit` other than the recipe's.
    """
    _require_entry(entry)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    program = build(entry.model, data.event_shape, entry.options, seed=seed).to(device)
    if entry.training.get("closed_form"):
        return _in_closed_form(program, data, device)
    arguments = {k: v for k, v in entry.training.items() if k not in ("validation", "transform", "objective")}
    arguments["objective"] = make_objective(entry.training.get("objective"))
    transform: Any = data.fit_transform
    if transform is not None and isinstance(data.train, Mapping):
        transform = {"x": transform}  # labels stay what they are
    arguments |= {"validation": data.validation, "transform": transform, "seed": seed, "progress": progress}
    return fit(program, with_context(data.train, data.context), **(arguments | overrides))


def _in_closed_form(program: Any, data: Prepared, device: str) -> FitResult:
    """The result of the program's own ``fit_posterior``, whose loss is the negative log-evidence per datum."""
    start = time.perf_counter()
    given = [part.to(device) for part in (data.train, *data.context)]
    program.fit_posterior(*given)
    loss = -program.log_evidence(*given).item() / len(data.train)
    row = {"epoch": 1.0, "train_loss": loss}
    return FitResult(program, [row], mode_reason="in closed form", seconds=time.perf_counter() - start)
