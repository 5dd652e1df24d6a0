r"""Importance weights: what their mean is, how many of them count, and whether their tail is too heavy for either.

Log-weights :math:`\log w_k` are given as tensors of shape :math:`(K, N)`, K draws for each of N targets.

References:
    | Pareto Smoothed Importance Sampling (Vehtari et al., 2024)
    | https://arxiv.org/abs/1507.02646
    | A New and Efficient Estimation Method for the Generalized Pareto Distribution (Zhang & Stephens, 2009)
    | https://doi.org/10.1198/tech.2009.08017
"""

import math

import torch
from torch import Tensor

__all__ = ["effective_sample_size", "left_out", "log_mean_exp", "psis", "psis_khat", "tail_length"]


FEW = 5  # weights above the threshold, to which no distribution is fitted


def log_mean_exp(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""The logarithm of the mean weight, and its standard error by the jackknife over draws.

    Arguments:
        log_weights: With shape :math:`(K, N)`.

    Returns:
        Both with shape :math:`(N,)`; the error is NaN for one draw.

    Example:
        >>> value, error = log_mean_exp(torch.tensor([[0.0], [0.0]]).double())
        >>> value.item(), error.item()
        (0.0, 0.0)
    """
    n = len(log_weights)
    value = log_weights.logsumexp(0) - math.log(n)
    if n == 1:
        return value, torch.full_like(value, math.nan)
    return value, ((n - 1) * left_out(log_weights).var(0, correction=0)).sqrt()


def left_out(log_weights: Tensor) -> Tensor:
    """The logarithm of the sum of all weights but one, for each of the K draws: (K, N) -> (K, N)."""
    # Sums that leave out one draw each, from both ends, so that no digits are lost where one weight dominates.
    nothing = torch.full_like(log_weights[:1], -math.inf)
    before = torch.cat([nothing, log_weights[:-1].logcumsumexp(0)])
    after = torch.cat([log_weights[1:].flip(0).logcumsumexp(0).flip(0), nothing])
    return torch.logaddexp(before, after)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""The effective sample size :math:`(\sum_k w_k)^2 / \sum_k w_k^2`: (K, N) log-weights give shape :math:`(N,)`."""
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def psis_khat(log_weights: Tensor) -> Tensor:
    r"""The Pareto shape of the largest weights: below 0.7 an importance sampling estimate can be trusted.

    A generalised Pareto distribution is fitted to the largest :math:`\min(K / 5, 3 \sqrt{K})` weights by the method of
    Zhang & Stephens (2009), with the weak prior of Vehtari et al. (2024).

    Arguments:
        log_weights: With shape :math:`(K, N)`.

    Returns:
        The shapes k, float64 with shape :math:`(N,)`: NaN where K < 21 gives no tail to fit, 0 where all weights
        are equal, infinite where a few carry everything or one is NaN.
    """
    return _pareto_tail(log_weights)[0]


def psis(log_weights: Tensor) -> Tensor:
    """Pareto smoothing: the largest weights, see :func:`psis_khat`, become quantiles of the distribution fitted.

    Arguments:
        log_weights: With shape :math:`(K, N)`.

    Returns:
        Log-weights, float64 with shape :math:`(K, N)`, none larger than the largest given one; as they were where
        there is no tail to fit.

    Example:
        >>> log_w = 3 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
        >>> bool((psis(log_w) <= log_w.max()).all())
        True
    """
    shape, scale, threshold = _pareto_tail(log_weights)
    log_weights = log_weights.double()
    tail = tail_length(len(log_weights))
    if tail <= 4:
        return log_weights
    largest, index = log_weights.topk(tail, dim=0)  # descending
    tail_probability = (torch.arange(tail, dtype=torch.float64, device=index.device) + 0.5)[:, None] / tail
    excess = scale * torch.expm1(-shape * tail_probability.log()) / shape
    excess = torch.where(shape.abs() > 1e-8, excess, -scale * tail_probability.log())
    smooth = torch.log(threshold + excess).clamp(max=0.0) + largest[0]
    fitted = shape.isfinite() & (scale > 0)
    return log_weights.scatter(0, index, torch.where(fitted, smooth, largest))


def tail_length(n: int) -> int:
    """How many of n weights are the largest, to which a Pareto distribution is fitted."""
    return math.ceil(min(n / 5, 3 * math.sqrt(n)))


def _pareto_tail(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape and scale of the distribution of the excesses of the largest weights, and the threshold, each (N,).

    Threshold and scale are relative to the largest weight.
    """
    tail = tail_length(len(log_weights))
    if tail <= 4:
        nothing = torch.full_like(log_weights[0], math.nan, dtype=torch.float64)
        return nothing, nothing, nothing
    top = (log_weights.double() - log_weights.double().max(0).values).topk(tail + 1, dim=0).values.flip(0).exp()
    x = top[1:] - top[0]  # excesses over the threshold, ascending, (M, N)
    positive = (x > 0).sum(0)  # fewer than all where weights are tied at the threshold, as those of discrete variables
    place = tail - positive + (positive / 4 + 0.5).long() - 1
    quarter = x.gather(0, place.clamp(0, tail - 1)[None])[0]
    grid = 30 + int(math.sqrt(tail))
    b = 1 - torch.sqrt(grid / (torch.arange(1, grid + 1, dtype=torch.float64, device=x.device) - 0.5))
    b = b[:, None] / (3 * quarter) + 1 / x[-1]  # (G, N)
    k = torch.stack([torch.log1p(-row * x).mean(0) for row in b])
    log_posterior = tail * (torch.log(-b / k) - k - 1)
    posterior = log_posterior.softmax(0)
    rate = (b * posterior).sum(0)
    shape = torch.log1p(-rate * x).mean(0)
    scale = -shape / rate
    shape = (tail * shape + 10 * 0.5) / (tail + 10)
    # A threshold below what exp can show means that a handful of weights carry everything.
    shape = torch.where(shape.isfinite() & (top[0] > 0), shape, math.inf)
    # Not where there are weights that are NaN or infinite: all are equal, or all but a few that are not much larger.
    equal = (x[-1] == 0) | ((positive < FEW) & (top[0] > 1 / FEW))
    return shape.masked_fill(equal, 0.0), scale.masked_fill(equal, 0.0), top[0]
