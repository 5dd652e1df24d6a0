"""Trained programs as files.

A file for ``torch.load(..., weights_only=True)`` with two entries: ``state_dict``, and ``description``, a text (JSON)
that says how to build the program again: target, arguments, shape of a datum, transform of the data. It holds no code:
that of a user's program stays in its Python file, whose path and SHA-256 are kept. Nothing runs that file but the word
of whoever loads.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen._archives import WithinMemory, read_archive
from pyro_gen._errors import AdviceError, said
from pyro_gen._files import atomic
from pyro_gen.data import Transform
from pyro_gen.inference.guides import GUIDES, with_guide
from pyro_gen.program import Program
from pyro_gen.targets import build, describe_transform, file_and_name, restore_transform
from pyro_gen.variables import known_shapes

__all__ = ["SavedProgram", "context_of", "is_saved_program", "load", "load_program", "save_program"]

BUILDING_BYTES = 2**28  # bytes that building a program may take besides what its weights say


class SavedProgram(NamedTuple):
    """A program and what was kept with it.

    Attributes:
        program: The program, in evaluation mode.
        transform: What data must go through before the program, or ``None``.
        description: How the program is built: ``target``, ``digest`` (SHA-256 of the user's file), ``options``,
            ``event_shape``, ``fill_missing``, ``transform``, ``columns``, ``data``, ``context``, ``guide``.
    """

    program: Program
    transform: Transform | None
    description: dict[str, Any]


def save_program(
    path: str | Path,
    program: Program,
    target: str,
    *,
    options: Mapping[str, Any] | None = None,
    transform: Transform | None = None,
    columns: Sequence[str] | None = None,
    data: str | None = None,
    context: Sequence[tuple[Sequence[str] | None, Sequence[int]]] = (),
    guide: str | None = None,
) -> None:
    """Saves a trained program as one file; the code of a user's program stays where it is, its path is kept.

    Arguments:
        path: The file to write.
        program: The program.
        target: What it was built from, as in :func:`pyro_gen.targets.build`.
        options: The arguments that it was built with.
        transform: What its data went through.
        columns: Names of the columns, for tables.
        data: What it was trained on, to be read by people.
        context: Of each part of what it conditions on, names of the columns, if any, and the shape of one datum.
        guide: The name of the guide that was given to it, in :data:`pyro_gen.inference.guides.GUIDES`.

    Raises:
        ValueError: The program does not know the shape of one datum, or the file cannot be written.
    """
    if program.event_shape is None:
        raise ValueError(f"{type(program).__name__} does not know the shape of one datum: train it first.")
    file, name = file_and_name(target)
    if file is not None:
        target = f"{file.resolve()}:{name}" if name else str(file.resolve())
    description = {
        "target": target,
        "digest": None if file is None else _sha256(file),
        "options": dict(options or {}),
        "event_shape": _written(program.event_shape),
        "fill_missing": program.fill_missing,
        "transform": describe_transform(transform),
        "columns": None if columns is None else list(columns),
        "data": data,
        "context": [{"columns": names and list(names), "shape": list(part)} for names, part in context],
        "guide": guide,
    }
    with atomic(path) as partial, partial.open("wb") as opened:
        torch.save({"state_dict": program.state_dict(), "description": json.dumps(description)}, opened)


def load_program(
    path: str | Path, target: "str | type[Program] | Program | None" = None, trust: bool = False
) -> SavedProgram:
    """Loads what :func:`save_program` saved.

    Nothing in the file is run as code. A program of the user's is built by its Python file, which is run only where
    ``target`` names it, or ``trust`` is given and it is what it was when the program was saved. What it imports is not
    looked at.

    Arguments:
        path: The file.
        target: The program's class, or an instance to fill, or where it is (``"my_file.py:MyProgram"``).
        trust: Run the file that the program came from, at the path that was kept.

    Raises:
        ValueError: The file is missing or no saved program, or its weights do not fit the program; or the program is in
            a Python file, and nobody has said that it may be run, or it has changed.
    """
    path = Path(path)
    state, description, size = _read(path)
    shape = _read_shape(description["event_shape"])
    if target is None:
        _check_trust(path, description, trust)
    elif isinstance(target, Program):
        description = description | {"options": {}}
    try:
        with WithinMemory(BUILDING_BYTES + 16 * size):
            program = build(target or description["target"], shape, description["options"])
            if (guide := description.get("guide")) is not None:
                program = with_guide(program, GUIDES[guide]())
            if program.event_shape is None:
                program.found_shape(shape)
            program.fill_missing = description.get("fill_missing")
            # Parameters that a first run creates (plain functions, autoguides) must exist before they can be filled.
            if program.state_dict().keys() != state.keys():
                program.initialise(_zeros(program), *(torch.zeros(2, *c["shape"]) for c in context_of(description)))
        program.load_state_dict(state)
        transform = restore_transform(description["transform"])
    except RuntimeError as error:
        raise ValueError(
            f"{path}: its weights do not fit {description['target']}, which has changed since: {error}"
        ) from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a program saved by pyro-gen fit ({said(error)}).") from error
    except ValueError as error:
        if "more than the file has numbers for" in str(error):
            raise ValueError(f"{path}: not a program saved by pyro-gen fit: {error}.") from error
        raise
    return SavedProgram(program.eval(), transform, description)


def load(path: str | Path, target: "str | type[Program] | Program | None" = None, trust: bool = False) -> Program:
    """Loads a program trained by ``pyro-gen fit``, on the CPU and in evaluation mode.

    The program is for data as it was trained on: where that went through a transform (``--transform``),
    :func:`pyro_gen.saving.load_program` gives the transform too. Nothing in the file is run as code; a program of the
    user's is built by the Python file that it came from, if you say so.

    Arguments:
        path: The file.
        target: The program's class, or an instance to fill, or where it is (``"my_file.py:MyProgram"``).
        trust: Run the Python file that the program came from, if it has not changed.

    Returns:
        The program.

    Raises:
        ValueError: The file is missing or no saved program, the program's class is not where it was or in a Python
            file that is not to be trusted, or the weights do not fit it.

    Example:
        >>> import contextlib, os, tempfile
        >>> import pyro_gen as pg
        >>> from pyro_gen.cli import main
        >>> path = os.path.join(tempfile.mkdtemp(), "gaussian.pt")
        >>> with contextlib.redirect_stdout(None):  # pyro-gen fit Gaussian --data iris --out gaussian.pt
        ...     code = main(["fit", "Gaussian", "--data", "iris", "--out", path, "--epochs", "2", "--no-progress"])
        >>> program = pg.load(path)
        >>> pg.sample(program, 3).shape
        torch.Size([3, 4])
    """
    return load_program(path, target, trust).program


def is_saved_program(path: Path) -> bool:
    """Whether a file is a saved program."""
    try:
        _read(path)
    except ValueError:
        return False
    return True


def context_of(description: Mapping[str, Any]) -> list[Any]:
    """What a saved program conditions on: ``columns`` and ``shape`` of one datum, of each part."""
    return list(description.get("context") or ())


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """The weights, the description, and the bytes of a file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    try:
        saved = read_archive(path)
        if not isinstance(saved, dict):
            raise ValueError(f"it holds a {type(saved).__name__}")
        state, description = saved["state_dict"], json.loads(saved["description"])
        fine = all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()) and (
            isinstance(description["target"], str)
            and all(isinstance(key, str) for key in dict(description["options"]))
            and all(map(_is_shape, _shapes(description["event_shape"])))
            and all(isinstance(one["name"], str) for one in description["transform"])
            and all(isinstance(name, str) for name in description["columns"] or ())
            and all(_is_shape(part["shape"]) for part in context_of(description))
            and all(isinstance(name, str) for part in context_of(description) for name in part["columns"] or ())
        )
        if not fine:
            raise ValueError("its description is of another form")
    except ValueError as error:
        raise ValueError(f"{path}: not a program saved by pyro-gen fit: {said(error).partition(': ')[2]}.") from error
    except Exception as error:  # of a dictionary that is another, or none
        raise ValueError(f"{path}: not a program saved by pyro-gen fit ({type(error).__name__}).") from error
    return state, description, path.stat().st_size


