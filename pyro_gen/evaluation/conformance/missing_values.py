"""Checks of missing entries: marginalised, integrated out, completed; and of data of which nothing is seen."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.evaluation.conformance import marginals
from pyro_gen.evaluation.conformance.case import SIDES, Case, Latents
from pyro_gen.evaluation.conformance.check import Failed, Skipped, check
from pyro_gen.evaluation.conformance.gradients import require_finite_gradients
from pyro_gen.evaluation.conformance.scores import close, density_sites, gap, quoted
from pyro_gen.inference.returned import completed_by
from pyro_gen.observation import completions
from pyro_gen.program import fixed

__all__ = ["generation", "missing_completion", "missing_density", "missing_exact", "missing_gradients"]


@check
def missing_density(case: Case) -> str | None:
    """Missing entries (NaN) are marginalised: finite log-densities, 0 where nothing was seen, other rows alike."""
    needs_density(case)
    remark = ""
    for x, untouched, remark in case.with_holes():  # noqa: B007
        for side in SIDES:
            clean, holed = case.scores(side), case.scores(side, x=x)
            for name, value in holed.items():
                if not value.isfinite().all() and clean[name].isfinite().all():
                    raise Failed(
                        f"Site '{name}' of the {side} has log-density {value[~value.isfinite()][0]:.3g} where "
                        "entries of x are NaN.",
                        "Fill NaN before the encoder sees it (x.nan_to_num(), with the mask as a further input)."
                        if side == "guide"
                        else 'Observe with pg.observe("x", distribution, x) instead of pyro.sample(..., obs=x), and '
                        "fill NaN before a network sees it.",
                    )
                if value.dim() == 1 and not close(value[untouched], clean[name][untouched]):
                    raise Failed(
                        f"Site '{name}' of the {side}: NaN in one row changes the log-density of another by "
                        f"{gap(value[untouched], clean[name][untouched])}.",
                        "Look for a statistic over the rows: each must be computed from its own row alone.",
                    )
        scores = case.scores("model", x=x)
        empty = x.flatten(1).isnan().all(1) if x.dim() > 1 else x.isnan()
        local = [n for n in case.data_sites if scores[n].dim() == 1]
        seen = sum((scores[n] for n in local), start=torch.zeros(len(x), device=x.device))
        # Rounding: marginalised Gaussians count log sqrt(2 pi) with either sign.
        if not (seen[empty].abs() < 1e-3).all():
            raise Failed(
                f"A datum of which nothing was seen has log-likelihood {seen[empty].abs().max():.3g} nats at "
                f"{quoted(local)} instead of 0.",
                "NaN means not observed: hand x to pg.observe as it is, do not fill it before.",
            )
    return remark or None


def needs_density(case: Case) -> None:
    if case.kind in ("unnormalised", "implicit"):
        raise Skipped(f"The density of the data is {case.kind}: its model alone does not know that of a part of them.")


@check
def missing_exact(case: Case) -> str | None:
    """Missing entries (NaN) are integrated out exactly, also where their value feeds a later density."""
    needs_density(case)
    if any(case.row_frame(s) is None for n, s in density_sites(case.run("model")).items() if n in case.data_sites):
        raise Skipped("Data are observed outside of the data plate.")
    # Entries are taken away one at a time, of rows that lack no other: the integral is over that entry alone.
    case = replace(case, x=case.completed())
    whole = torch.ones(len(case.x), dtype=torch.bool, device=case.x.device)
    for part in (case.x, *case.context):
        if isinstance(part, Tensor) and part.dim() > 0 and len(part) == len(case.x):
            whole &= ~part.flatten(1).isnan().any(1) if part.dim() > 1 else ~part.isnan()
    if not whole.any():
        raise Skipped("No row is whole, with what the model completes.")
    index = whole.nonzero()[: marginals.ROWS, 0]
    latents = case.latent_rows("model", index)
    x, context = case.rows(index)
    with _in_double(case, x, context, latents) as (data, latents, digits):
        return _compared(case, data, latents, digits)


def _compared(case: Case, data: tuple[Any, ...], latents: Latents, digits: float) -> str:
    x, *context = data
    reasons: dict[str, str] = {}
    exact, sampled = 0, 0
    for found in marginals.compare_marginals(case.program, x, tuple(context), latents, case.seed):
        if found.expected is None or not found.error.isfinite().all():
            reasons[found.site] = found.reason or f"too few of the draws of what is missing at '{found.site}' count"
            continue
        gap = (found.found - found.expected).abs()
        allowed = torch.where(found.error > 0, 5 * found.error + 1e-4, digits * (1 + found.expected.abs()))
        if not (gap <= allowed).all():
            row = int((gap - allowed).nan_to_num(math.inf).argmax())
            raise Failed(
                f"With an entry of site '{found.site}' missing, the log-density of the rest of a row is "
                f"{found.found[row]:.5g}, and {found.expected[row]:.5g} by integrating over its values.",
                "Hand the data to pg.observe as they are, and compute with what it returns: it makes the entry a "
                "latent variable where its value feeds another site. Neither fill NaN nor draw the entry yourself.",
            )
        exact, sampled = exact + int(not bool(found.error.any())), sampled + int(bool(found.error.any()))
    remarks = [f"{exact} entries to {digits}" * bool(exact), f"{sampled} within 5 standard errors" * bool(sampled)]
    remarks += [f"not compared: {reason}" for reason in reasons.values()]
    return ", ".join(r for r in remarks if r) or "no single entry can be taken away: not compared"


@contextmanager
def _in_double(
    case: Case, x: Tensor, context: tuple[Any, ...], latents: Latents
) -> Iterator[tuple[tuple[Any, ...], Latents, float]]:
    """Program, data and latent variables in double precision, where that runs, and the digits to agree to."""

    def double(part: Any) -> Any:
        return part.double() if isinstance(part, Tensor) and part.is_floating_point() else part

    data, values = (double(x), *map(double, context)), {name: double(value) for name, value in latents.items()}
    tensors = [t for t in (*case.program.parameters(), *case.program.buffers()) if t.is_floating_point()]
    before = [t.data for t in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.double()
    try:
        with torch.no_grad(), seeded(case.seed):
            for given in (values, {}):
                with fixed(given):
                    case.program.model(*data)
        known = data, values, 1e-5
    except Exception:  # a model may make tensors of single precision of its own
        _restore(tensors, before)
        known = (x, *context), latents, 1e-3
    try:
        yield known
    finally:  # a program that cannot be copied is the user's own
        _restore(tensors, before)


def _restore(tensors: list[Tensor], before: list[Tensor]) -> None:
    for tensor, data in zip(tensors, before, strict=True):
        tensor.data = data


@check
def missing_gradients(case: Case) -> str | None:
    """Missing entries (NaN) leave the loss and every gradient finite."""
    needs_density(case)
    remark = ""
    for x, _, remark in case.with_holes():  # noqa: B007
        require_finite_gradients(
            case,
            x,
            " with NaN in x",
            "Fill NaN before a function of it, the gradient of one that is masked afterwards is NaN: pg.observe does "
            "so for the likelihood, an encoder needs x.nan_to_num().",
        )
    return remark or None


@check
def missing_completion(case: Case) -> str | None:
    """The model returns the completed data: seen entries untouched, none missing."""
    needs_density(case)
    remark = ""
    for x, _, remark in case.with_holes():  # noqa: B007
        x, observed = x.contiguous(), completions()
        with observed:
            value: Any = case.run("model", x=x).nodes["_RETURN"]["value"]
        _require_completed(case, x, observed, value)
        seen = ~x.isnan()
        returned = observed.of(x) is None and isinstance(value, Tensor) and value.shape == x.shape
        if returned and not torch.equal(value[seen], x[seen]):
            raise Failed(
                f"The completed data differ from x in {int((value[seen] != x[seen]).sum())} entries that were seen.",
                "Return what pg.observe returns, in the units and the order of x.",
            )
    return remark or None


def _require_completed(case: Case, x: Tensor, observed: completions, value: Any) -> None:
    try:
        completed_by(case.program, x, case.context, observed, value)
    except ValueError as error:
        raise Failed(str(error), 'Observe x or parts of it, or return pg.observe("x", distribution, x).') from None


@check
def generation(case: Case) -> None:
    """The model generates: nothing observed gives data without NaN, inside the support."""
    if case.kind == "unnormalised":
        raise Skipped("The density is unnormalised: its model draws no data, pg.sample does by chains.")
    x = torch.full_like(case.x, torch.nan)
    observed = completions()
    with observed:
        trace = case.run("model", x=x, latents={})
    _require_completed(case, x, observed, trace.nodes["_RETURN"]["value"])
    for name, value in observed.values.items():
        support = density_sites(trace)[name]["fn"].support
        if not support.check(value).all():
            raise Failed(
                f"Data generated at site '{name}' lie outside of the support of its distribution, {support}.",
                "Check that sample() and support of the likelihood agree.",
            )
