"""Errors in one line, in words of the command line."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyro_gen._errors import Advice, Words, said
from pyro_gen.data.problems import Problems


def one_line(error: Exception) -> str:
    """What an exception says, without the tensors that torch and Pyro print into their messages."""
    if hasattr(error, "format_message"):  # of typer, about the words of the command
        context = getattr(error, "ctx", None)
        where = "pyro-gen" if context is None else context.command_path
        words = " ".join(error.format_message().split()).replace(": Value error, ", ": ")  # of a choice, by pydantic
        return f"{words.rstrip('.')} (see {where} --help)."
    text = error.on_the_command_line() if isinstance(error, Advice | Problems) else said(error).partition(": ")[2]
    text = " ".join(text.split()).split("tensor(")[0].strip()
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
