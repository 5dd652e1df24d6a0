"""``pyro-gen check``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from pyro_gen import zoo
from pyro_gen.cli.console import print_json
from pyro_gen.cli.inputs import built, check_context, read_context, read_data, tensors_of
from pyro_gen.cli.options import TARGET, ContextFiles, DataRoot, Decimal, DropEmpty, Json, Part, Seed, program_options
from pyro_gen.program import Program
from pyro_gen.registry import MODELS
from pyro_gen.targets import build


def command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET)],
    data: Annotated[
        str | None, typer.Option(help="Data to check with, as for fit; by default some simulated from the program.")
    ] = None,
    context: ContextFiles = None,
    transform: Annotated[list[str] | None, typer.Option(help="As for fit.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="As for fit.")] = None,
    drop_empty: DropEmpty = False,
    decimal: Decimal = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> int:
    """Put a program through the conformance suite (exit code 1 if a check fails)."""
    from pyro_gen.evaluation.conformance import Report, check_program

    read = (drop_empty, decimal, data_root)
    chosen = program_options(options or [])
    program, x, given = _program_and_data(target, data, context, transform or [], chosen, *read, seed)
    given = (*given, *tensors_of(read_context(context, len(x), decimal)))
    report = check_program(program, x, *given, seed=seed)
    if as_json:
        print_json(report.to_dict())
    else:
        # What failed last: the end of a long table is what is in view.
        print(Report(report.program, tuple(sorted(report, key=lambda result: result.status == "failed"))))
    return 0 if report.ok else 1


def _program_and_data(
    target: str,
    data: str | None,
    context: Sequence[str] | None,
    transform: Sequence[str],
    options: dict[str, Any],
    drop_empty: bool,
    decimal: str | None,
    data_root: Path | None,
    seed: int,
) -> tuple[Program, Any, tuple[Tensor, ...]]:
    """The program, data, and their context where that does not come from files."""
    from pyro_gen.inference.predictive import sample

    if target in zoo.names():
        entry = zoo.load(target)
        prepared = zoo.prepare(entry, data_root)
        return build(entry.model, prepared.event_shape, entry.options, seed=seed), prepared.test, prepared.test_context
    if data is not None:
        read = read_data(data, Part.train, data_root, drop_empty, decimal)
        return *built(target, read, transform, options, seed, len(context or ())), ()
    if context:
        raise ValueError("--context has a row for each of the data: give these, by --data.")
    if target in MODELS:
        raise ValueError(f"{target} takes the shape of its data: say which, by --data.")
    program = build(target, None, options, seed=seed)
    check_context(program, target)
    if program.event_shape is None:
        raise ValueError(f"{target} does not know the shape of one datum (event_shape): give some data, by --data.")
    return program, sample(program, 64, seed=seed), ()
