r"""The sandwich of bidirectional Monte Carlo: how sharp annealed importance sampling is, on simulated data.

For data simulated from the program, a chain that starts at the latent variables that made the datum starts at an exact
draw of its posterior. Run backwards it gives an upper bound: with one backward weight among K, the others forward,

.. math::
    \mathbb{E} \log \frac{1}{K} \sum_{k=1}^K w_k \le \log p(x) \le
    \mathbb{E} \log \frac{1}{K} \Big( w_1' + \sum_{k=2}^K w_k \Big) .

References:
    | Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015)
    | https://arxiv.org/abs/1511.02543
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen._random import seeded
from pyro_gen.density import ProgramDensity, density, evaluation, rows_of
from pyro_gen.inference.factors import refuse_factors
from pyro_gen.inference.likelihood.ais import ais, anneal
from pyro_gen.inference.likelihood.annealing import Rows, Runs, Single, backward
from pyro_gen.inference.likelihood.paths import OfDensity
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.inference.likelihood.schedules import CHAINS, Options
from pyro_gen.inference.likelihood.weights import left_out, log_mean_exp
from pyro_gen.inference.progress import progress_bar
from pyro_gen.inference.simulate import given_context, given_site, simulate, simulate_sets
from pyro_gen.packing import packs
from pyro_gen.program import Program
from pyro_gen.traces import structure

__all__ = ["ais_with_gap", "bdmc", "evidence_with_gap"]


@packs
def bdmc(
    program: Program,
    n: int,
    *,
    sets: int = 8,
    context: tuple[Any, ...] = (),
    preset: str | None = None,
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
    **options: Any,
) -> LogLikelihood:
    r"""Measures how sharp annealed importance sampling is, on data simulated from the program.

    Arguments:
        program: A program with continuous latent variables and an ``event_shape``.
        n: The number of data to simulate: N targets where all latent variables are local, else the size of a data set.
        sets: How many data sets to simulate, where there are global latent variables.
        context: What the model conditions on, each with shape :math:`(n, *)`.
        preset: As in :func:`ais`.
        seed: Seeds data and draws; the caller's generators are left alone.
        progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
            called with the fraction done.
        options: As in :func:`ais`; from the prior where there are global latent variables.

    Returns:
        A sandwich: ``lower`` as by :func:`ais`, ``upper`` with one backward weight in the place of one forward weight,
        and ``value`` half-way. Diagnostics: ``gap``, upper - lower, whose mean bounds the bias of :func:`ais` here;
        ``jeffreys``, backward minus mean forward log-weight, whose mean bounds the Jeffreys divergence between the law
        of a chain's end and the posterior (BREAD, Grosse et al. 2016).

    Raises:
        ValueError: As in :func:`ais`, the program does not know the shape of a datum, or it observes its context.
    """
    context = given_context(program, n, context)
    with progress_bar("bdmc", progress) as report:
        return _sandwich(program, n, sets, context, None, seed, report, preset, options)


def _sandwich(
    program: Program,
    n: int,
    sets: int,
    context: tuple[Any, ...],
    missing: Tensor | None,
    seed: int,
    progress: Callable[[float], None] | None,
    preset: str | None,
    options: dict[str, Any],
) -> LogLikelihood:
    """:func:`bdmc`, with holes in the simulated data where ``missing`` says so.

    The latent variables that made a datum are an exact draw of the posterior given any part of it.
    """
    with seeded(seed), torch.no_grad(), evaluation(program):
        simulated = _simulate(program, n, sets, context, missing)
        if simulated.stacked and options.get("start", "prior") != "prior":
            raise ValueError(
                f"{type(program).__name__} has global latent variables: bdmc anneals from the prior, whose draws made "
                'the data: leave start out, or start="prior".'
            )
        settings = Options.of(preset, **({"start": "prior", **options} if simulated.stacked else options))
        source: Rows | Single
        if simulated.stacked:
            target = density(program, simulated.x, *simulated.context, stacked=True)
            source, event_dims, unit = Single(target, settings), entries_seen(simulated.x), "nats per data set"
        else:
            source = Rows(program, simulated.x, context, settings)
            event_dims, unit = entries_seen(simulated.x), "nats per datum"
        parts: list[tuple[Tensor, Tensor]] = []
        runs = Runs(source, settings, progress)
        for run in runs:
            assert isinstance(run.engine, OfDensity) and isinstance(run.engine.density, ProgramDensity)
            exact = run.engine.density.unconstrain(simulated.latents(run.rows))
            log_v = backward(run.engine, exact.reshape(1, run.engine.n, run.engine.density.dim), run.plan)
            parts.append((run.log_weights.cpu(), log_v.cpu()))
    log_w, log_v = (torch.cat(weights, 1) for weights in zip(*parts, strict=True))
    lower = runs.result(log_w, "bdmc", event_dims, unit)
    upper, _ = log_mean_exp(torch.cat([log_v, log_w[1:]]))
    return LogLikelihood(
        value=(lower.value + upper) / 2,
        standard_error=_sandwich_error(log_w, log_v),
        kind="sandwich",
        method="bdmc",
        event_dims=lower.event_dims,
        lower=lower.value,
        upper=upper,
        diagnostics={**lower.diagnostics, "gap": upper - lower.value, "jeffreys": log_v[0] - log_w.mean(0)},
        unit=unit,
    )


class _Simulated(NamedTuple):
    """Data and the latent variables that made them: N data, or S data sets of n data."""

    x: Tensor  # (N, *) or (S, n, *)
    context: tuple[Any, ...]
    values: dict[str, Tensor]
    data_dims: dict[str, int]  # of local sites, counted from the left
    stacked: bool

    def latents(self, rows: slice) -> dict[str, Tensor]:
        """The values as one chain, of some rows where there are no global ones: (1, *)."""
        if self.stacked:
            return {name: v.unsqueeze(0) for name, v in self.values.items()}
        dims = self.data_dims
        return {n: v.movedim(dims[n], 0)[rows].movedim(0, dims[n]).unsqueeze(0) for n, v in self.values.items()}


def _simulate(program: Program, n: int, sets: int, context: tuple[Any, ...], missing: Tensor | None) -> _Simulated:
    if program.event_shape is not None:
        refuse_factors(program, *_nothing(program, n, context), verb="bdmc")
    if program.event_shape is None or not structure(program, *_nothing(program, 1, context)).global_:
        x, values, dims = simulate(program, n, context)  # which says so where the shape of a datum is not known
        stacked = False
    else:
        x, values = simulate_sets(program, sets, *_nothing(program, n, context))
        dims, stacked = {}, True
    # Latent variables of the prior are no exact draw given what the model observes besides.
    if (name := given_site(program, *_nothing(program, 1, context))) is not None:
        raise AdviceError(
            f"The model of {type(program).__name__} observes '{name}', which is given and not simulated, so the "
            "simulated latent variables are no exact draws of the posterior: use {method}, without a sandwich.",
            method="ais",
        )
    if missing is not None:
        x = x.masked_fill(missing, math.nan)
    if stacked:
        context = tuple(c.expand(sets, *c.shape) if isinstance(c, Tensor) else c for c in context)
    return _Simulated(x, context, values, dims, stacked)


def _nothing(program: Program, n: int, context: tuple[Any, ...]) -> tuple[Any, ...]:
    """Data of which nothing was seen, and the first rows of the context."""
    assert program.event_shape is not None
    like = next((p for p in program.parameters() if p.is_floating_point()), torch.empty(0))
    rows = next((len(c) for c in context if isinstance(c, Tensor) and c.dim()), n)
    full = torch.full((rows, *program.event_shape), math.nan, dtype=like.dtype, device=like.device)
    return (full[:n], *rows_of(full, context, slice(n)))


def _sandwich_error(log_w: Tensor, log_v: Tensor) -> Tensor:
    """The standard error of half of lower plus upper bound, which share all forward weights but one.

    By the jackknife over all weights (K, N) and the backward one (1, N), taken for one more of their kind.
    """
    n = len(log_w)
    if n == 1:
        return torch.full_like(log_w[0], math.nan)
    lower, upper = (left_out(w) - left_out(w).mean(0) for w in (log_w, torch.cat([log_v, log_w[1:]])))
    change = torch.cat([lower[:1], upper[:1], lower[1:] + upper[1:]]) / 2
    return ((n - 1) / n * change.square().sum(0)).sqrt()


def ais_with_gap(
    program: Program,
    x: Tensor,
    *context: Any,
    simulated: int = 100,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    """Runs :func:`ais` on the data, and :func:`bdmc` on as many simulated ones to say how sharp it is.

    The simulated data have the missing entries of the first rows. The upper bound holds for them, not for ``x``: real
    data may be harder for the sampler.

    Arguments:
        program: A program with continuous local latent variables.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on; simulated data are given that of the first rows.
        simulated: How many data to simulate, at most as many as there are rows.
        seed: Seeds the draws.
        progress: As in :func:`ais`.
        options: As in :func:`ais`.

    Returns:
        The result of :func:`ais`, with ``gap`` and ``jeffreys`` of the simulated data among the diagnostics.
    """
    n = min(simulated, len(x))
    first, second = _halves(progress, 1 - n / (n + len(x)))
    result = ais(program, x, *context, seed=seed, progress=first, **options)
    few = (x[:n], *rows_of(x, context, slice(n)))
    return _with_gap(result, program, few, 1, seed, second, options)


def evidence_with_gap(
    program: Program,
    target: ProgramDensity,
    *,
    sets: int = 8,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    """Runs :func:`anneal` on a data set, and :func:`bdmc` on simulated ones of its size, with its missing entries.

    Arguments:
        program: A program with global latent variables.
        target: Its joint density, with the data.
        sets: How many data sets to simulate.
        seed: Seeds the draws.
        progress: As in :func:`ais`.
        options: As in :func:`anneal`.

    Returns:
        The evidence by :func:`anneal`, with ``gap`` and ``jeffreys`` of the simulated data sets among the diagnostics.
    """
    first, second = _halves(progress, 1 / (1 + sets))
    result = anneal(target, seed=seed, progress=first, **options).evidence
    if options.get("preset") is None:
        options = {"chains": CHAINS[1], **options}  # those of the data, for each of the simulated sets
    return _with_gap(result, program, target.data, sets, seed, second, options)


def _halves(
    progress: Callable[[float], None] | None, cut: float
) -> tuple[Callable[[float], None] | None, Callable[[float], None] | None]:
    """Reports of two tasks as one: the first takes the share ``cut`` of the time."""
    if progress is None:
        return None, None
    return lambda f: progress(cut * f), lambda f: progress(cut + (1 - cut) * f)


def _with_gap(
    result: LogLikelihood,
    program: Program,
    data: tuple[Any, ...],
    sets: int,
    seed: int,
    progress: Callable[[float], None] | None,
    options: dict[str, Any],
) -> LogLikelihood:
    """A result with the gap on simulated data like these."""
    x, *context = data
    known = program.event_shape
    program.event_shape = torch.Size(x.shape[1:])
    options = dict(options)
    preset = options.pop("preset", None)
    try:
        gap = _sandwich(program, len(x), sets, tuple(context), torch.isnan(x), seed + 1, progress, preset, options)
    finally:
        program.event_shape = known
    extra = {name: gap.diagnostics[name] for name in ("gap", "jeffreys")}
    return replace(result, method="bdmc", diagnostics={**result.diagnostics, **extra})
