"""What a command may write over: what it wrote itself, and nothing that it reads.

Whether a file is one of ours is read off the file: weights and checkpoints by what they hold, completed tables by their
first columns, pictures and reports by a mark. Samples and single tables have nothing to be known by, so these are
written over only where they have the name that a command gives by itself.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyro_gen._errors import AdviceError
from pyro_gen._files import MARK, WriteError, check_folder
from pyro_gen.saving import is_saved_program

__all__ = ["check_distinct", "check_output", "check_results"]

PICTURES = (".png", ".pdf", ".svg")
ENDS = 2**16  # bytes at the start and at the end of a file, of which one has the mark


def check_output(
    path: Path | None,
    option: str,
    *,
    inputs: Iterable[str | Path | None] = (),
    overwrite: bool = False,
    named: bool = True,
) -> None:
    """Checks before the work that its result can be written, and that nothing is lost by it.

    Arguments:
        path: The file to write, if any; folders that are not there yet are made later.
        option: The option that names it.
        inputs: What the command reads, files or none.
        overwrite: Whether the user has said that a file may be written over.
        named: Whether the user gave the name.

    Raises:
        ValueError: It is a folder or in a file, read-only, one of the inputs, or not written by pyro-gen.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a folder, give the name of a file.")
    try:
        there = path.exists()
        folder = next(folder for folder in path.absolute().parents if folder.exists())
    except OSError as error:  # a name that is too long, say
        raise ValueError(f"{option} {str(path)[:100]}: cannot be written ({error.strerror}).") from error
    if not folder.is_dir():
        raise ValueError(f"{option} {path}: {folder} is a file, not a folder.")
    if there and not path.is_file():
        raise ValueError(f"{option} {path}: is no file that can be written over, give another name.")
    if not os.access(path if there else folder, os.W_OK):
        raise ValueError(f"{option} {path}: cannot be written, {path if there else folder} is read-only.")
    try:
        check_folder(path)
    except WriteError as error:
        raise ValueError(f"{option} {error}") from error
    if not there or overwrite:
        return
    for given in inputs:
        if given is not None and os.path.exists(given) and os.path.samefile(given, path):
            raise AdviceError(
                f"{option} {path}: the command reads this file, give another name, or {{overwrite}}.", overwrite=True
            )
    if not _ours(path) and (named or path.suffix not in (".csv", ".parquet")):
        raise AdviceError(
            f"{option} {path}: is there already, and not known as written by pyro-gen: give another name, or "
            "{overwrite}.",
            overwrite=True,
        )


def check_distinct(files: Mapping[str, Path | None]) -> None:
    """Raises ValueError where two options name one file to write."""
    met: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        if (other := met.setdefault(path.resolve(), option)) != option:
            raise ValueError(f"{other} and {option} both name {path}: give two files.")


def check_results(data: str, out: Path | None, plot: Path | None, report: Path | None, overwrite: bool) -> None:
    """Checks the table, the picture and the page that a command writes of data."""
    for path, option, endings in (
        (out, "--out", (".csv",)),
        (plot, "--plot", PICTURES),
        (report, "--report", (".html",)),
    ):
        if path is not None and path.suffix not in endings:
            raise ValueError(f"{option} {path}: the name of the file ends in {' or '.join(endings)}.")
        check_output(path, option, inputs=(data,), overwrite=overwrite)
    check_distinct({"--out": out, "--plot": plot, "--report": report})


def _ours(path: Path) -> bool:
    if path.suffix == ".pt":
        return is_saved_program(path)
    if path.suffix == ".nc":
        import h5netcdf  # type: ignore[import-untyped]

        try:
            with h5netcdf.File(path, "r") as file:
                return bool(file["posterior"].attrs["inference_library"] == "pyro_gen")
        except (KeyError, OSError):
            return False
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(ENDS)
        file.seek(max(0, size - ENDS))
        end = file.read(ENDS)
    if path.suffix in (*PICTURES, ".html"):
        return MARK.encode() in start + end
    if path.suffix == ".csv":
        return start.startswith((b".imp,.id", b'".imp",".id"'))
    return path.suffix == ".parquet" and b".imp" in end and b".id" in end  # where Parquet has its schema
