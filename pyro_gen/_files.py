"""Files that are whole or not there: each is written beside itself under a name of its own, and renamed when done.

A full disk, a kill or an error in the middle leave what stood there before. Two who write one path at once each write
a file of their own, and the last to finish has it.
"""

import errno
import io
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "MARK",
    "PARTIAL",
    "WriteError",
    "atomic",
    "check_folder",
    "open_claimed",
    "remove_abandoned",
    "save_figure",
    "write_text",
]

#: What the name of an unfinished file has in it, which begins with a dot: readers of data sets leave such files out.
PARTIAL = ".partial"

#: What pictures and pages have in them, to be known by.
MARK = "written by pyro-gen"

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "a file may not become as large",
    errno.EACCES: "there is no permission to",
    errno.EPERM: "there is no permission to",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk does not take it",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ENOTDIR: "its folder is a file",
    errno.EEXIST: "its folder is a file",
}


class WriteError(OSError, ValueError):
    """A file cannot be written; the message names it and says why."""


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives the path of a file to write, which takes the place of another when all went well.

    Folders that are missing are made. Libraries that hide the error of a full disk behind their own, as
    :func:`torch.save` does with a path, show it where they are given an open file.

    Arguments:
        path: What to write; a symbolic link stays one, and a file keeps its permissions.

    Raises:
        WriteError: The disk is full, or the file cannot be written for another reason of the system's.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic(path) as partial:
        ...     _ = partial.write_text("whole")
        ...     path.exists()
        False
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('whole', 1)
    """
    target = Path(os.path.realpath(path))
    # The ending stays: many libraries read the format off it.
    partial = target.with_name(f".{target.stem[:40]}.{uuid.uuid4().hex[:12]}{PARTIAL}{target.suffix}")
    try:
        if target.exists() and not target.is_file():
            raise WriteError(f"{path}: is {'a folder' if target.is_dir() else 'no file'}, give the name of a file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    except (TypeError, ValueError):
        raise  # a sentence already
    except Exception as error:  # libraries stumble over a failed write in ways of their own
        if reason := _reason(error, partial, target):
            raise WriteError(f"{path}: cannot be written, {reason}; what stood there before is as it was.") from error
        raise
    finally:
        with suppress(OSError):
            partial.unlink()


def check_folder(path: str | os.PathLike[str]) -> None:
    """Tries whether a file can be made where one is to be written, before the work that it is to hold.

    Folders that are missing are made and taken away again: permissions do not say whether they can be made.

    Raises:
        WriteError: It cannot.
    """
    folder = Path(os.path.realpath(path)).parent
    made: list[Path] = []
    try:
        for above in reversed((folder, *folder.parents)):
            if not above.is_dir():
                above.mkdir()
                made.append(above)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or type(error).__name__)
        raise WriteError(f"{path}: cannot be written, {reason}.") from error
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text as UTF-8, whole or not at all.

    Raises:
        WriteError: It cannot be written.
    """
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_figure(figure: "Figure", path: str | os.PathLike[str], **options: Any) -> Path:
    """Writes a picture of matplotlib's, whole or not at all; the name's ending says the format.

    Arguments:
        figure: The picture.
        path: The file.
        options: As of ``Figure.savefig``.

    Returns:
        The file, by its whole path.

    Raises:
        WriteError: It cannot be written.
    """
    buffer = io.BytesIO()  # matplotlib leaves files open where a write fails
    kind = Path(path).suffix[1:]
    key = {"png": "Software", "svg": "Creator", "pdf": "Creator"}.get(kind)
    figure.savefig(buffer, format=kind or None, metadata=None if key is None else {key: MARK}, **options)
    with atomic(path) as partial:
        partial.write_bytes(buffer.getvalue())
    return Path(path).resolve()


# ----------------------------------------------------------------------------------------------------------------------
# What those leave behind who are killed while they write


def open_claimed(partial: Path) -> BinaryIO:
    """Opens a file to write that :func:`remove_abandoned` of whatever process leaves alone until it is closed."""
    while True:
        file = partial.open("wb")
        if not _locked(file):
            file.close()
            raise WriteError(f"{partial}: another process writes this file.")
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(partial)):
                return file
        file.close()  # removed before it was locked


def remove_abandoned(folder: Path) -> None:
    """Removes the unfinished files in a folder, at any depth, that nobody is writing any more."""
    for leftover in folder.rglob(f".*{PARTIAL}*"):
        with suppress(OSError), leftover.open("rb") as file:
            if sys.platform != "win32" and _locked(file):
                leftover.unlink()


def _locked(file: BinaryIO) -> bool:
    """Locks a file until it is closed, or the process dies; whether nobody else has."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _reason(error: BaseException, partial: Path, target: Path) -> str:
    """Why the system did not write a file, from an exception or from what it was raised in place of; else nothing."""
    at: BaseException | None = error
    while at is not None and not isinstance(at, WriteError):
        own = not isinstance(at, OSError) or at.filename is None or Path(at.filename) == partial
        own = own or Path(str(getattr(at, "filename", ""))) in (target, *target.parents)
        if isinstance(at, OSError) and own:
            if at.errno in _REASONS:
                return _REASONS[at.errno]
            if at.errno is None and "written" in str(at):  # numpy.save: "100 requested and 92 written"
                return _REASONS[errno.ENOSPC]
        at = at.__cause__ or at.__context__
    return ""
