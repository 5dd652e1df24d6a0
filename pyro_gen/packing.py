"""Programs of several variables as programs of one tensor, and the decorators that make them so.

The model and the guide of a user are given a mapping or a tuple of tensors; everything below the public functions works
with one tensor :math:`(N, D)` of all entries, and with a :class:`PackedProgram`, which takes it apart for the user's
program and puts together what the observed sites completed. Parameters, modules and modes are those of the user's
program itself.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from numbers import Integral
from typing import Any, ParamSpec, Self, TypeVar

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from pyro_gen._internals import share_members
from pyro_gen.program import Program
from pyro_gen.traces import is_subsample
from pyro_gen.variables import Variables, has_several, items, known_shapes

__all__ = ["PackedProgram", "packed_inputs", "packs", "packs_functions", "packs_training_data", "unpacked_program"]

P = ParamSpec("P")
R = TypeVar("R")


# ----------------------------------------------------------------------------------------------------------------------
# The program


class PackedProgram(Program):
    """A program of several variables, seen as one of a single tensor.

    Its parameters, buffers, modules and mode are those of the user's program; so is the name of its class.

    Arguments:
        program: The user's program.
        variables: What its data are.
    """

    def __new__(cls, program: Program, variables: Variables) -> "PackedProgram":
        kind = type(program)
        members: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        if kind.marginal is not Program.marginal:  # there is one in closed form
            members["marginal"] = lambda self: PackedProgram(self.inner.marginal(), self.variables)
        # These are given packed rows.
        for name in ("kernel", "log_sum", "draw_missing", "missing_particles", "tempered_factor"):
            if getattr(kind, name) is not getattr(Program, name):
                members[name] = _of_inner(name)
        named = type(kind.__name__, (cls,), members)
        made: PackedProgram = object.__new__(named)
        return made

    def __init__(self, program: Program, variables: Variables) -> None:
        self.__dict__["inner"], self.__dict__["variables"] = program, variables
        share_members(self, program)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedProgram":
        return PackedProgram(copy.deepcopy(self.inner, memo), self.variables)

    def __getattr__(self, name: str) -> Any:
        if "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["inner"], name)

    @property
    def training(self) -> bool:
        return bool(self.inner.training)

    @training.setter
    def training(self, mode: bool) -> None:
        self.inner.training = mode

    @property
    def event_shape(self) -> Any:
        return None if self.inner.event_shape is None else torch.Size([self.variables.numel])

    @event_shape.setter
    def event_shape(self, shape: torch.Size | None) -> None:
        self.inner.event_shape = None if shape is None else self.variables.event_shape

    @property
    def given_guide(self) -> Any:
        return self.inner.given_guide

    @property
    def has_kernel(self) -> bool:
        return bool(self.inner.has_kernel)

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        self.inner.check_inputs(self.variables.unpack(x), *context)

    def model(self, x: Tensor, *context: Any) -> Tensor:
        views = self.variables.unpack(x)
        with _Completed(views) as completed:
            out = self.inner.model(views, *context)
        parts: dict[Hashable, Tensor] = {}
        for name in self.variables.names:
            value = completed.get(name)
            if value is None:
                value = _returned(out, name, views[name])
            if value is None:
                hint = f"pg.observe({name!r}, ..., x[{name!r}])" if self.variables.named else f"x[{name}]"
                raise ValueError(
                    f"The model of {type(self).__name__} observes variable {name!r} nowhere: observe it by {hint}, as "
                    "it is, or return a completed value for each variable. What is conditioned on, and not modelled, "
                    "is given as context, after the data."
                )
            parts[name] = value
        joined: Tensor = self.variables.join(parts, x.shape[:-1])
        return joined

    def guide(self, x: Tensor, *context: Any) -> Any:
        return self.inner.guide(self.variables.unpack(x), *context)

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        self.inner.initialise(self.variables.unpack(x), *context, seed=seed)
        return self


def _of_inner(name: str) -> Callable[..., Any]:
    return lambda self, *args: getattr(self.inner, name)(*args)


def unpacked_program(program: Program) -> Program:
    """The user's program."""
    return program.inner if isinstance(program, PackedProgram) else program


