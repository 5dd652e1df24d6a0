r"""The zoo: programs with the data and the recipe they are trained by, and the figure that this must reproduce.

An entry is a TOML file in ``pyro_gen/recipes/``::

    title = "VAE on binary digits"

    [program]
    model = "VAE"                     # a name in pyro_gen.models; everything else goes to its constructor
    latent = 16

    [data]
    name = "digits"                   # a name pg.data.load knows
    transform = ["binarize=8"]        # a transform that draws gives training fresh draws, and test data one draw

    [training]                        # arguments of pg.fit
    epochs = 100
    objective = { name = "IWAE", num_particles = 5 }
    transform = ["dynamic_binarize"]  # in training instead of the one above, for augmentation
    validation = 0.1                  # the share of the training data held out, for patience

    [figure]
    method = "ais"                    # of pg.log_likelihood, with its arguments in figure.options
    unit = "nats"                     # "nats": log-likelihood per datum; "bits/dim": of its negative, smaller is better
    at_least = -16.6                  # or at_most, or equals with tolerance
    source = "where the figure comes from"

Choices in a recipe are made on training data; test data is seen by the figure alone.
"""

import importlib.resources
import inspect
import json
import os
import platform
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_gen import inference
from pyro_gen.data import DataSet, Transform
from pyro_gen.data import load as load_data
from pyro_gen.data.datasets import FROM_FOLDER
from pyro_gen.data.datasets import NAMES as DATA_SETS
from pyro_gen.inference.importance import log_likelihood
from pyro_gen.inference.likelihood import LogLikelihood
from pyro_gen.inference.svi import FitResult, fit
from pyro_gen.program import Program
from pyro_gen.targets import MODELS, build, check_options, check_transform, make_transform, transform_with_ladj

__all__ = ["Entry", "Figure", "Prepared", "Reproduction", "load", "measure", "names", "prepare", "reproduce", "table"]

#: The folder of the stored results, in a checkout.
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "zoo"

# What a recipe says; the other arguments of fit are about one run of it.
_TRAINING = set(inspect.signature(fit).parameters) - {
    *("program", "data", "seed", "checkpoint", "resume", "log_dir", "logger"),
    *("accelerator", "devices", "num_nodes", "strategy", "progress"),
}
_METHODS = ("exact", "elbo", "iwae", "ais")


# ----------------------------------------------------------------------------------------------------------------------
# Entries


@dataclass(frozen=True)
class Figure:
    """The figure that an entry must reproduce on test data.

    Attributes:
        method: The method of :func:`pyro_gen.log_likelihood`.
        unit: ``"nats"``, the log-likelihood per datum, or ``"bits/dim"``, its negative per number.
        at_least: A lower bound on the figure, or ``None``.
        at_most: An upper bound on the figure, or ``None``.
        equals: What the figure must be within the tolerance, or ``None``.
        tolerance: The tolerance of ``equals``.
        source: Where the number comes from.
        options: Arguments of the method.
    """

    method: str
    unit: str
    source: str
    at_least: float | None = None
    at_most: float | None = None
    equals: float | None = None
    tolerance: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ValueError(f"figure.method is {self.method!r}: choose one of {', '.join(_METHODS)}.")
        if self.unit not in ("nats", "bits/dim"):
            raise ValueError(f'figure.unit is {self.unit!r}: give "nats" or "bits/dim".')
        if sum(v is not None for v in (self.at_least, self.at_most, self.equals)) != 1:
            raise ValueError("the figure needs one of at_least, at_most and equals.")
        if (self.equals is None) == (self.tolerance > 0):
            raise ValueError("equals goes with a positive tolerance, and at_least and at_most go without.")

    def holds(self, value: float) -> bool:
        """Whether a measured value reproduces the figure; NaN does not."""
        if self.at_least is not None:
            return value >= self.at_least
        if self.at_most is not None:
            return value <= self.at_most
        return self.equals is not None and abs(value - self.equals) <= self.tolerance

    def __str__(self) -> str:
        if self.equals is not None:
            return f"{self.equals:g} ± {self.tolerance:g} {self.unit}"
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        return f"{sign} {bound:g} {self.unit}"


