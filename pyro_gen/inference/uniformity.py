r"""Whether S ranks among 0, ..., L are uniform: a simultaneous band for their distribution function, and a p-value.

The number :math:`N_i` of ranks below i is binomial, :math:`\mathrm{Bin}(S, i / (L + 1))`. Let :math:`t_i` be twice its
smaller tail probability. The test statistic is the smallest :math:`t_i`; band and p-value come from its exact
distribution, since given :math:`N_{L+1} = S` the path of :math:`N_i` is that of independent Poisson increments of mean
:math:`S / (L + 1)`, so the probability to leave a band is a sum over steps, each a convolution. With Q quantities a
band has the level :math:`1 - \alpha / Q`, so the probability that a correct method leaves any of them is at most
:math:`\alpha`, however the quantities depend on one another.

References:
    | Graphical Test for Discrete Uniformity (Säilynoja, Bürkner & Vehtari, 2022)
    | https://arxiv.org/abs/2103.10522
"""

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

Array = npt.NDArray[np.float64]

__all__ = ["simultaneous_band", "uniformity"]


def _bounds(n: int, bins: int, gamma: float) -> tuple[Array, Array]:
    """The smallest and the largest number of ranks below i = 1, ..., bins - 1 of which neither tail is gamma / 2."""
    share = np.arange(1, bins) / bins
    return stats.binom.ppf(gamma / 2, n, share), stats.binom.isf(gamma / 2, n, share)


@functools.lru_cache(maxsize=4096)
def _escape(n: int, bins: int, gamma: float) -> float:
    """The probability that n uniform ranks leave the band of pointwise level gamma anywhere."""
    lower, upper = _bounds(n, bins, gamma)
    rate = n / bins
    # Beyond this a step has probability below 1e-20.
    reach = int(min(n, stats.poisson.isf(1e-20, rate) + 1))
    increment = stats.poisson.pmf(np.arange(reach + 1), rate)
    inside, offset, escaped = np.ones(1), 0, 0.0
    for i in range(1, bins):
        path = np.convolve(inside, increment)[: n - offset + 1]
        counts = offset + np.arange(len(path))
        kept = (counts >= lower[i - 1]) & (counts <= upper[i - 1])
        rest = stats.poisson.pmf(n - counts[~kept], rate * (bins - i))
        escaped += float(path[~kept] @ rest)
        if not kept.any():
            break
        inside, offset = path[kept], int(counts[kept][0])
    return escaped / float(stats.poisson.pmf(n, n))


@functools.lru_cache(maxsize=256)
def _pointwise(n: int, bins: int, alpha: float) -> float:
    """The largest pointwise level gamma at which n uniform ranks leave the band with probability at most alpha."""
    low, high = math.log(alpha / bins) - 1, 0.0  # by the union bound the level low is narrow enough
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _escape(n, bins, math.exp(middle)) <= alpha else (low, middle)
    return math.exp(low)


def simultaneous_band(n: int, bins: int, alpha: float) -> tuple[Tensor, Tensor, float]:
    r"""The band that the empirical distribution function of uniform ranks leaves nowhere, with a given probability.

    Arguments:
        n: The number S of ranks.
        bins: The number L + 1 of values that a rank takes, 0, ..., L.
        alpha: The probability to leave the band, at most.

    Returns:
        The smallest and the largest share of ranks below i = 1, ..., L that lie in the band, each float64 with shape
        (L,), and the probability to leave it: shares are discrete, so it is a little below ``alpha``.

    Example:
        >>> lower, upper, level = simultaneous_band(500, 10, 0.05)
        >>> lower.shape, 0.03 < level <= 0.05
        (torch.Size([9]), True)
        >>> print(f"{lower[4]:.3f} to {upper[4]:.3f}")  # of the ranks are below 5
        0.442 to 0.558
    """
    if n < 1 or bins < 2 or not 0 < alpha < 1:
        raise ValueError(
            f"simultaneous_band(n={n}, bins={bins}, alpha={alpha}): give at least one rank, two bins and 0 < alpha < 1."
        )
    gamma = _pointwise(n, bins, alpha)
    lower, upper = _bounds(n, bins, gamma)
    return torch.from_numpy(lower / n), torch.from_numpy(upper / n), _escape(n, bins, gamma)


def uniformity(ranks: Tensor, bins: int) -> float:
    """The exact p-value of ranks, with shape (S,), under the uniform distribution on 0, ..., ``bins`` - 1.

    It is at most alpha where the ranks leave the band of :func:`simultaneous_band`, and only there.

    Example:
        >>> from pyro_gen._random import seeded
        >>> with seeded(0):
        ...     flat = torch.randint(10, (500,))
        >>> uniformity(flat, 10) > 0.01, uniformity(flat // 2, 10) < 1e-9
        (True, True)
    """
    n = len(ranks)
    below = torch.bincount(ranks, minlength=bins).cumsum(0)[: bins - 1].cpu().numpy()
    share = np.arange(1, bins) / bins
    tail = np.minimum(stats.binom.cdf(below, n, share), stats.binom.sf(below - 1, n, share))
    # A band whose level is this one must leave out what was seen, rounding or not.
    gamma = 2 * float(tail.min()) * (1 + 1e-9)
    return min(1.0, _escape(n, bins, gamma)) if gamma > 0 else 0.0
