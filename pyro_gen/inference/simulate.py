"""What simulates data from a program: rows with the latent variables that made them, whole data sets, completions."""

from numbers import Integral
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._errors import shown
from pyro_gen._progress import told
from pyro_gen.density import as_context, row_chunks, rows_of
from pyro_gen.inference.factors import refuse_data_factors
from pyro_gen.inference.proposals import guide_obstacle
from pyro_gen.inference.returned import complete, require_completed
from pyro_gen.observation import completions, no_completion
from pyro_gen.program import Program, fixed
from pyro_gen.traces import Structure, data_dim, is_local, sample_sites, structure, trace_side

__all__ = ["ROWS", "given_context", "given_site", "not_amortised", "nothing_seen", "simulate", "simulate_sets"]

ROWS = 1024  # rows at a time; part of what a seed means


def simulate(
    program: Program, n: int, context: tuple[Any, ...], kinds: Structure | None = None
) -> tuple[Tensor, dict[str, Tensor], dict[str, int]]:
    """Draws data together with the local latent variables that made them, by the global generators.

    Arguments:
        program: The program, in evaluation mode.
        n: The number of data.
        context: What the model conditions on, each with shape :math:`(n, *)`.
        kinds: What is known of the program already.

    Returns:
        The data with shape :math:`(n, *)`, the values of the local latent sites by name, and where their data dimension
        lies, counted from the left.
    """
    x = nothing_seen(program, n, *context)
    with pyro.validation_enabled(False):
        few = (x[:ROWS], *rows_of(x, context, slice(ROWS)))
        shared: dict[str, Tensor] = {}
        kinds = kinds or structure(program, *few)
        if kinds.kind == "unnormalised":
            refuse_data_factors(program, *few, verb="sample")
        require_completed(program, few[0], few[1:])
        if kinds.global_:
            if guide_obstacle(program, *few) == "other rows":
                raise not_amortised(program, len(few[0]))
            sites = sample_sites(trace_side(program, "guide", *few))
            shared = {name: s["value"] for name, s in sites.items() if not is_local(s)}
        data, values, dims = [], [], {}
        for rows in told(list(row_chunks(n, ROWS))):
            with pyro.poutine.trace() as tape, fixed(shared):
                data.append(complete(program, x[rows], rows_of(x, context, rows)))
            latent = {m: s for m, s in sample_sites(tape.trace).items() if not s["is_observed"] and is_local(s)}
            values.append({name: s["value"] for name, s in latent.items()})
            dims = {name: data_dim(s) for name, s in latent.items()}
    return torch.cat(data), {m: torch.cat([v[m] for v in values], d) for m, d in dims.items()}, dims


def given_context(program: Program, n: int, context: Any) -> tuple[Any, ...]:
    """The context of so many data to generate as tensors, from the tuple that a user gave.

    Raises:
        TypeError: It is no tuple.
    """
    if not isinstance(context, tuple | list):
        raise TypeError(
            f"context={type(context).__name__}: give a tuple of what the model conditions on, (labels,) of one tensor."
        )
    return as_context(program, n, context)


def nothing_seen(program: Program, n: int, *context: Any) -> Tensor:
    """Data of which nothing was seen: NaN, with shape :math:`(n, *)`.

    Raises:
        ValueError: The number is not positive, or the program does not know the shape of a datum.
    """
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"The number of data to generate is {shown(n)}: give a positive integer.")
    if program.event_shape is None:
        raise ValueError(
            f"{type(program).__name__} does not know the shape of one datum: set program.event_shape (pyro_gen.fit "
            "does)."
        )
    like = next((p for p in program.parameters() if p.is_floating_point()), torch.empty(0))
    nothing = torch.full((n, *program.event_shape), torch.nan, dtype=like.dtype, device=like.device)
    program.check_inputs(nothing, *context)
    return nothing


def not_amortised(program: Program, rows: int) -> ValueError:
    """What to say of a guide with parameters for the rows of its training, asked about so many others."""
    return ValueError(
        f"The guide of {type(program).__name__} is not amortised: it has parameters for each row of its training data "
        f"and does not run on {rows} rows. Give as many rows as it was trained on, a guide that computes local "
        'latent variables from x, or use draws of Markov chains: pg.impute(method="hmc"), pg.posterior.'
    )


def simulate_sets(program: Program, sets: int, nothing: Tensor, *context: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Draws data sets and the latent variables that made them, each tensor with a leading dimension S.

    Draws by the global generator, with the program as it is.

    Arguments:
        program: The program; it may have global latent variables, drawn anew for each data set.
        sets: The number S of data sets.
        nothing: Data of which nothing was seen, NaN with shape :math:`(N, *)`.
        context: What the model conditions on.
    """
    data, values = [], []
    for _ in range(sets):
        with pyro.poutine.trace() as tape, pyro.validation_enabled(False):
            data.append(complete(program, nothing, context))
        sites = sample_sites(tape.trace)
        values.append({name: s["value"] for name, s in sites.items() if not s["is_observed"]})
    return torch.stack(data), {name: torch.stack([v[name] for v in values]) for name in values[0]}


def given_site(program: Program, nothing: Tensor, *context: Any) -> str | None:
    """The name of a site that a model observes although nothing was seen of the data: it conditions on its context."""
    with pyro.poutine.trace() as tape, completions() as seen, no_completion(), pyro.validation_enabled(False):
        program.model(nothing, *context)
    for name, site in sample_sites(tape.trace).items():
        observed = site["is_observed"] and not site["infer"].get("_deterministic")
        if observed and not bool(torch.isnan(seen.get(name, site["value"])).all()):
            return name
    return None
