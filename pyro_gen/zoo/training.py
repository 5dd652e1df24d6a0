"""Training an entry of the zoo by its recipe."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_gen.data import DataSet
from pyro_gen.data import load as load_data
from pyro_gen.data.prepared import Prepared
from pyro_gen.inference.svi import FitResult, fit
from pyro_gen.registry import DATA_SETS
from pyro_gen.targets import build, make_transform, transform_with_ladj
from pyro_gen.zoo.entries import Entry, make_objective

__all__ = ["prepare", "train"]


def prepare(entry: Entry, data_root: str | Path | None = None) -> Prepared:
    """Loads the data of an entry and transforms it.

    Arguments:
        entry: The entry.
        data_root: The folder of the data sets that do not come with scikit-learn; by default ``$PYRO_GEN_DATA``.

    Raises:
        ValueError: The data is not there.
    """
    root = data_root or os.environ.get("PYRO_GEN_DATA")
    if DATA_SETS[entry.data].from_folder and root is None:
        raise ValueError(
            f"{entry.name} needs {entry.data}, which does not come with the package: name its folder as data_root "
            "(--data-root on the command line, or PYRO_GEN_DATA)."
        )
    data = load_data(entry.data, root=root)
    share = entry.training.get("validation")
    train, validation = (data.train, None) if share is None else data.split(share)
    return _prepare(entry, data, train, validation)


def _prepare(entry: Entry, data: DataSet, train: Tensor, validation: Tensor | None) -> Prepared:
    transform = make_transform(entry.transform, train, data.levels)
    fit_transform = transform
    if "transform" in entry.training:
        fit_transform = make_transform(entry.training["transform"], train, data.levels)
    if fit_transform is not None and not fit_transform.draws:  # once is enough
        train, validation = fit_transform(train), None if validation is None else fit_transform(validation)
        fit_transform = None
    if transform is None:
        return Prepared(
            train, validation, data.test, fit_transform, None, torch.zeros(len(data.test)).double(), data.columns
        )
    test, jacobian = transform_with_ladj(transform, data.test)
    return Prepared(train, validation, test, fit_transform, transform, jacobian, data.columns)


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
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    program = build(entry.model, data.test.shape[1:], entry.options, seed=seed).to(device)
    arguments = {k: v for k, v in entry.training.items() if k not in ("validation", "transform", "objective")}
    arguments["objective"] = make_objective(entry.training.get("objective"))
    arguments |= {"validation": data.validation, "transform": data.fit_transform, "seed": seed, "progress": progress}
    return fit(program, data.train, **(arguments | overrides))
