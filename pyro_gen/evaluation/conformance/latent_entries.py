"""A check of missing entries as latent variables, where no observe statement draws them or integrates them out."""

from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density.energy import unnormalised_log_prob
from pyro_gen.density.missing import MissingEntries, latent_missing, needs_latent
from pyro_gen.evaluation.conformance.case import Case
from pyro_gen.evaluation.conformance.check import Failed, Skipped, check
from pyro_gen.evaluation.conformance.scores import close, gap
from pyro_gen.inference.likelihood.entries import Entries
from pyro_gen.program import Program
from pyro_gen.traces import latent_sites

__all__ = ["missing_latent"]

DRAWS = 4


@check
def missing_latent(case: Case) -> str | None:
    """Where missing entries are latent variables, their density is that of the completed data."""
    if case.kind not in ("unnormalised", "exact") or latent_sites(case.run("model")):
        raise Skipped("There are latent variables beside the data, or no density of these.")
    context, remark = case.context, ""
    try:
        x = _holes(case.x, partly=True)
        terms, completed = _terms(case, x, context)
    except ValueError:  # entries may be tied to each other by their support
        x, remark = _holes(case.x, partly=False), "whole events only: parts of them cannot be latent variables"
        terms, completed = _terms(case, x, context)
    seen = ~x.isnan()
    if bool(completed.isnan().any()) or not torch.equal(completed[:, seen], x[seen].expand(DRAWS, -1)):
        raise Failed(
            "The completed data lack entries, or differ from x in entries that were seen.",
            'Observe x under its base, observe("x", base, x), and return x or what that returns.',
        )
    with torch.no_grad():
        expected = torch.stack([unnormalised_log_prob(case.program, data, *context) for data in completed])
    # The constants of the seen entries are the same in all draws.
    moved, due = terms - terms[:1], (expected - expected[:1]).double()
    if not close(moved, due):
        raise Failed(
            f"Between two completions of a row the density of its missing entries moves by {gap(moved, due)} nats more "
            "or less than that of the completed data.",
            "Let the factor read the data as they are, or what observe(...) returns: it is to see missing entries as "
            "they were drawn, not filled with zeros.",
        )
    return remark or None


def _holes(x: Tensor, partly: bool) -> Tensor:
    """Data with nothing seen of the first row, and every other entry missing in the next ones but the last."""
    flat = x.clone().reshape(len(x), -1)
    flat[0] = torch.nan
    if partly:
        flat[1:-1, ::2] = torch.nan
    return flat.reshape(x.shape)


def _terms(case: Case, x: Tensor, context: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """The log-density of draws of the missing entries, (S, N), and the data that they complete, (S, N, *)."""
    program = case.program
    calm = (seeded(case.seed), torch.no_grad(), pyro.validation_enabled(False))
    with calm[0], calm[1], calm[2]:
        if not needs_latent(program, x, *context):
            raise Skipped("Observe statements draw what is missing by themselves.")
        return _terms_of_entries(program, x, context)


def _terms_of_entries(program: Program, x: Tensor, context: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    with latent_missing(program, x, *context, every=True) as handler:
        if not handler.names:
            raise Skipped("No site observes the missing entries: pg.sample needs a base distribution of the data.")
        with MissingEntries() as missing:
            program.model(x, *context)
        entries = Entries(program, (x, *context))
        drawn = entries.drawn(DRAWS)
        # Entries that were seen have a law of their own: the same values in all draws.
        values = {n: torch.where(missing[n.removesuffix(".missing")], v, v[:1]) for n, v in drawn.items()}
        prior, likelihood = entries.both(values)
        return prior + likelihood, entries.complete(values)
