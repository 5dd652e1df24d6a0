"""One progress bar for a run of several stages, of which nobody knows beforehand how many."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyro_gen.inference.progress import PATIENCE, new_bar

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Report", "reporting"]


class Report:
    """Shows stages one after the other, once they have taken a while."""

    def __init__(self, bar: "Progress | None") -> None:
        self.bar, self.began = bar, time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float, str], None]]:
        """A stage; gives a function that takes the share of it that is done, and words."""
        if self.bar is None:
            yield lambda share, words: None
            return
        bar, task = self.bar, self.bar.add_task(name, total=1.0)

        def tick(share: float, words: str) -> None:
            if time.monotonic() - self.began >= PATIENCE:
                bar.start()  # nothing where it has started
                bar.update(task, completed=share, description=f"{name}: {words}")

        yield tick
        bar.remove_task(task)


@contextmanager
def reporting(show: bool) -> Iterator[Report]:
    """Shows a progress bar on standard error while the block runs, and nothing after it."""
    bar = new_bar() if show else None
    try:
        yield Report(bar)
    finally:
        if bar is not None and bar.live.is_started:  # to stop what never started prints an empty line
            bar.stop()