@dataclass(frozen=True)
class Entry:
    """An entry of the zoo, as its TOML file says.

    Attributes:
        name: The name of the file.
        title: One line about it.
        model: A name in :data:`pyro_gen.targets.MODELS`.
        options: Arguments of the model.
        data: The name of the data set.
        transform: What the data goes through, as :func:`pyro_gen.targets.make_transform` takes it.
        training: Arguments of :func:`pyro_gen.fit`, as the file has them.
        figure: The figure.
        minutes: About how long it takes on two CPU cores, or on a GPU where it is meant for one.
        gpu: Whether it is meant for a GPU.
        text: The file.
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
            if (model := program.pop("model", None)) not in MODELS:
                raise ValueError(f"program.model is {model!r}: choose one of {', '.join(MODELS)}.")
            check_options(model, program)
            source = _Section(top["data"], "data", "name", transform=[])
            if source["name"] not in DATA_SETS:
                raise ValueError(f"data.name is {source['name']!r}: choose one of {', '.join(DATA_SETS)}.")
            training = dict(top["training"])
            if unknown := [key for key in training if key not in _TRAINING]:
                raise ValueError(f"training has no key {unknown[0]!r}: choose from {', '.join(sorted(_TRAINING))}.")
            make_objective(training.get("objective"))
            for spec in (*source["transform"], *training.get("transform", ())):
                check_transform(spec)
            figure = Figure(
                **_Section(
                    top["figure"], "figure", "method", "unit", "source",
                    at_least=None, at_most=None, equals=None, tolerance=0.0, options={},
                )
            )  # fmt: skip
        except (ValueError, TypeError) as error:  # TOML errors are ValueErrors
            raise ValueError(f"recipe {name}: {error}") from error
        return Entry(
            name, top["title"], model, program, source["name"], tuple(source["transform"]), training, figure,
            float(top["minutes"]), bool(top["gpu"]), text,
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


def make_objective(spec: Mapping[str, Any] | None) -> inference.Objective | None:
    """Creates an objective from a table such as ``{name = "IWAE", num_particles = 5}``."""
    if spec is None:
        return None
    options = dict(spec)
    name = options.pop("name", None)
    objectives = ("ELBO", "IWAE", "DReG", "Renyi", "ScoreFunctionELBO", "EnumELBO")
    if name not in objectives:
        raise ValueError(f"there is no objective {name!r}: choose one of {', '.join(objectives)}.")
    return getattr(inference, name)(**options)  # type: ignore[no-any-return]


def names() -> tuple[str, ...]:
    """The names of the entries.

    Example:
        >>> "vae-digits" in names()
        True
    """
    folder = importlib.resources.files("pyro_gen") / "recipes"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load(name: str) -> Entry:
    """Reads an entry.

    Raises:
        ValueError: There is no entry of that name, or its recipe is wrong.

    Example:
        >>> load("gaussian-iris").figure.method
        'exact'
    """
    if name not in names():
        raise ValueError(f"the zoo has no entry {name!r}; there are: {', '.join(names())}.")
    file = importlib.resources.files("pyro_gen") / "recipes" / f"{name}.toml"
    return Entry.parse(name, file.read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------------------------------
# Training and measuring


class Prepared(NamedTuple):
    """The data of an entry.

    Attributes:
        train: Training data, before ``fit_transform``, with shape :math:`(N, *)`.
        validation: Held-out training data, before ``fit_transform``, or ``None``.
        test: Test data, as the program sees it.
        fit_transform: What training applies to each minibatch, or ``None``.
        transform: What the program's data went through, or ``None``.
        log_abs_det_jacobian: That of the test data, per datum in nats; ``None`` where the transform is no bijection.
        columns: Names of the columns of a table.
    """

    train: Tensor
    validation: Tensor | None
    test: Tensor
    fit_transform: Transform | None
    transform: Transform | None
    log_abs_det_jacobian: Tensor | None
    columns: tuple[str, ...] | None


def prepare(entry: Entry, data_root: str | Path | None = None) -> Prepared:
    """Loads the data of an entry and transforms it.

    Arguments:
        entry: The entry.
        data_root: The folder of the data sets that do not come with scikit-learn; by default ``$PYRO_GEN_DATA``.

    Raises:
        ValueError: The data is not there.
    """
    root = data_root or os.environ.get("PYRO_GEN_DATA")
    if entry.data in FROM_FOLDER and root is None:
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


def measure(
    entry: Entry,
    program: Program,
    test: Tensor,
    *,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **overrides: Any,
) -> LogLikelihood:
    """Estimates the log-likelihood of test data by the method of the entry's figure."""
    device = next(program.parameters()).device
    options = entry.figure.options | overrides
    return log_likelihood(program, test.to(device), method=entry.figure.method, seed=seed, progress=progress, **options)


