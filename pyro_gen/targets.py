"""Programs and transforms by name.

A target names a program: a model of the zoo (``VAE``), or a file of the user's and what to take from it
(``my_file.py:MyProgram``).
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_gen import data
from pyro_gen._errors import meant, said
from pyro_gen._random import seeded
from pyro_gen.data import Compose, Cut, Flatten, Standardize, Transform
from pyro_gen.program import Program
from pyro_gen.registry import MODELS

__all__ = [
    "TRANSFORMS",
    "build",
    "describe_transform",
    "make_transform",
    "restore_transform",
    "transform_with_ladj",
]

#: The transforms of data by name.
TRANSFORMS: dict[str, type[Transform]] = {
    "binarize": data.Binarize,
    "cut": data.Cut,
    "dequantize": data.Dequantize,
    "dynamic_binarize": data.DynamicBinarize,
    "flatten": data.Flatten,
    "jittered_binarize": data.JitteredBinarize,
    "logit": data.Logit,
    "standardize": data.Standardize,
    "stochastic_binarize": data.StochasticBinarize,
}


# ----------------------------------------------------------------------------------------------------------------------
# Programs


def build(
    target: str | type[Program] | Program,
    event_shape: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Program:
    """Creates a program by name.

    An option that is a mapping with the key ``model`` is a program of its own, built from the rest.

    A class whose ``__init__`` takes ``event_shape`` is given the shape of one datum, one that takes ``features`` its
    length; any other is created with the options alone. A program, or an instance of one named in the file, is taken
    as it is.

    Arguments:
        target: A name in :data:`pyro_gen.registry.MODELS`; or ``file.py:Name`` for a :class:`~pyro_gen.Program` class
            or instance in a file; or ``file.py`` alone where it holds one of these, or one instance with the name
            ``program``.
        event_shape: The shape of one datum, where it is known.
        options: Arguments of the class by name.
        seed: Seeds the initial parameters; the caller's generators are left alone.

    Raises:
        ValueError: There is nothing of that name, the file does not run, or the arguments do not fit.

    Example:
        >>> build("Gaussian", (3,), {"covariance": "diagonal"}).event_shape
        torch.Size([3])
    """
    options = dict(options or {})
    options = {name: _nested(value, seed) for name, value in options.items()}
    with seeded(seed):
        found = find(target) if isinstance(target, str) else target
        target = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
        if isinstance(found, Program):
            if options:
                raise ValueError(f"{target} is a program already, so it takes no options ({', '.join(options)}).")
            return found
        program = _create(found, target, _arguments(found, target, event_shape, options), options)
    if program.event_shape is None and event_shape is not None:
        program.found_shape(torch.Size(event_shape) if _is_one(event_shape) else event_shape)
    return program


def _nested(option: Any, seed: int) -> Any:
    if not (isinstance(option, Mapping) and "model" in option):
        return option
    return build(option["model"], None, {name: v for name, v in option.items() if name != "model"}, seed)


def _create(cls: type[Program], target: str, arguments: dict[str, Any], options: dict[str, Any]) -> Program:
    no_super = f"{target}: {cls.__name__}.__init__ must call super().__init__() before anything else."
    try:
        program = cls(**arguments)
    except ValueError:
        raise  # a sentence, of this package or of the user
    except Exception as error:
        if "Module.__init__() call" in str(error):  # torch's, of a layer or parameter that comes too early
            raise ValueError(no_super) from error
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ValueError(f"{target} cannot be built{f' with {given}' if given else ''}: {said(error)}") from error
    if "_parameters" not in vars(program):
        raise ValueError(no_super)
    return program


def find(target: str) -> "type[Program] | Program":
    """Finds what a target names, see :func:`build`."""
    path, name = file_and_name(target)
    if path is not None:
        return _find_in_file(path, name)
    if target in MODELS:
        return MODELS[target].cls
    raise ValueError(
        f"there is no model {target!r}{meant(target, MODELS)}: choose one of {', '.join(MODELS)}, or name a file of "
        "yours as my_file.py:MyProgram."
    )


def file_and_name(target: str) -> tuple[Path | None, str]:
    """The file that a target names and what to take from it; no file for a model of the zoo."""
    path, _, name = target.rpartition(":") if ".py:" in target else (target, "", "")
    return (Path(path), name) if path.endswith(".py") else (None, target)


def check_options(model: str, options: Mapping[str, Any]) -> None:
    """Checks names of arguments of a model in :data:`pyro_gen.registry.MODELS` without building it."""
    signature = inspect.signature(MODELS[model].cls)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if not open_ended and (unknown := [name for name in options if name not in signature.parameters]):
        known = [name for name in signature.parameters if name not in ("event_shape", "features")]
        raise ValueError(f"{model} has no argument {unknown[0]!r}: choose from {', '.join(known)}.")
    for value in options.values():
        if isinstance(value, Mapping) and "model" in value:
            MODELS.find(value["model"])
            check_options(value["model"], {name: v for name, v in value.items() if name != "model"})


def _arguments(
    cls: type[Program], target: str, event_shape: Sequence[int] | None, options: dict[str, Any]
) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters
    arguments = dict(options)
    for name in ("event_shape", "features"):
        if name in parameters and name not in arguments and event_shape is not None and _is_one(event_shape):
            if name == "features" and len(event_shape) != 1:
                raise ValueError(f"{target} is for tables, rows of numbers, not data of shape {tuple(event_shape)}.")
            arguments[name] = event_shape[0] if name == "features" else torch.Size(event_shape)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in variadic]
    missing = [name for name in required if name not in arguments]
    if shape := [name for name in missing if name in ("event_shape", "features")]:
        raise ValueError(f"{target} needs {shape[0]}, the shape of its data: give some, by --data.")
    if missing:
        raise ValueError(
            f"{target} needs {' '.join(f'--set {name}=...' for name in missing)}"
            f", {'arguments' if len(missing) > 1 else 'an argument'} without a default."
        )
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        close = "".join(meant(name, parameters) for name in arguments if name not in parameters)
        raise ValueError(
            f"{target} cannot be built from the arguments {_listed(arguments)}: {error}{close} (its signature is "
            f"{cls.__name__}({', '.join(map(str, parameters.values()))}))."
        ) from None
    return arguments


def _is_one(shape: Any) -> bool:
    """Whether a shape is that of one tensor, and not those of several variables."""
    return not isinstance(shape, Mapping) and all(isinstance(length, int) for length in shape)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "(none)"


def _find_in_file(path: Path, name: str) -> "type[Program] | Program":
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    module = _run_file(path)
    if name:
        found = vars(module).get(name)
        if isinstance(found, Program) or (isinstance(found, type) and issubclass(found, Program)):
            return found
        if isinstance(found, type):
            raise ValueError(f"{path}: {name} does not inherit from pyro_gen.Program; {_contents(module)}")
        what = "has no" if found is None else f"holds a {type(found).__name__}, not a program, under"
        raise ValueError(f"{path} {what} {name!r}; {_contents(module)}")
    own = {n: v for n, v in vars(module).items() if isinstance(v, Program) or _is_own_class(v, module)}
    if "program" in own:
        return own["program"]  # type: ignore[no-any-return]
    if len(own) == 1:
        return next(iter(own.values()))  # type: ignore[no-any-return]
    raise ValueError(f"{path}: say which program, as {path.name}:Name; {_contents(module)}")


def _is_own_class(value: Any, module: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Program) and value.__module__ == module.__name__


def _contents(module: Any) -> str:
    names = [n for n, v in vars(module).items() if isinstance(v, Program) or _is_own_class(v, module)]
    return f"its programs are: {', '.join(names)}." if names else "it defines no subclass of pyro_gen.Program."


def _run_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: not a Python file.")
    module = importlib.util.module_from_spec(spec)
    # As `python my_file.py` would: modules beside the file can be imported.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}.") from error
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise ValueError(f"{path} does not run: {said(error)}") from error
    except BaseException as error:  # SystemExit, and what else is no Exception
        raise ValueError(
            f'{path} ends by {said(error)} before its program is there: put what exits under if __name__ == "__main__".'
        ) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(path.resolve().parent))
    return module


# ----------------------------------------------------------------------------------------------------------------------
# Transforms


def make_transform(
    specs: Sequence[str], train: Tensor, levels: int | None = None, columns: Sequence[str] | None = None
) -> Transform | None:
    """Creates a transform from texts such as ``"binarize=8"`` or ``"standardize"``, applied from first to last.

    Arguments:
        specs: A name in :data:`TRANSFORMS` each, with its arguments behind ``=``, parted by commas.
        train: Training data, with shape :math:`(N, *)`, from which ``standardize`` takes its moments.
        levels: The number of levels of the data, for the transforms that need it.
        columns: Names of the columns of a table, for messages.

    Returns:
        The transform, or ``None`` where there are no specs.

    Raises:
        ValueError: There is no transform of that name, or its arguments do not fit.

    Example:
        >>> make_transform(["binarize=8"], torch.zeros(1, 2))
        Binarize(threshold=8)
    """
    made: list[Transform] = []
    for spec in specs:
        transform = _make_one(spec, train, levels, columns)
        made.append(transform)
        with seeded(0):
            train = transform(train)
    return Compose(made) if len(made) > 1 else next(iter(made), None)


def check_transform(spec: str) -> None:
    """Checks the name of a transform and the form of its arguments."""
    name, _, text = spec.partition("=")
    if name not in TRANSFORMS:
        close = meant(name, TRANSFORMS)
        raise ValueError(f"there is no transform {name!r}{close}: choose one of {', '.join(TRANSFORMS)}.")
    _numbers(spec, text)


def _make_one(spec: str, train: Tensor, levels: int | None, columns: Sequence[str] | None) -> Transform:
    check_transform(spec)
    name, _, text = spec.partition("=")
    if name == "standardize":
        if text:
            raise ValueError(f"transform {spec!r}: standardize takes its moments from the training data, no arguments.")
        for column, values in zip(columns or (), train.unbind(1) if columns else (), strict=True):
            if len(values[~values.isnan()].unique()) < 2:
                raise ValueError(
                    f"transform 'standardize': column {column!r} does not vary in the training data; leave it out."
                )
        return Standardize.fit(train)
    if name == "flatten":
        return Flatten(tuple(train.shape[1:]))
    cls: Any = TRANSFORMS[name]
    numbers: list[Any] = _numbers(spec, text)
    if name == "cut":
        if len(numbers) != 1 or not isinstance(numbers[0], int):
            raise ValueError(f"transform {spec!r}: say into how many levels of as many data each, as cut=4.")
        return Cut.fit(train, numbers[0])
    wanted = [f.name for f in dataclasses.fields(cls)]
    if wanted[:1] == ["levels"] and not numbers:
        if levels is None:
            raise ValueError(f"transform {spec!r}: say how many levels the data has, as {name}=256.")
        numbers = [levels]
    try:
        return cls(*numbers)  # type: ignore[no-any-return]
    except TypeError:
        raise ValueError(f"transform {spec!r}: its arguments are {', '.join(wanted)}, as {name}=NUMBER.") from None


def _numbers(spec: str, text: str) -> list[float]:
    try:
        return [json.loads(part) for part in text.split(",")] if text else []
    except json.JSONDecodeError:
        raise ValueError(f"transform {spec!r}: its arguments are numbers, as in binarize=8.") from None


def transform_with_ladj(transform: Transform, x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Transforms data and measures what that does to a density, in one draw.

    Arguments:
        transform: The transform.
        x: The data, with shape :math:`(N, *)`.
        seed: Seeds what the transform draws.

    Returns:
        The transformed data, with shape :math:`(N, *)`, and its log-Jacobian in nats per datum, with shape
        :math:`(N)`, or ``None`` where the transform is no bijection.

    Example:
        >>> x = torch.tensor([[0.0, 16.0]])
        >>> transform_with_ladj(data.Compose([data.Dequantize(17), data.Logit(0.05)]), x)[1].shape
        torch.Size([1])
        >>> transform_with_ladj(data.Binarize(8), x)
        (tensor([[0., 1.]]), None)
    """
    try:
        return transform.call_and_ladj(x, torch.Generator().manual_seed(seed))
    except TypeError:  # no bijection
        return transform(x, torch.Generator().manual_seed(seed)), None


def describe_transform(transform: Transform | None) -> list[dict[str, Any]]:
    """Describes a transform as plain data, for JSON."""
    if transform is None:
        return []
    if isinstance(transform, Compose):
        return [one for t in transform.transforms for one in describe_transform(t)]
    names = {cls: name for name, cls in TRANSFORMS.items()}
    fields = {f.name: getattr(transform, f.name) for f in dataclasses.fields(transform)}  # type: ignore[arg-type]
    return [
        {"name": names[type(transform)]}
        | {key: v.tolist() if isinstance(v, Tensor) else v for key, v in fields.items()}
    ]


def restore_transform(described: Sequence[Mapping[str, Any]]) -> Transform | None:
    """Creates the transform that :func:`describe_transform` described.

    Example:
        >>> restore_transform(describe_transform(data.Binarize(8)))
        Binarize(threshold=8)
    """
    made: list[Transform] = []
    for one in described:
        cls: Any = TRANSFORMS[one["name"]]
        values = {
            key: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v
            for key, v in one.items()
            if key != "name"
        }
        made.append(cls(**values))
    return Compose(made) if len(made) > 1 else next(iter(made), None)