class _Completed(Messenger):
    """Effect handler: collects the completed values of variables, at the sites that observe them.

    A site observes a variable if it is given the variable's tensor itself, or has its name and as many entries.

    Arguments:
        views: The variables, a mapping or a tuple.
    """

    def __init__(self, views: Any) -> None:
        super().__init__()
        self.views = dict(items(views))
        self.values: dict[Hashable, Tensor] = {}

    def __enter__(self) -> dict[Hashable, Tensor]:  # type: ignore[override]
        super().__enter__()
        return self.values

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] and isinstance(msg["value"], Tensor) and not is_subsample(msg):
            self._take(msg["name"], msg["value"], msg["value"])

    def _pyro_post_completion(self, msg: Any) -> None:
        self._take(msg["name"], msg["args"][0], msg["value"])

    def _take(self, site: str, given: Tensor, completed: Tensor) -> None:
        name: Hashable = next((n for n, view in self.views.items() if view is given), site)
        if name in self.views and completed.numel() == self.views[name].numel():
            self.values[name] = completed


def _returned(out: Any, name: Any, view: Tensor) -> Tensor | None:
    """The completed value of a variable in what a model returns, a mapping or a tuple."""
    if isinstance(out, Mapping):
        value = out.get(name)
    else:
        value = out[name] if isinstance(out, tuple) and isinstance(name, int) and name < len(out) else None
    if not isinstance(value, Tensor):
        return None
    value = value[(0,) * (value.dim() - view.dim())]  # beside a variable that is summed out, any of its values
    return value if value.numel() == view.numel() else None


# ----------------------------------------------------------------------------------------------------------------------
# Decorators of the public functions


def packed_inputs(program: Program, x: Any) -> tuple[Program, Any]:
    """Program and data as one of a single tensor where they are of several variables, else as they are.

    Arguments:
        program: The program.
        x: The data; or what is none, where they are to be generated: then it is handed on.

    Raises:
        ValueError: The data do not have the variables of the program.
    """
    variables = _variables(program, x)
    if variables is None:
        return program, x
    return PackedProgram(program, variables), variables.pack(x) if _is_data(x, variables) else x


def _is_data(x: Any, variables: Variables) -> bool:
    """Whether x are data of such variables, and no number of what is to be generated."""
    return has_several(x) or (variables.seen is not None and x is not None and not isinstance(x, Integral))


