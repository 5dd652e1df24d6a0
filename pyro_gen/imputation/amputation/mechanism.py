"""What a mechanism of missingness is, and what all of them check."""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any

import pandas as pd

from pyro_gen.imputation.columns import Bools

__all__ = ["Mechanism", "check_share"]


class Mechanism(ABC):
    """A mechanism of missingness: it says which entries of a table go.

    A mechanism of one's own is a subclass with :meth:`draw`.

    Example:
        >>> import numpy as np
        >>> class Last(Mechanism):
        ...     '''The last row goes.'''
        ...
        ...     def draw(self, frame, seen):
        ...         gone = np.zeros_like(seen)
        ...         gone[-1] = True
        ...         return gone
        >>> from pyro_gen.imputation import ampute
        >>> ampute(np.ones((2, 2)), Last())
        array([[ 1.,  1.],
               [nan, nan]])
    """

    @abstractmethod
    def draw(self, frame: pd.DataFrame, seen: Bools) -> Bools:
        """Draws which entries go, by torch's generator, which :func:`ampute` seeds.

        Arguments:
            frame: The table, with shape :math:`(N, D)`.
            seen: Which of its entries are observed, with that shape.

        Returns:
            Which entries go, with that shape; whether those that are missing already are among them does not matter.
        """

    def __repr__(self) -> str:
        """The share, and what is not as by default."""
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        given = ((field, getattr(self, field.name)) for field in fields if field.repr)
        shown = [f"{field.name}={value!r}" for field, value in given if not _is(value, field.default)]
        return f"{type(self).__name__}({', '.join(shown)})"


def _is(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def check_share(share: float, of: str) -> None:
    """Refuses what is no share, or a share of something unknown."""
    if not 0 <= share < 1:
        raise ValueError(f"share={share}: give a number from 0 to below 1.")
    if of not in ("cells", "rows"):
        raise ValueError(f'of={of!r}: give "cells" or "rows".')
