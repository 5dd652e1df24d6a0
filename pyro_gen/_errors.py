"""Errors that say what to do, to whoever called: in Python, or on the command line."""

from typing import Any

__all__ = ["AdviceError", "said"]


class AdviceError(ValueError):
    """A sentence that names arguments, which on the command line are options.

    Arguments:
        text: The sentence, with ``{name}`` where an argument is to be named.
        arguments: What to give, by name.

    Example:
        >>> error = AdviceError("add {trust}, or name it by {target}.", trust=True, target="own.py:Fixed")
        >>> print(error)
        add trust=True, or name it by target="own.py:Fixed".
        >>> error.on_the_command_line()
        'add --trust, or name it by --target own.py:Fixed.'
    """

    def __init__(self, text: str, **arguments: Any) -> None:
        self.text, self.arguments = text, arguments
        python = {
            name: f'{name}="{value}"' if isinstance(value, str) else f"{name}={value!r}"
            for name, value in arguments.items()
        }
        super().__init__(text.format(**python))

    def on_the_command_line(self) -> str:
        """The sentence with options in it."""
        options = {name: f"--{name.replace('_', '-')}" for name in self.arguments}
        return self.text.format(
            **{
                name: option if self.arguments[name] is True else f"{option} {self.arguments[name]}"
                for name, option in options.items()
            }
        )


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
