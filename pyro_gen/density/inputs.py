"""What everything that evaluates a program shares: its inputs, their rows, and chunks of them by memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyro_gen._internals import site_mask
from pyro_gen._random import exclusive, seeded
from pyro_gen.data import as_tensor
from pyro_gen.data.precision import to_precision
from pyro_gen.data.tables import as_numbers
from pyro_gen.program import Program
from pyro_gen.traces import data_frame, is_local, sample_sites


def as_inputs(program: Program, x: Any, *context: Any) -> tuple[Any, ...]:
    """Makes data and context tensors of the program's floating dtype.

    Arguments:
        program: The program.
        x: The data: a tensor, array, data frame or list of numbers with shape :math:`(N, *)`, NaN where missing.
        context: Tensors, arrays, data frames or lists with a number for each row; all else is handed on as it is.

    Returns:
        ``(x, *context)``.

    Raises:
        ValueError: As by :func:`pyro_gen.data.as_tensor` and :meth:`pyro_gen.Program.check_inputs`.
    """
    parts = as_tensors(program, x, *context)
    program.check_inputs(*parts)
    return parts


def as_tensors(program: Program, x: Any, *context: Any) -> tuple[Any, ...]:
    """As :func:`as_inputs`, of data that are still to be transformed to what the program takes."""
    like = next((p for p in program.parameters() if p.is_floating_point()), None)
    dtype = torch.get_default_dtype() if like is None else like.dtype
    own = x.dtype if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()) else None
    # A tensor keeps its precision where no parameter says another one.
    exact = as_tensor(x, dtype=torch.float64 if _is_wide(x) else dtype)
    keeps = own is not None and like is None
    exact = exact if keeps else to_precision(exact, dtype, _names(x))
    exact = exact if like is None else exact.to(like.dtype)
    return (exact, *as_context(program, len(exact) if exact.dim() else 0, context))


def as_context(program: Program, rows: int, context: Sequence[Any]) -> tuple[Any, ...]:
    """What a model conditions on as tensors, of the floating dtype of the program where they are no integers.

    Arguments:
        program: The program.
        rows: The number of data: a list of as many numbers is a tensor, of any other length what the program makes it.
        context: As of :func:`as_inputs`.
    """
    like = next((p.dtype for p in program.parameters() if p.is_floating_point()), None)
    out = []
    for i, part in enumerate(context, 1):
        listed = isinstance(part, list) and len(part) == rows and not any(isinstance(p, Tensor | str) for p in part)
        listed = listed and _is_table(part)  # of several lengths they are no numbers of a row
        if listed or (not isinstance(part, Tensor) and hasattr(part, "__array__")):
            part = as_numbers(part, f"context {i}")
            part = part.to(torch.get_default_dtype()) if listed and part.is_floating_point() else part
        is_real = isinstance(part, Tensor) and part.is_floating_point()
        out.append(part.to(like) if is_real and like is not None else part)
    return tuple(out)


def _is_table(rows: list[Any]) -> bool:
    """Whether all rows have the same lengths, at any depth."""
    try:
        np.array(rows)
    except ValueError:
        return False
    return True


def _is_wide(x: Any) -> bool:
    """Whether numbers may have more digits than single precision."""
    dtype = getattr(x, "dtype", None)
    return not ((isinstance(dtype, np.dtype | torch.dtype) and dtype.itemsize < 4) or str(dtype).endswith("float32"))


def _names(x: Any) -> list[str] | None:
    return [str(name) for name in x.columns] if hasattr(x, "columns") else None


def as_arguments(program: Program | Callable[..., Any], *data: Any) -> tuple[Any, ...]:
    """Makes what a user gives the arguments of a model, as :func:`as_inputs` where it is that of a program.

    For a plain function arrays and series become tensors, numbers with a decimal point in torch's default precision.
    All else is its own affair: it finds the columns of a data frame by their names.
    """
    if isinstance(program, Program) and data:
        return as_inputs(program, *data)
    out = []
    for part in data:
        if not isinstance(part, Tensor) and hasattr(part, "__array__") and not hasattr(part, "columns"):
            tensor = torch.as_tensor(np.array(part))
            part = to_precision(tensor, torch.get_default_dtype()) if tensor.is_floating_point() else tensor
        out.append(part)
    return tuple(out)


@contextmanager
def evaluation(program: Program | Callable[..., Any]) -> Iterator[None]:
    """Puts a program in evaluation mode (dropout off, ...) and restores the modes of its modules afterwards.

    A plain model function has modules where it is one, or a method of one.
    """
    module: Any = getattr(program, "__self__", program)
    with exclusive():  # modes are those of all threads
        if not isinstance(module, nn.Module):
            yield
            return
        modes = {part: part.training for part in module.modules()}
        module.eval()
        try:
            yield
        finally:
            for part in module.modules():  # those that came during the run are in the mode of the whole
                part.training = modes.get(part, modes[module])


@contextmanager
def sampling(program: Program | Callable[..., Any], seed: int) -> Iterator[None]:
    """A program in evaluation mode, run without gradients and validation, on random numbers of a seed.

    The caller's generators are left alone.
    """
    with seeded(seed), torch.no_grad(), evaluation(program), pyro.validation_enabled(False):
        yield


def constants_of(program: Program | Callable[..., Any]) -> dict[str, Tensor]:
    """Copies of the parameters and buffers of a program by name: what a density holds fixed.

    Copies, since a graph has numbers in it that were computed from them: training goes on in place.
    """
    if not isinstance(program, Program):
        return {}
    return {n: p.detach().clone() for n, p in (*program.named_parameters(), *program.named_buffers())}


def entries_per_datum(trace: Trace) -> int:
    """The size of the largest tensor per datum in the local sites of a trace: the unit of memory for chunking."""
    local = [site for site in sample_sites(trace).values() if is_local(site)]
    return max((math.ceil(largest_tensor(site) / data_frame(site).size) for site in local), default=1)


def largest_tensor(site: Any) -> int:
    """The size of the largest tensor of a site: its value, or a parameter of its distribution."""
    if (
        site["is_observed"] and isinstance(site["fn"], dist.MaskedDistribution) and site_mask(site["fn"]) is False
    ):  # a deterministic value
        return int(site["value"].numel())
    fn, tensors = site["fn"], [site["value"]]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    try:
        names = getattr(fn, "arg_constraints", {})
    except NotImplementedError:  # what wraps a distribution of others, as ZukoToPyro, does not say
        names = {}
    tensors += [getattr(fn, name) for name in names if name in fn.__dict__]
    return max((t.numel() for t in tensors if isinstance(t, Tensor)), default=1)


def rows_per_chunk(entries: int, device: torch.device) -> int:
    """How many (chain, datum) pairs of ``entries`` numbers each to evaluate at once.

    On a CPU a chunk's tensors (16 MiB in float32) stay near the caches; on a GPU they keep it busy (512 MiB).
    """
    return max(1, 2 ** (22 if device.type == "cpu" else 27) // entries)


def rows_of(x: Tensor, context: tuple[Any, ...], rows: slice | Tensor) -> tuple[Any, ...]:
    """The rows of what a model conditions on, for the same rows of the data; what is not a tensor is handed on."""
    return tuple(c[rows] if isinstance(c, Tensor) and c.shape[:1] == x.shape[:1] else c for c in context)


def any_missing(*data: Any) -> bool:
    """Whether anything that the model may observe has holes: the data, or a tensor that it conditions on."""
    return any(isinstance(c, Tensor) and c.is_floating_point() and bool(c.isnan().any()) for c in data)


def row_chunks(n: int, size: int) -> Iterator[slice]:
    """Cuts n rows into slices of at most ``size``."""
    yield from (slice(start, min(start + size, n)) for start in range(0, n, size))


def local_site(site: Any) -> Any:
    """The site itself, where it stands inside the data plate; else a clear error."""
    if not is_local(site):
        raise ValueError(f"The observed site '{site['name']}' stands outside of the data plate: move it into it.")
    return site
