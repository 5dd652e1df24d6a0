"""How far a loop is, told to whoever listens: a loop below a verb need not be handed what shows its progress.

Listeners are of one thread and nest: a loop inside a step of another fills that step.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["listening", "told"]

T = TypeVar("T")

_LISTENER: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(report: Callable[[float], None] | None) -> Iterator[None]:
    """Calls a function with the fraction done by the loops of :func:`told` inside the block; with ``None`` nobody."""
    token = _LISTENER.set(report)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def told(items: Sequence[T]) -> Iterator[T]:
    """Loops over items, and tells the listener, if there is one, how many are done.

    Example:
        >>> fractions = []
        >>> with listening(fractions.append):
        ...     for i in told(range(2)):
        ...         for j in told(range(i + 1)):
        ...             pass
        >>> fractions
        [0.5, 0.5, 0.75, 1.0, 1.0]
    """
    outer = _LISTENER.get()
    if outer is None:
        yield from items
        return
    for i, item in enumerate(items):
        _LISTENER.set(lambda fraction, i=i: outer((i + fraction) / len(items)))  # type: ignore[misc]
        yield item  # an error there is for listening() to clean up after: this generator would do so too late
        outer((i + 1) / len(items))
    _LISTENER.set(outer)