@dataclass(frozen=True)
class Reproduction:
    """What :func:`reproduce` found.

    Attributes:
        name: The entry.
        value: The measured figure, in ``unit``.
        standard_error: Its Monte Carlo standard error (0 where exact); not the error from the choice of test data.
        sampling_error: Its standard error as an estimate for the population that the test data comes from.
        unit: ``"nats"`` per datum or ``"bits/dim"``.
        kind: What kind of estimate it is.
        method: The method.
        figure: What was to be reproduced, as text.
        holds: Whether it was.
        data: How many test data.
        epochs: Epochs trained.
        train_seconds: Wall-clock time of the training.
        seconds: Wall-clock time of everything.
        device: The processor.
        seed: The seed.
        versions: Of pyro_gen, torch, pyro and Python.
    """

    name: str
    value: float
    standard_error: float
    sampling_error: float
    unit: str
    kind: str
    method: str
    figure: str
    holds: bool
    data: int
    epochs: int
    train_seconds: float
    seconds: float
    device: str
    seed: int
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Numbers and text only, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return (
            f"{self.name}: {self.value:.3f} +- {self.standard_error:.3f} {self.unit} ({self.method}, {self.kind}; "
            f"{self.data} test data, sampling error {self.sampling_error:.3f}); the figure {self.figure} {verdict}; "
            f"{self.seconds:.0f} s on {self.device}"
        )


def reproduce(
    name: str,
    *,
    seed: int = 0,
    data_root: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    **overrides: Any,
) -> Reproduction:
    """Trains an entry by its recipe, measures it on test data, and says whether its figure holds.

    Arguments:
        name: The entry.
        seed: Seeds everything; the caller's generators are left alone.
        data_root: The folder of the data sets that do not come with scikit-learn; by default ``$PYRO_GEN_DATA``.
        device: Where to compute, by default on a GPU if there is one.
        progress: Whether to show progress on standard error.
        overrides: Arguments of :func:`pyro_gen.fit` other than the recipe's: ``compile=False``, or
            ``checkpoint="run.ckpt", resume=True`` for a run that may be interrupted.

    Raises:
        ValueError: There is no such entry, its data is not there, or the checkpoint is of another run.

    Example:
        >>> reproduce("gaussian-iris", progress=False).holds
        True
    """
    start = time.perf_counter()
    entry = load(name)
    data = prepare(entry, data_root)
    result = train(entry, data, seed=seed, device=device, progress=progress, **overrides)
    with progress_bar(f"test log-likelihood by {entry.figure.method}", progress) as report:
        found = measure(entry, result.program, data.test, seed=seed, progress=report)
    value, error, sampling = found.mean(), found.mean_standard_error(), found.sampling_error()
    if entry.figure.unit == "bits/dim":
        if data.log_abs_det_jacobian is None:
            raise ValueError(
                f"recipe {name}: the transform throws information away, so there are no bits/dim of the data."
            )
        scale = abs(found.bits_per_dim(1.0) - found.bits_per_dim(0.0))
        value, error, sampling = found.bits_per_dim(data.log_abs_det_jacobian), error * scale, sampling * scale
    used = next(result.program.parameters()).device
    return Reproduction(
        name=name,
        value=value,
        standard_error=error,
        sampling_error=sampling,
        unit=entry.figure.unit,
        kind=found.kind,
        method=found.method,
        figure=str(entry.figure),
        holds=entry.figure.holds(value),
        data=len(data.test),
        epochs=len(result.history),
        train_seconds=result.seconds,
        seconds=time.perf_counter() - start,
        device=torch.cuda.get_device_name(used) if used.type == "cuda" else _processor(),
        seed=seed,
        versions=versions(),
    )


