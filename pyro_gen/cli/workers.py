"""Worker processes of Dask's, for as long as a command takes: Ctrl-C leaves none behind."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import Any

__all__ = ["dask_client"]


@contextmanager
def dask_client(workers: int) -> Iterator[Any]:
    """A client of so many new worker processes of one thread each, which end with the block.

    Raises:
        ValueError: Dask is not installed.
    """
    try:
        from dask import distributed
    except ImportError:
        raise ValueError(
            f"--workers {workers}: needs Dask; install it by pip install 'pyro-gen[dask]', or leave this out."
        ) from None
    engine: Any = distributed  # which has no types
    stack = ExitStack()
    try:
        with _uninterrupted():
            # What goes wrong in a worker is raised where its result is asked for; its log would only say it again.
            cluster = stack.enter_context(
                engine.LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
                )
            )
            client = stack.enter_context(engine.Client(cluster))
        yield client
    finally:
        with _uninterrupted():
            stack.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Puts Ctrl-C off to the end of the block, and keeps it for good from threads and processes that start in it.

    A cluster that is interrupted while it starts or ends does not know its workers. These need no Ctrl-C of their own,
    though a terminal sends it to them too: they are ended by whoever started them.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    met: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: met.append(number))
    mask = None
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        # What is blocked is inherited, unless by who starts the resource tracker, which unblocks.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if met:
        raise KeyboardInterrupt
