"""Where draws go: into memory, or block by block to disk.

On disk, a block of draws is appended at a time and the file is closed after each: what was written stays readable if
the run is killed, or the disk is full: space for a block is taken before the file is touched. NetCDF (``.nc``) is
written by h5netcdf and read by ``arviz.from_netcdf``; Zarr (``.zarr``) needs the package of that name.
"""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_gen._errors import AdviceError
from pyro_gen._files import PARTIAL, WriteError, atomic, open_claimed
from pyro_gen.inference.export import Exporter, Groups

if TYPE_CHECKING:
    import arviz as az
    import xarray as xr

__all__ = ["Disk", "Memory", "check_free", "check_path", "claimed", "store"]

SPARE = 2**20  # bytes, of what a file keeps besides draws
GROUPS: tuple[str, ...] = ("posterior", "sample_stats", "log_likelihood", "posterior_predictive", "observed_data")
GROUPS += ("warmup_posterior", "warmup_sample_stats")


class Memory:
    """Keeps all blocks, and makes one ``InferenceData`` of them."""

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter
        self.blocks: dict[int, Groups] = {}  # by their first draws
        self.others: dict[str, xr.Dataset] = {}

    def write(self, start: int, groups: Groups) -> None:
        """Takes the next block, or the last one anew, longer."""
        self.blocks[start] = groups

    def put(self, groups: Mapping[str, "xr.Dataset"]) -> None:
        """Takes groups without draws, or variables without draws of a group that has been written."""
        self.others.update(groups)

    def result(self) -> "az.InferenceData":
        """Returns all of it."""
        whole = {
            group: {n: np.concatenate([b[group][n] for b in self.blocks.values()], 1) for n in variables}
            for group, variables in self.blocks[0].items()
        }
        datasets = self.exporter.datasets(whole)
        for group, dataset in self.others.items():
            datasets[group] = datasets[group].merge(dataset) if group in datasets else dataset
        return _inference_data(datasets)


class Disk:
    """Writes blocks to a NetCDF file or a Zarr folder, one after the other.

    Arguments:
        exporter: Names the dimensions.
        path: Ends in ``.nc`` or ``.zarr``.
        fresh: Whether to begin anew; else the blocks are appended to what is there.

    Raises:
        ValueError: The path has another ending, its folder is not there, or Zarr is not installed.
    """

    def __init__(self, exporter: Exporter, path: str | Path, fresh: bool = True) -> None:
        self.exporter, self.path = exporter, check_path(path)
        self.zarr = self.path.suffix == ".zarr"
        self.fresh = fresh

    def write(self, start: int, groups: Groups) -> None:
        """Writes a block over what begins at draw ``start``.

        Raises:
            WriteError: The disk is full; the blocks before are as they were.
        """
        try:
            self._reserve(groups)
            if self.fresh:
                if self.path.is_dir():
                    check_free(self.path, overwrite=True)
                    shutil.rmtree(self.path)
                self._create(self.exporter.datasets(groups, start), grows=True)
                self.fresh = False
            else:
                self._append(start, groups)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise WriteError(
                f"{self.path}: the disk is full; the draws of the blocks before draw {start} of each chain are as they "
                "were. Make room and go on by resume=True."
            ) from error

    def _reserve(self, groups: Groups) -> None:
        """Takes the space of a block and gives it back: a NetCDF file in which a write fails is lost."""
        size = sum(a.nbytes for arrays in groups.values() for a in arrays.values())
        probe = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
        try:
            with probe.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size + size // 4 + SPARE)
        finally:
            probe.unlink(missing_ok=True)

    def _create(self, datasets: Mapping[str, "xr.Dataset"], grows: bool = False) -> None:
        if self.zarr:
            for group, dataset in datasets.items():
                dataset.to_zarr(self.path, group=group, mode="a", consolidated=False, zarr_format=2)
            return
        first = self.fresh
        unlimited = ["draw"] if grows else None
        with _unlocked(self.path), atomic(self.path) if first else nullcontext(self.path) as path:
            for group, dataset in datasets.items():
                mode: Any = "a" if path.exists() else "w"
                dataset.to_netcdf(path, mode=mode, group=group, engine="h5netcdf", unlimited_dims=unlimited)

    def _append(self, start: int, groups: Groups) -> None:
        stop = start + next(iter(groups["posterior"].values())).shape[1]
        if self.zarr:
            import zarr

            root: Any = zarr.open_group(self.path, mode="r+")
            for group, arrays in groups.items():
                for name, array in {**arrays, "draw": np.arange(start, stop)}.items():
                    target = root[group][name]
                    axis = 0 if name == "draw" else 1
                    target.resize((*target.shape[:axis], stop, *target.shape[axis + 1 :]))
                    target[(slice(None),) * axis + (slice(start, stop),)] = array
            return
        import h5netcdf  # type: ignore[import-untyped]

        with _unlocked(self.path), h5netcdf.File(self.path, "r+") as file:
            for group, arrays in groups.items():
                file[group].resize_dimension("draw", stop)
                for name, array in {**arrays, "draw": np.arange(start, stop)}.items():
                    target = file[group].variables[name]
                    target[(slice(None),) * (array.ndim > 1) + (slice(start, stop),)] = array

    def put(self, groups: Mapping[str, "xr.Dataset"]) -> None:
        """Writes groups without draws, or variables without draws of a group that has been written."""
        self._create(groups)

    def result(self) -> "az.InferenceData":
        """Opens what was written without loading it."""
        return store(self.path)


