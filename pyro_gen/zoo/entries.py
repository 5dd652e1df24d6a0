r"""Entries of the zoo: programs with the data and the recipe they are trained by, and the figure this must reproduce.

An entry is a TOML file in ``pyro_gen/recipes/``::

    title = "VAE on binary digits"

    [program]
    model = "VAE"                     # a name in pyro_gen.registry.MODELS; the rest goes to its constructor
    latent = 16

    [data]
    name = "digits"                   # a name pg.data.load knows
    transform = ["binarize=8"]        # a transform that draws gives training fresh draws, and test data one draw
    form = "rows"                     # or "labelled": {"x": rows, "y": labels}; "outcome": what is predicted, given the
                                      # rows; "steps": the rows as series, given their steps;
                                      # "given_label": the rows given their label; "given_rows": given themselves;
                                      # "quarter": images given their lower left quarter, NaN elsewhere
    labels_per_class = 10             # of "labelled" training data so many labels of each class are known
    outcome = ["standardize"]         # what the outcome goes through
    group = "school"                  # the column that numbers groups, which then are a context of their own

    [training]                        # arguments of pg.fit
    epochs = 100
    objective = { name = "IWAE", num_particles = 5 }
    closed_form = true                # alone: by the model's fit_posterior in place of pg.fit
    transform = ["dynamic_binarize"]  # in training instead of the one above, for augmentation
    validation = 0.1                  # the share of the training data held out, for patience

    [figure]
    measure = "log_likelihood"        # a name in pyro_gen.registry.MEASURES, which knows its unit
    options = { method = "ais" }      # of the measure
    at_least = -16.6                  # or at_most, or equals with tolerance
    source = "where the figure comes from"

Choices in a recipe are made on training data; test data is seen by the figure alone.
"""

import importlib.resources
import inspect
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro_gen._errors import meant
from pyro_gen.data.prepared import FORMS
from pyro_gen.inference.objectives import Objective
from pyro_gen.inference.svi import fit
from pyro_gen.registry import DATA_SETS, MEASURES, MODELS, OBJECTIVES
from pyro_gen.targets import check_options, check_transform

__all__ = ["Entry", "Figure", "load", "make_objective", "names"]

# What a recipe says; the other arguments of fit are about one run of it.
_TRAINING = {"closed_form", *inspect.signature(fit).parameters} - {
    *("program", "data", "seed", "checkpoint", "resume", "log_dir", "logger"),
    *("accelerator", "devices", "num_nodes", "strategy", "progress"),
}


@dataclass(frozen=True)
class Figure:
    """The figure that an entry must reproduce on test data.

    Attributes:
        measure: A name in :data:`pyro_gen.registry.MEASURES`.
        source: Where the number comes from.
        at_least: A lower bound on the figure, or ``None``.
        at_most: An upper bound on the figure, or ``None``.
        equals: What the figure must be within the tolerance, or ``None``.
        tolerance: The tolerance of ``equals``.
        options: Arguments of the measure.
    """

    measure: str
    source: str
    at_least: float | None = None
    at_most: float | None = None
    equals: float | None = None
    tolerance: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        better = MEASURES.find(self.measure).better
        if sum(v is not None for v in (self.at_least, self.at_most, self.equals)) != 1:
            raise ValueError("the figure needs one of at_least, at_most and equals.")
        if (self.equals is None) == (self.tolerance > 0):
            raise ValueError("equals goes with a positive tolerance, and at_least and at_most go without.")
        wrong = "at_most" if better == "higher" else "at_least"
        if getattr(self, wrong) is not None:
            raise ValueError(f"{wrong} bounds the figure on the wrong side: {better} {self.measure} is better.")

    @property
    def unit(self) -> str:
        """The unit of the figure."""
        return MEASURES[self.measure].unit

    @property
    def method(self) -> str:
        """How the figure is measured: the method in its options, else the measure itself."""
        return str(self.options.get("method", self.measure))

    @property
    def what(self) -> str:
        """What the figure is, for tables: its method, in words, and whether it is relative to that of real data."""
        return f"{'relative ' if self.options.get('relative') else ''}{self.method.replace('_', ' ')}"

    def holds(self, value: float) -> bool:
        """Whether a measured value reproduces the figure; NaN does not."""
        if self.at_least is not None:
            return value >= self.at_least
        if self.at_most is not None:
            return value <= self.at_most
        return self.equals is not None and abs(value - self.equals) <= self.tolerance

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.equals is not None:
            return f"{self.equals:g} ± {self.tolerance:g}{unit}"
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        return f"{sign} {bound:g}{unit}"


