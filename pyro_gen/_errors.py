"""Errors that say what to do, to whoever called: in Python, or on the command line."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Advice", "AdviceError", "InPython", "Words", "said"]

Words = Mapping[str, Callable[[Any], str]]


class InPython(NamedTuple):
    """What advice says of an argument in Python, where that is not ``name=value``.

    Attributes:
        words: What is said there, and by commands that have no words of their own for this argument.
        value: What such words are made of.
    """

    words: str
    value: Any


class Advice(Exception):
    """A sentence that names arguments, which on the command line are options.

    Arguments:
        text: The sentence, with ``{name}`` where an argument is to be named.
        arguments: What to give, by name; ``...`` names it alone, an underscore at the end names it a second time, and a
            list is an option that is repeated.

    Example:
        >>> error = AdviceError("add {trust}, or name it by {target}.", trust=True, target="own.py:Fixed")
        >>> print(error)
        add trust=True, or name it by target="own.py:Fixed".
        >>> error.on_the_command_line()
        'add --trust, or name it by --target own.py:Fixed.'
        >>> error = AdviceError("try {lr} {init} and {init_}.", lr=..., init="prior", init_="uniform")
        >>> print(error, error.on_the_command_line())
        try lr= init="prior" and init="uniform". try --lr --init prior and --init uniform.
    """

    def __init__(self, text: str, **arguments: Any) -> None:
        self.text, self.arguments = text, arguments
        super().__init__(self._filled(self._argument))

    def on_the_command_line(self, words: Words | None = None) -> str:
        """The sentence with options in it.

        Arguments:
            words: How the command says arguments that are no options of the same name, from their values.
        """
        own = words or {}

        def option(name: str, value: Any) -> str:
            if name in own:
                return own[name](value.value if isinstance(value, InPython) else value)
            if isinstance(value, InPython):
                return value.words
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, list):
                return " ".join(f"{flag} {shlex.quote(each)}" for each in value)
            return flag + ("" if value is True or value is ... else f" {value}")

        return self._filled(option)

    def _filled(self, name_it: Callable[[str, Any], str]) -> str:
        text = self.text
        for name, value in self.arguments.items():
            text = text.replace(f"{{{name}}}", name_it(name.rstrip("_"), value))
        return text

    @staticmethod
    def _argument(name: str, value: Any) -> str:
        if isinstance(value, InPython):
            return value.words
        return f"{name}=" + ("" if value is ... else f'"{value}"' if isinstance(value, str) else repr(value))


class AdviceError(Advice, ValueError):
    """Advice about a value that was given."""


def said(error: BaseException) -> str:
    """The type of an exception and what it says, in one line; also where it cannot say it.

    Example:
        >>> said(KeyError("a"))
        "KeyError: 'a'"
    """
    try:
        text = " ".join(str(error).split())
    except BaseException:  # its __str__ is code of whoever wrote it
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
