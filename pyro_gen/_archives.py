"""Files of tensors, read without trusting who wrote them: nothing in them is run, nor takes more memory than the file.

``torch.load(weights_only=True)`` runs no code of the file's, but unpacks what is packed, and calls some functions with
whatever size the file says. What tensors, numbers and texts need is less, and all that is let through here.
"""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from pyro_gen._errors import said
from pyro_gen._internals import operation_schema

__all__ = ["WithinMemory", "read_archive"]

_ALLOWED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch (\w+Storage|Size|"
    r"(u?int|float|complex|bfloat)\d+|bool)"
)


def read_archive(path: Path, device: torch.device | str = "cpu") -> Any:
    """Reads what :func:`torch.save` wrote: tensors, numbers and texts, in dictionaries, lists and tuples.

    Arguments:
        path: The file.
        device: Where its tensors are to be.

    Raises:
        ValueError: The file is damaged or no such file, holds anything else, or would take more memory than it has
            bytes. The message is half a sentence.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError("it is cut off, or was not written by torch.save")
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # torch packs nothing, so what is packed was made by somebody else.
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
                raise ValueError("it unpacks to more than it has bytes")
            names = [e.filename for e in entries if e.filename.endswith("/data.pkl")]
            if len(names) != 1:
                raise ValueError("it was not written by torch.save")
            for called in _called(archive.read(names[0])):
                if not _ALLOWED.fullmatch(called):
                    raise ValueError(f"it holds more than tensors, numbers and texts ({called.replace(' ', '.')[:80]})")
        found = torch.load(path, map_location=device, weights_only=True)
    except ValueError:
        raise
    except Exception as error:  # what zipfile and torch raise on a damaged file is not listed anywhere
        raise ValueError(f"it is damaged ({type(error).__name__})") from error
    for tensor in _tensors(found):
        if tensor.layout is not torch.strided or tensor.numel() * tensor.element_size() > size:
            raise ValueError(f"it holds a tensor of shape {tuple(tensor.shape)}, and has no numbers for it")
    return found


def _called(program: bytes) -> Iterator[str]:
    """The functions and classes that a pickle names."""
    try:
        for code, argument, _ in pickletools.genops(program):
            if code.name in ("GLOBAL", "INST"):
                yield str(argument)
            elif code.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):  # none of torch.save's
                yield code.name
    except (ValueError, IndexError, UnicodeError, pickle.UnpicklingError) as error:
        raise ValueError(f"it is damaged ({said(error)[:80]})") from error


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a nest, each object looked at once."""
    seen: set[int] = set()
    left = [value]
    while left:
        at = left.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        if isinstance(at, Tensor):
            yield at
        elif isinstance(at, dict):
            left += [*at.keys(), *at.values()]
        elif isinstance(at, list | tuple | set):
            left += at


class WithinMemory(TorchDispatchMode):
    """Inside of it, what creates arrays of so many bytes together raises; a file may name sizes that nobody meant.

    Arguments:
        limit: The bytes.

    Example:
        >>> with WithinMemory(10_000):
        ...     torch.zeros(10**12)
        Traceback (most recent call last):
            ...
        ValueError: an array of shape (1000000000000,) is asked for, more than the file has numbers for
    """

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts what a function is about to create, by running it on arrays without numbers."""
        kwargs, schema = kwargs or {}, operation_schema(func)
        if not any(returned.alias_info for returned in schema.returns):  # neither a view nor in place
            device = {"device": "meta"} if any(a.name == "device" for a in schema.arguments) else {}
            try:
                found = func(*tree_map(_hollow, args), **tree_map(_hollow, kwargs) | device)
            except (NotImplementedError, RuntimeError):  # no such form of it
                found = ()
            for tensor in _tensors(found):
                self.left -= tensor.numel() * tensor.element_size()
                if self.left < 0:
                    shape = tuple(tensor.shape)
                    raise ValueError(f"an array of shape {shape} is asked for, more than the file has numbers for")
        return func(*args, **kwargs)


def _hollow(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value
