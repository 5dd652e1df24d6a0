"""Errors in one line, in words of the command line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pyro_gen._errors import Advice, Words, said
from pyro_gen.data.problems import Problems
from pyro_gen.program import Program


def one_line(error: Exception) -> str:
    """What an exception says, without the tensors that torch and Pyro print into their messages."""
    if hasattr(error, "format_message"):  # of typer, about the words of the command
        context = getattr(error, "ctx", None)
        where = "pyro-gen" if context is None else context.command_path
        return f"{' '.join(error.format_message().split()).rstrip('.')} (see {where} --help)."
    text = error.on_the_command_line() if isinstance(error, Advice | Problems) else said(error).partition(": ")[2]
    text = " ".join(text.split()).split("tensor(")[0].strip()
    if text.endswith("but found invalid values:"):
        text = _about_invalid_values(text.removesuffix(":"), error)
    # Messages of this package are whole sentences; others may be a word, or nothing.
    if not isinstance(error, ValueError | TypeError | ArithmeticError) or " " not in text:
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    limit = 3000 if isinstance(error, Problems) and len(error.each) > 1 else 700
    return text if len(text) <= limit else text[:limit] + " ..."


@contextmanager
def in_options(words: Words, of: str = "") -> Iterator[None]:
    """Says what is wrong with a table as a command does that has its own words for some arguments.

    Arguments:
        words: How it says them, as in :meth:`pyro_gen._errors.Advice.on_the_command_line`.
        of: What is said in front.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        several = error if isinstance(error, Problems) else Problems([error])
        each = [one.on_the_command_line(words) if isinstance(one, Advice) else str(one) for one in several.each]
        raise Problems(each, of + several.of) from error


def _about_invalid_values(text: str, error: Exception) -> str:
    """What torch's validation of values and parameters of distributions says, and what to do about it."""
    frames = list(_frames(error))
    if "Expected value argument" in text:
        sites = [frame.f_locals["site"] for frame in frames if isinstance(frame.f_locals.get("site"), dict)]
        if any(site.get("is_observed") for site in sites[-1:]):
            return text + " in the data: transform it (--transform) or choose another likelihood (--set)."
        return text + ": the guide draws outside of the support that the model gives this site, or NaN."
    sides = [
        frame.f_code.co_name
        for frame in frames
        if frame.f_code.co_name in ("guide", "model") and isinstance(frame.f_locals.get("self"), Program)
    ]
    if found := re.search(r"parameter (\w+) .*of distribution (\w+)\(.*constraint (.*), but", text):
        text = f"the parameter {found[1]} of {found[2]} is NaN or infinite, or breaks the constraint {found[3]}"
    return (
        f"in the {sides[0] if sides else 'program'}, {text}. If the data has missing values, x has NaN in it: give "
        "networks torch.nan_to_num(x), and x.isnan() beside it."
    )


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The frames that an exception and what it was raised from went through, from the outermost on."""
    at = error.__traceback__
    while at is not None:
        yield at.tb_frame
        at = at.tb_next
    if error.__context__ is not None:
        yield from _frames(error.__context__)
