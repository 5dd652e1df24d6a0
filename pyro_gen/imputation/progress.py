"""One progress bar for a run of several stages, of which nobody knows beforehand how many."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Report", "reporting"]


class Report:
    """Shows stages one after the other."""

    def __init__(self, bar: "Progress | None") -> None:
        self.bar = bar

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float, str], None] | None]:
        """A stage; gives a function that takes the share of it that is done, and words."""
        if self.bar is None:
            yield None
            return
        bar, task = self.bar, self.bar.add_task(name, total=1.0)

        def tick(share: float, words: str) -> None:
            bar.update(task, completed=share, description=f"{name}: {words}")

        yield tick
        bar.remove_task(task)


@contextmanager
def reporting(show: bool) -> Iterator[Report]:
    """Shows a progress bar on standard error while the block runs, and nothing after it."""
    if not show:
        yield Report(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Report(bar)
