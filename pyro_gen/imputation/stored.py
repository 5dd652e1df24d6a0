"""Fitted imputers as files: tensors, and a text (JSON) that says what they are part of. Nothing in them is run.

What an imputer has learnt is a tree of programs, networks, columns and numbers. Of classes it has a few, all known
here; a file can name no other.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_gen._archives import read_archive
from pyro_gen._errors import said
from pyro_gen._files import atomic
from pyro_gen.data.column import Column
from pyro_gen.data.scaling import Scaling
from pyro_gen.data.schema import Schema
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.models.tabular import METHODS
from pyro_gen.models.tabular.parts.copula_marginals import CopulaLayout
from pyro_gen.models.tabular.parts.latent_table import Features
from pyro_gen.models.tabular.parts.mixture_columns import MixtureLayout
from pyro_gen.program import Program

__all__ = ["read_imputer", "write_imputer"]

RECORDS: dict[str, Any] = {  # made by their arguments
    "Column": Column,
    "Schema": Schema,
    "Scaling": Scaling,
    "CopulaLayout": CopulaLayout,
    "MixtureLayout": MixtureLayout,
}
MODULES: dict[str, type[nn.Module]] = {  # made by their attributes
    **METHODS,
    "Features": Features,
    "ParameterDict": nn.ParameterDict,
}


def write_imputer(path: Path, imputer: Imputer, note: Any = None) -> None:
    """Writes a fitted imputer, and a note that JSON can hold.

    Raises:
        TypeError: It has something in it that no imputer has.
        WriteError: The file cannot be written.
    """
    tensors: list[Tensor] = []
    parameters = imputer.get_params(deep=False)
    if isinstance(parameters["random_state"], np.random.RandomState):
        parameters["random_state"] = None  # what it has drawn is in seed_
    learnt = {name: value for name, value in vars(imputer).items() if name not in parameters}
    described = {"parameters": _told(parameters, tensors), "learnt": _told(learnt, tensors), "note": note}
    with atomic(path) as partial, partial.open("wb") as file:
        torch.save({"imputer": json.dumps(described), "tensors": tensors}, file)


def read_imputer(path: Path) -> tuple[Imputer, Any]:
    """Reads an imputer and the note.

    Raises:
        ValueError: The file is none of :func:`write_imputer`.
    """
    try:
        saved = read_archive(path)
        described, tensors = json.loads(saved["imputer"]), saved["tensors"]
        imputer = Imputer(**_made(described["parameters"], tensors))
        imputer.__dict__.update(_made(described["learnt"], tensors))
    except Exception as error:  # of whatever stands there
        raise ValueError(f"{path}: not an imputer that pyro-gen wrote ({said(error)[:200]}).") from error
    return imputer, described["note"]


def _told(value: Any, tensors: list[Tensor]) -> Any:
    """A value as JSON: what JSON has not is a dictionary of one entry, which says what it is."""
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor):
        tensors.append(value.detach().cpu().contiguous())
        return {"parameter" if isinstance(value, nn.Parameter) else "tensor": len(tensors) - 1}
    if isinstance(value, np.ndarray):
        kind = "texts" if value.dtype == object else "numbers"
        return {kind: value.tolist() if kind == "texts" else _told(torch.from_numpy(value), tensors)}
    if isinstance(value, list):
        return [_told(one, tensors) for one in value]
    if isinstance(value, dict):
        return {"dict": [[_told(key, tensors), _told(one, tensors)] for key, one in value.items()]}
    if (name := _name(type(value), RECORDS)) is not None:
        fields = _fields(value)
        return {"record": [name, _told(fields, tensors)]}
    if isinstance(value, nn.Module) and (name := _name(type(value), MODULES)) is not None:
        base = vars(_bare(type(value)))
        own = {k: v for k, v in vars(value).items() if k not in base or k in ("training", *_PARTS)}
        own |= {"event_shape": value.event_shape} if isinstance(value, Program) else {}
        return {"module": [name, _told({k: dict(v) if k in _PARTS else v for k, v in own.items()}, tensors)]}
    if isinstance(value, torch.Size | tuple):
        return {"size" if isinstance(value, torch.Size) else "tuple": _told(list(value), tensors)}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    raise TypeError(f"an imputer with a {type(value).__name__} in it cannot be stored.")


_PARTS = ("_parameters", "_buffers", "_modules")


def _made(told: Any, tensors: list[Tensor]) -> Any:
    """The value that :func:`_told` told."""
    if isinstance(told, list):
        return [_made(one, tensors) for one in told]
    if not isinstance(told, dict):
        return told
    ((kind, what),) = told.items()
    if kind == "tensor":
        return tensors[what]
    if kind == "parameter":
        return nn.Parameter(tensors[what])
    if kind == "numbers":
        return _made(what, tensors).numpy()
    if kind == "texts":
        return np.array(what, dtype=object)
    if kind == "dict":
        return {_made(key, tensors): _made(one, tensors) for key, one in what}
    if kind == "tuple":
        return tuple(_made(what, tensors))
    if kind == "size":
        return torch.Size(what)
    if kind == "range":
        return range(*what)
    if kind == "record":
        return RECORDS[what[0]](**_made(what[1], tensors))
    if kind == "module":
        module = _bare(MODULES[what[0]])
        for name, value in _made(what[1], tensors).items():
            if name in _PARTS:
                vars(module)[name].update(value)
            else:
                vars(module)[name] = value
        return module
    raise ValueError(f"what is a {kind!r}")


def _bare(cls: type[nn.Module]) -> nn.Module:
    """A module of a class before its own ``__init__``."""
    module: nn.Module = cls.__new__(cls)
    if isinstance(module, Program):
        Program.__init__(module)
    else:
        nn.Module.__init__(module)
    return module


def _name(cls: type, known: dict[str, Any]) -> str | None:
    return next((name for name, one in known.items() if one is cls), None)


def _fields(value: Any) -> dict[str, Any]:
    if isinstance(value, tuple):
        names: Iterable[str] = value._fields  # type: ignore[attr-defined]
    else:
        names = (field.name for field in dataclasses.fields(value) if field.init)
    return {name: getattr(value, name) for name in names}
