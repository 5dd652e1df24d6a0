"""All checks, and how a program is put through them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._internals import autoguide_plates
from pyro_gen._random import exclusive, seeded
from pyro_gen.density import as_inputs
from pyro_gen.density.missing import find_latent_missing
from pyro_gen.evaluation.conformance import (
    chains,
    copies,
    gradients,
    latent_entries,
    missing_values,
    objective,
    parameters,
    randomness,
    rows,
    sites_and_shapes,
    support,
    variables,
)
from pyro_gen.evaluation.conformance.case import SIDES, Case, trace_of
from pyro_gen.evaluation.conformance.check import Check, Failed, Skipped
from pyro_gen.evaluation.conformance.copy_program import copy_program
from pyro_gen.evaluation.conformance.error_place import first_line, place_of
from pyro_gen.evaluation.conformance.report import NOT_RUN, Report, Result
from pyro_gen.evaluation.conformance.rows import row_guides
from pyro_gen.evaluation.conformance.scores import sizes
from pyro_gen.packing import packs, unpacked_program
from pyro_gen.program import FunctionProgram, Program
from pyro_gen.traces import DATA_PLATE

__all__ = ["CHECKS", "THEMES", "check_program"]


MAX_ROWS = 23  # enough to see every defect below; a prime that hardly any layer has as its width

THEMES = (
    sites_and_shapes,
    variables,
    rows,
    missing_values,
    latent_entries,
    randomness,
    support,
    gradients,
    objective,
    parameters,
    chains,
    copies,
)
CHECKS: dict[str, Check] = {
    found.name: found for theme in THEMES for found in vars(theme).values() if isinstance(found, Check)
}
"""Every check by name, in the order in which they run."""


@packs
def check_program(program: Program, x: Any, *context: Any, seed: int = 0) -> Report:
    """Puts a program through the conformance suite.

    The program itself is left as it is: every check works on a copy. Missing entries that feed a later density are
    latent variables; checks that hold these fixed see data that the model has completed, and what has to do with
    missing entries is seen at entries that the checks take away.

    Arguments:
        program: The program.
        x: Some data, as :func:`pyro_gen.fit` takes it, with shape :math:`(N, *)`, NaN where nothing was observed; at
            least 2 rows, of which the first 23 are used. Several variables are a mapping or a tuple of such tensors.
        context: What the program conditions on, each with shape :math:`(N, *)`.
        seed: Seeds every draw; the caller's generator is left alone.

    Returns:
        One named result per check: passed, failed with what to do about it, or skipped with the reason.

    Raises:
        TypeError: ``program`` is not a :class:`~pyro_gen.program.Program`, or ``x`` cannot be read as numbers.
        ValueError: ``x`` has fewer than 2 rows.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> from pyro_gen.program import data_scale
        >>> class Mean(Program):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.loc = torch.nn.Parameter(torch.zeros(2))
        ...     def model(self, x):
        ...         with self.plate(x), pyro.poutine.scale(scale=1 / data_scale(x)):  # a minibatch for itself
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
        raise ValueError(f"check_program needs at least 2 rows of data, got x of shape {sizes(x.shape)}.")
    total, rows = len(x), _rows(program)
    context = tuple(c[:rows] if isinstance(c, Tensor) and c.dim() > 0 and len(c) == total else c for c in context)
    x = _completed(program, x[:rows], context, seed)
    results: list[Result] = []
    for check in CHECKS.values():
        if results and results[0].status == "failed":
            results.append(Result(check.name, "skipped", NOT_RUN))
        else:
            results.append(_result(check, program, x, context, seed))
    return Report(_name(program), tuple(results))


def _completed(program: Program, x: Tensor, context: tuple[Any, ...], seed: int) -> Tensor:
    """The data, completed by the model where an entry is missing whose value feeds a later density.

    A program that cannot do so is left to the checks, which say why.
    """
    with _calm():
        try:
            case = Case(copy_program(program).eval(), x, context, seed)
            if not find_latent_missing(case.program, x, *context).names:
                return x
            return case.completed()
        except Exception:
            return x


@contextmanager
def _calm() -> Iterator[None]:
    """Own parameter store, so that the caller's stays as it is, and no validation but where it is the check."""
    with exclusive(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        yield


def _rows(program: Program) -> int:
    """The number of rows to look at: a run autoguide with local latent variables has parameters for so many rows."""
    return max((autoguide_plates(g)[DATA_PLATE].size for g in row_guides(program)), default=MAX_ROWS)


def _name(program: Program) -> str:
    program = unpacked_program(program)
    if not isinstance(program, FunctionProgram):
        return type(program).__name__
    functions = [getattr(f, "__name__", type(f).__name__) for f in program.functions]
    return f"Program.from_functions({', '.join(functions)})"


def _result(check: Check, program: Program, x: Tensor, context: tuple[Any, ...], seed: int) -> Result:
    with _calm():
        try:
            clone = copy_program(program).eval()
            with torch.no_grad(), seeded(seed):  # creates lazy parameters
                for side in SIDES:
                    trace_of(clone, side, x, context)
            remark = check.function(Case(clone, x.clone(), context, seed))
        except Failed as failure:
            return Result(check.name, "failed", str(failure), failure.advice)
        except Skipped as reason:
            return Result(check.name, "skipped", str(reason))
        except Exception as error:
            return Result(
                check.name,
                "failed",
                f"{type(error).__name__}: {first_line(error)}",
                f"The error comes from {place_of(error)}; the check: {check.purpose[0].lower()}{check.purpose[1:]}",
            )
    return Result(check.name, "passed", check.purpose + (f" ({remark})" if remark else ""))
