r"""The conformance suite: does a program keep the contract that every tool of this package relies on?

:func:`check_program` puts a model/guide pair through small independent checks on a few rows of data. Most of them hold
the latent variables fixed, so that both log-densities,

.. math:: \log p(x, z, w) \quad \text{and} \quad \log q(z, w \mid x) ,

must be functions of the data and the parameters alone, and compare two ways of getting the same number: a minibatch
with the full data, one row in different company, a vectorised run with a loop, a loaded program with the saved one.
No statistics are involved: a check that fails has found a defect, with the site's name and the way out.
"""

import copy
import io
import math
import random
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen._random import exclusive, seeded
from pyro_gen.density import any_missing, as_inputs
from pyro_gen.evaluation import marginals
from pyro_gen.inference.objectives import resolve_objective
from pyro_gen.observation import assume_missing, completions, no_completion
from pyro_gen.program import Program, data_size, fixed
from pyro_gen.traces import DATA_PLATE, per_datum_log_prob, sample_sites, site_log_prob, structure, trace_pair

__all__ = ["CHECKS", "Check", "Report", "Result", "check_program"]

MAX_ROWS = 23  # enough to see every defect below; a prime that hardly any layer has as its width
SIDES = ("guide", "model")


# ----------------------------------------------------------------------------------------------------------------------
# Report


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        name: The name of the check.
        status: ``"passed"``, ``"failed"`` or ``"skipped"``.
        message: What was found (failed), why it does not apply (skipped), or what is checked, with a remark (passed).
        advice: What to do about a failure; empty otherwise.
    """

    name: str
    status: str
    message: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """The results of all checks; prints as a table.

    Attributes:
        program: The name of the program's class.
        results: One result per check, in the order of :data:`CHECKS`.
    """

    program: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Result, ...]:
        """The results of the checks that failed."""
        return tuple(r for r in self.results if r.status == "failed")

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, name: str) -> Result:
        """Returns the result of the check of that name."""
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(f"There is no check named {name!r}: {', '.join(r.name for r in self.results)}.")

    def raise_for_failures(self) -> None:
        """Raises what failed.

        Raises:
            ValueError: A check failed; the message has every failure with its advice.
        """
        if self.failures:
            raise ValueError(
                f"{self.program} fails {len(self.failures)} of {len(self.results)} checks.\n"
                + "\n".join(_lines(r) for r in self.failures)
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data, for JSON."""
        return {"program": self.program, "ok": self.ok, "checks": [asdict(r) for r in self.results]}

    def __str__(self) -> str:
        counts = {s: sum(r.status == s for r in self.results) for s in ("passed", "failed", "skipped")}
        head = f"{self.program}: " + ", ".join(f"{n} {s}" for s, n in counts.items())
        lines = [_lines(r) for r in self.results if r.message != _NOT_RUN]
        if len(lines) < len(self):
            lines.append(f"skipped the other {len(self) - len(lines)} checks: the program does not run.")
        return "\n".join([head, *lines])


_NOT_RUN = "The program does not run."


def _lines(result: Result) -> str:
    status = result.status.upper() if result.status == "failed" else result.status
    text = [f"{status:8}{result.name:20}{result.message}"] + [f"{'':28}-> {result.advice}"] * bool(result.advice)
    return "\n".join(textwrap.fill(t, 120, subsequent_indent=" " * 28, break_long_words=False) for t in text)


class _Failed(Exception):
    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class _Skipped(Exception):
    pass


# ----------------------------------------------------------------------------------------------------------------------
# What a check works with


Latents = dict[str, Tensor]


