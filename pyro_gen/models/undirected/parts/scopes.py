"""Which variables stand in a table together, by name."""

import itertools
from collections.abc import Mapping, Sequence

__all__ = ["checked_scopes", "windows"]


def windows(rows: int, columns: int, height: int, width: int) -> list[list[str]]:
    """The names of the entries, ``"row,column"``, in each window of a height and width in a rectangle.

    Example:
        >>> windows(2, 3, 2, 2)
        [['0,0', '0,1', '1,0', '1,1'], ['0,1', '0,2', '1,1', '1,2']]
    """
    corners = itertools.product(range(rows - height + 1), range(columns - width + 1))
    inside = list(itertools.product(range(height), range(width)))
    return [[f"{i + di},{j + dj}" for di, dj in inside] for i, j in corners]


def checked_scopes(scopes: Sequence[Sequence[str]], levels: Mapping[str, int]) -> list[tuple[str, ...]]:
    """The variables of each table as tuples.

    Raises:
        ValueError: A scope is empty, or names a variable twice or one without levels, or a variable is in none.
    """
    for scope in scopes:
        if not scope or isinstance(scope, str) or len(set(scope)) < len(scope):
            raise ValueError(f"The scope {scope!r} is to be a list of names of different variables.")
        if unknown := [n for n in scope if n not in levels]:
            raise ValueError(f"{unknown[0]!r} is in a scope and has no levels: give the number of its values.")
    if unused := levels.keys() - {n for s in scopes for n in s}:
        raise ValueError(f"{min(unused)!r} is in no scope: give it one of its own, [{min(unused)!r}].")
    return [tuple(scope) for scope in scopes]
