"""Kim's filter: Kalman filters for each pair of regimes, of which those that lead to one regime become one."""

import math

import torch
from torch import Tensor

from pyro_gen.models.sequence.parts.components import Components

__all__ = ["conditioned", "kim_filter"]


def kim_filter(
    y: Tensor, initial: Tensor, transition: Tensor, of: Components, root: Tensor, noises: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Approximates the law of regimes of a switching state space, :math:`p(z_T \mid y)` and backwards from it.

    Arguments:
        y: Series with shape :math:`(N, T)` and NaN where nothing was seen.
        initial: Log-probabilities of the first regime, with shape :math:`(K)`.
        transition: Of the next regime, with shape :math:`(K, K)`.
        of: The matrices of the state of S numbers.
        root: Factors of the covariance of the first state in each regime, with shape :math:`(K, S, S)`.
        noises: The standard deviations of its noises in each regime, with shape :math:`(K, \text{noises})`.
        scale: Those of what is seen, with shape :math:`(K)`.

    Returns:
        The logarithms of :math:`\tilde p(z_T = j \mid y)`, with shape :math:`(N, K)`, and of
        :math:`\tilde p(z_t = i \mid z_{t+1} = j, y_{1:t+1})`, with shape :math:`(N, T - 1, K, K)`, j by i.
    """
    rows, steps, states = *y.shape, len(initial)
    f, h = of.transition, of.observation
    q = of.entry * noises.unsqueeze(-2)
    q = q @ q.mT  # (K, S, S)
    mean, cov = y.new_zeros(rows, states, len(h)), (root @ root.mT).expand(rows, -1, -1, -1)
    log_w, mean, cov = conditioned(y[:, 0, None], initial.expand(rows, -1), mean, cov, h, scale)
    before = []
    for t in range(1, steps):
        ahead = (mean @ f.mT).unsqueeze(2).expand(-1, -1, states, -1)  # (N, i, j, S)
        spread = (f @ cov @ f.mT).unsqueeze(2) + q  # (N, i, j, S, S)
        pairs = log_w.unsqueeze(-1) + transition
        pairs, ahead, spread = conditioned(y[:, t, None, None], pairs, ahead, spread, h, scale)
        log_w = pairs.logsumexp(1)  # (N, j)
        back = pairs - log_w.unsqueeze(1)
        before.append(back.mT)
        share = back.exp().unsqueeze(-1)  # (N, i, j, 1)
        mean = (share * ahead).sum(1)
        away = (ahead - mean.unsqueeze(1)).unsqueeze(-1)
        cov = (share.unsqueeze(-1) * (spread + away @ away.mT)).sum(1)
        log_w = log_w - log_w.logsumexp(-1, keepdim=True)
    between = torch.stack(before, 1) if before else y.new_zeros(rows, 0, states, states)
    return log_w.log_softmax(-1), between


def conditioned(
    y: Tensor, log_w: Tensor, mean: Tensor, cov: Tensor, h: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighs regimes (*, K) by what is seen; conditions means (*, K, S) and covariances (*, K, S, S) on it."""
    gain = cov @ h
    variance = gain @ h + scale.square()
    seen = ~torch.isnan(y)
    short = torch.where(seen, y - mean @ h, 0.0)
    log_p = -0.5 * (short.square() / variance + (2 * math.pi * variance).log())
    part = torch.where(seen, 1 / variance, 0.0).unsqueeze(-1)
    mean = mean + gain * part * short.unsqueeze(-1)
    cov = cov - (gain * part).unsqueeze(-1) * gain.unsqueeze(-2)
    return log_w + torch.where(seen, log_p, 0.0), mean, cov
