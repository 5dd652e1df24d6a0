"""Checks of rows and minibatches: what is said of one datum does not move with the others."""

from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_gen._internals import autoguide_plates
from pyro_gen.evaluation.conformance.case import SIDES, Case
from pyro_gen.evaluation.conformance.check import Failed, Skipped, check
from pyro_gen.evaluation.conformance.scores import close, gap
from pyro_gen.program import Program
from pyro_gen.traces import DATA_PLATE

__all__ = ["exchanged", "guide_rows", "minibatch", "model_rows", "row_guides"]


def row_guides(program: Program) -> list[Any]:
    """The autoguides with local latent variables, which have parameters per row of data."""
    return [m for m in program.modules() if isinstance(m, AutoGuide) and DATA_PLATE in autoguide_plates(m)]


def _coupled(case: Case, side: str) -> tuple[str, str] | None:
    """The first local site at which the second half of the rows notices that the first half was exchanged.

    What the rows share may move their last digits in single precision: in double precision it moves nothing.
    """
    found = exchanged(case, side)
    if found is None or case.x.dtype == torch.float64:
        return found
    try:
        return found if exchanged(case.in_double(), side) is not None else None
    except (RuntimeError, ValueError, TypeError):  # a program of a precision of its own
        return found


def exchanged(case: Case, side: str) -> tuple[str, str] | None:
    """As it is in the precision of the case: where a site notices it, its name and by how much."""
    n = len(case.x)
    half = n // 2
    # The first rows become copies of others, their latent variables too; the last rows stay.
    index = torch.arange(n, device=case.x.device)
    index[:half] = torch.arange(n - half, n, device=case.x.device).flip(0)
    x, context = case.rows(index)
    here = case.scores(side)
    there = case.scores(side, x=x, context=context, latents=case.latent_rows(side, index))
    for name, value in here.items():
        if value.dim() == 1 and not close(value[half:], there[name][half:]):
            return name, gap(value[half:], there[name][half:])
    return None


@check
def model_rows(case: Case) -> None:
    """In the model, a datum's log-density does not depend on the other rows, in training and evaluation mode."""
    for mode in (False, True):
        case.program.train(mode)
        if found := _coupled(case, "model"):
            raise Failed(
                f"Site '{found[0]}' of the model: the log-density of a row changes by {found[1]} when other rows do, "
                f"in {'training' if mode else 'evaluation'} mode.",
                "Look for BatchNorm, a mean or a sum over the rows in the model; use LayerNorm or GroupNorm, or make "
                "what the rows share a global latent variable.",
            )


@check
def guide_rows(case: Case) -> str | None:
    """In the guide, a datum's posterior does not depend on the other rows, in evaluation mode."""
    if not case.latents["guide"]:
        raise Skipped("The guide samples nothing.")
    if found := _coupled(case, "guide"):
        raise Failed(
            f"Site '{found[0]}' of the guide: the log-density of a row changes by {found[1]} when other rows do, in "
            "evaluation mode, so that likelihoods and imputations depend on which rows are computed together.",
            "Look for a mean, a sum or attention over the rows in the encoder; what couples rows in training only must "
            "stop in evaluation mode, as BatchNorm does.",
        )
    if found := _coupled(case.train(), "guide"):
        # Any q(z | x_1, ..., x_B) gives a bound for these rows, so this is a choice and no error.
        return f"rows are coupled at '{found[0]}' in training mode, as by BatchNorm: still a bound, but not full batch"
    return None


def _split(case: Case) -> list[Tensor]:
    index = torch.arange(len(case.x), device=case.x.device)
    k = max(1, len(case.x) // 3)
    return [index[:k], index[k:]]


@check
def minibatch(case: Case) -> None:
    """Disjoint minibatches average to the full data: local log-densities scaled, global ones not."""
    n = len(case.x)
    if row_guides(case.program):
        raise Failed(
            f"The autoguide has parameters for each of {n} rows: it can neither be fitted by minibatches nor judge "
            "other data.",
            "Fit it with batch_size=len(x), or write a guide that computes the posterior of a row from the row.",
        )
    for side in SIDES:
        full = case.scores(side)
        for index in _split(case):
            x, context = case.rows(index)
            part = case.scores(side, x=x, context=context, latents=case.latent_rows(side, index), size=n)
            for name, value in part.items():
                whole = full[name]
                if whole.dim() == 0:
                    _check_global(case, side, name, value, whole, n / len(index))
                elif not close(value, whole[index] * n / len(index)):
                    if close(value, whole[index]):
                        raise Failed(
                            f"Site '{name}' of the {side} is not scaled in a minibatch: {len(index)} of {n} rows "
                            f"should count {n / len(index):.3g}-fold.",
                            "Leave the scaling to the data plate, self.plate(x) or any plate of len(x) rows: take the "
                            "site out of pyro.poutine.scale.",
                        )
                    raise Failed(
                        f"Site '{name}' of the {side}: the log-density of a row in a minibatch differs from that in "
                        f"the full data by {gap(value * len(index) / n, whole[index])}.",
                        "A row's density must depend on the row alone, neither on its position (a parameter per row: "
                        "fit it with batch_size=len(x), or write an amortised guide) nor on the rows beside it.",
                    )


def _check_global(case: Case, side: str, name: str, value: Tensor, whole: Tensor, scale: float) -> None:
    if close(value, whole):
        return
    if close(value, whole * scale):
        raise Failed(
            f"Site '{name}' of the {side} is scaled like data in a minibatch, but stands outside of the data plate.",
            "Scale nothing but the data plate: take the site out of pyro.poutine.scale.",
        )
    raise Failed(
        f"Site '{name}' of the {side} is global, but its log-density differs by {gap(value, whole)} between a "
        "minibatch and the full data, and is not scaled.",
        "Put sites of the data inside `with self.plate(x):` (pg.plate(x) in a function), and let global sites not "
        "depend on x.",
    )
