"""Likelihoods that are known: of programs without latent variables, and by sums over discrete ones."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen.density import (
    entries_per_datum,
    evaluation,
    local_site,
    row_chunks,
    rows_of,
    rows_per_chunk,
)
from pyro_gen.density.finite import FiniteSite, finite_sites, joint_values, present_units
from pyro_gen.density.missing import missing_site
from pyro_gen.density.summed import summed_log_prob
from pyro_gen.inference.likelihood.enumeration import MAX_ASSIGNMENTS, enumerated, probe
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.observation import no_completion
from pyro_gen.program import Program
from pyro_gen.traces import per_datum_log_prob, sample_sites, trace_side

__all__ = ["enumerated_likelihood", "exact_likelihood"]


def exact_likelihood(program: Program, x: Tensor, context: tuple[Any, ...]) -> LogLikelihood:
    """The log-densities of data under a program without latent variables."""
    with torch.no_grad(), evaluation(program), no_completion():
        first = trace_side(program, "model", x[:1], *rows_of(x, context, slice(1)))
        if all(s["infer"].get("_deterministic") for s in sample_sites(first).values()):
            raise ValueError(
                f"{type(program).__name__} observes nothing, so data have no likelihood: observe them in the model, "
                'pg.observe("x", distribution, x).'
            )
        values = []
        for rows in row_chunks(len(x), rows_per_chunk(entries_per_datum(first), x.device)):
            trace = trace_side(program, "model", x[rows], *rows_of(x, context, rows))
            trace.compute_log_prob()
            sites = [s for s in sample_sites(trace).values() if not s["infer"].get("_deterministic")]
            values.append(sum(per_datum_log_prob(local_site(site)).double() for site in sites))
        value = torch.cat(values)  # type: ignore[arg-type]
    return LogLikelihood(value, torch.zeros_like(value), "exact", "exact", entries_seen(x))


def _side_by_side(trace: Trace, sites: Mapping[str, FiniteSite]) -> bool:
    """Whether values of variables fit into tensors beside each other: those that are no steps of a chain have one
    dimension each for all.
    """
    chained = {name for name, site in sample_sites(trace).items() if "_markov_depth" in site["infer"]}
    return math.prod(len(site.support) for name, site in sites.items() if name not in chained) <= MAX_ASSIGNMENTS


def enumerated_likelihood(
    program: Program, x: Tensor, context: tuple[Any, ...], progress: Callable[[float], None] | None
) -> LogLikelihood:
    """The likelihoods of data under a program with discrete local latent variables only, which are summed out.

    By their joint values, a run of the model for each, which may be written in any way; or where there are too many, as
    those of a long chain, by parallel enumeration.
    """
    value, done = torch.zeros(len(x), dtype=torch.float64, device=x.device), 0
    trace = probe(program, x, *context)
    sites = finite_sites(trace)
    many = bool((joint_values(sites, present_units(sites, program, x, *context)) > MAX_ASSIGNMENTS).any())
    if many and _side_by_side(trace, sites) and not any(missing_site(s) for s in sample_sites(trace).values()):
        entries = entries_per_datum(trace) * sum(f.units * len(f.support) ** 3 for f in sites.values())
        for rows in row_chunks(len(x), rows_per_chunk(entries, x.device)):
            value[rows] = summed_log_prob(program, x[rows], *rows_of(x, context, rows)).double()
        return LogLikelihood(value, torch.zeros_like(value), "exact", "exact", entries_seen(x))
    for sums in enumerated(program, x, *context):
        value[sums.rows] = sums.log_weights.logsumexp(0)
        done += sums.log_weights.shape[1]
        if progress is not None:
            progress(done / len(x))
    return LogLikelihood(value, torch.zeros_like(value), "exact", "exact", entries_seen(x))
