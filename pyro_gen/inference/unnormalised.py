r"""Draws from what a program says of missing entries by its density alone: chains over these entries.

Of an energy-based program, :math:`p(x) \propto p_0(x) \, e^{-E(x)}`, nothing is drawn by running its model. Chains go
from the base :math:`p_0`, whose draws are exact, to the density by annealed importance sampling: they are independent,
their weights give each mode its share, and the ends are resampled by the weights and moved on. Generation is that with
all of x missing.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_gen._errors import warn
from pyro_gen.density import density, row_chunks, rows_of
from pyro_gen.density.missing import latent_missing
from pyro_gen.inference.likelihood.ais import annealed_draws
from pyro_gen.inference.likelihood.annealing import Runs, Single
from pyro_gen.inference.likelihood.entries import Entries, EntriesPath, path_of_entries
from pyro_gen.inference.likelihood.enumeration import enumerated, is_enumerable
from pyro_gen.inference.likelihood.particles import resample
from pyro_gen.inference.likelihood.schedules import Options
from pyro_gen.inference.likelihood.smc import NoFiniteLikelihood, smc_draws
from pyro_gen.inference.likelihood.weights import effective_sample_size
from pyro_gen.program import Program

__all__ = ["complete_by_particles", "complete_rows", "generate"]

LEAST_CHAINS = 1024  # of one target
CHAINS_PER_DRAW = 4  # of which draws are resampled, so that few come from one chain
PARTICLES, ISLANDS = 128, 8  # of sequential Monte Carlo, at least
FEWEST_ISLANDS = 2  # that count by their estimates of the density of what is seen
MOVES = 30  # at the end, which part draws that come from one chain
ROWS_OF_CHAINS = 2**16  # chains of all rows that are moved together
FLOOR = 0.05  # share of the chains below which their weights do not say what share a mode has


def generate(
    program: Program,
    x: Tensor,
    context: tuple[Any, ...],
    options: Mapping[str, Any],
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Draws data from an unnormalised program, by the global generators.

    Arguments:
        program: The program, in evaluation mode.
        x: Data of which nothing was seen, with shape :math:`(n, *)`.
        context: What the model conditions on.
        options: Of the annealing, see :func:`pyro_gen.inference.likelihood.ais.ais`.
        progress: Called with the fraction done.

    Returns:
        The data, with the shape of ``x``.
    """
    shared = not any(isinstance(c, Tensor) and c.shape[:1] == x.shape[:1] for c in context)
    rows, draws = (x[:1], len(x)) if shared else (x, 1)
    with latent_missing(program, rows, *context, every=True) as handler:
        if not handler.names:
            raise ValueError(
                f"{type(program).__name__} has a factor and no base distribution for its data: observe them before it, "
                'as by x = observe("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(1), x).'
            )
        completed = complete_rows(program, rows, context, draws, "sample", options, progress)
    return completed[:, 0] if shared else completed[0]


