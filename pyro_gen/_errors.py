"""Errors and warnings that say what to do, to whoever called: in Python, or on the command line."""

import difflib
import inspect
import re
import shlex
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

__all__ = [
    "Advice",
    "AdviceError",
    "CannotMarginaliseError",
    "InPython",
    "InvalidValuesError",
    "Words",
    "meant",
    "refuse_unknown",
    "said",
    "shown",
    "warn",
]

Words = Mapping[str, Callable[[Any], str]]

# What stands between a user's line and the code that it runs, beside this package.
_BETWEEN = {"pyro_gen", "pyro", "torch", "lightning", "sklearn", "contextlib"}

LONGEST_SHOWN = 80  # characters of a value in a sentence


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


class InvalidValuesError(AdviceError):
    """A distribution of a program was given values or parameters that it does not take.

    Attributes:
        side: ``"model"`` or ``"guide"``, or ``None`` where that is not known.
        site: The site whose density was asked for, or after which a parameter was refused, if any.
        observed: Whether the values are data.
    """

    side: str | None = None
    site: str | None = None
    observed: bool = False

    @classmethod
    def of(
        cls, complaint: str, side: str | None, site: str | None = None, observed: bool = False, after: str | None = None
    ) -> "InvalidValuesError":
        """The sentence for a complaint of torch's validation.

        Arguments:
            complaint: What torch says.
            side: Which function of the program was run, if known.
            site: The site whose density was asked for.
            observed: Whether its values are data.
            after: The last site that the function made, where it was stopped before its end.
        """
        where = (f"in the {side}, " if side else "") + (f"at site '{site}', " if site else "")
        where += f"after site '{after}', " if after else ""
        parameter = re.search(r"parameter (\w+) .*?of distribution (\w+)\(.*constraint (.*), but", complaint, re.DOTALL)
        value = re.search(r"within the support \((.*)\) of the distribution (\w+)\(", complaint, re.DOTALL)
        if parameter is not None:
            name, distribution, constraint = parameter.groups()
            error = cls(
                f"{where}the parameter {name} of {distribution} is NaN or infinite, or breaks the constraint "
                f"{constraint}. If the data has missing values, x has NaN in it: give networks torch.nan_to_num(x), "
                "and x.isnan() beside it."
            )
        else:
            is_to_be = (
                f" to be within the support of {value[2]}, {value[1]}" if value else " that its distribution takes"
            )
            found = f"{where}values are{is_to_be}, but validation found invalid values"
            if observed:
                error = cls(
                    f"{found} in the data: transform it ({{transform}}) or choose another likelihood.", transform=...
                )
            elif site and side != "guide":
                error = cls(f"{found}: the guide draws outside of the support that the model gives this site, or NaN.")
            else:
                error = cls(f"{found}: NaN, or values outside of it.")
        error.side, error.site, error.observed = side, site or after, observed
        return error


class CannotMarginaliseError(ValueError):
    """A distribution is observed in part, and has no marginal density of that part."""


def meant(name: Any, known: Iterable[str]) -> str:
    """Which of some names was meant by one that is none of them, as part of a sentence; empty where that is not clear.

    Example:
        >>> meant("vae-digts", ["vae-digits", "made-digits"]), meant("vae", ["vae-digits", "made-digits"])
        (" (did you mean 'vae-digits'?)", '')
    """
    by_lower = {other.lower(): other for other in known}
    found = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.75)
    return f" (did you mean {by_lower[found[0]]!r}?)" if found else ""


def refuse_unknown(who: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuses options that something does not have.

    Arguments:
        who: What was given the options, as the subject of a sentence.
        given: Their names.
        known: The names that it takes.

    Raises:
        ValueError: There is one; the message names it, and what there is.

    Example:
        >>> refuse_unknown("smc", ["partciles"], ["particles", "islands"])
        Traceback (most recent call last):
            ...
        ValueError: smc has no option 'partciles' (did you mean 'particles'?): choose from particles, islands.
    """
    known = list(known)
    if unknown := [name for name in given if name not in known]:
        choose = f"choose from {', '.join(known)}" if known else "it has none"
        raise ValueError(f"{who} has no option {unknown[0]!r}{meant(unknown[0], known)}: {choose}.")


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


def shown(value: Any) -> str:
    """A value as a sentence quotes it: as it is written, or by its class where that would take lines.

    Example:
        >>> import torch
        >>> shown("Glow"), shown(torch.nn.Sequential(torch.nn.ReLU())), shown(torch.nn.ReLU)
        ("'Glow'", '<Sequential>', '<class ReLU>')
    """
    if isinstance(value, type):
        return f"<class {value.__name__}>"
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN and "\n" not in text else f"<{type(value).__name__}>"


def warn(text: str) -> None:
    """Warns at the line of the user that led here: the nearest one that is not of this package or what it runs on."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)  # noqa: TID251 -- the one place
