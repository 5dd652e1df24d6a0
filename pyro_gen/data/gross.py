r"""Gross entries: a code such as 999 or 9999 among numbers of another size, which no scale of a column survives.

With the median m of a column, and b the greatest distance from it of all numbers but one or two different ones, these
are gross where they are farther from m than 25 b, and few. So a cluster far away is none, nor the tail of an income: of
a tail that falls as :math:`x^{-\alpha}` the greatest number is so far beyond the next with probability
:math:`25^{-\alpha}`, 0.8% for :math:`\alpha = 1.5`.
"""

import math

import numpy as np
import numpy.typing as npt

__all__ = ["plausible_range"]

DISTANCE_RATIO = 25.0  # times as far from the median as any other number
CODES, SHARE = 2, 0.1  # different numbers, and the share of rows that they have, at most


def plausible_range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The range of a column outside of which numbers are gross.

    Arguments:
        values: What was observed, with shape :math:`(n)`.

    Returns:
        Its ends, infinite where a quarter of the numbers and more are one, so that none is far from the others.

    Example:
        >>> ages = np.append(np.linspace(20.0, 80.0, 40), 9999.0)
        >>> low, high = plausible_range(ages)
        >>> bool(low < 0), bool(80 < high < 9999)
        (True, True)
    """
    if not len(values):
        return -math.inf, math.inf
    values = values / 4  # differences of which do not overflow
    low, middle, high = (float(quartile) for quartile in np.quantile(values, [0.25, 0.5, 0.75]))
    if not low < high:
        return -math.inf, math.inf
    distance = np.abs(values - middle)
    far = float(distance.max())
    for least in np.unique(distance)[::-1][:CODES]:
        others = distance[distance < least]
        if len(values) - len(others) <= SHARE * len(values) and least > DISTANCE_RATIO * others.max():
            far = float(others.max())
            break
    return 4 * (middle - DISTANCE_RATIO * far), 4 * (middle + DISTANCE_RATIO * far)
