"""What a check is: a named function of a case that raises where it has found a defect."""

from collections.abc import Callable
from dataclasses import dataclass

from pyro_gen.evaluation.conformance.case import Case

__all__ = ["Check", "Failed", "Skipped", "check"]


class Failed(Exception):
    """A defect, with what to do about it."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class Skipped(Exception):
    """Why a check does not apply."""


@dataclass(frozen=True)
class Check:
    """A named check.

    Attributes:
        name: Its name.
        purpose: What it makes sure of, in one line.
        function: Takes a :class:`Case`, returns a remark or ``None``, raises when it fails or does not apply.
    """

    name: str
    purpose: str
    function: Callable[[Case], str | None]


def check(function: Callable[[Case], str | None]) -> Check:
    """Makes a function a check: its name is that of the check, its docstring the purpose, in one line."""
    return Check(function.__name__, function.__doc__ or "", function)
