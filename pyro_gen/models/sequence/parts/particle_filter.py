r"""A particle filter of regimes: a Kalman filter for each of M paths, of which the others are integrated out.

Every path goes on in each of the K regimes. Of these :math:`q_1, \dots, q_{MK}` continuations M are kept: with c such
that :math:`\sum_i \min(1, q_i / c) = M`, continuation i by the probability :math:`\min(1, q_i / c)`, and then with the
weight :math:`\max(q_i, c)`. So no path is kept twice, heavy ones always are, and the product of the sums of weights
has the likelihood as its mean. Where there are no more paths than M, it is the likelihood.

References:
    | On-line inference for hidden Markov models via particle filters (Fearnhead & Clifford, 2003)
    | https://doi.org/10.1111/1467-9868.00421
"""

import torch
from torch import Tensor

from pyro_gen.models.sequence.parts.components import Components
from pyro_gen.models.sequence.parts.kim import conditioned

__all__ = ["particle_filter"]


def particle_filter(
    y: Tensor,
    initial: Tensor,
    transition: Tensor,
    of: Components,
    root: Tensor,
    noises: Tensor,
    scale: Tensor,
    particles: int,
) -> Tensor:
    """Estimates the log-likelihoods of series, by the global generator; arguments as of Kim's filter, and M.

    Returns:
        Estimates with shape :math:`(N)`, whose exponentials have no bias.
    """
    f, h, states = of.transition, of.observation, len(initial)
    q = of.entry * noises.unsqueeze(-2)
    q = q @ q.mT  # (K, S, S)
    rows, steps = y.shape
    mean, cov = y.new_zeros(rows, 1, states, len(h)), (root @ root.mT).expand(rows, 1, -1, -1, -1)
    pairs, total = initial.expand(rows, 1, -1), y.new_zeros(rows)
    for t in range(steps):
        pairs, mean, cov = conditioned(y[:, t, None, None], pairs, mean, cov, h, scale)
        log_w, mean, cov = pairs.flatten(1), mean.flatten(1, 2), cov.flatten(1, 2)  # (N, M K, ...)
        regime = torch.arange(log_w.shape[1], device=y.device).expand_as(log_w) % states
        norm = log_w.logsumexp(-1)
        total, log_w = total + norm, log_w - norm.unsqueeze(-1)
        if log_w.shape[1] > particles:
            kept, log_w = _kept(log_w, particles)
            mean = mean.gather(1, kept.unsqueeze(-1).expand(-1, -1, mean.shape[-1]))
            cov = cov.gather(1, kept[..., None, None].expand(-1, -1, *cov.shape[-2:]))
            regime = regime.gather(1, kept)
        mean = (mean @ f.mT).unsqueeze(2).expand(-1, -1, states, -1)
        cov = (f @ cov @ f.mT).unsqueeze(2) + q
        pairs = log_w.unsqueeze(-1) + transition[regime]
    return total


def _kept(log_w: Tensor, particles: int) -> tuple[Tensor, Tensor]:
    """Which of some weights, (N, C) with sum 1, are kept, and the logarithms of what they weigh then; (N, M) each."""
    w = log_w.exp()
    sizes, at = w.sort(-1, descending=True).values, torch.arange(particles, device=w.device)
    tails = 1 - torch.nn.functional.pad(sizes.cumsum(-1)[:, : particles - 1], (1, 0))
    thresholds = (tails / (particles - at)).clamp(min=0)  # c, if as many as `at` are always kept
    always = (sizes[:, :particles] > thresholds).long().cumprod(-1).sum(-1).clamp(max=particles - 1)
    c = thresholds.gather(-1, always.unsqueeze(-1)).clamp(min=torch.finfo(w.dtype).tiny)
    chances = (w / c).clamp(max=1)
    edges = chances.cumsum(-1)
    edges = edges * (particles / edges[:, -1:])  # which is 1 but for rounding
    points = at + torch.rand(len(w), 1, dtype=w.dtype, device=w.device)
    kept = torch.searchsorted(edges, points).clamp(max=w.shape[1] - 1)
    return kept, torch.maximum(log_w, c.log()).gather(-1, kept)