def complete_rows(
    program: Program,
    x: Tensor,
    context: tuple[Any, ...],
    draws: int,
    verb: str,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
    annealed: bool = False,
) -> Tensor:
    """Draws the missing entries of rows from their density given the seen ones, by the global generators.

    As the program knows (:meth:`~pyro_gen.Program.draw_missing`), by sums over all of their values where they are few
    and discrete, by sequential Monte Carlo where the program has a normalised density, as a flow, else by annealed
    chains. Particles that are resampled along the way need a tenth of the gradients of annealed chains; these are kept
    for energies, whose modes lie far apart, and for whoever gives options.

    Arguments:
        program: The program, in evaluation mode; all missing entries are latent where this is called.
        x: The rows, with shape :math:`(N, *)` and NaN where missing.
        context: What the model conditions on.
        draws: The number S of draws.
        verb: What was called, for warnings.
        options: Of the annealing.
        progress: Called with the fraction done.
        annealed: Whether chains are annealed in any case where there is nothing exact.

    Returns:
        Completed rows, with shape :math:`(S, N, *)`.
    """
    if not options and (drawn := program.draw_missing(x, draws, *context)) is not None:
        return drawn
    out = x.expand(draws, *x.shape).clone()
    if not options and not program.has_kernel and is_enumerable(program, x, *context):
        for sums in enumerated(program, x, *context):
            index = torch.multinomial(sums.log_weights.softmax(0).T, draws, replacement=True).T
            data = (x[sums.rows], *rows_of(x, context, sums.rows))
            out[:, sums.rows] = Entries(program, data).complete(sums.select(index))
        return out
    first = (x[:1], *rows_of(x, context, slice(1)))
    by_gradients = path_of_entries(program, first) is None
    at_once = not by_gradients or _runs_at_once(program, first)
    together = by_gradients and at_once and not options and not annealed
    if together and not density(program, *first, per_datum=True).unnormalised:
        return complete_by_particles(program, x, context, draws, verb, progress)
    least = (LEAST_CHAINS if len(x) == 1 else LEAST_CHAINS // 16) if at_once else 0  # each more takes its time
    settings = {"start": "prior", "chains": max(least, CHAINS_PER_DRAW * draws), **(options or {})}
    poor: list[Tensor] = []
    if by_gradients:
        for found in annealed_draws(program, x, *context, draws=draws, progress=progress, **settings):
            out[:, found.rows] = found.density.complete(found.z)
            poor.append(effective_sample_size(found.log_weights))
    else:
        settings.pop("start")
        for rows in row_chunks(len(x), max(1, ROWS_OF_CHAINS // settings["chains"])):
            path = path_of_entries(program, (x[rows], *rows_of(x, context, rows)), settings.get("kernel"))
            assert path is not None
            completed, ess = annealed_entries(path, draws, settings, progress if len(x) == 1 else None)
            out[:, rows] = completed
            poor.append(ess)
            if progress is not None:
                progress(rows.stop / len(x))
    ess = torch.cat(poor)
    if bool((ess < FLOOR * settings["chains"]).any()):
        warn(
            f"{verb}: of {settings['chains']} annealed chains only {float(ess.min()):.0f} count by their weights, "
            "which do not say what share each mode has: give more temperatures, as "
            'options={"temperatures": 1000}, or a base nearer to the density.'
        )
    return out


def complete_by_particles(
    program: Program,
    x: Tensor,
    context: tuple[Any, ...],
    draws: int,
    verb: str,
    progress: Callable[[float], None] | None = None,
    moves: int = MOVES,
) -> Tensor:
    """Completed rows (S, N, *) by particles on islands: how far the estimates of these agree says whether to trust.

    Each draw is moved so many times at the end.
    """
    out = x.expand(draws, *x.shape).clone()
    islands = max(ISLANDS, math.ceil(CHAINS_PER_DRAW * draws / PARTICLES))
    disagree = 0
    for rows in row_chunks(len(x), max(1, ROWS_OF_CHAINS // (islands * PARTICLES))):
        target = density(program, x[rows], *rows_of(x, context, rows), per_datum=True)
        seed = int(torch.randint(2**31, ()))
        try:
            z, evidence = smc_draws(
                target, draws, moves, seed, particles=PARTICLES, islands=islands, start="prior", frozen=False
            )
        except NoFiniteLikelihood as error:
            raise ValueError(
                f"{verb}: of some row no particle has a finite density: look at rows whose seen entries lie far from "
                'the data that the program was trained on, or give method="ais".'
            ) from error
        out[:, rows] = target.complete(z)
        of_islands = effective_sample_size(evidence.diagnostics["islands"])
        disagree += int((of_islands < FEWEST_ISLANDS).sum())
        if progress is not None:
            progress(rows.stop / len(x))
    if disagree:
        warn(
            f"{verb}: particles on {islands} islands do not agree about {disagree} of {len(x)} rows, whose draws are "
            'not to be trusted: give method="ais", whose annealed chains take longer.'
        )
    return out


def _runs_at_once(program: Program, row: tuple[Any, ...]) -> bool:
    """Whether all chains of a row are evaluated together; where torch refuses that they come one by one."""
    target = density(program, *row, per_datum=True)
    target.value_and_grad(target.sample_prior(1))
    return target.mode != "loop"


def annealed_entries(
    path: EntriesPath, draws: int, settings: Mapping[str, Any], progress: Callable[[float], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Completed rows (S, N, *) at the ends of chains along a path, and effective sample sizes (N,)."""
    options = Options.of(None, **settings)
    (run,) = Runs(Single(path, options), options, progress)
    point = run.engine.take(run.point, resample(run.log_weights, draws))
    for _ in range(MOVES):
        point, _ = run.engine.move(point, 1.0, *run.plan.tuning(-1))
    return path.completed(run.engine.unflatten(point.z)), effective_sample_size(run.log_weights)
