"""Discrete latent variables of a datum by their values: which there are, and all joint values of them."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen._random import seeded
from pyro_gen.density.inputs import row_chunks, rows_of
from pyro_gen.density.masks import masked_out
from pyro_gen.density.missing import LatentMissing, MissingEntries, active, missing_site, run_model
from pyro_gen.density.requirements import name_of
from pyro_gen.distributions import elements
from pyro_gen.program import Program, fixed
from pyro_gen.traces import data_dim, data_frame, sample_sites, site_log_prob

__all__ = [
    "MAX_SUMMED",
    "FiniteSite",
    "assignments",
    "finite_sites",
    "joint_values",
    "present_units",
    "summed_assignments",
]

MAX_SUMMED = 256  # joint values of discrete latent variables that are summed over beside draws of others


class FiniteSite(NamedTuple):
    """A local latent site with finitely many values, seen as units: variables that are independent given the rest.

    Attributes:
        support: The values of a unit, with shape :math:`(K, *event)`.
        units: How many units a datum has.
        shape: The shape of the value of some data.
        data_dim: Where the data dimension lies in it, counted from the left.
        masked: Whether some of its units may be masked out, beyond the end of a sequence say.
    """

    support: Tensor
    units: int
    shape: torch.Size
    data_dim: int
    masked: bool = False

    def rows_of_units(self, value: Tensor) -> Tensor:
        """(*site) -> (N, units, *event)."""
        n = value.shape[self.data_dim - len(self.shape)]
        full = value.expand(*self.shape[: self.data_dim], n, *self.shape[self.data_dim + 1 :])
        return full.movedim(self.data_dim, 0).reshape(n, self.units, *self.support.shape[1:])

    def value(self, units: Tensor) -> Tensor:
        """(K, n, units, *event) -> (K, *site)."""
        rest = [s for i, s in enumerate(self.shape) if i != self.data_dim]
        return units.reshape(*units.shape[:2], *rest).movedim(1, self.data_dim + 1)


def finite_sites(trace: Trace, leave_out: Collection[str] = ()) -> dict[str, FiniteSite]:
    """The latent sites of a trace that are local and have finitely many values.

    Arguments:
        trace: A trace of the model.
        leave_out: Sites not to look at.
    """
    found = {}
    for name, site in sample_sites(trace).items():
        if site["is_observed"] or name in leave_out or data_frame(site) is None:
            continue
        fn = elements(site["fn"]) if missing_site(site) else site["fn"]
        if not getattr(fn, "has_enumerate_support", False):
            continue
        support = fn.enumerate_support(expand=False)
        units = site["value"].numel() // max(1, fn.event_shape.numel() * data_frame(site).size)
        shape = site["value"].shape
        values, masked = support.reshape(len(support), *fn.event_shape), masked_out(site) is not None
        found[name] = FiniteSite(values, units, shape, data_dim(site), masked and not missing_site(site))
    return found


def present_units(
    sites: Mapping[str, FiniteSite], program: Program | Callable[..., Any], *data: Any
) -> dict[str, Tensor]:
    """Which units of each site there are in each row: all, or those that are missing; booleans (N, units).

    Those that are masked out, and that nothing depends on, have no density: any value stands for them.

    Arguments:
        sites: The sites.
        program: The program, or a plain model function.
        data: What it is called with.
    """
    by_rows = isinstance(program, Program)
    present = {}
    for name, site in sites.items():
        n = len(data[0]) if by_rows else site.shape[site.data_dim]
        present[name] = torch.ones(n, site.units, dtype=torch.bool, device=site.support.device)
    if masked := {n: f for n, f in sites.items() if f.masked}:
        present |= {n: present[n] & ~out for n, out in _idle_units(masked, program, data).items()}
    handler = active(program)
    if handler is None or not handler.names:
        return present
    parts: dict[str, list[Tensor]] = {n: [] for n in sites}
    with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
        for rows in row_chunks(len(data[0]), 4096) if by_rows else [slice(0)]:
            with MissingEntries() as entries:
                run_model(program, *((data[0][rows], *rows_of(data[0], data[1:], rows)) if by_rows else data))
            for statement, missing in entries.items():
                if (name := f"{statement}.missing") in sites and statement in handler.names:
                    units = sites[name].rows_of_units(missing)
                    parts[name].append(units.reshape(*units.shape[:2], -1).any(2))
    return present | {n: torch.cat(p) for n, p in parts.items() if p}


def _idle_units(
    sites: Mapping[str, FiniteSite], program: Program | Callable[..., Any], data: tuple[Any, ...]
) -> dict[str, Tensor]:
    """Which units of finite sites are masked out, booleans (N, units); none where other values change a density."""
    parts: dict[str, list[Tensor]] = {n: [] for n in sites}
    with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
        for rows in row_chunks(len(data[0]), 4096) if isinstance(program, Program) else [slice(None)]:
            here = (data[0][rows], *rows_of(data[0], data[1:], rows)) if isinstance(program, Program) else data
            first = _trace(program, here, {})
            values = {n: s["value"] for n, s in sample_sites(first).items() if not s["is_observed"]}
            out = {n: masked_out(first.nodes[n]) for n in sites}
            gone = {n: o for n, o in out.items() if o is not None}
            last = {n: f.support[-1].to(values[n]).expand_as(values[n]) for n, f in sites.items()}
            one, other = (
                _trace(program, here, values | {n: torch.where(o, at[n], values[n]) for n, o in gone.items()})
                for at in (values, last)
            )
            if not all(torch.equal(site_log_prob(s), site_log_prob(other.nodes[n])) for n, s in _scored(one)):
                return {}
            for name, masked in gone.items():
                units = sites[name].rows_of_units(masked)
                parts[name].append(units.reshape(*units.shape[:2], -1).any(2))
    return {n: torch.cat(p) for n, p in parts.items() if p}


def _trace(program: Program | Callable[..., Any], data: tuple[Any, ...], values: Mapping[str, Tensor]) -> Trace:
    with seeded(1), pyro.poutine.trace() as tape, fixed(values):
        run_model(program, *data)
    return tape.trace


def _scored(trace: Trace) -> list[tuple[str, Any]]:
    return [(n, s) for n, s in sample_sites(trace).items() if not s["infer"].get("_deterministic")]


def joint_values(sites: Mapping[str, FiniteSite], present: Mapping[str, Tensor]) -> Tensor:
    """How many joint values the units that are present have in each row, (N,)."""
    logs = [present[n].sum(1) * math.log(len(f.support)) for n, f in sites.items()]
    return torch.stack(logs).sum(0).double().exp().round()


def assignments(sites: Mapping[str, FiniteSite], present: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """All joint values of finite sites.

    Arguments:
        sites: The sites.
        present: Which units are there in each row, booleans :math:`(n, units)`; others keep their first value.

    Returns:
        Values by name, each with shape :math:`(A, *site)`, of n rows; and which of them count, booleans :math:`(A, n)`:
        a row with fewer joint values than another has each of them once among those.
    """
    sizes = torch.cat([torch.where(p, len(sites[n].support), 1) for n, p in present.items()], 1)  # (n, all units)
    totals = sizes.prod(1)
    number = torch.arange(int(totals.max()), device=sizes.device)
    # Mixed radix: the last unit changes fastest, as in nested loops.
    stride = sizes.flip(1).cumprod(1).flip(1) // sizes
    digits = number.reshape(-1, 1, 1) // stride % sizes  # (A, n, all units)
    split = digits.split([f.units for f in sites.values()], 2)
    values = {n: f.value(f.support[d]) for (n, f), d in zip(sites.items(), split, strict=True)}
    return values, number.unsqueeze(1) < totals


def summed_assignments(
    program: Program | Callable[..., Any],
    data: tuple[Any, ...],
    prototype: Trace,
    hold: Collection[str],
    handler: LatentMissing,
    stacked: bool,
    device: torch.device,
) -> tuple[dict[str, Tensor], Tensor, LatentMissing]:
    """Joint values of the discrete variables of a datum, (A, *site), where some are missing entries that feed more.

    How the model is written is then its own affair: it runs for each of them.

    Arguments:
        program: The program, or the plain model function.
        data: What it is called with.
        prototype: A trace of the model.
        hold: Sites at given values.
        handler: Makes missing entries latent.
        stacked: Whether the data are many data sets.
        device: Where the values are to be.

    Returns:
        The values, which of them count in which row, booleans (A, N), and the handler with new sites masked; no values
        where nothing is to be summed over in this way.

    Raises:
        ValueError: There are too many.
    """
    nothing: tuple[dict[str, Tensor], Tensor] = {}, torch.zeros(0, 0, dtype=torch.bool)
    finite = finite_sites(prototype, hold)
    summed = [n for n in handler.names if f"{n}.missing" in finite]
    if not summed:
        return *nothing, handler
    if not stacked:
        handler = handler.with_masked(summed)
        present = present_units(finite, program, *data)
    else:  # each data set has holes of its own: all entries of all rows are summed over
        rows = {n: f.shape[f.data_dim] for n, f in finite.items()}
        present = {n: torch.ones(rows[n], f.units, dtype=torch.bool, device=device) for n, f in finite.items()}
    most = int(joint_values(finite, present).max())
    if most > MAX_SUMMED:
        raise AdviceError(
            f"The discrete latent variables of a datum of {name_of(program)}, the missing entries of "
            f"'{summed[0]}' among them, have {most} joint values, more than the {MAX_SUMMED} that are summed over "
            "beside continuous ones: use {method}.",
            method="iwae",
        )
    return *assignments(finite, present), handler
