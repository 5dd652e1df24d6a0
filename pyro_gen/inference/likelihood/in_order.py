r"""Missing entries of an autoregressive law in a fixed order, by particles that go along the order.

Particle s draws what is missing from its law given the entries before, and what is seen weighs it,

.. math::
    x_t^s \sim p(x_t \mid x_{<t}^s) \;\text{ at missing } t, \qquad w^s = \prod_{t \text{ seen}} p(x_t \mid x_{<t}^s) ;

where few particles of a row have most of its weight they are resampled. With S particles the draws are those of
:math:`p(x_m \mid x_o)` up to an error of order 1 / S, and the mean weight is an unbiased estimate of :math:`p(x_o)`. Of
an ensemble of orders each has its share of the particles, whose mean weights say how much of the draws it has.

References:
    | Sequential Monte Carlo Methods in Practice (Doucet, de Freitas & Gordon, 2001)
    | https://doi.org/10.1007/978-1-4757-3437-9
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_gen._progress import told
from pyro_gen.density import row_chunks, rows_of
from pyro_gen.distributions import MaskedEntries
from pyro_gen.distributions.innermost import of_entry
from pyro_gen.inference.likelihood.particles import gather, resample
from pyro_gen.inference.likelihood.weights import effective_sample_size

__all__ = ["ROWS", "complete_in_order", "with_enough_particles"]

ROWS = 2**15  # that a network is given at once
PARTICLES, PARTICLES_PER_DRAW = 256, 8  # of each row, at least
FEWEST, MORE = 10, 16  # particles that are to count at each entry; so many times as many where they do not


def with_enough_particles(
    complete: Callable[[Tensor, tuple[Any, ...], int], tuple[Tensor, Tensor]],
    x: Tensor,
    context: tuple[Any, ...],
    draws: int,
    least: int = 0,
) -> Tensor:
    """Completes rows by particles, and those of which too few count by more of them.

    Arguments:
        complete: Given rows, their context and the number of particles of each, returns so many draws (draws, N, *) and
            how many particles of each row counted where fewest did, (N,).
        x: The rows, with shape :math:`(N, *)` and NaN where missing.
        context: What the model conditions on.
        draws: The number of draws of each row.
        least: The number of particles of each row is no less.

    Returns:
        Completed rows, with shape :math:`(draws, N, *)`.
    """
    count = max(PARTICLES, PARTICLES_PER_DRAW * draws, least)
    completed, fewest = x.expand(draws, *x.shape).clone(), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for size in told((count, MORE * count)):
        poor = (fewest < FEWEST).nonzero()[:, 0]
        for some in told(list(row_chunks(len(poor), max(1, ROWS // size)))):
            rows = poor[some]
            completed[:, rows], fewest[rows] = complete(x[rows], rows_of(x, context, rows), size)
    if bool((few := fewest < FEWEST).any()):
        warnings.warn(
            f"impute: of {MORE * count} particles fewer than {FEWEST} count at some entry of {int(few.sum())} of "
            f'{len(x)} rows, whose draws are not to be trusted: give method="ais", which is slower.',
            stacklevel=6,
        )
    return completed


def complete_in_order(law: MaskedEntries, log_weights: Tensor, x: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Draws the missing entries of rows given the seen ones, by the global generator.

    Arguments:
        law: The law of the rows, with batch shape (S, N): one for each particle, whose context may differ.
        log_weights: Of the particles before they start, float64 with shape (S, N); S is no less than the number of
            orders.
        x: The rows, with shape :math:`(N, *event)` and NaN where missing.
        draws: The number of draws of each row.

    Returns:
        Completed rows, with shape :math:`(draws, N, *event)`, and how many particles of each row counted at the entry
        where fewest did, (N,).
    """
    flat = x.flatten(1)
    shares = torch.arange(len(log_weights), device=x.device).tensor_split(len(law.orders))
    values, weights, fewest = [], [], []
    with torch.no_grad():
        for m, share in told(list(enumerate(shares))):
            context = None if law.context is None else law.context[share]
            v, log_w, least = _particles(law, m, flat, context, log_weights[share])
            fewest.append(least)
            values.append(v)
            weights.append(log_w - math.log(len(share)))
        index = resample(torch.cat(weights), draws)
        return gather(torch.cat(values), index).reshape(draws, *x.shape), torch.stack(fewest).amin(0)


def _particles(
    law: MaskedEntries, m: int, flat: Tensor, context: Tensor | None, log_w: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Particles of the m-th order, (S, N, D), their log-weights, (S, N), and the fewest that counted, (N,)."""
    count, missing = len(log_w), torch.isnan(flat)
    v = flat.nan_to_num().expand(count, *flat.shape).clone()
    laws, least = None, effective_sample_size(log_w)
    parts = torch.arange(count, device=v.device).split(max(1, ROWS // len(flat)))
    for entry in told(law.orders[m].tolist()):
        if laws is None:
            laws = [law.network(v[part], m, None if context is None else context[part]) for part in parts]
        own, drawn = [of_entry(each, entry) for each in laws], missing[:, entry]
        if bool(drawn.any()):
            v[..., entry] = torch.where(drawn, torch.cat([each.sample() for each in own]).to(v.dtype), v[..., entry])
            laws = None
        if bool(drawn.all()):
            continue
        log_p = torch.cat([each.log_prob(v[part, :, entry]) for each, part in zip(own, parts, strict=True)])
        log_w = log_w + torch.where(drawn, 0.0, log_p).double()
        ess = effective_sample_size(log_w)
        poor, least = ess < count / 2, torch.minimum(least, ess)  # (N,) each
        if bool(poor.any()):
            stay = torch.arange(count, device=v.device).unsqueeze(1)
            index = torch.where(poor, resample(log_w, count), stay)
            v, context = gather(v, index), None if context is None else gather(context, index)
            log_w = torch.where(poor, log_w.logsumexp(0) - math.log(count), log_w)
            laws = None
    return v, log_w, least
