"""Numbers and lists in words, as the templates of the report write them."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from pyro_gen.data.column import Column

__all__ = ["counted", "it", "kind", "line", "listed", "number", "percent"]


def percent(share: float, digits: int | None = None) -> str:
    """A share for people: more digits where it is small, and 0% or 100% only where it is exactly that.

    Example:
        >>> percent(0.456), percent(0.0123), percent(0.9999), percent(0.00001), percent(1.0)
        ('46%', '1.2%', 'over 99.9%', 'under 0.1%', '100%')
    """
    if digits is None:
        digits = 0 if 0.1 <= share <= 0.99 or share in (0, 1) else 1
    text = f"{share:.{digits}%}"
    if share < 1 and text.startswith("100"):
        return "over 99.9%"
    if share > 0 and float(text[:-1]) == 0:
        return "under 0.1%"
    return text


def number(value: float, digits: int | None = None) -> str:
    """A number with four figures, or with so many digits behind the point; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    if digits is not None:
        return f"{value:,.{digits}f}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def counted(n: int, noun: str) -> str:
    """So many of something, such as "1 row" and "2 rows"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def it(n: int) -> str:
    """The pronoun for so many things."""
    return "it" if n == 1 else "them"


def listed(words: Sequence[str], most: int = 8) -> str:
    """Words with commas between them, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def kind(column: Column) -> str:
    """What a column holds."""
    if column.discrete:
        return f"{column.kind}, {len(column.levels)} levels" if column.kind != "binary" else "binary"
    return f"{column.kind}, whole numbers" if column.integer and column.kind != "count" else column.kind


def line(text: str) -> str:
    """A text in one line, as safe or unsafe as it was."""
    return type(text)(" ".join(text.split())) if isinstance(text, Markup) else " ".join(text.split())