def packs(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function of a program and its data take several variables, as a mapping or a tuple of tensors.

    The function is given a :class:`PackedProgram` and one tensor; tensors that it returns are taken apart again, along
    their last dimension. A function that generates, and is given no data, takes the program's ``event_shape``. Plain
    functions are called with what they are given.

    Arguments:
        function: A function of a program, its data ``x`` and its context.
    """
    return _packing(function, functions=False)


def packs_functions(function: Callable[P, R]) -> Callable[P, R]:
    """As :func:`packs`, for what makes a program of a plain function that it is given."""
    return _packing(function, functions=True)


def _packing(function: Callable[P, R], functions: bool) -> Callable[P, R]:
    call: Any = function
    takes_functions = "Callable" in str(inspect.get_annotations(function).get("program", ""))

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        if not args and "program" not in options:
            return call(**options)  # and Python says what is missing
        program, *data = args if args else (options.pop("program"),)
        if "x" in options:
            data.insert(0, options.pop("x"))
        if not isinstance(program, Program):
            _require_program(function.__name__, program, takes_functions)
            if not (functions and data and has_several(data[0])):
                return call(program, *data, **options)
            program = Program.from_functions(program)
        packed, x = packed_inputs(program, data[0] if data else None)
        if packed is program:
            return call(program, *data, **options)
        out = call(packed, *([x] if data else []), *data[1:], **options)
        if not isinstance(out, Tensor):
            return out
        parts = packed.variables.unpack(out)
        return dict(parts) if isinstance(parts, dict) else tuple(parts)

    return wrapper


def _require_program(name: str, given: Any, takes_functions: bool) -> None:
    """Refuses what is no program, and no model function where such a one is taken."""
    needs = f"{name} needs a Program, got"
    if isinstance(given, type):
        raise TypeError(f"{needs} the class {given.__name__} itself: create an instance, {given.__name__}(...).")
    if isinstance(getattr(given, "program", None), Program):
        raise TypeError(f"{needs} {type(given).__name__}, which has one: give its attribute program.")
    if not (takes_functions and callable(given)):
        raise TypeError(
            f"{needs} {type(given).__name__}: the program comes first, one of pg.models, of a class of your own, or "
            "Program.from_functions(model, guide)."
        )


def packs_training_data(function: Callable[P, R]) -> Callable[P, R]:
    """As :func:`packs` for what trains a program on ``data`` and ``validation``, each ``x`` or ``(x, *context)``.

    A mapping is ``x``, and so is a tuple that is the first element of ``data``; ``transform`` may be a mapping with a
    transform for some of the variables.

    Arguments:
        function: A function of a program and its data, which returns something with the program.
    """
    call: Any = function

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        if not (args or "program" in options) or not (len(args) > 1 or "data" in options):
            return call(*args, **options)  # and Python says what is missing
        program, *rest = args if args else (options.pop("program"),)
        data = rest.pop(0) if rest else options.pop("data")
        if rest or "context" in options:
            raise TypeError(
                f"{function.__name__}: data and context are one tuple in training, "
                f"{function.__name__}(program, (x, context)); all else is given by name."
            )
        first = _first_of(data)
        variables = _variables(program, first) if isinstance(program, Program) else None
        if variables is None:
            return call(program, data, **options)
        who = type(program).__name__
        packed = PackedProgram(program, variables)
        if options.get("validation") is not None:
            options["validation"] = _pack_parts(variables, options["validation"], who)
        if options.get("transform") is not None:
            options["transform"] = _OfVariables(variables, options["transform"])
        result = call(packed, _pack_parts(variables, data, who), **options)
        result.program = program
        return result

    return wrapper


def _variables(program: Program, x: Any) -> Variables | None:
    """The variables of data, or of what is generated, where x is none; ``None`` where they are one tensor."""
    known = known_shapes(program)
    who = type(program).__name__
    if not has_several(x) and not (known is not None and _is_data(x, known)):
        if known is not None and x is not None and not isinstance(x, Integral):
            raise ValueError(
                f"{who} has several variables, {', '.join(map(repr, known.names))}: give a "
                f"{'mapping' if known.named else 'tuple'} with a tensor of each, with NaN where nothing was observed."
            )
        return known
    if known is None and program.event_shape is not None:
        raise ValueError(
            f"{who} has one variable, of shape {tuple(program.event_shape)} per datum, and was given several "
            f"({', '.join(map(repr, Variables.of(x).names))}): for others leave event_shape out, or give a mapping "
            "or a tuple of shapes."
        )
    variables = known or Variables.of(x)
    variables.check(x, who, next((p.dtype for p in program.parameters() if p.is_floating_point()), None))
    return variables


def _first_of(data: Any) -> Any:
    """The ``x`` of training data, of a data set that of a first batch."""
    if isinstance(data, Dataset) and not isinstance(data, TensorDataset | IterableDataset):
        item = data[0]
        x = item if has_several(item) and isinstance(item, Mapping) else item[0] if isinstance(item, tuple) else item
        return _unsqueezed(x) if has_several(x) else x
    return data[0] if isinstance(data, tuple) and data else data


def _unsqueezed(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {name: torch.as_tensor(part).unsqueeze(0) for name, part in x.items()}
    return tuple(torch.as_tensor(part).unsqueeze(0) for part in x)


def _pack_parts(variables: Variables, data: Any, who: str) -> Any:
    """Training data with ``x`` packed."""
    if isinstance(data, Dataset):
        return _PackedDataset(data, variables)
    x, *context = data if isinstance(data, tuple) else (data,)
    variables.check(x, who)
    return (variables.pack(x), *context)


class _PackedDataset(Dataset[Any]):
    """A data set whose items have their variables packed."""

    def __init__(self, data: Any, variables: Variables) -> None:
        self.data, self.variables = data, variables

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        item = self.data[index]
        x, *context = item if isinstance(item, tuple) else (item,)
        return (self.variables.pack(_unsqueezed(x))[0], *context)


class _OfVariables:
    """A transform of packed data: one of the variables together, or one for some of them."""

    def __init__(self, variables: Variables, transform: Any) -> None:
        self.variables, self.transform = variables, transform

    def __call__(self, x: Tensor) -> Tensor:
        parts = self.variables.unpack(x)
        if (seen := self.variables.seen) is not None and not isinstance(self.transform, Mapping):
            changed = {**parts, seen: self.transform(parts[seen])}
        elif not isinstance(self.transform, Mapping):
            changed = self.transform(parts)
        else:
            if unknown := [name for name in self.transform if name not in self.variables.names]:
                raise ValueError(f"transform: there is no variable {unknown[0]!r}.")
            changed = {
                n: self.transform[n](parts[n]) if n in self.transform else parts[n] for n in self.variables.names
            }
        self.variables.check(changed, "the transform")
        return self.variables.join(dict(items(changed)), x.shape[:-1])
