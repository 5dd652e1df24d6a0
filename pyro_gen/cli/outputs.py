"""What a command writes, and may write over: what it wrote itself, and nothing that it reads.

Whether a file is one of ours is read off the file: weights and checkpoints by what they hold, completed tables by their
first columns, pictures and reports by a mark. Samples and single tables have nothing to be known by, so these are
written over only where they have the name that a command gives by itself.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_gen._errors import AdviceError
from pyro_gen._files import MARK, WriteError, check_folder
from pyro_gen.cli.console import print_json
from pyro_gen.saving import is_saved_program

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Results", "check_distinct", "check_output"]

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


class Results(NamedTuple):
    """The table, the picture and the page that a command writes of what it found, each if its option names it."""

    out: Path | None
    plot: Path | None
    report: Path | None = None

    def check(self, inputs: Iterable[str | Path | None], overwrite: bool) -> None:
        """Checks names and endings, as :func:`check_output` does for each."""
        options = {f"--{name}": path for name, path in self._asdict().items()}
        for (option, path), endings in zip(options.items(), ((".csv",), PICTURES, (".html",)), strict=True):
            if path is not None and path.suffix not in endings:
                raise ValueError(f"{option} {path}: the name of the file ends in {' or '.join(endings)}.")
            check_output(path, option, inputs=inputs, overwrite=overwrite)
        check_distinct(options)

    def write(
        self, found: Any, table: Callable[[], "pd.DataFrame"], page: Callable[[Path], None] | None = None
    ) -> None:
        """Writes a table, the picture ``found.plot()``, and a page."""
        from pyro_gen.imputation.files import write_table
        from pyro_gen.pictures import write

        if self.out is not None:
            write_table(table(), self.out)
        if self.plot is not None:
            write(found.plot(), self.plot)
        if self.report is not None and page is not None:
            page(self.report)

    def tell(self, figures: Mapping[str, Any], words: str, as_json: bool) -> None:
        """Prints figures in JSON, or words, with the files that were written."""
        files = {name: str(path.resolve()) for name, path in self._asdict().items() if path is not None}
        if as_json:
            print_json({**figures, **files})
            return
        print(words)
        for path in files.values():
            print(f"Saved: {path}")


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