def _processor() -> str:
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


def versions() -> dict[str, str]:
    """The versions of what results depend on."""
    from pyro_gen import __version__

    return {
        "pyro_gen": __version__,
        "torch": str(torch.__version__),
        "pyro": str(pyro.__version__),
        "python": platform.python_version(),
    }


@contextmanager
def progress_bar(text: str, show: bool = True) -> Iterator[Callable[[float], None] | None]:
    """Shows a progress bar on standard error; yields what to call with the fraction done."""
    if not show:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)


# ----------------------------------------------------------------------------------------------------------------------
# Stored results


def store(reproduction: Reproduction) -> Path:
    """Writes a result to :data:`RESULTS`, for the table of the README.

    Raises:
        ValueError: The package does not run from a checkout.
    """
    if not RESULTS.parent.is_dir():
        raise ValueError("results are stored in a checkout of the repository, and this is an installed package.")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{reproduction.name}.json"
    path.write_text(json.dumps(reproduction.to_dict(), indent=2) + "\n", encoding="utf-8")
    return path


def stored() -> dict[str, dict[str, Any]]:
    """The stored results by entry; empty where the package does not run from a checkout."""
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))}


def clock(seconds: float) -> str:
    """A time to be read by people.

    Example:
        >>> clock(5.4), clock(150.0)
        ('5 s', '2 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def table() -> str:
    """The entries as a Markdown table, with the results that are stored."""
    results = stored()
    lines = [
        "| entry | what | must reproduce | test figure ± Monte Carlo error | |  time |",
        "|---|---|---|---|---|---|",
    ]
    for entry in map(load, names()):
        row = f"| `{entry.name}` | {entry.title} | {entry.figure} ({entry.figure.method}) "
        found = results.get(entry.name)
        if found is None:
            lines.append(row + "| not run yet | | |")
            continue
        digits = 3 if entry.figure.unit == "bits/dim" else 2
        measured = f"{found['value']:.{digits}f}"
        if found["kind"] != "exact":
            measured += f" ± {found['standard_error']:.{digits}f}"
        verdict = "holds" if entry.figure.holds(found["value"]) else "**missed**"
        lines.append(row + f"| {measured} | {verdict} | {clock(found['seconds'])}, {found['device']} |")
    return "\n".join(lines)


def write_table(readme: Path) -> bool:
    """Puts :func:`table` between the marks of a README; returns whether that changed it.

    Raises:
        ValueError: The file has no marks.
    """
    text = readme.read_text(encoding="utf-8")
    start, end = "<!-- zoo-table:start -->\n", "<!-- zoo-table:end -->"
    if start not in text or end not in text:
        raise ValueError(f"{readme} has no lines {start.strip()} and {end} to put the table between.")
    new = text.split(start)[0] + start + table() + "\n" + end + text.split(end, 1)[1]
    readme.write_text(new, encoding="utf-8")
    return new != text
