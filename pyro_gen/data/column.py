"""What a column of a table holds: its kind, its levels, its limits."""

import math
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DISCRETE", "KINDS", "Column"]

KINDS = ("real", "positive", "bounded", "count", "binary", "nominal", "ordinal")
DISCRETE = ("binary", "nominal", "ordinal")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: Its name.
        kind: One of :data:`KINDS`: ``"real"`` numbers, ``"positive"`` ones (above 0; a 0 that is
            observed all the same is let pass), ``"bounded"`` ones (from ``lower`` to ``upper``, the edges included),
            ``"count"`` (0, 1, 2, ...); ``"binary"`` (two levels, or one where the other was never seen), ``"nominal"``
            (levels without an order), ``"ordinal"`` (levels in order).
        levels: The values of a binary, nominal or ordinal column, in order; encoded as 0, 1, ..., L - 1.
        lower: A bounded column's lower edge; in other columns of numbers a hard limit of what is imputed, if given.
        upper: The same above.
        integer: Numbers that are whole: imputations are rounded. Always so for counts.
        decimals: How many decimals numbers have that are not whole, as prices in cents: imputations are rounded so.
        atom: One number of a real column that many rows have exactly, others being spread out: the 0 of rainfall, or of
            what a household spends on fuel. Left out, :class:`pyro_gen.data.Scaling` looks for one.
        dates: Dates of a real column, encoded as days since 1970.

    Raises:
        TypeError: If the name is no text, or the levels are one text.
        ValueError: If the kind is unknown, or what is given does not go with it.

    Example:
        >>> Column("grade", "ordinal", levels=("poor", "fair", "good")).discrete
        True
        >>> Column("share", "bounded", lower=0, upper=1)
        Column(name='share', kind='bounded', levels=(), lower=0.0, upper=1.0, integer=False, atom=None, decimals=None)
    """

    name: str
    kind: str
    levels: tuple[Any, ...] = ()
    lower: float | None = None
    upper: float | None = None
    integer: bool = False
    atom: float | None = None
    decimals: int | None = None
    dates: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"a column's name is text, got {self.name!r}.")
        if self.kind not in KINDS:
            raise ValueError(f"column {self.name!r}: kind {self.kind!r} is not one of {', '.join(KINDS)}.")
        if isinstance(self.levels, str):
            raise TypeError(f"column {self.name!r}: levels are a tuple of values, got the text {self.levels!r}.")
        if self.atom is not None and self.kind != "real":
            raise ValueError(f"column {self.name!r}: an atom is for real columns, not for {self.kind}.")
        if self.dates and self.kind != "real":
            raise ValueError(f"column {self.name!r}: dates are real, days since 1970, not {self.kind}.")
        levels = tuple(level.item() if isinstance(level, np.generic) else level for level in self.levels)
        object.__setattr__(self, "levels", levels)
        for given in ("lower", "upper", "atom"):
            if (value := getattr(self, given)) is not None:
                if not math.isfinite(value):
                    raise ValueError(f"column {self.name!r}: {given}={value} is not finite; leave it out.")
                object.__setattr__(self, given, float(value))
        if self.kind in DISCRETE:
            self._check_levels()
        else:
            object.__setattr__(self, "integer", self.integer or self.kind == "count")
            self._check_limits()

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value, or code, that an imputation can have."""
        if self.discrete:
            return 0.0, float(len(self.levels) - 1)
        lower = -math.inf if self.lower is None else self.lower
        upper = math.inf if self.upper is None else self.upper
        if self.kind == "count":
            lower = max(lower, 0.0)
        if self.kind == "positive":
            lower = max(lower, sys.float_info.min)
        if self.integer:
            return float(np.ceil(lower)), float(np.floor(upper))
        if self.decimals is not None:  # the nearest numbers with so many, inside
            step = 10.0**-self.decimals
            low, high = self.rounded(np.array([lower, upper]))
            lower, upper = self.rounded(np.array([low + step * (low < lower), high - step * (high > upper)])).tolist()
        return lower, upper

    def rounded(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Values as finely as the column has them: codes and whole numbers, or with its decimals."""
        if self.discrete or self.integer:
            return np.rint(values)
        if self.decimals is None:
            return values
        return np.where(np.abs(values) < 2.0**52, np.round(values.clip(-(2.0**52), 2.0**52), self.decimals), values)

    def settled(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Draws as the column can have them: rounded, and within its limits.

        A draw is a value that could have been observed, and so are medians and modes of draws. Their mean need not be:
        of a column of counts it may be 2.4, and is left so.
        """
        return self.rounded(values).clip(*self.limits)

    @property
    def discrete(self) -> bool:
        """Whether the values are levels (binary, nominal, ordinal) and not numbers."""
        return self.kind in DISCRETE

    def _check_levels(self) -> None:
        count = len(self.levels)
        if self.kind == "binary" and count not in (1, 2):
            raise ValueError(f"column {self.name!r}: a binary column has 2 levels (or 1, if constant), got {count}.")
        if self.kind != "binary" and count < 2:
            raise ValueError(f"column {self.name!r}: a {self.kind} column has at least 2 levels, got {count}.")
        if len(set(self.levels)) < count:
            raise ValueError(f"column {self.name!r}: the levels {list(self.levels)} are not all different.")
        if any(level is None or (level == level) is not True for level in self.levels):
            raise ValueError(f"column {self.name!r}: 'missing' is no level; leave it out of {list(self.levels)}.")
        if self.lower is not None or self.upper is not None or self.integer or self.decimals is not None:
            raise ValueError(
                f"column {self.name!r}: lower, upper, integer and decimals are for numbers, not for levels."
            )

    def _check_limits(self) -> None:
        if self.levels:
            raise ValueError(f"column {self.name!r}: levels are for binary, nominal and ordinal, not for {self.kind}.")
        if self.kind == "bounded" and (self.lower is None or self.upper is None):
            raise ValueError(f"column {self.name!r}: a bounded column needs both lower and upper.")
        lower = -math.inf if self.lower is None else self.lower
        upper = math.inf if self.upper is None else self.upper
        if lower > upper or (self.kind == "bounded" and lower == upper):
            raise ValueError(f"column {self.name!r}: lower={self.lower} is not below upper={self.upper}.")
        if upper < 0 and self.kind == "count":
            raise ValueError(f"column {self.name!r}: counts start at 0, got upper={self.upper}.")
        if upper <= 0 and self.kind == "positive":
            raise ValueError(f"column {self.name!r}: positive numbers are above 0, got upper={self.upper}.")
        if self.decimals is not None and (self.integer or not isinstance(self.decimals, int) or self.decimals < 1):
            raise ValueError(
                f"column {self.name!r}: decimals={self.decimals!r} is no whole number from 1 on, of a column that "
                "is not whole; leave it out."
            )
        if self.integer and np.ceil(lower) > np.floor(upper):
            raise ValueError(f"column {self.name!r}: no whole number lies between {self.lower} and {self.upper}.")