@dataclass
class Case:
    """A copy of the program in evaluation mode, a few rows of data, and latent variables to hold fixed.

    Attributes:
        program: The copy, which a check may do with as it likes.
        x: The data, with shape :math:`(N, *)`.
        context: What the program conditions on.
        seed: Seeds every draw.
    """

    program: Program
    x: Tensor
    context: tuple[Any, ...]
    seed: int

    def run(
        self,
        side: str,
        x: Tensor | None = None,
        context: tuple[Any, ...] | None = None,
        latents: Latents | None = None,
        size: int | None = None,
        seed: int | None = None,
        program: Program | None = None,
    ) -> Trace:
        """Traces ``"model"`` or ``"guide"`` without gradients, by default with :attr:`latents` held fixed."""
        values = self.latents[side] if latents is None else latents
        with torch.no_grad(), seeded(self.seed if seed is None else seed), ExitStack() as stack:
            stack.enter_context(fixed(values))
            if size is not None:
                stack.enter_context(data_size(size))
            return _trace(
                program or self.program,
                side,
                self.x if x is None else x,
                self.context if context is None else context,
            )

    def draw(self, seed: int) -> dict[str, Latents]:
        """Draws latent variables: the guide's for the guide, and for the model those of the guide that fit it.

        Where the guide misses a site or draws one of another shape, the model's own draw stands in, so that the
        defects of one side do not show as defects of the other.
        """
        guide = _latent_values(self.run("guide", latents={}, seed=seed))
        model = _latent_values(self.run("model", latents={}, seed=seed))
        fits = {n: v for n, v in guide.items() if n in model and v.shape == model[n].shape}
        return {"guide": guide, "model": {**model, **fits}}

    def in_double(self) -> "Case":
        """The same case in double precision, at the same latent variables."""

        def double(value: Any) -> Any:
            return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

        latents = {side: {n: double(v) for n, v in values.items()} for side, values in self.latents.items()}
        case = Case(_copy(self.program).double(), self.x.double(), tuple(map(double, self.context)), self.seed)
        case.latents = latents
        return case

    def train(self) -> "Case":
        """Puts the program into training mode."""
        self.program.train()
        return self

    @cached_property
    def latents(self) -> dict[str, Latents]:
        return self.draw(self.seed)

    @cached_property
    def kind(self) -> str:
        return structure(self.program, self.x, *self.context, seed=self.seed).kind

    def scores(self, side: str, **options: Any) -> dict[str, Tensor]:
        """The log-densities by site, (N,) for local sites and scalars for global ones."""
        return {n: _score(s) for n, s in _sites(self.run(side, **options)).items()}

    def rows(self, index: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """Some rows of data and context."""
        return self.x[index], tuple(c[index] if self._has_rows(c) else c for c in self.context)

    def _has_rows(self, c: Any) -> bool:
        return isinstance(c, Tensor) and c.dim() > 0 and len(c) == len(self.x)

    def latent_rows(self, side: str, index: Tensor) -> Latents:
        """The fixed latent variables, the local ones restricted to some rows."""
        values = dict(self.latents[side])
        for name, site in _sites(self.run(side)).items():
            frame = self.row_frame(site)
            if name in values and frame is not None:
                dim = frame.dim - site["fn"].event_dim
                values[name] = values[name].index_select(dim, index)
        return values

    def row_frame(self, site: Any) -> Any:
        """The data plate of a site, or another plate that has a row per datum."""
        frames = [f for f in site["cond_indep_stack"] if f.dim is not None]
        named = [f for f in frames if f.name == DATA_PLATE]
        return next(iter(named + [f for f in frames if f.size == len(self.x)]), None)

    @cached_property
    def data_sites(self) -> list[str]:
        """The observed sites whose log-density or value follows ``x``."""
        here, there = self.run("model"), self.run("model", x=self.x.roll(1, 0))
        found = []
        for name, site in _sites(here).items():
            other = there.nodes.get(name)
            if site["is_observed"] and other is not None:
                same = _same(site["value"], other["value"]) and _same(_score(site), _score(other))
                if not same or _same(self.x, self.x.roll(1, 0)):
                    found.append(name)
        return found

    def with_holes(self) -> Iterator[tuple[Tensor, Tensor, str]]:
        """Data with missing entries, the rows left alone, and a remark: some entries of row 0 and all of row 1.

        When the likelihood says that it cannot be marginalised over a part of an event, only all of row 1.
        """
        x = self.x.clone()
        whole = min(1, len(x) - 1)
        x[whole] = torch.nan
        untouched = torch.arange(len(x)) != whole
        if whole == 1 and x[0].numel() > 1:
            partly = x.clone()
            with seeded(self.seed):
                holes = torch.randperm(x[0].numel())[: x[0].numel() // 2]
            partly[0].view(-1)[holes.to(x.device)] = torch.nan
            try:
                self.run("model", x=partly)
            except ValueError as error:
                if "cannot be marginalised" not in str(error):
                    raise
                yield x, untouched, "whole events only: the likelihood cannot be marginalised over part of an event"
            else:
                yield partly, untouched & (torch.arange(len(x)) != 0), ""
        else:
            yield x, untouched, ""


def _trace(program: Program, side: str, x: Tensor, context: tuple[Any, ...]) -> Trace:
    trace: Trace = pyro.poutine.trace(getattr(program, side)).get_trace(x, *context)
    return trace


def _sites(trace: Trace) -> dict[str, Any]:
    """The sites that have a density: pyro.deterministic makes none."""
    return {n: s for n, s in sample_sites(trace).items() if not s["infer"].get("_deterministic")}


def _latent_values(trace: Trace) -> Latents:
    return {n: s["value"] for n, s in _sites(trace).items() if not s["is_observed"]}


def _base(distribution: Any) -> Any:
    while isinstance(distribution, torch.distributions.Independent | dist.MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def _log_prob(site: Any) -> Tensor:
    """The site's log-density; of a ``Delta`` its log-density plus its place, which any other value would hide."""
    if not isinstance(_base(site["fn"]), dist.Delta):
        return site_log_prob(site)
    place = site["fn"].mean
    mark = site["fn"].log_prob(place) + sum_rightmost(place, site["fn"].event_dim)
    return scale_and_mask(mark, site["scale"], site["mask"])  # type: ignore[no-any-return]


def _score(site: Any) -> Tensor:
    if any(f.name == DATA_PLATE for f in site["cond_indep_stack"]):
        return per_datum_log_prob(site, _log_prob(site))
    return _log_prob(site).sum()


def _same(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return bool(a is b)
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=0, atol=0, equal_nan=True).all())


def _close(a: Tensor, b: Tensor) -> bool:
    # float32 sums of different lengths differ in the last digits; the defects looked for are of order 1 / N and more.
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True).all())


def _differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor], same: Callable[[Tensor, Tensor], bool]) -> str | None:
    """The name of the first site at which two runs differ."""
    if a.keys() != b.keys():
        return sorted(a.keys() ^ b.keys())[0]
    return next((n for n in a if not same(a[n], b[n])), None)


def _gap(a: Tensor, b: Tensor) -> str:
    return f"{(a - b).abs().max():.3g} nats" if a.shape == b.shape else f"shapes {tuple(a.shape)} and {tuple(b.shape)}"


def _shape(size: Any) -> str:
    return str(tuple(size))


def _copy(program: Program) -> Program:
    """Copies a program.

    Pyro's autoguides drop their model when they are copied, the original theirs too: both get it back.
    """
    # Pyro's transforms keep results of the last call, which cannot be copied with the graph that they came from.
    values = [v for m in program.modules() for v in vars(m).values()]
    values += [w for v in values if isinstance(v, tuple) for w in v]
    memo: dict[int, Any] = {id(v): v.detach().clone() for v in values if isinstance(v, Tensor) and not v.is_leaf}
    guides = {n: m._model for n, m in program.named_modules() if isinstance(m, AutoGuide)}
    try:
        clone = copy.deepcopy(program, memo)
    finally:
        for name, model in guides.items():
            original: Any = program.get_submodule(name)
            original._model = model
    for name, model in guides.items():
        copied: Any = clone.get_submodule(name)
        copied._model = copy.deepcopy(model, memo)
    return clone


# ----------------------------------------------------------------------------------------------------------------------
# The registry


@dataclass(frozen=True)
class Check:
    """A named check.

    Attributes:
        name: Its name.
        purpose: What it makes sure of, in one line.
        function: Takes a :class:`Case`, returns a remark or ``None``, raises when it fails or does not apply.
    """

    name: str
    purpose: str
    function: Callable[[Case], str | None]


CHECKS: dict[str, Check] = {}
"""Every check by name, in the order in which they run."""


def _register(purpose: str) -> Callable[[Callable[[Case], str | None]], Callable[[Case], str | None]]:
    def decorate(function: Callable[[Case], str | None]) -> Callable[[Case], str | None]:
        name = function.__name__.removeprefix("_check_")
        CHECKS[name] = Check(name, purpose, function)
        return function

    return decorate


