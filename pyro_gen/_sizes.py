"""The sizes that models are made with, and weights of terms, checked: shapes, numbers of units, widths of layers."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch

from pyro_gen._errors import shown

__all__ = [
    "check_conditions_a_row",
    "check_counts",
    "check_known",
    "check_sizes",
    "check_weights",
    "check_widths",
    "event_of",
]


def _is_size(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_sizes(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(_is_size(size) for size in value)


def event_of(model: object, event_shape: int | Sequence[int], name: str = "event_shape") -> torch.Size:
    """The shape of one datum, given as such or as the number of its entries; ``name`` is what the argument is called.

    Raises:
        ValueError: It is neither.
    """
    shape = (event_shape,) if isinstance(event_shape, int) else event_shape
    if not _are_sizes(shape) or len(shape) == 0:
        raise ValueError(
            f"{type(model).__name__}({name}={shown(event_shape)}): give a positive integer, or a sequence of them, "
            "(8, 8) say."
        )
    return torch.Size(shape)


def check_sizes(model: object, least: int = 1, **sizes: Any) -> None:
    """Refuses arguments that are no integers, or smaller than the least.

    Raises:
        ValueError: One is; the message names it.
    """
    for name, size in sizes.items():
        if not _is_size(size, least):
            wanted = "a positive integer" if least == 1 else f"an integer of {least} or more"
            raise ValueError(f"{type(model).__name__}({name}={shown(size)}): give {wanted}.")


def check_counts(verb: str, least: int = 1, **counts: Any) -> None:
    """Refuses arguments of a function that are no whole numbers, or smaller than the least.

    Raises:
        ValueError: One is; the message names function and argument.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < least:
            wanted = "a positive integer" if least == 1 else f"an integer of {least} or more"
            raise ValueError(f"{verb}({name}={shown(count)}): give {wanted}.")


def check_widths(model: object, **widths: Any) -> None:
    """Refuses arguments that are no sequences of positive integers, the widths of layers.

    Raises:
        ValueError: One is none; the message names it.
    """
    for name, given in widths.items():
        if not _are_sizes(given):
            raise ValueError(
                f"{type(model).__name__}({name}={shown(given)}): give a sequence of positive integers, (200, 200) say."
            )


def check_known(model: object, *context: Any) -> None:
    """Refuses a context with NaN, of what is conditional on all of it.

    Raises:
        ValueError: There is some.
    """
    for part in context:
        if isinstance(part, torch.Tensor) and part.is_floating_point() and bool(part.isnan().any()):
            raise ValueError(
                f"{type(model).__name__} is conditional on its context, and was given NaN in it, the first at index "
                f"{part.isnan().nonzero()[0].tolist()}: leave such rows out, or fill them in."
            )


def check_conditions_a_row(model: object, made_for: int, given: int) -> None:
    """Refuses a context of another number of numbers a row than a model was made for.

    Raises:
        ValueError: They differ.
    """
    if given != made_for:
        raise ValueError(
            f"{type(model).__name__}(context={made_for}) is conditional on {made_for or 'no'} numbers a row, and was "
            f"given {given or 'none'}: give a context of as many, or make it with context={given}."
        )


def check_weights(owner: object, **weights: Any) -> None:
    """Refuses weights of the terms of a loss that are negative, infinite or no number.

    Raises:
        ValueError: One is; the message names it.
    """
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"{type(owner).__name__}({name}={shown(weight)}): a weight is a finite number, 0 or more.")
