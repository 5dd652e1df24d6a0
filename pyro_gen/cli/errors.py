"""Errors in one line, in words of the command line."""

import json
import re
import shlex
from collections.abc import Iterator
from types import FrameType

from pyro_gen._errors import Advice, said
from pyro_gen.data.problems import Problems
from pyro_gen.program import Program


def one_line(error: Exception) -> str:
    """What an exception says, without the tensors that torch and Pyro print into their messages."""
    if hasattr(error, "format_message"):  # of typer, about the words of the command
        context = getattr(error, "ctx", None)
        where = "pyro-gen" if context is None else context.command_path
        return f"{' '.join(error.format_message().split()).rstrip('.')} (see {where} --help)."
    text = error.on_the_command_line() if isinstance(error, Advice) else said(error).partition(": ")[2]
    text = " ".join(text.split()).split("tensor(")[0].strip()
    if text.endswith("but found invalid values:"):
        text = _about_invalid_values(text.removesuffix(":"), error)
    # Messages of this package are whole sentences; others may be a word, or nothing.
    if not isinstance(error, ValueError | TypeError | ArithmeticError) or " " not in text:
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    limit = 3000 if isinstance(error, Problems) else 700
    return text if len(text) <= limit else text[:limit] + " ..."


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


def in_words_for_tables(text: str) -> str:
    """Advice of a schema about a column, as advice for the command line."""
    found = re.match(r"column (['\"])(.*?)\1", text)
    name = "" if found is None else found[2]
    advice = {
        "drop_empty=True": "--drop-empty",
        "(decimal='.' or ',')": "(--decimal . or --decimal ,)",
        "or make all of it levels (nominal)": f"or make all of it levels (--type {shlex.quote(name + '=nominal')})",
        "leave the column out": f"leave the column out (--ignore {shlex.quote(name)})",
        "leave it out": f"leave it out (--ignore {shlex.quote(name)})",
        f"(overrides={{{name!r}: 'nominal'}})": f"(--type {shlex.quote(name + '=nominal')})",
    }
    for python, shell in advice.items():
        text = text.replace(python, shell)
    text = re.sub(r"\(missing=\[(.*)\]\)", lambda mark: f"(--missing {shlex.quote(mark[1][1:-1])})", text)
    says = {"bounded": '"lower": 0, "upper": 1', "ordinal": '"levels": ["the lowest", "..."]'}
    before, sign, after = text.partition("Give Column(")
    for kind, what in says.items():
        if sign and f"'{kind}'" in after:
            text = f'{before}Say it in a file for --schema: {{{json.dumps(name)}: {{"kind": "{kind}", {what}}}}}.'
    return text