@contextmanager
def _calm() -> Iterator[None]:
    """Own parameter store, so that the caller's stays as it is, and no validation but where it is the check."""
    with exclusive(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        yield


def check_program(program: Program, x: Tensor, *context: Any, seed: int = 0) -> Report:
    """Puts a program through the conformance suite.

    The program itself is left as it is: every check works on a copy.

    Arguments:
        program: The program.
        x: Some data, as :func:`pyro_gen.fit` takes it, with shape :math:`(N, *)`, NaN where nothing was observed; at
            least 2 rows, of which the first 23 are used.
        context: What the program conditions on, each with shape :math:`(N, *)`.
        seed: Seeds every draw; the caller's generator is left alone.

    Returns:
        One named result per check: passed, failed with what to do about it, or skipped with the reason.

    Raises:
        TypeError: ``program`` is not a :class:`~pyro_gen.program.Program`, or ``x`` cannot be read as numbers.
        ValueError: ``x`` has less than 2 rows.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Mean(Program):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.loc = torch.nn.Parameter(torch.zeros(2))
        ...     def model(self, x):
        ...         with pyro.plate("data", len(x)):  # self.plate(x) would scale minibatches
        ...             return observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)
        >>> report = check_program(Mean(), torch.randn(5, 2))
        >>> report.ok, [result.name for result in report.failures]
        (False, ['minibatch'])
    """
    if not isinstance(program, Program):
        raise TypeError(
            f"check_program needs a Program, got {type(program).__name__}: subclass pyro_gen.Program, or wrap two "
            "functions by Program.from_functions(model, guide)."
        )
    x, *parts = as_inputs(program, x, *context)
    context = tuple(parts)
    if len(x) < 2:
        raise ValueError(f"check_program needs at least 2 rows of data, got x of shape {_shape(x.shape)}.")
    total, rows = len(x), _rows(program)
    context = tuple(c[:rows] if isinstance(c, Tensor) and c.dim() > 0 and len(c) == total else c for c in context)
    x = x[:rows]
    results: list[Result] = []
    for check in CHECKS.values():
        if results and results[0].status == "failed":
            results.append(Result(check.name, "skipped", _NOT_RUN))
        else:
            results.append(_result(check, program, x, context, seed))
    return Report(_name(program), tuple(results))


def _rows(program: Program) -> int:
    """The number of rows to look at: a run autoguide with local latent variables has parameters for so many rows."""
    return max((g._prototype_frames[DATA_PLATE].size for g in _row_guides(program)), default=MAX_ROWS)


def _row_guides(program: Program) -> list[Any]:
    """The autoguides with local latent variables, which have parameters per row of data."""
    return [m for m in program.modules() if isinstance(m, AutoGuide) and DATA_PLATE in m._prototype_frames]


def _name(program: Program) -> str:
    functions = [getattr(f, "__name__", type(f).__name__) for f in _functions(program)]
    return f"Program.from_functions({', '.join(functions)})" if functions else type(program).__name__


def _functions(program: Program) -> list[Any]:
    functions = [program.__dict__.get("_model"), program._modules.get("_guide") or program.__dict__.get("_guide")]
    return [f for f in functions if f is not None] if functions[0] is not None else []


def _result(check: Check, program: Program, x: Tensor, context: tuple[Any, ...], seed: int) -> Result:
    with _calm():
        try:
            clone = _copy(program).eval()
            with torch.no_grad(), seeded(seed):  # creates lazy parameters
                for side in SIDES:
                    _trace(clone, side, x, context)
            remark = check.function(Case(clone, x.clone(), context, seed))
        except _Failed as failure:
            return Result(check.name, "failed", str(failure), failure.advice)
        except _Skipped as reason:
            return Result(check.name, "skipped", str(reason))
        except Exception as error:
            return Result(
                check.name,
                "failed",
                f"{type(error).__name__}: {_first_line(error)}",
                f"The error comes from {_place(error)}; the check: {check.purpose[0].lower()}{check.purpose[1:]}",
            )
    return Result(check.name, "passed", check.purpose + (f" ({remark})" if remark else ""))


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no message")


_MACHINERY = {Path(__file__).name, "program.py", "traces.py", "observation.py", "_random.py"}


def _place(error: Exception) -> str:
    """The innermost line of the user's code that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f
        for f in frames
        if not f.filename.startswith((sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")))
        and not (Path(f.filename).name in _MACHINERY and "pyro_gen" in Path(f.filename).parts)
        and not f.filename.startswith("<")
    ]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}" + (f" `{frame.line}`" if frame.line else "")


# ----------------------------------------------------------------------------------------------------------------------
# Checks: structure


@_register("Guide and model run on the data.")
def _check_runs(case: Case) -> None:
    for side in SIDES:
        case.run(side, latents={})


@_register("The guide samples the latent sites of the model, with the same shapes.")
def _check_sites(case: Case) -> str | None:
    model, guide = (_sites(case.run(side, latents={})) for side in ("model", "guide"))
    latent = {n: s for n, s in model.items() if not s["is_observed"]}
    summed = [n for n, s in latent.items() if n not in guide and s["infer"].get("enumerate")]
    missing = [n for n in latent if n not in guide and n not in summed]
    if missing:
        raise _Failed(
            f"The model samples {_names(missing)}, the guide does not.",
            f"Sample {_names(missing)} in guide(x, *context) too, let an autoguide do it "
            "(Program.from_functions(model, AutoNormal)), or mark a discrete site with "
            'infer={"enumerate": "parallel"} to sum it out with EnumELBO.',
        )
    for name, site in guide.items():
        if name in model and model[name]["is_observed"]:
            raise _Failed(f"The guide samples '{name}', which the model observes.", f"Remove '{name}' from the guide.")
        if name not in model and not site["is_observed"] and not site["infer"].get("is_auxiliary"):
            raise _Failed(
                f"The guide samples '{name}', the model does not.",
                f"Remove '{name}' from the guide, give it the name it has in the model, or mark it with "
                'infer={"is_auxiliary": True}.',
            )
    for name in [n for n in latent if n in guide]:
        p, q = latent[name], guide[name]
        if p["value"].shape != q["value"].shape or p["fn"].event_dim != q["fn"].event_dim:
            raise _Failed(
                f"Site '{name}' has batch and event shape {_shape(p['fn'].batch_shape)}, {_shape(p['fn'].event_shape)} "
                f"in the model, {_shape(q['fn'].batch_shape)}, {_shape(q['fn'].event_shape)} in the guide.",
                "Give both the same sizes, and use .to_event(...) for the same dimensions in both.",
            )
        if _plates(p) != _plates(q):
            raise _Failed(
                f"Site '{name}' stands in the plates {_plates(p)} in the model, {_plates(q)} in the guide.",
                "Open the same plates in both, `with self.plate(x):` for what there is one of per datum.",
            )
    return f"{_names(summed)} left to enumeration" if summed else None


def _names(names: Any) -> str:
    return ", ".join(f"'{n}'" for n in names)


def _plates(site: Any) -> dict[str, int]:
    return {f.name: f.size for f in site["cond_indep_stack"] if f.dim is not None}


@_register("Batch dimensions are those of the plates: no silent broadcast.")
def _check_shapes(case: Case) -> None:
    for side in SIDES:
        for name, site in _sites(case.run(side)).items():
            frames = {f.dim: f for f in site["cond_indep_stack"] if f.dim is not None}
            shape = site_log_prob(site).shape
            for dim in range(-max(len(shape), *(-d for d in frames), 0), 0):
                actual = shape[dim] if -dim <= len(shape) else 1
                expected = frames[dim].size if dim in frames else 1
                if actual != expected:
                    plates = ", ".join(f"'{f.name}' of size {f.size} at {d}" for d, f in sorted(frames.items()))
                    raise _Failed(
                        f"Site '{name}' of the {side} has log-densities of shape {_shape(shape)}, its plates are "
                        f"{plates or 'none'}: dimension {dim} should have size {expected}.",
                        "Declare event dimensions with .to_event(...), enclose batch dimensions in plates, and look "
                        "for an (N, 1) that met an (N,): squeeze one or unsqueeze the other.",
                    )


@_register('The data are observed inside the plate "data", one row each.')
def _check_data_plate(case: Case) -> None:
    advice = "Observe inside `with self.plate(x):` (pg.plate(x) in a function)."
    model = _sites(case.run("model"))
    if not case.data_sites:
        raise _Failed(
            "No observed site of the model depends on x.", 'End the model with `return pg.observe("x", ..., x)`.'
        )
    for name in case.data_sites:
        if DATA_PLATE not in _plates(model[name]):
            plates = ", ".join(_plates(model[name])) or "none"
            raise _Failed(f"Site '{name}' scores data outside the plate \"data\" (its plates: {plates}).", advice)
    for side in SIDES:
        for name, site in _sites(case.run(side)).items():
            size = _plates(site).get(DATA_PLATE, len(case.x))
            if size != len(case.x):
                raise _Failed(f"Site '{name}' has {size} rows in its data plate, x has {len(case.x)}.", advice)


@_register("A site has one log-density per datum: no event dimension grows with the number of rows.")
def _check_per_datum(case: Case) -> None:
    index = torch.arange(len(case.x) - 1, device=case.x.device)
    x, context = case.rows(index)
    for side in SIDES:
        fewer = _sites(case.run(side, x=x, context=context, latents={}))
        for name, site in _sites(case.run(side, latents={})).items():
            if name not in fewer:
                continue
            here, there = site["fn"], fewer[name]["fn"]
            if here.event_shape != there.event_shape:
                raise _Failed(
                    f"Site '{name}' of the {side} has event shape {_shape(here.event_shape)} for {len(case.x)} rows, "
                    f"{_shape(there.event_shape)} for {len(x)}: its log-density sums over the data.",
                    "Leave the data dimension out of .to_event(...) and sample the site inside the data plate.",
                )
            if case.row_frame(site) is None and here.batch_shape != there.batch_shape:
                raise _Failed(
                    f"Site '{name}' of the {side} has batch shape {_shape(here.batch_shape)} for {len(case.x)} rows, "
                    f"{_shape(there.batch_shape)} for {len(x)}, outside of the data plate.",
                    "Sample it inside `with self.plate(x):` (pg.plate(x) in a function).",
                )


# ----------------------------------------------------------------------------------------------------------------------
# Checks: data and minibatches


def _coupled(case: Case, side: str) -> tuple[str, str] | None:
    """The first local site at which the second half of the rows notices that the first half was exchanged.

    What the rows share may move their last digits in single precision: in double precision it moves nothing.
    """
    found = _exchanged(case, side)
    if found is None or case.x.dtype == torch.float64:
        return found
    try:
        return found if _exchanged(case.in_double(), side) is not None else None
    except (RuntimeError, ValueError, TypeError):  # a program of a precision of its own
        return found


def _exchanged(case: Case, side: str) -> tuple[str, str] | None:
    n = len(case.x)
    half = n // 2
    # The first rows become copies of others, their latent variables too; the last rows stay.
    index = torch.arange(n, device=case.x.device)
    index[:half] = torch.arange(n - half, n, device=case.x.device).flip(0)
    x, context = case.rows(index)
    here = case.scores(side)
    there = case.scores(side, x=x, context=context, latents=case.latent_rows(side, index))
    for name, value in here.items():
        if value.dim() == 1 and not _close(value[half:], there[name][half:]):
            return name, _gap(value[half:], there[name][half:])
    return None


@_register("In the model, a datum's log-density does not depend on the other rows, in training and evaluation mode.")
def _check_model_rows(case: Case) -> None:
    for mode in (False, True):
        case.program.train(mode)
        if found := _coupled(case, "model"):
            raise _Failed(
                f"Site '{found[0]}' of the model: the log-density of a row changes by {found[1]} when other rows do, "
                f"in {'training' if mode else 'evaluation'} mode.",
                "Look for BatchNorm, a mean or a sum over the rows in the model; use LayerNorm or GroupNorm, or make "
                "what the rows share a global latent variable.",
            )


@_register("In the guide, a datum's posterior does not depend on the other rows, in evaluation mode.")
def _check_guide_rows(case: Case) -> str | None:
    if not case.latents["guide"]:
        raise _Skipped("The guide samples nothing.")
    if found := _coupled(case, "guide"):
        raise _Failed(
            f"Site '{found[0]}' of the guide: the log-density of a row changes by {found[1]} when other rows do, in "
            "evaluation mode, so that likelihoods and imputations depend on which rows are computed together.",
            "Look for a mean, a sum or attention over the rows in the encoder; what couples rows in training only must "
            "stop in evaluation mode, as BatchNorm does.",
        )
    if found := _coupled(case.train(), "guide"):
        # Any q(z | x_1, ..., x_B) gives a bound for these rows, so this is a choice and no error.
        return f"rows are coupled at '{found[0]}' in training mode, as by BatchNorm: still a bound, but not full batch"
    return None


def _split(case: Case) -> list[Tensor]:
    index = torch.arange(len(case.x), device=case.x.device)
    k = max(1, len(case.x) // 3)
    return [index[:k], index[k:]]


@_register("Disjoint minibatches average to the full data: local log-densities scaled, global ones not.")
def _check_minibatch(case: Case) -> None:
    n = len(case.x)
    if _row_guides(case.program):
        raise _Failed(
            f"The autoguide has parameters for each of {n} rows: it can neither be fitted by minibatches nor judge "
            "other data.",
            "Fit it with batch_size=len(x), or write a guide that computes the posterior of a row from the row.",
        )
    for side in SIDES:
        full = case.scores(side)
        for index in _split(case):
            x, context = case.rows(index)
            part = case.scores(side, x=x, context=context, latents=case.latent_rows(side, index), size=n)
            for name, value in part.items():
                whole = full[name]
                if whole.dim() == 0:
                    _check_global(case, side, name, value, whole, n / len(index))
                elif not _close(value, whole[index] * n / len(index)):
                    if _close(value, whole[index]):
                        raise _Failed(
                            f"Site '{name}' of the {side} is not scaled in a minibatch: {len(index)} of {n} rows "
                            f"should count {n / len(index):.3g}-fold.",
                            "Open the data plate by `with self.plate(x):` (pg.plate(x) in a function), which scales "
                            'to the data size, instead of pyro.plate("data", len(x)).',
                        )
                    raise _Failed(
                        f"Site '{name}' of the {side}: the log-density of a row in a minibatch differs from that in "
                        f"the full data by {_gap(value * len(index) / n, whole[index])}.",
                        "A row's density must depend on the row alone, neither on its position (a parameter per row: "
                        "fit it with batch_size=len(x), or write an amortised guide) nor on the rows beside it.",
                    )


def _check_global(case: Case, side: str, name: str, value: Tensor, whole: Tensor, scale: float) -> None:
    if _close(value, whole):
        return
    if _close(value, whole * scale):
        raise _Failed(
            f"Site '{name}' of the {side} is scaled like data in a minibatch, but stands outside of the data plate.",
            "Scale nothing but the data plate: take the site out of pyro.poutine.scale.",
        )
    raise _Failed(
        f"Site '{name}' of the {side} is global, but its log-density differs by {_gap(value, whole)} between a "
        "minibatch and the full data, and is not scaled.",
        "Put sites of the data inside `with self.plate(x):` (pg.plate(x) in a function), and let global sites not "
        "depend on x.",
    )


@_register("Missing entries (NaN) are marginalised: finite log-densities, 0 where nothing was seen, other rows alike.")
def _check_missing_density(case: Case) -> str | None:
    _needs_density(case)
    remark = ""
    for x, untouched, remark in case.with_holes():  # noqa: B007
        for side in SIDES:
            clean, holed = case.scores(side), case.scores(side, x=x)
            for name, value in holed.items():
                if not value.isfinite().all() and clean[name].isfinite().all():
                    raise _Failed(
                        f"Site '{name}' of the {side} has log-density {value[~value.isfinite()][0]:.3g} where "
                        "entries of x are NaN.",
                        "Fill NaN before the encoder sees it (x.nan_to_num(), with the mask as a further input)."
                        if side == "guide"
                        else 'Observe with pg.observe("x", distribution, x) instead of pyro.sample(..., obs=x), and '
                        "fill NaN before a network sees it.",
                    )
                if value.dim() == 1 and not _close(value[untouched], clean[name][untouched]):
                    raise _Failed(
                        f"Site '{name}' of the {side}: NaN in one row changes the log-density of another by "
                        f"{_gap(value[untouched], clean[name][untouched])}.",
                        "Look for a statistic over the rows: each must be computed from its own row alone.",
                    )
        scores = case.scores("model", x=x)
        empty = x.flatten(1).isnan().all(1) if x.dim() > 1 else x.isnan()
        local = [n for n in case.data_sites if scores[n].dim() == 1]
        seen = sum((scores[n] for n in local), start=torch.zeros(len(x), device=x.device))
        # Rounding: marginalised Gaussians count log sqrt(2 pi) with either sign.
        if not (seen[empty].abs() < 1e-3).all():
            raise _Failed(
                f"A datum of which nothing was seen has log-likelihood {seen[empty].abs().max():.3g} nats at "
                f"{_names(local)} instead of 0.",
                "NaN means not observed: hand x to pg.observe as it is, do not fill it before.",
            )
    return remark or None


def _needs_density(case: Case) -> None:
    if case.kind in ("unnormalised", "implicit"):
        raise _Skipped(f"The density of the data is {case.kind}: there is no marginal likelihood of a part of them.")


@_register("Missing entries (NaN) are integrated out exactly, also where their value feeds a later density.")
def _check_missing_exact(case: Case) -> str | None:
    _needs_density(case)
    if any(case.row_frame(s) is None for n, s in _sites(case.run("model")).items() if n in case.data_sites):
        raise _Skipped("Data are observed outside of the data plate.")
    index = torch.arange(min(marginals.ROWS, len(case.x)), device=case.x.device)
    latents = case.latent_rows("model", index)
    x, context = case.rows(index)
    with _in_double(case, x, context, latents) as (data, latents, digits):
        return _compared(case, data, latents, digits)


def _compared(case: Case, data: tuple[Any, ...], latents: Latents, digits: float) -> str:
    x, *context = data
    reasons: dict[str, str] = {}
    exact, sampled = 0, 0
    for found in marginals.compare_marginals(case.program, x, tuple(context), latents, case.seed):
        if found.expected is None or not found.error.isfinite().all():
            reasons[found.site] = found.reason or f"too few of the draws of what is missing at '{found.site}' count"
            continue
        gap = (found.found - found.expected).abs()
        allowed = torch.where(found.error > 0, 5 * found.error + 1e-4, digits * (1 + found.expected.abs()))
        if not (gap <= allowed).all():
            row = int((gap - allowed).nan_to_num(math.inf).argmax())
            raise _Failed(
                f"With an entry of site '{found.site}' missing, the log-density of the rest of a row is "
                f"{found.found[row]:.5g}, and {found.expected[row]:.5g} by integrating over its values.",
                "Hand the data to pg.observe as they are, and compute with what it returns: it makes the entry a "
                "latent variable where its value feeds another site. Neither fill NaN nor draw the entry yourself.",
            )
        exact, sampled = exact + int(not bool(found.error.any())), sampled + int(bool(found.error.any()))
    remarks = [f"{exact} entries to {digits}" * bool(exact), f"{sampled} within 5 standard errors" * bool(sampled)]
    remarks += [f"not compared: {reason}" for reason in reasons.values()]
    return ", ".join(r for r in remarks if r) or "no single entry can be taken away: not compared"


@contextmanager
def _in_double(
    case: Case, x: Tensor, context: tuple[Any, ...], latents: Latents
) -> Iterator[tuple[tuple[Any, ...], Latents, float]]:
    """Program, data and latent variables in double precision, where that runs, and the digits to agree to."""

    def double(part: Any) -> Any:
        return part.double() if isinstance(part, Tensor) and part.is_floating_point() else part

    data, values = (double(x), *map(double, context)), {name: double(value) for name, value in latents.items()}
    tensors = [t for t in (*case.program.parameters(), *case.program.buffers()) if t.is_floating_point()]
    before = [t.data for t in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.double()
    try:
        with torch.no_grad(), seeded(case.seed):
            for given in (values, {}):
                with fixed(given):
                    case.program.model(*data)
        known = data, values, 1e-5
    except Exception:  # a model may make tensors of single precision of its own
        _restore(tensors, before)
        known = (x, *context), latents, 1e-3
    try:
        yield known
    finally:  # a program that cannot be copied is the user's own
        _restore(tensors, before)


def _restore(tensors: list[Tensor], before: list[Tensor]) -> None:
    for tensor, data in zip(tensors, before, strict=True):
        tensor.data = data


@_register("Missing entries (NaN) leave the loss and every gradient finite.")
def _check_missing_gradients(case: Case) -> str | None:
    _needs_density(case)
    remark = ""
    for x, _, remark in case.with_holes():  # noqa: B007
        _require_finite_gradients(
            case,
            x,
            " with NaN in x",
            "Fill NaN before a function of it, the gradient of one that is masked afterwards is NaN: pg.observe does "
            "so for the likelihood, an encoder needs x.nan_to_num().",
        )
    return remark or None


@_register("The model returns the completed data: seen entries untouched, none missing.")
def _check_missing_completion(case: Case) -> str | None:
    _needs_density(case)
    remark = ""
    for x, _, remark in case.with_holes():  # noqa: B007
        value: Any = case.run("model", x=x).nodes["_RETURN"]["value"]
        _require_completed(value, x)
        seen = ~x.isnan()
        if not torch.equal(value[seen], x[seen]):
            raise _Failed(
                f"The completed data differ from x in {int((value[seen] != x[seen]).sum())} entries that were seen.",
                "Return what pg.observe returns, in the units and the order of x.",
            )
    return remark or None


def _require_completed(value: Any, x: Tensor) -> None:
    if not isinstance(value, Tensor) or value.shape != x.shape:
        found = f"a tensor of shape {_shape(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise _Failed(
            f"The model returns {found}, the completed data have shape {_shape(x.shape)}.",
            'End the model with `return pg.observe("x", distribution, x)`.',
        )
    if value.isnan().any():
        raise _Failed(
            f"The data that the model returns miss {int(value.isnan().sum())} of {value.numel()} entries (NaN).",
            'End the model with `return pg.observe("x", distribution, x)`, which draws the missing entries.',
        )


@_register("The model generates: nothing observed gives data without NaN, inside the support.")
def _check_generation(case: Case) -> None:
    if case.kind == "unnormalised":
        raise _Skipped("The density is unnormalised: its model draws no data.")
    x = torch.full_like(case.x, torch.nan)
    with completions() as completed:
        trace = case.run("model", x=x, latents={})
    _require_completed(trace.nodes["_RETURN"]["value"], x)
    for name, value in completed.items():
        support = _sites(trace)[name]["fn"].support
        if not support.check(value).all():
            raise _Failed(
                f"Data generated at site '{name}' lie outside of the support of its distribution, {support}.",
                "Check that sample() and support of the likelihood agree.",
            )


# ----------------------------------------------------------------------------------------------------------------------
# Checks: randomness and support


@_register("With the latent variables fixed nothing is random: every draw is a sample site.")
def _check_hidden_randomness(case: Case) -> str | None:
    remark = None
    for mode in (False, True):
        case.program.train(mode)
        for side in SIDES:
            # Completed data are random and may be computed with: what follows from that is not a density.
            with no_completion():
                first, second = (case.scores(side, seed=case.seed + k) for k in range(2))
            name = _differing(first, second, _same)
            if name is None:
                continue
            if not mode:
                raise _Failed(
                    f"Site '{name}' of the {side}: with all latent variables fixed, its log-density differs by "
                    f"{_gap(first[name], second[name])} between two seeds.",
                    "Something is drawn outside of a sample site (torch.rand, rsample(), F.dropout that ignores "
                    "self.training): make it a pyro.sample site, or switch it off in evaluation mode.",
                )
            remark = f"random in training mode at '{name}', as by Dropout"
    return remark


def _foreign_states() -> tuple[Any, str]:
    return random.getstate(), str([np.asarray(s).tolist() for s in np.random.get_state()])  # noqa: NPY002


@_register("Same seed, same draws; no generator is reseeded and no other one is used.")
def _check_same_seed(case: Case) -> None:
    before = _foreign_states()
    first, second = case.draw(case.seed), case.draw(case.seed)
    after = _foreign_states()
    for side in SIDES:
        if (name := _differing(first[side], second[side], _same)) is not None:
            raise _Failed(
                f"Site '{name}' of the {side} draws different values with the same seed.",
                "Draw with torch and pyro only: NumPy, random and time do not follow the seed.",
            )
    if before != after:
        raise _Failed(
            "The program uses or reseeds the global generator of NumPy or random.",
            "Draw with torch and pyro only, and seed nothing inside model and guide.",
        )
    states = []
    for seed in (case.seed, case.seed + 1):
        with seeded(seed), torch.no_grad():
            trace_pair(case.program, case.x, *case.context)
            states.append(torch.get_rng_state())
    if torch.equal(*states):
        raise _Failed(
            "Two seeds leave torch's generator in the same state: the program reseeds it.",
            "Remove torch.manual_seed and pyro.set_rng_seed from model and guide.",
        )


@_register("Draws of the guide and the data lie in the support of the model's distributions.")
def _check_support(case: Case) -> None:
    model, guide = (_sites(case.run(side)) for side in ("model", "guide"))
    for name, site in model.items():
        fn = site["fn"]
        if isinstance(_base(fn), dist.Unit | dist.Delta):
            continue
        if site["is_observed"]:
            inside = fn.support.check(site["value"])
            if not inside.all():
                value = site["value"] if inside.shape == site["value"].shape else site["value"][~inside]
                wrong = value[~_base(fn).support.check(value)] if _base(fn).event_dim == 0 else value
                raise _Failed(
                    f"Data at site '{name}' lie outside of the support of {type(_base(fn)).__name__} "
                    f"({fn.support}), {wrong.flatten()[0]:.4g} for instance.",
                    "Transform the data (pg.data: Binarize, Standardize, Dequantize) or choose a likelihood that has "
                    "them; missing entries (NaN) belong in pg.observe.",
                )
        elif name in guide:
            _check_guide_support(case, name, fn, guide[name]["fn"])
    with pyro.validation_enabled(True):  # the distributions' own checks of arguments and values
        for side in SIDES:
            case.scores(side)


def _check_guide_support(case: Case, name: str, p: Any, q: Any) -> None:
    with seeded(case.seed), torch.no_grad():
        inside = p.support.check(q.sample(torch.Size([64])))
    unbounded = _base(q).support is constraints.real and not isinstance(_base(q), dist.Delta)
    if (unbounded and _is_narrow(_base(p).support)) or not inside.all():
        raise _Failed(
            f"The guide draws '{name}' from {type(_base(q)).__name__} with support {q.support}, the model has "
            f"{type(_base(p)).__name__} with support {p.support}.",
            "Choose a guide with the support of the model: LogNormal or Gamma for positive variables, a "
            "TransformedDistribution, or an autoguide, which transforms by itself.",
        )


def _is_narrow(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is not constraints.real


# ----------------------------------------------------------------------------------------------------------------------
# Checks: parameters


def _loss(case: Case, x: Tensor) -> tuple[Tensor, Trace, Trace]:
    """One draw of the negative ELBO; sites that cannot be reparameterised enter by the score function."""
    with seeded(case.seed):
        model, guide = trace_pair(case.program, x, *case.context)
    log_p = [site_log_prob(s).sum() for s in _sites(model).values()]
    log_q = {n: site_log_prob(s).sum() for n, s in _sites(guide).items()}
    elbo = sum(log_p, start=torch.zeros((), device=x.device)) - sum(log_q.values())
    fixed_sites = [n for n, s in _sites(guide).items() if not s["fn"].has_rsample]
    return -elbo - sum(log_q[n] * elbo.detach() for n in fixed_sites), model, guide


def _require_finite_gradients(case: Case, x: Tensor, when: str, advice: str) -> list[str]:
    """Returns the names of the parameters that the loss does not reach."""
    case.program.train()
    loss, model, guide = _loss(case, x)
    if not loss.isfinite():
        sites = [(side, n, s) for side, t in (("guide", guide), ("model", model)) for n, s in _sites(t).items()]
        side, name = next(((i, n) for i, n, s in sites if not site_log_prob(s).isfinite().all()), ("model", "x"))
        raise _Failed(f"The loss is {loss.item():.3g}{when}, from site '{name}' of the {side} on.", advice)
    gradients = _gradients(case.program, loss)
    for name, gradient in gradients.items():
        if gradient is not None and not gradient.isfinite().all():
            raise _Failed(f"Parameter '{name}' has a gradient that is not finite{when}.", advice)
    return [n for n, g in gradients.items() if g is None]


def _gradients(program: Program, loss: Tensor) -> dict[str, Tensor | None]:
    """The gradients by parameter, ``None`` where the loss does not depend on it; ``.grad`` stays as it is."""
    parameters = {n: p for n, p in program.named_parameters() if p.requires_grad}
    if not parameters or not loss.requires_grad:
        return dict.fromkeys(parameters)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, gradients, strict=True))


@_register("Every parameter receives a finite gradient from the ELBO.")
def _check_gradients(case: Case) -> str | None:
    if case.kind in ("unnormalised", "implicit"):
        raise _Skipped(f"The density of the data is {case.kind}: it trains by its own objective, not by the ELBO.")
    unused = _require_finite_gradients(
        case, case.x, "", "Look for a logarithm or a square root of 0, a division by 0, or data of a very large scale."
    )
    if unused:
        raise _Failed(
            f"The loss does not depend on {_names(unused)}.",
            "Use the parameter, remove it, or set requires_grad to False; look for a detach(), a no_grad() or a sample "
            "site that lost it.",
        )
    return None if any(p.requires_grad for p in case.program.parameters()) else "no parameters to train"


@_register("The program's own objective gives a finite loss and finite gradients, with missing entries too.")
def _check_objective(case: Case) -> str | None:
    own = getattr(case.program, "objective", None)
    if own is None:
        raise _Skipped("The program has no objective of its own: it trains by the ELBO.")
    objective = resolve_objective(case.program, own).train()
    name = type(objective).__name__
    if case.kind not in objective.kinds:
        raise _Failed(
            f"The density of the data is {case.kind}, and {name} is for {' or '.join(objective.kinds)} ones.",
            "Give the program an objective for such densities, or say in its `kinds` that it is right for them.",
        )
    case.program.train()
    holes = (
        [] if case.kind in ("unnormalised", "implicit") else [(x, " with NaN in x") for x, _, _ in case.with_holes()]
    )
    for x, when in [(case.x, ""), *holes]:
        with seeded(case.seed), data_size(len(x)):
            loss = objective.loss(case.program, x, *case.context)
        if loss.dim() or not loss.isfinite():
            raise _Failed(
                f"{name} gives the loss {loss.tolist()}{when}.", "Its loss is to be one finite number for any data."
            )
        bad = [n for n, g in _gradients(case.program, loss).items() if g is not None and not g.isfinite().all()]
        if bad:
            raise _Failed(
                f"The gradient of {name} for {_names(bad)} is not finite{when}.", "Fill NaN before a function."
            )
    return name


@_register("Every trained tensor is a parameter of the module; Pyro's parameter store is not used.")
def _check_parameters(case: Case) -> None:
    with pyro.get_param_store().scope():
        loss, _, _ = _loss(case, case.x)
        # Inside a module Pyro keeps a store of its own, as little known to state_dict as the global one.
        names = [*pyro.get_param_store().keys(), *case.program._pyro_context.param_state["params"]]
    if names:
        raise _Failed(
            f"pyro.param puts {_names(names)} into Pyro's parameter store, where state_dict and optimiser do not find "
            "them.",
            "Set nn.Parameter or pyro.nn.PyroParam attributes in __init__, or make the program with "
            "Program.from_functions.",
        )
    registered = {id(p) for p in case.program.parameters()}
    strange = [t for t in _leaves(loss) if id(t) not in registered]
    if strange:
        raise _Failed(
            f"The loss depends on {len(strange)} trainable tensors that are not parameters of the program, of shapes "
            f"{', '.join(_shape(t.shape) for t in strange[:5])}.",
            "Keep networks in attributes, nn.ModuleList or nn.ParameterList, not in plain lists, dicts or globals; in "
            "functions announce them by pyro.module(name, network).",
        )


def _leaves(loss: Tensor) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    stack, visited = [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if isinstance(variable := getattr(node, "variable", None), Tensor):
            found[id(variable)] = variable
        stack.extend(f for f, _ in node.next_functions)
    return list(found.values())


_MODAL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)


@_register("Training and evaluation mode give the same log-densities, unless Dropout or BatchNorm make the difference.")
def _check_train_eval(case: Case) -> str | None:
    modal = sorted({type(m).__name__ for m in case.program.modules() if isinstance(m, _MODAL)})
    for side in SIDES:
        evaluation = case.scores(side)
        training = case.train().scores(side)
        case.program.eval()
        name = _differing(evaluation, training, _close)
        if name is not None and not modal:
            raise _Failed(
                f"Site '{name}' of the {side}: the log-density in training mode differs from that in evaluation mode "
                f"by {_gap(evaluation[name], training[name])}.",
                "Look for what asks self.training. If it is meant, make it a module that says so (nn.Dropout).",
            )
    return f"has {', '.join(modal)}" if modal else None


@_register("Log-densities vectorised over chains by vmap equal those of a loop.")
def _check_vmap(case: Case) -> str | None:
    chains = [case.draw(case.seed + k) for k in range(3)]
    if not chains[0]["model"]:
        raise _Skipped("There is no latent variable to run chains of.")
    missing = any_missing(case.x, *case.context)
    for side in SIDES:
        if not chains[0][side]:
            continue
        looped = [case.scores(side, latents=c[side]) for c in chains]
        stacked = {n: torch.stack([c[side][n] for c in chains]) for n in chains[0][side]}

        def scores(latents: Latents, side: str = side) -> dict[str, Tensor]:
            with no_completion(), assume_missing(missing), fixed(latents):
                trace = _trace(case.program, side, case.x, case.context)
                return {n: _score(s) for n, s in _sites(trace).items()}

        try:
            with torch.no_grad():
                vectorised = torch.vmap(scores)(stacked)
        except Exception as error:
            raise _Skipped(
                f"The {side} cannot be vectorised, at {_place(error)}: {_first_line(error)} Training works without; "
                "samplers will loop over chains."
            ) from None
        looped_together = {n: torch.stack([s[n] for s in looped]) for n in looped[0]}
        if (name := _differing(vectorised, looped_together, _close)) is not None:
            raise _Failed(
                f"Site '{name}' of the {side}: vectorised over 3 chains, its log-density differs from that of a loop "
                f"by {_gap(vectorised[name], looped_together[name])}.",
                "Look for state that the model keeps between calls.",
            )
    return None


@_register("A saved state_dict, loaded into another copy, gives identical log-densities; copies are independent.")
def _check_save_load(case: Case) -> None:
    def scores(program: Program) -> dict[str, Tensor]:
        return {f"{side} {n}": v for side in SIDES for n, v in case.scores(side, program=program).items()}

    file = io.BytesIO()
    before = scores(case.program)
    torch.save(case.program.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = _copy(case.program)
    with torch.no_grad(), seeded(case.seed):
        for p in other.parameters():
            p.add_(0.01 * torch.randn_like(p) * (1 + p.abs()))
    changed = scores(other)
    if (name := _differing(before, scores(case.program), _same)) is not None:
        raise _Failed(
            f"Changing the parameters of a copy (copy.deepcopy) changes the program itself at {name}.",
            "Keep all networks and parameters on the program, none in globals or closures.",
        )
    if list(other.parameters()) and _differing(before, changed, _same) is None:
        raise _Failed(
            "Changing the parameters of a copy changes none of its log-densities.",
            "Compute from parameters at every call, keep no results of an earlier one, and keep all networks on the "
            "program, none in globals or closures.",
        )
    if case.kind not in ("unnormalised", "implicit"):
        twin = Case(other, case.x, case.context, case.seed)
        own, copied = (_gradients(c.program, _loss(c, c.x)[0]) for c in (case, twin))
        lost = [n for n, g in own.items() if g is not None and copied[n] is None]
        if lost:
            raise _Failed(
                f"A copy (copy.deepcopy) does not compute with its own {_names(lost)}.",
                "Keep networks on the program: a function's closure and global variables do not follow a copy.",
            )
    other.load_state_dict(state)
    if (name := _differing(before, scores(other), _same)) is not None:
        raise _Failed(
            f"After saving and loading, the log-density at {name} is another.",
            "Everything that it depends on must be in state_dict: register_buffer for constants that change, no "
            "results kept from an earlier call.",
        )
