"""Whether two runs are the same run: short texts that differ where data, settings or programs do."""

import hashlib
import inspect
from collections.abc import Mapping
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from pyro_gen._internals import own_buffers, own_modules, own_parameters

__all__ = ["digest", "settings_of"]


def digest(value: Any) -> str:
    """A short text that differs where tensors, arrays, tables, numbers or texts in nested containers do.

    Of anything else, a function say, it knows the type alone: what it prints may differ from one process to the next.
    """
    found = hashlib.blake2b(digest_size=8)

    def add(part: Any) -> None:
        found.update(type(part).__qualname__.encode())
        if isinstance(part, Tensor):
            dense = part.detach().cpu().to_dense() if part.layout != torch.strided else part.detach().cpu()
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            found.update(dense.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        elif hasattr(part, "columns"):
            add([(name, np.asarray(part[name])) for name in part.columns])
        elif hasattr(part, "__array__"):
            array = np.asarray(part)
            objects = array.dtype == object
            add(array.tolist()) if objects else found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        elif isinstance(part, Mapping):
            add(list(part.items()))
        elif isinstance(part, list | tuple):
            for entry in part:
                add(entry)
            found.update(b";")  # the end: [[1], 2] is not [[1, 2]]
        elif isinstance(part, bool | int | float | complex | str | bytes):
            found.update(repr(part).encode())

    add(value)
    return found.hexdigest()


def settings_of(value: Any) -> Any:
    """What makes an object behave as it does, in plain data for :func:`digest`: not its state, which training moves.

    Of a module the names and shapes of its parameters, what else is set on it and the code of its class; of a function
    its code and what it encloses; of any other object its attributes. What a function finds in the names of its file is
    not seen.
    """
    return _settings(value, frozenset())


def _settings(value: Any, above: frozenset[int]) -> Any:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | Tensor | np.ndarray):
        return value
    if isinstance(value, type) or id(value) in above:  # a part that holds what it is a part of
        return getattr(value, "__qualname__", type(value).__qualname__)
    above = above | {id(value)}
    if isinstance(value, Mapping):
        return {str(k): _settings(v, above) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_settings(v, above) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, CodeType):  # without the names and the lines of a file
        return [value.co_code, value.co_names, [_settings(c, above) for c in value.co_consts]]
    if isinstance(value, MethodType | staticmethod | classmethod):
        return _settings(value.__func__, above)
    if isinstance(value, FunctionType):
        function = inspect.unwrap(value)  # a program wraps its model
        cells = [_contents(cell) for cell in function.__closure__ or ()]
        return [_settings(part, above) for part in (function.__code__, function.__defaults__, cells)]
    named = {n: v for n, v in getattr(value, "__dict__", {}).items() if _is_setting(n, v)}
    if isinstance(value, AutoGuide):  # it keeps the trace of a first run
        named = {}
    methods = {n: f for n, f in vars(type(value)).items() if isinstance(f, FunctionType)}
    out = [type(value).__qualname__, _settings(named, above), _settings(methods, above)]
    if isinstance(value, nn.Module):
        out += [_settings(getattr(type(value), n, None), above) for n in ("model", "guide", "forward", "loss")]
        out += [[n, [*p.shape], p.requires_grad] for n, p in own_parameters(value).items() if p is not None]
        out += [[n, [*b.shape]] for n, b in own_buffers(value).items() if b is not None]
        out += [_settings(dict(own_modules(value)), above)]
    return out


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_setting(name: str, value: Any) -> bool:
    return name != "training" and (not name.startswith("_") or isinstance(value, FunctionType | MethodType))
