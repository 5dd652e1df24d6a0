"""Draws as ``arviz.InferenceData``: named dimensions, all groups, in memory or streamed to disk.

| group | variables | dimensions |
|---|---|---|
| ``posterior`` | latent and deterministic sites | chain, draw, plates by their names, events |
| ``sample_stats`` | ``lp``, ``energy``, ``acceptance_rate``, ``n_steps``, ``diverging``, ... | chain, draw (and data) |
| ``log_likelihood`` | observed sites, event dimensions summed | chain, draw, plates |
| ``posterior_predictive`` | observed sites | chain, draw, plates, events |
| ``observed_data`` | observed sites | plates, events |
| ``warmup_posterior``, ``warmup_sample_stats`` | as without ``warmup_`` | as there |

The log-likelihood is that of the density itself, evaluated under ``vmap``: each draw meets all data whatever the shapes
are, masks and missing entries are respected, discrete latent variables are summed out.

On disk, a block of draws is appended at a time and the file is closed after each: what was written stays readable if
the run is killed, or the disk is full: space for a block is taken before the file is touched. NetCDF (``.nc``) is
written by h5netcdf and read by ``arviz.from_netcdf``; Zarr (``.zarr``) needs the package of that name.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_gen._files import PARTIAL, WriteError, atomic, open_claimed
from pyro_gen._random import seeded
from pyro_gen.density import ProgramDensity
from pyro_gen.inference.labels import draw_beside
from pyro_gen.traces import sample_sites

if TYPE_CHECKING:
    import arviz as az
    import xarray as xr
    from pyro.poutine.trace_struct import Trace

__all__ = [
    "BLOCK",
    "ENTRIES",
    "LIMIT",
    "Disk",
    "Exporter",
    "Layout",
    "Memory",
    "check_free",
    "check_path",
    "claimed",
    "layout",
    "store",
]

BLOCK = 100  # draws, at most, that are evaluated and written at once
ENTRIES = 2**24  # numbers of a block
SPARE = 2**20  # bytes, of what a file keeps besides draws
LIMIT = 2**28  # numbers of a group that nobody asked for: 1 GiB in float32

GROUPS: tuple[str, ...] = ("posterior", "sample_stats", "log_likelihood", "posterior_predictive", "observed_data")
GROUPS += ("warmup_posterior", "warmup_sample_stats")

Groups = dict[str, dict[str, npt.NDArray[Any]]]


# ----------------------------------------------------------------------------------------------------------------------
# Names of dimensions


class Layout:
    """Names of the dimensions of sites, and labels along them.

    Arguments:
        sites: Names of the dimensions of the value of each site, chain and draw left out.
        batch: How many of them are batch dimensions, by site.
        dims: Names that the user gives instead, by site.
        coords: Labels by name of the dimension.
    """

    def __init__(
        self,
        sites: Mapping[str, Sequence[str]],
        batch: Mapping[str, int] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.sites = {name: tuple(names) for name, names in sites.items()}
        self.batch = dict(batch or {})
        self.dims = {name: tuple([d] if isinstance(d, str) else d) for name, d in (dims or {}).items()}
        self.coords = {name: np.asarray(labels) for name, labels in (coords or {}).items()}
        self.sizes: dict[str, int] = {}  # of the dimensions met so far

    def of(self, site: str, shape: Sequence[int], events_summed: bool = False) -> tuple[str, ...]:
        """The names of the dimensions of a value.

        Arguments:
            site: The name of the site.
            shape: The shape of its value, chain and draw left out.
            events_summed: Whether the event dimensions are summed out.

        Raises:
            ValueError: The user named another number of dimensions.
        """
        names = self.sites.get(site)
        given = self.dims.get(site)
        if given is not None:
            full = len(shape) if names is None or not events_summed else len(names)
            if len(given) not in (full, len(shape)):
                raise ValueError(
                    f"dims={{{site!r}: {list(given)}}} names {len(given)} dimensions, and its values have {full}: "
                    f"shape {tuple(shape)}."
                )
            return given[: len(shape)]
        if names is not None and events_summed:
            names = names[: self.batch.get(site, len(names))]
        if names is None or len(names) != len(shape):
            return tuple(f"{site}_dim_{i}" for i in range(len(shape)))
        return names

    def meet(self, site: str, dims: Sequence[str], shape: Sequence[int]) -> None:
        """Takes up the dimensions of a value.

        Raises:
            ValueError: A name cannot stand for a dimension, or for one of this length.
        """
        for name, size in zip(dims, shape, strict=True):
            if name == site or name in ("chain", "draw"):
                raise ValueError(f"dims: a dimension of {site!r} cannot be called {name!r}; choose another name.")
            if self.sizes.setdefault(name, size) != size:
                raise ValueError(
                    f"The dimension {name!r} is {size} long at {site!r} and {self.sizes[name]} long at another site: "
                    "name one of them otherwise, by dims."
                )
            if len(self.coords.get(name, range(size))) != size:
                raise ValueError(
                    f"coords={{{name!r}: ...}} has {len(self.coords[name])} labels, and the dimension is {size} long."
                )

    def labels(self, dims: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
        """Labels along dimensions, numbers from 0 where the user gives none."""
        return {name: self.coords.get(name, np.arange(self.sizes[name])) for name in dims}

    def check(self, sites: Sequence[str]) -> None:
        """Raises ValueError where the user named a site or a dimension that there is none of."""
        if unknown := [name for name in self.dims if name not in sites]:
            raise ValueError(f"dims names {unknown[0]!r}, which is no site: the sites are {', '.join(sites)}.")
        if unknown := [name for name in self.coords if name not in self.sizes]:
            known = sorted(self.sizes)
            raise ValueError(
                f"coords names {unknown[0]!r}, which is no dimension: the dimensions are "
                f"{', '.join(known) or '(none)'}; name one by dims."
            )


def layout(
    trace: "Trace",
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> Layout:
    """Reads the names of dimensions off a trace of a model: plates by their names, events by number as ArviZ does.

    Arguments:
        trace: The trace.
        dims: Names that the user gives instead, by site.
        coords: Labels by name of the dimension.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     with pyro.plate("school", 8):
        ...         pyro.sample("theta", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> layout(pyro.poutine.trace(model).get_trace()).sites
        {'theta': ('school', 'theta_dim_1')}
    """
    sites: dict[str, list[str]] = {}
    batch: dict[str, int] = {}
    for name, site in sample_sites(trace).items():
        shape = torch.as_tensor(site["value"]).shape
        deterministic = site["infer"].get("_deterministic", False)
        events = 0 if deterministic else site["fn"].event_dim
        names = [f"{name}_dim_{i}" for i in range(len(shape))]
        for frame in site["cond_indep_stack"]:
            if not frame.vectorized:
                continue
            # pyro.deterministic declares all dimensions events: the plate's own may be the first as well.
            places = [len(shape) - events + frame.dim, *([0] if deterministic else [])]
            for place in places:
                if 0 <= place < len(shape) and shape[place] == frame.size:
                    names[place] = frame.name if frame.name not in ("chain", "draw") else f"{frame.name}_plate"
                    break
        sites[name], batch[name] = names, len(shape) - events
    return Layout(sites, batch, dims, coords)


# ----------------------------------------------------------------------------------------------------------------------
# Draws as arrays


class Exporter:
    """Makes the groups of an ``InferenceData`` from blocks of draws.

    Arguments:
        source: The density; ``None`` where there is no more to be made of draws than their own groups.
        layout: Names of dimensions.
        log_likelihood: Whether to evaluate the log-likelihood of each datum.
        predictive: Whether to draw replicated data.
        seed: Seeds the replicated data.
        attrs: What is noted with the posterior.
    """

    def __init__(
        self,
        source: ProgramDensity | None,
        layout: Layout,
        *,
        log_likelihood: bool = True,
        predictive: bool = True,
        seed: int = 0,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        self.source, self.layout, self.seed = source, layout, seed
        self.log_likelihood, self.predictive = log_likelihood, predictive
        self.attrs = dict(attrs or {})

    def groups(
        self,
        start: int,
        z: Tensor,
        values: Mapping[str, Tensor],
        stats: Mapping[str, Tensor],
        held: Mapping[str, Tensor] | None = None,
    ) -> Groups:
        """Evaluates a block of draws.

        Arguments:
            start: The number of draws before the block, which seeds the replicated data.
            z: Unconstrained points, with shape :math:`(S, C, *B, D)`.
            values: Values of latent and deterministic sites by name, each with shape :math:`(S, C, *)`.
            stats: Figures of the transitions by name, each with shape :math:`(S, C, *B)`.
            held: Values of the sites that the density holds, each with shape :math:`(S * C, *)`.

        Returns:
            Arrays by group and variable, each with shape :math:`(C, S, *)`.
        """
        if self.source is not None:
            with seeded(_seed(self.seed, start)):
                beside = draw_beside(self.source, {n: v.flatten(0, 1) for n, v in values.items()})
            values = {**values, **{n: v.unflatten(0, z.shape[:2]) for n, v in beside.items()}}
        out: Groups = {"posterior": _arrays(values), "sample_stats": _arrays(stats)}
        if self.source is None:
            return {group: arrays for group, arrays in out.items() if arrays}
        flat = z.flatten(0, 1)
        with torch.no_grad():
            if self.log_likelihood:
                found = self.source.pointwise_log_likelihood(flat, held=held)
                out["log_likelihood"] = _arrays({n: v.unflatten(0, z.shape[:2]) for n, v in found.items()})
            if self.predictive:
                with seeded(_seed(self.seed, start)):
                    drawn = self.source.predict(flat, held=held)
                out["posterior_predictive"] = _arrays({n: v.unflatten(0, z.shape[:2]) for n, v in drawn.items()})
        return {group: arrays for group, arrays in out.items() if arrays}

    def datasets(self, groups: Groups, start: int = 0) -> dict[str, "xr.Dataset"]:
        """Names the dimensions of the arrays of :meth:`groups`; ``start`` numbers the draws."""
        return {name: self._dataset(name, arrays, start) for name, arrays in groups.items()}

    def _dataset(self, group: str, arrays: Mapping[str, npt.NDArray[Any]], start: int) -> "xr.Dataset":
        import xarray as xr

        variables: dict[str, Any] = {}
        for name, array in arrays.items():
            shape = array.shape[2:]
            if group.endswith("sample_stats"):
                dims: tuple[str, ...] = ("data",) if shape else ()
            else:
                dims = self.layout.of(name, shape, events_summed=group == "log_likelihood")
            self.layout.meet(name, dims, shape)
            variables[name] = (("chain", "draw", *dims), array)
            chains, draws = array.shape[:2]
        coords = self.layout.labels(d for dims, _ in variables.values() for d in dims[2:])
        coords |= {"chain": np.arange(chains), "draw": np.arange(start, start + draws)}
        return xr.Dataset(variables, coords, self._attrs(group))

    def _attrs(self, group: str) -> dict[str, Any]:
        note = {
            "inference_library": "pyro_gen",
            "inference_library_version": metadata.version("pyro-gen"),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return note | (self.attrs if group == "posterior" else {})

    def observed(self) -> dict[str, "xr.Dataset"]:
        """The group of the observed data; nothing where there are none."""
        import xarray as xr

        observed = {} if self.source is None else dict(self.source.observed)
        variables: dict[str, Any] = {}
        for name, value in observed.items():
            array = torch.as_tensor(value).detach().cpu().numpy()
            dims = self.layout.of(name, array.shape)
            self.layout.meet(name, dims, array.shape)
            variables[name] = (dims, array)
        if not variables:
            return {}
        coords = self.layout.labels(d for dims, _ in variables.values() for d in dims)
        return {"observed_data": xr.Dataset(variables, coords, self._attrs("observed_data"))}


def _arrays(values: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """(S, C, *) -> (C, S, *)."""
    return {name: value.detach().transpose(0, 1).cpu().numpy() for name, value in values.items()}


def _seed(seed: int, start: int) -> int:
    """A seed for the block of draws that begins at ``start``."""
    return int.from_bytes(hashlib.blake2b(f"predict {seed} {start}".encode(), digest_size=7).digest())


# ----------------------------------------------------------------------------------------------------------------------
# Where they go


class Memory:
    """Keeps all blocks, and makes one ``InferenceData`` of them."""

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter
        self.blocks: list[Groups] = []
        self.others: dict[str, xr.Dataset] = {}

    def write(self, start: int, groups: Groups) -> None:
        """Takes the next block."""
        self.blocks.append(groups)

    def put(self, groups: Mapping[str, "xr.Dataset"]) -> None:
        """Takes groups without draws, or variables without draws of a group that has been written."""
        self.others.update(groups)

    def result(self) -> "az.InferenceData":
        """Returns all of it."""
        whole = {
            group: {n: np.concatenate([b[group][n] for b in self.blocks], 1) for n in variables}
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
        raise ValueError(
            f"{path} is there already: go on with it (resume=True), overwrite it (overwrite=True), or give another "
            "name."
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
