"""Progress bars on standard error, all of one look."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Report", "TrainingBar", "new_bar", "progress_bar", "training_bar"]

PATIENCE = 2.0  # seconds before a bar shows


class Report(Protocol):
    """What is called with the fraction done, and a few words where there are some."""

    def __call__(self, fraction: float, words: str = "") -> None: ...


def new_bar() -> "Progress":
    """Makes a progress bar that leaves nothing behind when it stops."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _silent(fraction: float, words: str = "") -> None:
    pass


@contextmanager
def progress_bar(text: str, progress: bool | Callable[[float], None] | None) -> Iterator[Report]:
    """Yields what to call with the fraction done and a few words; a bar shows once it has taken a while.

    Arguments:
        text: What is being done; the words are appended.
        progress: Whether to show a bar, or a function to be called with the fraction done instead; ``None`` shows none.
    """
    if progress is None or progress is False:
        yield _silent
        return
    if progress is not True:
        called = progress

        def call(fraction: float, words: str = "") -> None:
            called(fraction)

        yield call
        return
    began = time.monotonic()
    bars: list[Progress] = []

    def report(fraction: float, words: str = "") -> None:
        if time.monotonic() - began >= PATIENCE:
            if not bars:  # made when it shows: most calls are over before
                bars.append(new_bar())
                bars[0].add_task(text, total=1.0)
                bars[0].start()
            bars[0].update(bars[0].task_ids[0], completed=fraction, description=f"{text}{words}")

    try:
        yield report
    finally:
        for bar in bars:
            bar.stop()


class TrainingBar:
    """A progress bar that costs nothing per step, or what calls a function with the fraction done after each."""

    def __init__(self, progress: "Progress | None", total: int, told: Callable[[float], None] | None = None) -> None:
        self.progress, self.total, self.told = progress, total, told
        self.task = None if progress is None else progress.add_task("training", total=total)
        self.done, self.shown_at = 0, 0.0

    def advance(self, steps: int) -> bool:
        """Counts steps; whether it is time to show them, ten times a second."""
        self.done += steps
        if self.told is not None:
            self.told(self.done / self.total)
        return self.progress is not None and time.monotonic() - self.shown_at > 0.1

    def show(self, text: str) -> None:
        """Shows how far the run is, and a few words."""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=self.done, description=text)
            self.shown_at = time.monotonic()


@contextmanager
def training_bar(progress: bool | Callable[[float], None], total: int) -> Iterator[TrainingBar]:
    """Yields a bar of so many steps, or one that shows nothing or calls a function, as :func:`progress_bar`."""
    if not isinstance(progress, bool):
        yield TrainingBar(None, total, progress)
        return
    if not progress:
        yield TrainingBar(None, total)
        return
    with new_bar() as bar:
        yield TrainingBar(bar, total)
