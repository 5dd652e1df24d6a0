"""Files are written whole or not at all: full disks, errors in the middle, two writers, odd targets."""

import errno
import io
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen._files import PARTIAL, WriteError, atomic, open_claimed, remove_abandoned, write_text


@contextmanager
def a_disk_that_takes(size: int) -> Iterator[None]:
    """No file can become larger than so many bytes: what a library meets on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_tensor(path: Path) -> None:
    with path.open("wb") as file:
        torch.save(torch.zeros(10_000), file)


def save_picture(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot(np.random.default_rng(0).normal(size=1000))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:])
    path.write_bytes(buffer.getvalue())


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.txt": lambda path: path.write_text("a" * 10_000),
    "a.pt": save_tensor,
    "a.npy": lambda path: np.save(path, np.zeros(10_000)),
    "a.csv": lambda path: pd.DataFrame({"a": range(10_000)}).to_csv(path),
    "a.parquet": lambda path: pd.DataFrame({"a": np.random.default_rng(0).normal(size=10_000)}).to_parquet(path),
    "a.png": save_picture,
    "a.svg": save_picture,
    "a.pdf": save_picture,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with a_disk_that_takes(2000), pytest.raises(WriteError) as caught, atomic(path) as partial:
        WRITERS[name](partial)
    assert str(caught.value) == (
        f"{path}: cannot be written, {'the disk is full' if name == 'a.npy' else 'a file may not become as large'}; "
        "what stood there before is as it was."
    )
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == [name]
    with atomic(path) as partial:  # on a disk with space
        WRITERS[name](partial)
    assert path.stat().st_size > 2000 and [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
    ],
)
def test_reasons_of_the_system_are_said(tmp_path: Path, number: int, reason: str) -> None:
    with pytest.raises(WriteError, match=reason), atomic(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(RuntimeError, match="other") as caught, atomic(tmp_path / "a"):
        raise RuntimeError("other")
    assert not isinstance(caught.value, WriteError)
    # Reading another file may fail while one is written: that is another error.
    with pytest.raises(PermissionError), atomic(tmp_path / "a"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/elsewhere/t.csv")
    assert list(tmp_path.iterdir()) == []


def write_half(path: Path, failure: BaseException) -> None:
    with atomic(path) as partial:
        partial.write_text("half")
        raise failure


def test_an_error_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    for failure in (ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(failure)):
            write_half(tmp_path / "a.txt", failure)
    assert list(tmp_path.iterdir()) == []


def write_often(path: Path, letter: str) -> None:
    for _ in range(60):
        write_text(path, letter * 100_000)


def test_two_who_write_one_path_leave_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "a" * 100_000)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path, letter)) for letter in "bc"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        text = path.read_text()
        assert len(text) == 100_000 and len(set(text)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0] and list(tmp_path.iterdir()) == [path]


def test_links_permissions_folders_and_long_names(tmp_path: Path) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link.txt"
    path.write_text("old")
    path.chmod(0o600)
    link.symlink_to(path)
    write_text(link, "new")
    assert link.is_symlink() and path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o600
    write_text(tmp_path / "new" / "folder" / "a.txt", "there")
    write_text(tmp_path / ("ä" * 120 + ".txt"), "there")
    with pytest.raises(WriteError, match="its name is too long"):
        write_text(tmp_path / ("a" * 300), "no")
    with pytest.raises(WriteError, match="is a folder, give the name of a file"):
        write_text(tmp_path, "no")
    with pytest.raises(WriteError, match=r"a\.txt.*its folder is a file"):
        write_text(path / "b.txt", "no")
    with pytest.raises(WriteError, match="is no file"):  # which a rename would put a file in the place of
        write_text("/dev/null", "no")
    assert not Path("/dev/null").is_file()


def test_what_is_unfinished_is_hidden_from_readers_of_data_sets(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.parquet") as partial:
        assert partial.name.startswith(".a.") and PARTIAL in partial.name and partial.suffix == ".parquet"
        partial.touch()
        pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "b.parquet")
        assert len(pd.read_parquet(tmp_path)) == 1


def write_and_die(path: Path) -> None:
    with atomic(path) as partial, open_claimed(partial):
        os._exit(0)


def test_what_the_dead_leave_is_removed_and_what_the_living_write_is_not(tmp_path: Path) -> None:
    dead = multiprocessing.get_context("fork").Process(target=write_and_die, args=(tmp_path / "in" / "a.parquet",))
    dead.start()
    dead.join()
    assert len(list(tmp_path.rglob(f"*{PARTIAL}*"))) == 1
    with atomic(tmp_path / "b.txt") as partial, open_claimed(partial) as file:
        file.write(b"whole")
        remove_abandoned(tmp_path)
        assert list(tmp_path.rglob(f"*{PARTIAL}*")) == [partial]
        with pytest.raises(WriteError, match="another process"):
            open_claimed(partial)
        file.seek(0)
        file.write(b"whole")
    assert (tmp_path / "b.txt").read_text() == "whole"
