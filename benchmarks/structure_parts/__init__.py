"""The parts of benchmarks/structure.py, a question each."""

from typing import Any, NamedTuple

__all__ = ["Bar", "Result"]


class Bar(NamedTuple):
    """A figure that must be reached: at least ``bar``, or at most where ``least`` is false."""

    name: str
    value: float
    bar: float
    least: bool = True

    @property
    def reached(self) -> bool:
        return self.value >= self.bar if self.least else self.value <= self.bar


class Result(NamedTuple):
    """What a part found: figures to store, bars, and the packages whose versions belong to them."""

    figures: dict[str, Any]
    bars: list[Bar]
    packages: tuple[str, ...] = ()
