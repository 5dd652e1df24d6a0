"""What the command line leaves on the screen: results on standard output and nothing else, errors in one line.

Code of the user's runs inside of a command: a file with a program, its model and guide. It may print, exit or raise
whatever it likes; what a command returns, and what stands on standard output under ``--json``, is not for it to say.
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from typer.core import TyperCommand

from pyro_gen._errors import said

__all__ = ["Shell", "print_json", "print_table", "results_alone"]

WIDEST = 10_000  # columns of a terminal that no table of numbers fills

_results: TextIO | None = None  # standard output, while all else that is printed goes to standard error


# ----------------------------------------------------------------------------------------------------------------------
# Standard output


@contextlib.contextmanager
def results_alone(to_the_end: bool = False) -> Iterator[None]:
    """Sends to standard error what Python, libraries and child processes print; all but :func:`print_json`.

    Arguments:
        to_the_end: Until the process ends, so that what it prints at its exit stands with no result either.
    """
    global _results
    shown = sys.stdout
    with contextlib.ExitStack() as stack:
        try:
            own = shown.fileno() == 1
        except (OSError, ValueError):  # replaced by a file in memory
            own = False
        if own:
            shown.flush()
            results: TextIO = stack.enter_context(os.fdopen(os.dup(1), "w", encoding="utf-8"))
            if not to_the_end:
                before = os.dup(1)
                stack.callback(os.close, before)
                stack.callback(os.dup2, before, 1)
            os.dup2(2, 1)
        else:
            results = shown
        _results, sys.stdout = results, sys.stderr
        try:
            yield
        finally:
            _results = None
            if not to_the_end:
                sys.stdout = shown


def print_json(value: Any) -> None:
    """Prints a value as JSON, which has no NaN: numbers that are not finite become null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False), file=_results or sys.stdout)


def print_table(table: Table) -> None:
    """Prints a table with every name and figure whole, if need be wider than the terminal."""
    console = Console()
    wide = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    console.width = max(console.width, wide)
    console.print(table)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


# ----------------------------------------------------------------------------------------------------------------------
# The end of a command


class Shell(typer.Typer):
    """Commands that end by returning, or by an error; who exits inside of one is code of the user's."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """As of typer."""
        return super().command(name, cls=_Command, **options)


class _Command(TyperCommand):
    def invoke(self, ctx: Any) -> Any:
        # The words of the command are parsed by now: typer's own ways to exit are behind us.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except BaseException as error:
            if isinstance(error, Exception) and not _exits(error):
                raise
            raise ValueError(
                f"the program ended the command by {said(error)}: take out what exits, or raise an error that says "
                "what is wrong."
            ) from error


def _exits(error: Exception) -> bool:
    """Whether typer takes an exception for the end of the command rather than an error."""
    return isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "format_message")
