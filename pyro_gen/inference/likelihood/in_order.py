r"""Missing entries of an autoregressive law in a fixed order, by particles that go along the order.

Particle s draws what is missing from its law given the entries before, and what is seen weighs it,

.. math::
    x_t^s \sim p(x_t \mid x_{<t}^s) \;\text{ at missing } t, \qquad w^s = \prod_{t \text{ seen}} p(x_t \mid x_{<t}^s) ;

where few particles of a row have most of its weight they are resampled. With S particles the draws are those of
:math:`p(x_m \mid x_o)` up to an error of order 1 / S, and the mean weight is an unbiased estimate of :math:`p(x_o)`. Of
an ensemble of orders each has its share of the particles, whose mean weights say how much of the draws it has.

A network that keeps what it computed from the entries before (:class:`pyro_gen.distributions.Steps`) does so for each
particle, and a particle that is resampled goes on from what its ancestor kept; other networks are run once more on all
entries after each that is drawn.

References:
    | Sequential Monte Carlo Methods in Practice (Doucet, de Freitas & Gordon, 2001)
    | https://doi.org/10.1007/978-1-4757-3437-9
"""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_gen._progress import told
from pyro_gen.density import row_chunks
from pyro_gen.distributions import MaskedEntries, Steps
from pyro_gen.distributions.innermost import of_entry
from pyro_gen.inference.likelihood.by_particles import ROWS
from pyro_gen.inference.likelihood.particles import gather, resample
from pyro_gen.inference.likelihood.weights import effective_sample_size

__all__ = ["particles_in_order"]

KEPT = 2**27  # numbers that networks keep of all particles at once


def particles_in_order(law: MaskedEntries, log_weights: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Particles of the missing entries of rows given the seen ones, by the global generator.

    Arguments:
        law: The law of the rows, with batch shape (S, N): one for each particle, whose context may differ.
        log_weights: Of the particles before they start, float64 with shape (S, N); S is no less than the number of
            orders.
        x: The rows, with shape :math:`(N, *event)` and NaN where missing.

    Returns:
        Completed rows, with shape :math:`(S, N, *event)`, their log-weights, (S, N), and how many particles of each
        row counted at the entry where fewest did, (N,).
    """
    orders, (count, n) = len(law.orders), log_weights.shape
    flat = x.flatten(1)
    shares = torch.arange(count, device=x.device).tensor_split(orders)
    values, weights = x.new_empty(count, *flat.shape), torch.empty_like(log_weights)
    fewest = torch.full((n,), math.inf, dtype=torch.float64, device=x.device)
    with torch.no_grad():
        for m, share in told(list(enumerate(shares))):
            context = None if law.context is None else law.context[share]
            of_row = len(share) * _numbers_kept(law, m, context)
            keeps = 0 < of_row <= KEPT
            for rows in told(list(row_chunks(n, KEPT // of_row if keeps else n))):
                given = None if context is None else context[:, rows].flatten(0, 1)
                begun = log_weights[share, rows]
                steps = law.start(begun.numel(), m, given) if keeps else None
                v, log_w, least = _particles(law, m, flat[rows], given, begun, steps)
                values[share, rows] = v
                weights[share, rows] = log_w + math.log(count / (orders * len(share)))
                fewest[rows] = torch.minimum(fewest[rows], least)
    return values.reshape(count, *x.shape), weights, fewest


def _numbers_kept(law: MaskedEntries, m: int, context: Tensor | None) -> int:
    """How many numbers the network keeps of one particle, 0 where it keeps none."""
    steps = law.start(1, m, None if context is None else context[0, :1])
    return 0 if steps is None else sum(t.numel() for t in steps.kept())


def _particles(
    law: MaskedEntries, m: int, flat: Tensor, context: Tensor | None, log_w: Tensor, steps: Steps | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Particles of the m-th order, (S, N, D), their log-weights, (S, N), and the fewest that counted, (N,).

    Those of all rows stand one below the other where the network is asked, S N of them, with a context (S N, C).
    """
    (count, n), missing, order = log_w.shape, torch.isnan(flat), law.orders[m].tolist()
    v = flat.nan_to_num().repeat(count, 1)
    place = torch.arange(count * n, device=v.device).view(count, n)
    parts = place.flatten().split(ROWS)
    laws: list[Any] | None = None
    least = effective_sample_size(log_w)
    for t, entry in told(list(enumerate(order))):
        if steps is not None:
            own = [steps.law(v[:, order[t - 1]] if t else None)]
        else:
            if laws is None:
                laws = [law.network(v[part], m, None if context is None else context[part]) for part in parts]
            own = [of_entry(each, entry) for each in laws]
        drawn = missing[:, entry]
        if bool(drawn.any()):
            value = torch.cat([each.sample() for each in own]).to(v.dtype)
            v[:, entry] = torch.where(drawn.repeat(count), value, v[:, entry])
            laws = None
        if bool(drawn.all()):
            continue
        values = v[:, entry].split([each.batch_shape[0] for each in own])
        log_p = torch.cat([each.log_prob(value) for each, value in zip(own, values, strict=True)])
        log_w = log_w + torch.where(drawn, 0.0, log_p.view(count, n)).double()
        ess = effective_sample_size(log_w)
        poor, least = ess < count / 2, torch.minimum(least, ess)  # (N,) each
        if bool(poor.any()):
            came_from = torch.where(poor, gather(place, resample(log_w, count)), place).flatten()
            v, context = v[came_from], None if context is None else context[came_from]
            log_w = torch.where(poor, log_w.logsumexp(0) - math.log(count), log_w)
            laws = None
            if steps is not None:
                steps.follow(came_from)
    return v.view(count, n, -1), log_w, least
