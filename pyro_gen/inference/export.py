"""Draws as ``arviz.InferenceData``: named dimensions and all groups.

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
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import ProgramDensity
from pyro_gen.inference.labels import draw_beside
from pyro_gen.traces import sample_sites

if TYPE_CHECKING:
    import xarray as xr
    from pyro.poutine.trace_struct import Trace

__all__ = ["LIMIT", "Exporter", "Groups", "Layout", "block_size", "layout"]

BLOCK = 100  # draws, at most, that are evaluated and written at once
ENTRIES = 2**24  # numbers of a block
LIMIT = 2**28  # numbers of a group that nobody asked for: 1 GiB in float32


Groups = dict[str, dict[str, npt.NDArray[Any]]]


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


def block_size(target: ProgramDensity, exporter: Exporter, chains: int) -> int:
    """Draws per block: the same for any number of draws, since blocks seed the replicated data."""
    latent = sum(torch.as_tensor(s["value"]).numel() for s in target.prototype.nodes.values() if s["type"] == "sample")
    observed = sum(v.numel() for v in target.observed.values())
    numbers = latent + (exporter.log_likelihood + exporter.predictive) * observed
    return max(1, min(BLOCK, ENTRIES // (chains * max(numbers, 1))))
