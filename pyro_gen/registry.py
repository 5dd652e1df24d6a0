"""What the package has, by name: things register where they are defined, and everything that lists them reads it here.

The command line, recipes, the conformance suite, the tables of the documentation and the tests ask a registry, so a
model, an objective, a data set or a measurement is added by writing it down once.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pyro_gen._errors import meant, shown

if TYPE_CHECKING:
    from pyro_gen.data.datasets import DataSet
    from pyro_gen.program import Program

__all__ = [
    "DATA_SETS",
    "MEASURES",
    "MODELS",
    "OBJECTIVES",
    "Measure",
    "Measured",
    "Model",
    "Registry",
    "Source",
    "measure",
    "model",
    "objective",
]

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Things of one sort by name.

    Arguments:
        sort: What one of them is called in messages, ``"model"`` say.
        home: The module whose import defines all of them. It is imported when the registry is first read.

    Example:
        >>> colours = Registry("colour")
        >>> colours.add("red", 0xFF0000)
        >>> colours["red"], list(colours)
        (16711680, ['red'])
        >>> colours.find("blue")
        Traceback (most recent call last):
            ...
        ValueError: there is no colour 'blue': choose one of red.
    """

    def __init__(self, sort: str, home: str | None = None) -> None:
        self.sort, self.home = sort, home
        self._items: dict[str, T] = {}
        self._executions: dict[str, Any] = {}

    def add(self, name: str, item: T) -> None:
        """Registers a thing; the same definition, of a file that is run again (a doctest of it is), takes its place.

        Raises:
            ValueError: Another one has the name, be it of the same module.
        """
        execution = _execution(item)
        if name in self._items:
            old = self._items[name]
            again = _definition(old) == _definition(item)
            if again and execution is not None and execution is self._executions[name]:
                again = _defined(old) is _defined(item)
            if not again:
                where = f", of {_defined(old).__module__}" if hasattr(_defined(old), "__qualname__") else ""
                raise ValueError(f"there is a {self.sort} {name!r} already{where}: give this one another name.")
        self._items[name], self._executions[name] = item, execution

    def find(self, name: Any) -> T:
        """The thing of that name.

        Raises:
            ValueError: There is none; the message lists the names.
        """
        if name not in self:
            close = meant(name.__name__ if isinstance(name, type) else name, self)
            raise ValueError(f"there is no {self.sort} {shown(name)}{close}: choose one of {', '.join(self)}.")
        return self._items[name]

    def __getitem__(self, name: str) -> T:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all(), key=str.lower))

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, T]:
        if self.home is not None:
            importlib.import_module(self.home)
        return self._items


def _defined(item: Any) -> Any:
    """The class or function that a thing is about."""
    return getattr(item, "cls", getattr(item, "function", item))


def _definition(item: Any) -> Any:
    """Where a thing is defined, by module and name; what has neither is its own definition."""
    defined = _defined(item)
    name = getattr(defined, "__qualname__", None)
    return item if name is None else (defined.__module__, name)


def _execution(item: Any) -> Any:
    """What is another object each time that the module of a thing is run; ``None`` of a script or a notebook."""
    module = sys.modules.get(getattr(_defined(item), "__module__", ""))
    return getattr(module, "__spec__", None)


# ----------------------------------------------------------------------------------------------------------------------
# Models

Small = Callable[[], "tuple[Any, ...]"]  # a program, data, and their context


@dataclass(frozen=True)
class Model:
    """A model of the zoo.

    Attributes:
        cls: The class of the program.
        title: What it is, in a few words, for tables.
        paper: Authors and year of the paper, empty where the model has no author.
        family: The folder under ``pyro_gen/models`` that its file is in.
        small: Small instances with a few rows of data, and their context where there is one, by what is special about
            each; every one goes through the conformance suite.
        command: What trains it from the command line, ``"fit"`` or ``"impute"``.
    """

    cls: "type[Program]"
    title: str
    paper: str
    family: str
    small: Mapping[str, Small]
    command: str


#: The models of the zoo by the name of their class.
MODELS: Registry[Model] = Registry("model", "pyro_gen.models")

P = TypeVar("P", bound="type[Program]")


def model(title: str, *, small: Mapping[str, Small], paper: str = "", command: str = "fit") -> Callable[[P], P]:
    """Class decorator: registers a model, see :class:`Model` for the arguments."""

    def register(cls: P) -> P:
        family = cls.__module__.split(".")[2]  # pyro_gen.models.<family>
        MODELS.add(cls.__name__, Model(cls, title, paper, family, small, command))
        return cls

    return register


# ----------------------------------------------------------------------------------------------------------------------
# Objectives

#: What training can minimise, by the name of the class.
OBJECTIVES: "Registry[type[Any]]" = Registry("objective", "pyro_gen.inference")

C = TypeVar("C", bound="type[Any]")


def objective(cls: C) -> C:
    """Class decorator: registers an objective by the name of its class."""
    OBJECTIVES.add(cls.__name__, cls)
    return cls


# ----------------------------------------------------------------------------------------------------------------------
# Data sets


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        load: Loads it, given the folder of the user's files or ``None``.
        from_folder: Whether it needs that folder.
    """

    load: "Callable[[str | PathLike[str] | None], DataSet]"
    from_folder: bool


#: The data sets by name.
DATA_SETS: Registry[Source] = Registry("data set", "pyro_gen.data.datasets")


# ----------------------------------------------------------------------------------------------------------------------
# Figures


@dataclass(frozen=True)
class Measured:
    """A figure of a trained program.

    Attributes:
        value: The figure.
        standard_error: Its Monte Carlo standard error, 0 where it is exact.
        sampling_error: Its standard error as an estimate for the population that the test data come from; NaN where
            there is none.
        kind: What kind of number it is, ``"exact"`` or ``"stochastic lower bound"`` say.
        method: How it was measured.
    """

    value: float
    standard_error: float
    sampling_error: float
    kind: str
    method: str


@dataclass(frozen=True)
class Measure:
    """A kind of figure that a recipe can ask for.

    Attributes:
        unit: Of the figure; empty where it is a pure number.
        better: ``"higher"`` or ``"lower"``.
        function: Takes the program, the prepared data (:class:`pyro_gen.data.prepared.Prepared`), ``seed``,
            ``progress`` (a function of the fraction done, or ``None``) and options of its own; returns a
            :class:`Measured`.
    """

    unit: str
    better: str
    function: Callable[..., Measured]


#: What can be measured of a trained program, by name.
MEASURES: Registry[Measure] = Registry("measure", "pyro_gen.evaluation.measures")

M = TypeVar("M", bound=Callable[..., Measured])


def measure(name: str, *, unit: str, better: str) -> Callable[[M], M]:
    """Decorator: registers a function that measures a trained program, see :class:`Measure`."""

    def register(function: M) -> M:
        MEASURES.add(name, Measure(unit, better, function))
        return function

    return register
