"""Errors that say what to do, to whoever called: in Python, or on the command line."""

from collections.abc import Callable
from typing import Any

__all__ = ["Advice", "AdviceError", "said"]


class Advice(Exception):
    """A sentence that names arguments, which on the command line are options.

    Arguments:
        text: The sentence, with ``{name}`` where an argument is to be named.
        arguments: What to give, by name; ``...`` names it alone, and an underscore at the end names it a second time.

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
        super().__init__(self._filled(lambda name, value: f"{name}={self._quoted(value)}"))

    def on_the_command_line(self) -> str:
        """The sentence with options in it."""

        def option(name: str, value: Any) -> str:
            return f"--{name.replace('_', '-')}" + ("" if value is True or value is ... else f" {value}")

        return self._filled(option)

    def _filled(self, name_it: Callable[[str, Any], str]) -> str:
        text = self.text
        for name, value in self.arguments.items():
            text = text.replace(f"{{{name}}}", name_it(name.rstrip("_"), value))
        return text

    @staticmethod
    def _quoted(value: Any) -> str:
        return "" if value is ... else f'"{value}"' if isinstance(value, str) else repr(value)


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
