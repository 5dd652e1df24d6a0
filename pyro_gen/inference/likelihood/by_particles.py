r"""Missing entries and the likelihood of the seen ones, by particles of a program that knows how to draw them.

A program offers them as :meth:`pyro_gen.program.Program.missing_particles`: S completed rows of each, whose weights
have

.. math:: \mathbb{E} \, \frac1S \sum_{s=1}^S w_s = p(x_o) ,

and which, resampled by weight, are draws of :math:`p(x_m \mid x_o)` up to an error of order 1 / S. For the likelihood
particles live on islands that do not meet: the mean over I of them is unbiased too, and their spread gives its error.

References:
    | Sequential Monte Carlo Methods in Practice (Doucet, de Freitas & Gordon, 2001)
    | https://doi.org/10.1007/978-1-4757-3437-9
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_gen._errors import warn
from pyro_gen._progress import listening, told
from pyro_gen._random import seeded
from pyro_gen.density import evaluation, row_chunks, rows_of
from pyro_gen.inference.likelihood.exact import exact_likelihood
from pyro_gen.inference.likelihood.particles import gather, resample
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.inference.likelihood.weights import log_mean_exp
from pyro_gen.program import MissingParticles, Program
from pyro_gen.traces import structure

__all__ = ["ROWS", "particle_draws", "particle_likelihoods"]

ROWS = 2**15  # particles of all rows at once
PARTICLES, PARTICLES_PER_DRAW = 256, 8  # of each row, at least, to draw from
FEWEST, MORE = 10, 16  # particles that are to count at each entry; so many times as many where they do not
ISLANDS, OF_AN_ISLAND = 8, 256  # for the likelihood


def _checked(verb: str, options: Mapping[str, Any], known: dict[str, int]) -> dict[str, int]:
    """Numbers of particles and islands, those left out as they are by default."""
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f"{verb} by particles has no option {name!r}: choose from {', '.join(known)}, or give the method that "
                'has it, as method="ais".'
            )
        if not isinstance(value, int) or value < 2:
            raise ValueError(f"{verb}({name}={value!r}): give an integer of 2 or more.")
    return known | dict(options)


def particle_draws(
    make: MissingParticles, x: Tensor, context: tuple[Any, ...], draws: int, options: Mapping[str, Any]
) -> Tensor:
    """Draws the missing entries of rows, by the global generator; those of which too few particles count, by more.

    Arguments:
        make: Makes particles.
        x: The rows, with shape :math:`(N, *)` and NaN where missing.
        context: What the model conditions on.
        draws: The number of draws of each row.
        options: ``particles`` of each row, and then no more where few of them count.

    Returns:
        Completed rows, with shape :math:`(draws, N, *)`.

    Raises:
        ValueError: There is another option, or it is no number of 2 or more.
    """
    first = max(PARTICLES, PARTICLES_PER_DRAW * draws)
    count = _checked("impute", options, {"particles": first})["particles"]
    sizes = (count,) if options else (count, MORE * count)
    completed, fewest = x.expand(draws, *x.shape).clone(), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for size in told(sizes):
        poor = (~(fewest >= FEWEST)).nonzero()[:, 0]  # NaN where no particle can be
        for some in told(list(row_chunks(len(poor), max(1, ROWS // size)))):
            rows = poor[some]
            values, log_w, fewest[rows] = make(x[rows], rows_of(x, context, rows), size)
            completed[:, rows] = gather(values, resample(log_w, draws))
    if bool((few := ~(fewest >= FEWEST)).any()):
        advice = "options with more of them" if options else 'method="ais", which is slower'
        warn(
            f"impute: of {sizes[-1]} particles fewer than {FEWEST} count at some entry of {int(few.sum())} of "
            f"{len(x)} rows, whose draws are not to be trusted: give {advice}."
        )
    return completed


def particle_likelihoods(
    program: Program,
    make: MissingParticles,
    x: Tensor,
    context: tuple[Any, ...],
    seed: int,
    progress: Callable[[float], None] | None,
    options: dict[str, Any],
) -> LogLikelihood:
    r"""Estimates :math:`\log p(x_o)` of the seen entries of each row; that of a complete row is exact where it can be.

    Arguments:
        program: The program.
        make: Makes its particles.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed.
        context: What the model conditions on.
        seed: Seeds the draws.
        progress: Called with the fraction done.
        options: ``particles`` of each island (256), ``islands`` (8).

    Returns:
        The logarithm of the mean over islands, a stochastic lower bound, with the jackknife's error over them. Among
        the diagnostics are the ``islands`` themselves, (I, N), and ``ess``, how many particles of an island counted
        where fewest did; both are NaN for rows that are exact.

    Raises:
        ValueError: There is another option, or it is no number of 2 or more.
    """
    settings = _checked("log_likelihood", options, {"particles": OF_AN_ISLAND, "islands": ISLANDS})
    count, islands = settings["particles"], settings["islands"]
    value, error, least = (torch.full((len(x),), math.nan, dtype=torch.float64, device=x.device) for _ in range(3))
    each = torch.full((islands, len(x)), math.nan, dtype=torch.float64, device=x.device)
    left = torch.arange(len(x), device=x.device)
    with seeded(seed), torch.no_grad(), evaluation(program), listening(progress):
        whole = left[~torch.isnan(x).flatten(1).any(1)]
        if len(whole) and structure(program, x[whole], *rows_of(x, context, whole)).kind == "exact":
            value[whole] = exact_likelihood(program, x[whole], rows_of(x, context, whole)).value.to(x.device)
            error[whole] = 0.0
            left = value.isnan().nonzero()[:, 0]
        for some in told(list(row_chunks(len(left), max(1, ROWS // (count * islands))))):
            rows = left[some]
            copies = rows.repeat(islands)
            _, log_w, fewest = make(x[copies], rows_of(x, context, copies), count)
            each[:, rows] = log_mean_exp(log_w)[0].view(islands, -1)
            value[rows], error[rows] = log_mean_exp(each[:, rows])
            least[rows] = fewest.view(islands, -1).amin(0)
    found = {"islands": each.cpu(), "ess": least.cpu()}
    return LogLikelihood(value, error, "stochastic lower bound", "smc", entries_seen(x), diagnostics=found)