def _check_trust(path: Path, description: Mapping[str, Any], trust: bool) -> None:
    """Raises where a program is in a file of the user's that may not be run."""
    file, _ = file_and_name(description["target"])
    if file is None:
        return
    target, kept = description["target"], description.get("digest")
    if not file.is_absolute():  # save_program writes none: it would be another file in each folder
        raise AdviceError(
            f"{path}: its program is in {file}, a path without a folder: say where it is, by {{target}}.", target=...
        )
    if not file.is_file():
        raise AdviceError(
            f"{path}: its program is in {file}, which is not there now: say where it is, by {{target}}.", target=...
        )
    found = _sha256(file)
    if not trust:
        raise AdviceError(
            f"{path}: loading it runs the Python file {file} (SHA-256 {found}): give {{trust}} if you trust "
            "that file, or name the program yourself by {target}.",
            trust=True,
            target=target,
        )
    if kept is not None and kept != found:
        raise AdviceError(
            f"{path}: the Python file {file} has changed since the program was trained (SHA-256 {kept} then, "
            f"{found} now): look at it, and name the program yourself by {{target}}.",
            target=target,
        )


def _shapes(shape: Any) -> list[Any]:
    """The shapes in a written ``event_shape``: one, or those of several variables, by name or in order."""
    if isinstance(shape, dict):
        return list(shape.values())
    return shape if any(isinstance(part, list) for part in shape) else [shape]


def _is_shape(shape: Any) -> bool:
    return all(type(length) is int and length >= 0 for length in shape)


def _written(shape: Any) -> Any:
    if isinstance(shape, Mapping):
        return {name: list(part) for name, part in shape.items()}
    return [part if isinstance(part, int) else list(part) for part in shape]


def _read_shape(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {name: torch.Size(part) for name, part in shape.items()}
    return tuple(map(torch.Size, shape)) if any(isinstance(part, list) for part in shape) else torch.Size(shape)


def _zeros(program: Program) -> Any:
    """Two data of zeros."""
    variables = known_shapes(program)
    if variables is None:
        return torch.zeros(2, *program.event_shape)
    return variables.unpack(torch.zeros(2, variables.numel))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