@contextmanager
def _unlocked(path: Path) -> Iterator[None]:
    """Says what to do where a file is still open elsewhere."""
    try:
        yield
    except OSError as error:
        if "lock" not in str(error) and "already open" not in str(error):
            raise
        raise ValueError(
            f"{path} is open, in this process or another one, so nothing can be written to it: close what was "
            "read from it (idata.posterior.close(), ...), or give another name."
        ) from error


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keeps others from writing draws to a path meanwhile; what dies lets go of it.

    Raises:
        WriteError: Another run writes there.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        file = open_claimed(lock)
    except WriteError:
        raise WriteError(f"{path}: another run is writing draws to it; wait for it, or give another name.") from None
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        file.close()


def check_free(path: Path, overwrite: bool) -> None:
    """Checks that nothing is lost if draws are written to a path anew.

    Raises:
        ValueError: There is something already, and it is not to be overwritten, or is a folder with other things.
    """
    if path.exists() and not overwrite:
        raise AdviceError(
            f"{path} is there already: go on with it ({{resume}}), overwrite it ({{overwrite}}), or give another name.",
            resume=True,
            overwrite=True,
        )
    if not path.is_dir():
        return
    if path.suffix != ".zarr":
        raise ValueError(f"{path} is a folder: give the name of a file, or a name that ends in .zarr.")
    for entry in path.iterdir():
        if entry.name not in (".zgroup", ".zattrs", ".zmetadata") and not _is_ours(entry):
            raise ValueError(
                f"{path} holds {entry.name}, which is no group of draws that was written here: it is left alone, give "
                "another name."
            )


def _is_ours(group: Path) -> bool:
    """Whether this is a Zarr group of an ``InferenceData`` that was written here."""
    if group.name not in GROUPS or not (group / ".zgroup").is_file():
        return False
    if group.name != "posterior":
        return True
    with suppress(OSError, ValueError):
        note = json.loads((group / ".zattrs").read_text(encoding="utf-8"))
        return isinstance(note, dict) and note.get("inference_library") == "pyro_gen"
    return False


def check_path(path: str | Path) -> Path:
    """Checks where draws are to be written.

    Raises:
        ValueError: The path has another ending than ``.nc`` or ``.zarr``, its folder is not there, or Zarr is not
            installed.
    """
    path = Path(path)
    if path.suffix not in (".nc", ".zarr"):
        raise ValueError(f"{path}: draws are written to a file named .nc (NetCDF) or a folder named .zarr.")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"{path}: its folder {path.parent} is not there; make it first.")
    if path.suffix == ".zarr":
        try:
            import zarr  # noqa: F401
        except ImportError:
            raise ValueError(f"{path} needs the package zarr (pip install zarr); a .nc file needs nothing.") from None
    return path


def store(path: str | Path) -> "az.InferenceData":
    """Opens draws on disk without loading them; ``arviz.from_zarr`` does not know Zarr 3.

    Arguments:
        path: A file ``.nc`` or a folder ``.zarr``.

    Raises:
        ValueError: There is no such file.
    """
    import arviz as az
    import xarray as xr

    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file.")
    if path.suffix != ".zarr":
        return az.from_netcdf(str(path))  # type: ignore[no-any-return]
    groups = sorted(p.name for p in path.iterdir() if p.is_dir())
    return _inference_data({g: xr.open_dataset(path, engine="zarr", group=g, consolidated=False) for g in groups})


def _inference_data(datasets: Mapping[str, "xr.Dataset"]) -> "az.InferenceData":
    import arviz as az

    groups: dict[str, Any] = dict(datasets)
    return az.InferenceData(**groups)
