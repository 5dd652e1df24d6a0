"""The likelihood of what was seen, where discrete entries are missing: annealed importance sampling over these.

Chains go from the law that stands for the missing entries, and the prior of other latent variables, to the joint
density with what was seen, whose integral is the likelihood.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import row_chunks, rows_of
from pyro_gen.inference.likelihood.annealing import Rows, Runs
from pyro_gen.inference.likelihood.entries import path_of_entries
from pyro_gen.inference.likelihood.paths import Engine
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.inference.likelihood.schedules import CHAINS, Options
from pyro_gen.program import Program

__all__ = ["annealed_entries_likelihood"]

TOGETHER = 2**16  # chains of all rows


def annealed_entries_likelihood(
    program: Program,
    x: Tensor,
    context: tuple[Any, ...],
    seed: int,
    progress: Callable[[float], None] | None,
    options: dict[str, Any],
) -> LogLikelihood:
    """Estimates the log-density of the seen entries of rows by chains over discrete missing ones.

    Arguments:
        program: The program, in evaluation mode; all missing entries are latent where this is called.
        x: The rows, with shape :math:`(N, *)` and NaN where missing.
        context: What the model conditions on.
        seed: Seeds the draws.
        progress: Called with the fraction done.
        options: ``chains`` (16), ``temperatures``, ``schedule``, ``spread`` as of
            :func:`pyro_gen.inference.likelihood.ais.ais`.

    Raises:
        ValueError: There is another option.
    """
    if wrong := sorted(set(options) - {"chains", "temperatures", "schedule", "spread"}):
        raise ValueError(
            f"log_likelihood({wrong[0]}=...): discrete missing entries are moved by Gibbs sampling, which has no such "
            "option: choose from chains, temperatures, schedule, spread."
        )
    settings = Options.of(None, **{"start": "prior", "chains": CHAINS[0], **options})
    with seeded(seed), torch.no_grad():
        runs = Runs(_Paths(program, x, context, settings), settings, progress)
        log_w = torch.cat([run.log_weights.cpu() for run in runs], 1)
    return runs.result(log_w, "ais", entries_seen(x))


class _Paths(Rows):
    """A path per datum: engines for chunks of the data."""

    def chunks(self) -> list[slice]:
        return list(row_chunks(len(self.x), max(1, TOGETHER // (self.settings.chains or 1))))

    def engine(self, rows: slice) -> Engine:
        path = path_of_entries(self.program, (self.x[rows], *rows_of(self.x, self.context, rows)))
        assert path is not None
        return self.settings.engine(path)
