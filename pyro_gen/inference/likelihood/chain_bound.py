r"""The bound of a whole chain of noise, by steps at random times.

The negative bound is a sum over the steps of a chain (:mod:`pyro_gen.inference.objectives.diffusion`), of which each
datum gets K terms, at times that are spread evenly: one in each of K parts of the chain. With as many times as steps
each step is there once. A bound by traces of the chain has the same mean, and costs all steps for each of its draws.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import row_chunks, rows_of
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.noising import NoisingChain

__all__ = ["chain_bound"]

ROWS = 1024  # at a time
BEFORE_ONE = 1 - 2**-24  # what rounding makes 1 is no time of a step
ENDS = 8  # so many times for each draw of the terms that are no step


def chain_bound(
    program: NoisingChain,
    x: Tensor,
    context: tuple[Any, ...],
    times: int,
    seed: int,
    progress: Callable[[float], None] | None,
) -> LogLikelihood:
    """The bound of complete data, with the arguments of :func:`pyro_gen.log_likelihood`.

    Its standard error is from the differences of neighbours in time, too large by what their means differ.

    Arguments:
        program: The chain, in evaluation mode.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        times: The number K of times of each datum.
        seed: Seeds the draws.
        progress: Called with the fraction done, now and then.

    Raises:
        ValueError: The number of times is not positive.
    """
    if times < 1:
        raise ValueError(f"log_likelihood(num_particles={times}): give a positive number.")
    values: list[Tensor] = []
    errors: list[Tensor] = []
    with seeded(seed), torch.no_grad():
        for rows in row_chunks(len(x), ROWS):
            data, given, draws = x[rows], rows_of(x, context, rows), []
            for k in range(times):
                time = ((k + torch.rand(len(data), device=x.device)) / times).clamp(max=BEFORE_ONE)
                loss, weight = program.step(data, time, *given)
                draws.append((weight * loss).double())
                if progress is not None:
                    progress((sum(len(v) for v in values) + len(data) * (k + 1) / times) / len(x))
            steps = torch.stack(draws, 1)  # (N, K)
            ends = torch.stack([program.ends(data, *given).double() for _ in range(2 + times // ENDS)], 1)
            values.append(-steps.mean(1) - ends.mean(1))
            # NaN for one time
            errors.append((steps.diff(dim=1).square().mean(1) / (2 * times) + ends.var(1) / ends.shape[1]).sqrt())
    value, error = torch.cat(values), torch.cat(errors)
    diagnostics = {"num_particles": torch.tensor(times)}
    return LogLikelihood(
        value, error, "stochastic lower bound", "elbo", entries_seen(x), lower=value, diagnostics=diagnostics
    )
