"""Whether draws are spread as they should be: central intervals, and where among the draws the truth lies."""

import math
from typing import Any, NamedTuple

import scipy.stats
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.imputation.scores.pairs import pair

__all__ = ["Intervals", "interval_coverage", "pit", "pit_test"]


class Intervals(NamedTuple):
    """Central intervals of draws, and whether they hold the truth.

    Attributes:
        covered: 1 where the interval holds the truth, 0 where not, NaN where the truth is NaN.
        width: The widths.
        lower: The lower ends.
        upper: The upper ends.
        nominal: The probability that the intervals promise: the level asked for, or less where the draws are too few.
    """

    covered: Tensor
    width: Tensor
    lower: Tensor
    upper: Tensor
    nominal: float


def interval_coverage(draws: Any, truth: Any, level: float = 0.95) -> Intervals:
    r"""Central intervals of draws, and whether they hold the truth.

    With :math:`x_{(1)} \le \dots \le x_{(m)}` the sorted draws, the truth falls below :math:`x_{(k)}` with probability
    :math:`k / (m + 1)` if it comes from the same distribution. So the ends of the interval are order statistics at the
    positions :math:`\frac{1 \mp L}{2} (m + 1)`, between whole positions by interpolation (definition 6 of Hyndman &
    Fan; exact for uniform distributions, off by less than 0.005 for others with 20 draws or more). The usual sample
    quantiles lie further inside and cover less than they say: 95 percent with 20 draws are 87.

    With less than :math:`(1 + L) / (1 - L)` draws (39 for 95 percent) even the range of the draws has too little
    probability. The interval is the range then, and ``nominal`` says what it is worth, :math:`(m - 1) / (m + 1)`.

    Arguments:
        draws: Draws of each entry, with shape :math:`(m, *)`.
        truth: The true values, with shape :math:`(*)`; NaN = not scored.
        level: The probability L.

    Returns:
        Coverage, widths and ends, each with shape :math:`(*)`, and the nominal coverage. Intervals include their ends;
        those of counts hold the truth more often than promised, because values tie.

    Raises:
        ValueError: If the shapes do not match, or the level is not between 0 and 1.

    Example:
        >>> intervals = interval_coverage(torch.arange(1.0, 10.0).reshape(9, 1), [5.5], level=0.8)
        >>> intervals.lower, intervals.upper, intervals.nominal
        (tensor([1.], dtype=torch.float64), tensor([9.], dtype=torch.float64), 0.8)
    """
    draws, truth = pair(draws, truth, "interval_coverage")
    if not 0 < level < 1:
        raise ValueError(f"interval_coverage(level={level}): give a probability between 0 and 1.")
    m = len(draws)
    position = round((1 - level) / 2 * (m + 1), 9)  # 0.05 / 2 * 40 is not 1 in floating point
    nominal = level
    if position < 1:
        position, nominal = 1.0, (m - 1) / (m + 1)
    ordered = draws.sort(0).values
    k, part = int(position), position - int(position)
    inner = min(k, m - 1)
    lower = torch.lerp(ordered[k - 1], ordered[inner], part)
    upper = torch.lerp(ordered[m - k], ordered[m - 1 - inner], part)
    covered = ((lower <= truth) & (truth <= upper)).double().masked_fill(truth.isnan(), math.nan)
    return Intervals(covered, (upper - lower).masked_fill(truth.isnan(), math.nan), lower, upper, nominal)


def pit(draws: Any, truth: Any, *, seed: int = 0) -> Tensor:
    r"""The probability integral transform of the truth, randomised: where among the draws does it lie?

    .. math:: u = \frac{\#\{x_i < y\} + v \, (\#\{x_i = y\} + 1)}{m + 1}, \qquad v \sim \mathcal{U}(0, 1)

    Uniform on (0, 1), exactly and for every m, if truth and draws come from the same distribution, a discrete one too.
    A histogram with a hump in the middle says that the draws are too wide, one with horns that they are too narrow.

    Arguments:
        draws: Draws of each entry, with shape :math:`(m, *)`: numbers, or codes of ordered levels.
        truth: The true values, with shape :math:`(*)`; NaN = not scored.
        seed: Seeds v; the caller's generators are left alone.

    Returns:
        Numbers between 0 and 1, with shape :math:`(*)`; NaN where the truth is.

    Raises:
        ValueError: If the shapes do not match.
    """
    draws, truth = pair(draws, truth, "pit")
    with seeded(seed):
        v = torch.rand(truth.shape, dtype=truth.dtype).to(truth.device)
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    u: Tensor = (below + v * (ties + 1)) / (len(draws) + 1)
    return u.masked_fill(truth.isnan(), math.nan)


def pit_test(values: Any) -> float:
    """The p-value of the Kolmogorov-Smirnov test that values of :func:`pit` are uniform.

    Arguments:
        values: Of independent entries: say, of one column. NaN is left out.

    Raises:
        ValueError: If there is none.
    """
    u = torch.as_tensor(values).double().cpu().flatten()
    u = u[~u.isnan()]
    if not len(u):
        raise ValueError("pit_test got no value: give at least one.")
    return float(scipy.stats.kstest(u.numpy(), "uniform").pvalue)
