"""The completed data of a model, which all that generates and imputes is made of.

They are what its observed sites say of the entries of the data. Where these do not tell, since a model observes what it
computes from the data, they are what the model returns; so they are where it returns complete data as they are, and
thereby says that it is them that it returns.
"""

import weakref
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._internals import without_handlers
from pyro_gen._progress import listening
from pyro_gen._random import seeded
from pyro_gen.density import rows_of
from pyro_gen.observation import completions
from pyro_gen.program import Program, fixed
from pyro_gen.traces import sample_sites

__all__ = ["complete", "completed_by", "require_completed", "returns_data"]

ROWS = 64


def complete(program: Program, x: Tensor, context: tuple[Any, ...]) -> Tensor:
    """Runs the model on data with missing entries, and returns the completed data.

    Arguments:
        program: The program, in evaluation mode.
        x: Data with missing entries, with shape :math:`(N, *)`.
        context: What the model conditions on.

    Raises:
        ValueError: Neither the observed sites nor what the model returns are the data.
    """
    x = x.contiguous()
    seen = completions()
    with seen:
        out = program.model(x, *context)
    return completed_by(program, x, context, seen, out)


def completed_by(program: Program, x: Tensor, context: tuple[Any, ...], seen: completions, out: Any) -> Tensor:
    """The completed data of one run of a model, see :func:`complete`; what is beyond the end of a sequence is NaN.

    Arguments:
        program: The program.
        x: The data that it ran on, contiguous.
        context: What it conditioned on.
        seen: What it observed.
        out: What it returned.
    """
    whole, missing = seen.of(x), torch.isnan(x)
    returned = isinstance(out, Tensor) and out.shape == x.shape
    if whole is None:
        whole = torch.where(missing, (out if returned else _copy_of(program, x, context, seen)).to(x.dtype), x)
    elif returned and not _same(out.to(x.dtype), whole):
        whole = torch.where(missing, out.to(x.dtype), x) if returns_data(program, whole, context) else whole
    if bool(torch.isnan(whole).any()):
        raise ValueError(
            f"The model of {type(program).__name__} returns NaN for entries that were not observed: observe the data "
            "with pg.observe, which draws them, and return what it returns, not x."
        )
    return whole.masked_fill(seen.beyond(x), torch.nan)


_RETURNS: "weakref.WeakKeyDictionary[Program, bool]" = weakref.WeakKeyDictionary()  # what was found, by program


def returns_data(program: Program, x: Tensor, context: tuple[Any, ...]) -> bool:
    """Whether a model returns complete data as they are given: it does not if it returns the means of a decoder.

    Looked at once for each program, by running its model once more.

    Arguments:
        program: The program.
        x: Complete data, with shape :math:`(N, *)`, other than what the model returned when they were missing.
        context: What the model conditions on.
    """
    if program not in _RETURNS:
        if bool(torch.isnan(x).any()):
            return False
        with without_handlers(), seeded(0), torch.no_grad():
            out = program.model(x, *context)
        _RETURNS[program] = isinstance(out, Tensor) and _same(out.to(x.dtype), x)
    return _RETURNS[program]


def _copy_of(program: Program, x: Tensor, context: tuple[Any, ...], seen: completions) -> Tensor:
    """The completed value of the one site that observes a copy of the data."""
    missing = int(torch.isnan(x).sum())
    sites = [n for n, v in seen.observed.items() if v.numel() == x.numel() and int(torch.isnan(v).sum()) == missing]
    if len(sites) == 1:
        out = seen.values[sites[0]].reshape(x.shape)
        again = completions()
        with without_handlers(), again, seeded(0):  # a site that observes anything else than the data shows it here
            program.model(torch.where(torch.isnan(x), out.to(x.dtype), x), *context)
        if _same(again.observed[sites[0]].reshape(x.shape).to(out.dtype), out):
            return out
    raise ValueError(
        f"The model of {type(program).__name__} must return the completed data, of shape {tuple(x.shape)} here, since "
        "its observed sites do not tell which entries of the data they are: observe x or parts of it, as x[:, t], or "
        "return what observe(...) returns."
    )


def require_completed(program: Program, x: Tensor, context: tuple[Any, ...]) -> None:
    """Raises where a model returns something else than the data, and its sites do not tell either.

    With the latent variables fixed, the data are completed by other draws: what is returned must tell.

    Arguments:
        program: The program, in evaluation mode.
        x: Data with missing entries, with shape :math:`(N, *)`, of which the first rows are used.
        context: What the model conditions on.

    Raises:
        ValueError: The draws of the observed sites differ, and what is returned does not.
    """
    context, x = rows_of(x, context, slice(ROWS)), x[:ROWS].contiguous()
    runs = []
    latent: dict[str, Tensor] = {}
    for seed in range(10):  # few discrete draws may be the same by chance
        calm, seen = (seeded(seed), torch.no_grad(), pyro.validation_enabled(False)), completions()
        with calm[0], calm[1], calm[2], listening(None), pyro.poutine.trace() as tape, seen as completed, fixed(latent):
            out = program.model(x, *context)
        if seen.of(x) is not None:
            return
        latent = {n: s["value"] for n, s in sample_sites(tape.trace).items() if not s["is_observed"]}
        runs.append((out, completed))
        if [n for n in runs[0][1] if n in completed and not _same(runs[0][1][n], completed[n])]:
            break
    (out, first), (again, second) = runs[0], runs[-1]
    if not isinstance(out, Tensor) or out.shape != x.shape or bool(out.isnan().any()):
        return  # said where it is used
    drawn = [n for n in first if n in second and not _same(first[n], second[n])]
    missing = x.isnan()
    if drawn and bool(missing.any()) and _same(out[missing], again[missing]):
        raise ValueError(
            f"The model of {type(program).__name__} returns something else than the data: missing entries are drawn at "
            f"'{drawn[0]}', and what it returns does not depend on these draws, as the means of a decoder do not. "
            "Return what observe(...) returns."
        )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
