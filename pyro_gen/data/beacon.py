r"""Sequences of a nonlinear system, drawn: a light that wanders round six sensors.

.. math::
    s \in \{-1, 1\}, \qquad \theta_1 \sim \mathcal{U}(0, 2 \pi), \qquad
    \theta_t = \theta_{t-1} + 0.5 \, s + 0.3 \, \epsilon_t, \qquad
    x_{td} \sim \mathcal{N}\big( e^{3 (\cos(\theta_t - 2 \pi d / 6) - 1)}, \, 0.1^2 \big) .

The angle is a circle, a sensor sees the light when it is near, and which way round it goes is told by the past. What is
known of the angle and the direction stands on a grid, so the exact likelihood is that of a hidden Markov model.
"""

import math

import torch
from torch import Tensor

__all__ = ["beacon", "beacon_log_likelihood"]

SENSORS, SPEED, JITTER, NOISE = 6, 0.5, 0.3, 0.1


def _seen(theta: Tensor) -> Tensor:
    angles = 2 * math.pi / SENSORS * torch.arange(SENSORS, dtype=theta.dtype)
    return torch.exp(3 * (torch.cos(theta.unsqueeze(-1) - angles) - 1))


def beacon(sequences: int, steps: int = 25, seed: int = 0) -> Tensor:
    """Draws sequences with shape (N, T, 6), in torch's default dtype.

    Example:
        >>> beacon(4).shape
        torch.Size([4, 25, 6])
    """
    g = torch.Generator().manual_seed(seed)
    way = torch.randint(0, 2, (sequences, 1), generator=g) * 2 - 1
    moves = SPEED * way + JITTER * torch.randn(sequences, steps - 1, generator=g)
    first = 2 * math.pi * torch.rand(sequences, 1, generator=g)
    theta = torch.cat([first, first + moves.cumsum(1)], 1)
    return _seen(theta) + NOISE * torch.randn(sequences, steps, SENSORS, generator=g)


def beacon_log_likelihood(x: Tensor, cells: int = 200) -> Tensor:
    """The exact log-density of sequences with shape (N, T, 6), in nats, float64 with shape (N): a sum over a grid.

    Example:
        >>> a, b = (beacon_log_likelihood(beacon(3), cells) for cells in (120, 240))
        >>> bool((a - b).abs().max() < 1e-6)
        True
    """
    grid = 2 * math.pi / cells * torch.arange(cells, dtype=torch.float64)
    near = grid - grid.unsqueeze(1)  # (from, to)
    log_emitted = torch.distributions.Normal(_seen(grid), NOISE).log_prob(x.double().unsqueeze(2)).sum(-1)  # (N, T, C)
    ways = []
    for way in (-1, 1):
        off = torch.remainder(near - SPEED * way + math.pi, 2 * math.pi) - math.pi
        weights = torch.exp(-0.5 * (off / JITTER).square())
        moves = weights / weights.sum(1, keepdim=True)
        log_p = log_emitted[:, 0] - math.log(cells)
        for t in range(1, x.shape[1]):
            top = log_p.amax(1, keepdim=True)
            log_p = ((log_p - top).exp() @ moves).clamp(min=1e-300).log() + top + log_emitted[:, t]
        ways.append(log_p.logsumexp(1))
    return torch.logaddexp(*ways) - math.log(2)