@dataclass(frozen=True)
class Entry:
    """An entry of the zoo, as its TOML file says.

    Attributes:
        name: The name of the file.
        title: One line about it.
        model: A name in :data:`pyro_gen.registry.MODELS`.
        options: Arguments of the model.
        data: The name of the data set.
        transform: What the data goes through, as :func:`pyro_gen.targets.make_transform` takes it.
        form: Which part of the data set is modelled, one of :data:`pyro_gen.data.prepared.FORMS`.
        outcome: What the outcome goes through, as ``transform``.
        group: The column that numbers groups, or the empty text.
        training: Arguments of :func:`pyro_gen.fit`, as the file has them.
        figure: The figure.
        minutes: About how long the run took whose result is stored, training and figure, on a CPU beside other work;
            where there is none an estimate, for two cores or for the GPU that it is meant for.
        gpu: Whether it is meant for a GPU.
        text: The file.
        labels_per_class: How many labels of each class training data keep, 0 for all.
    """

    name: str
    title: str
    model: str
    options: dict[str, Any]
    data: str
    transform: tuple[str, ...]
    training: dict[str, Any]
    figure: Figure
    minutes: float
    gpu: bool
    text: str = field(repr=False)
    form: str = "rows"
    outcome: tuple[str, ...] = ()
    group: str = ""
    labels_per_class: int = 0

    @staticmethod
    def parse(name: str, text: str) -> "Entry":
        """Reads a recipe.

        Raises:
            ValueError: It is no TOML, has a key that means nothing, or lacks one; the message names the recipe.
        """
        try:
            recipe = tomllib.loads(text)
            top = _Section(
                recipe, "the recipe", "title", "program", "data", "figure", training={}, minutes=1.0, gpu=False
            )
            program = dict(top["program"])
            model = program.pop("model", None)
            MODELS.find(model)
            check_options(model, program)
            source = _Section(
                top["data"], "data", "name", transform=[], form="rows", outcome=[], group="", labels_per_class=0
            )
            DATA_SETS.find(source["name"])
            if source["form"] not in FORMS:
                raise ValueError(f"data has no form {source['form']!r}: choose one of {', '.join(FORMS)}.")
            if (source["outcome"] or source["group"]) and source["form"] != "outcome":
                raise ValueError('outcome and group go with form = "outcome".')
            if source["labels_per_class"] and source["form"] != "labelled":
                raise ValueError('labels_per_class goes with form = "labelled".')
            training = dict(top["training"])
            if unknown := [key for key in training if key not in _TRAINING]:
                raise ValueError(f"training has no key {unknown[0]!r}: choose from {', '.join(sorted(_TRAINING))}.")
            make_objective(training.get("objective"))
            for spec in (*source["transform"], *source["outcome"], *training.get("transform", ())):
                check_transform(spec)
            figure = Figure(
                **_Section(
                    top["figure"], "figure", "measure", "source",
                    at_least=None, at_most=None, equals=None, tolerance=0.0, options={},
                )
            )  # fmt: skip
        except (ValueError, TypeError) as error:  # TOML errors are ValueErrors
            raise ValueError(f"recipe {name}: {error}") from error
        return Entry(
            name, top["title"], model, program, source["name"], tuple(source["transform"]), training, figure,
            float(top["minutes"]), bool(top["gpu"]), text,
            source["form"], tuple(source["outcome"]), source["group"], source["labels_per_class"],
        )  # fmt: skip


class _Section(dict[str, Any]):
    """A table of a recipe, its keys checked, its defaults filled in."""

    def __init__(self, table: Mapping[str, Any], where: str, *required: str, **defaults: Any) -> None:
        known = [*required, *defaults]
        if unknown := [key for key in table if key not in known]:
            raise ValueError(f"{where} has no key {unknown[0]!r}: choose from {', '.join(known)}.")
        if absent := [key for key in required if key not in table]:
            raise ValueError(f"{where} needs the key {absent[0]!r}.")
        super().__init__(defaults | dict(table))


def make_objective(spec: Mapping[str, Any] | None) -> Objective | None:
    """Creates an objective from a table such as ``{name = "IWAE", num_particles = 5}``."""
    if spec is None:
        return None
    options = dict(spec)
    cls = OBJECTIVES.find(options.pop("name", None))
    return cls(**options)  # type: ignore[no-any-return]


def names() -> tuple[str, ...]:
    """The names of the entries.

    Example:
        >>> "vae-digits" in names()
        True
    """
    folder = importlib.resources.files("pyro_gen") / "recipes"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load(name: str) -> Entry:
    """Reads an entry: its recipe and the figure that it must reproduce. Nothing is trained.

    :func:`pyro_gen.zoo.train` gives the trained program, of the data of :func:`pyro_gen.zoo.prepare`.

    Raises:
        ValueError: There is no entry of that name, or its recipe is wrong.

    Example:
        >>> str(load("gaussian-iris").figure)
        '-3.68 ± 0.01 nats'
    """
    if name not in names():
        raise ValueError(f"the zoo has no entry {name!r}{meant(name, names())}; there are: {', '.join(names())}.")
    file = importlib.resources.files("pyro_gen") / "recipes" / f"{name}.toml"
    return Entry.parse(name, file.read_text(encoding="utf-8"))
