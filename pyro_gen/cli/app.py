"""The commands, and how they end.

The exit code is 0, or 1 where the answer is no (a program fails a check, a figure does not hold), or 2 for bad input.
"""

import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

import typer

from pyro_gen._version import __version__
from pyro_gen.cli import (
    check,
    compare,
    demo,
    evaluate,
    evidence,
    fit,
    impute,
    posterior,
    predict,
    sample,
    structure,
    zoo,
)
from pyro_gen.cli.console import Shell, results_alone
from pyro_gen.cli.errors import one_line

app = Shell(
    name="pyro-gen",
    help="Generative models as Pyro programs: train, measure and use them.",
    epilog="Every command takes --help, and --debug, which shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.command)
app.add_typer(zoo.app, name="zoo")
app.command("fit")(fit.command)
app.command("sample")(sample.command)
app.command("evaluate")(evaluate.command)
app.command("posterior")(posterior.command)
app.command("evidence")(evidence.command)
app.command("compare")(compare.command)
app.command("predict")(predict.command)
app.command("impute")(impute.command)
app.add_typer(structure.app, name="structure")
app.command("check")(check.command)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"pyro-gen {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Arguments:
        arguments: What stands behind ``pyro-gen``; by default that of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    with results_alone(to_the_end=arguments is None) if "--json" in words else nullcontext():
        try:
            with warnings.catch_warnings():
                # Pyro warns of NaN where an error that names the site follows.
                warnings.filterwarnings("ignore", "Encountered (NaN|[+-]?inf)", UserWarning)
                return app([w for w in words if w != "--debug"], prog_name="pyro-gen", standalone_mode=False) or 0
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
                return 2
            if debug and not hasattr(error, "format_message"):
                raise
            line = one_line(error).encode("utf-8", "backslashreplace").decode()  # names of files may be no text
            print(f"error: {line}", file=sys.stderr)
            return 2
