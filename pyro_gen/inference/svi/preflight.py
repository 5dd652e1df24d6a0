"""What is looked at before the first step: data and program, and whether they go together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from pyro.util import check_site_shape
from torch import Tensor
from torch.utils.data import Dataset

from pyro_gen._errors import AdviceError, InvalidValuesError, warn
from pyro_gen.data import Batches, as_tensor
from pyro_gen.data.batches import on_device
from pyro_gen.density.data_support import DataSupport
from pyro_gen.density.inputs import as_tensors
from pyro_gen.density.missing import LatentMissing, find_latent_missing
from pyro_gen.density.shapes import check_broadcasts
from pyro_gen.program import Program, data_size
from pyro_gen.traces import is_local, sample_sites, structure, trace_pair, validated

__all__ = ["any_missing", "first_rows", "latent_missing_of", "preflight_all", "refuse_local_latents", "typed"]


# Rows that a program sees before training, to create its parameters and to start them near the data.
ROWS_TO_INITIALISE = 4096


def any_missing(program: Program, batches: Batches, held_out: Batches | None) -> bool:
    """Looks at all data once, so that a recorded graph need not, and says whether any is missing.

    Raises:
        ValueError: The program does not take some of them, or nothing is observed in them.
    """
    missing = False
    for source, given in ((batches, "data"), (held_out, "validation")):
        if source is None:
            continue
        observed = False
        for batch in source.epoch(0):
            program.check_inputs(*batch)
            parts = [part for part in batch if isinstance(part, Tensor) and part.is_floating_point()]
            missing = missing or any(bool(torch.isnan(part).any()) for part in parts)
            observed = observed or not bool(torch.isnan(batch[0]).all())
        if not observed:
            raise ValueError(
                f"fit: nothing is observed in {given}: all {source.size} rows are NaN throughout, so there is nothing "
                "to learn from. Rows and entries may be missing, not all of them: look at how these were read, scaled "
                "or transformed."
            )
    return missing


def latent_missing_of(
    program: Program, data: Any, validation: Any, transform: Callable[[Tensor], Tensor] | None, device: torch.device
) -> LatentMissing:
    """Which missing values of all data feed a later density, so that no step need find that out.

    Where training starts they may feed none: all classes at the same mean, say. So it is looked for beside that, too.
    """
    found = []
    for part in (data, validation):
        if part is not None:
            for rows in Batches(part, ROWS_TO_INITIALISE, seed=0, transform=transform).epoch(0):
                batch = on_device(rows, device)
                found.append(find_latent_missing(program, *batch))
                with _moved(program):
                    found.append(find_latent_missing(program, *batch))
    return LatentMissing.union(program, found)


@contextmanager
def _moved(program: Program) -> Iterator[None]:
    """Parameters in general position, a little beside where they are, for the time being."""
    parameters = [p for p in program.parameters() if p.is_floating_point()]
    before = [p.detach().clone() for p in parameters]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for p in parameters:
                noise = torch.rand(p.shape, generator=generator, dtype=p.dtype).to(p.device)
                p.add_(1e-3 * noise * (1 + p.abs()))
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(parameters, before, strict=True):
                p.copy_(value)


def refuse_local_latents(program: Program, batch: Sequence[Any]) -> None:
    """Refuses minibatches to an autoguide, which has parameters for each datum."""
    if local := structure(program, *batch).local:
        raise AdviceError(
            f"An autoguide has parameters of '{local[0]}' for each datum, so it cannot be trained in minibatches: give "
            "{batch_size} the size of the data, or write a guide that computes them from x.",
            batch_size=...,
        )


def typed(program: Program, data: Any, wide: bool) -> Any:
    """Data in memory in the dtype of the program; where it is still to be transformed, ``x`` with all its digits."""
    if data is None or isinstance(data, Dataset):
        return data
    x, *context = data if isinstance(data, tuple) and data else (data,)
    if not wide:
        return as_tensors(program, x, *context)
    x = as_tensor(x, "data", torch.float64)
    return (x, *as_tensors(program, x[:1], *context)[1:])


def first_rows(batches: Batches, count: int) -> list[Tensor]:
    """At least ``count`` rows of the data, where there are so many."""
    taken: list[tuple[Tensor, ...]] = []
    for batch in batches.epoch(0):
        taken.append(batch)
        if sum(len(b[0]) for b in taken) >= count:
            break
    parts = zip(*taken, strict=True)
    return [torch.cat(part) if _has_rows(taken[0], part[0]) else part[0] for part in parts]


def _has_rows(batch: Sequence[Any], part: Any) -> bool:
    return isinstance(part, Tensor) and part.shape[:1] == batch[0].shape[:1]


def preflight_all(program: Program, batches: Batches, everything: Batches, device: torch.device) -> None:
    """Runs the program on a first batch, and asks of all data whether they have values that no site takes.

    Arguments:
        program: The program.
        batches: The data of this process.
        everything: Those of all processes.
        device: Of the program.

    Raises:
        ValueError: Program and data do not fit.
    """

    def run(batch: Sequence[Any], rows: Tensor) -> DataSupport:
        return preflight(program, on_device(batch, device), batches.size, lambda i: int(rows[i]))

    found = run(next(batches.epoch(0)), next(batches.rows(0)))
    if not (found.rules or found.of_rows):
        return
    for batch, rows in zip(everything.epoch(0), everything.rows(0), strict=True):
        if len(found.doubts(batch[0].to(device))):
            run(batch, rows)  # a bound that it computes from the data may be another here


def preflight(program: Program, batch: Sequence[Any], size: int, row: Callable[[int], int]) -> DataSupport:
    """Runs the program once with Pyro's validation on: the user meets Pyro's messages, and no silent broadcast.

    Arguments:
        program: The program.
        batch: Data and their context.
        size: The number of all data.
        row: The number that the user knows a row of the batch by.

    Returns:
        What values the observed sites take.
    """
    found = DataSupport(batch[0].contiguous())
    with torch.no_grad(), pyro.validation_enabled(True), data_size(size):
        try:
            with found:
                model_trace, guide_trace = trace_pair(program, found.x, *batch[1:])
        except (RuntimeError, ValueError) as error:
            if len(batch[0]) == size or isinstance(error, InvalidValuesError):
                raise
            raise AdviceError(
                f"{type(program).__name__} does not run on a minibatch of {len(batch[0])} of {size} rows: "
                f"{str(error).strip().splitlines()[0]} A guide with parameters for each row is not amortised: give "
                "{batch_size}, or a guide that computes the local latent variables from x.",
                batch_size=size,
            ) from error
        found.check(found.x, row)
        for where, trace in (("guide", guide_trace), ("model", model_trace)):
            for site in sample_sites(trace).values():
                with validated(where, site):
                    _score(trace, site["name"])
            for site in sample_sites(trace).values():
                try:
                    check_site_shape(site, max_plate_nesting=1000)
                except ValueError as error:
                    raise ValueError(f"{where} of {type(program).__name__}, {str(error).strip()}") from None
            check_broadcasts(trace)
        _say_what_is_not_scaled(program, model_trace, guide_trace, size / len(batch[0]))
    return found


def _score(trace: Trace, name: str) -> None:
    """Computes the log-density of one site, and keeps it in the trace."""
    trace.compute_log_prob(lambda other, _: other == name)


def _say_what_is_not_scaled(program: Program, model: Trace, guide: Trace, scale: float) -> None:
    """Warns where a minibatch stands for itself alone, and not for all of the data."""
    if scale == 1:
        return
    observed = [s for s in sample_sites(model).values() if s["is_observed"] and not s["infer"].get("_deterministic")]
    sites = [s for t in (model, guide) for s in sample_sites(t).values() if is_local(s)]
    sites += [] if any(is_local(s) for s in observed) else observed[:1]
    plain = [s["name"] for s in sites if not isinstance(s["scale"], Tensor) and s["scale"] == 1.0]
    if plain:
        warn(
            f"fit: site '{plain[0]}' of {type(program).__name__} counts a minibatch of 1 / {scale:.3g} of the data as "
            "if it were all of them, so the loss is not that of a datum, and global latent variables weigh too much "
            "against the data: open the data plate by self.plate(x), pg.plate(x) in a function, which scales to the "
            "data size."
        )
