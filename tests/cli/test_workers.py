"""Ctrl-C ends the worker processes of Dask's with the command, without a word of theirs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

pytest.importorskip("distributed")


def dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are there still after a while; the tracker of resources ends after the command."""
    end = time.monotonic() + 5
    while left := [p for p in processes if p.is_running() and not dead(p)]:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return left


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_leaves_no_worker(tmp_path: Path, times: int) -> None:
    (tmp_path / "d").mkdir()
    x = np.random.default_rng(0).normal(size=(50, 3))
    pd.DataFrame(np.where(x > 1, np.nan, x), columns=list("abc")).to_parquet(tmp_path / "d" / "1.parquet")
    words = ["impute", "d", "--workers", "2", "--method", "gaussian", "--draws", "2", "--no-progress"]
    # A session of its own: a terminal sends Ctrl-C to all processes of it.
    command = subprocess.Popen(
        [sys.executable, "-m", "pyro_gen", *words], cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True
    )
    children: list[psutil.Process] = []
    while len(children) < 3 and command.poll() is None:  # the resource tracker and two workers
        children = psutil.Process(command.pid).children(recursive=True)
        time.sleep(0.02)
    for _ in range(times):
        os.killpg(command.pid, signal.SIGINT)
        time.sleep(0.2)
    _, told = command.communicate(timeout=60)
    assert (command.returncode, told) == (130, b"interrupted\n")
    assert len(children) >= 3 and alive(children) == []
