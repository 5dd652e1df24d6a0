"""Correlations pooled on the scale of Fisher's z."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyro_gen.imputation.pooling.rubin import pool

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["pool_correlations"]


def pool_correlations(
    correlations: npt.ArrayLike, n: int, *, level: float = 0.95, names: Sequence[str] | None = None
) -> "pd.DataFrame":
    r"""Pools correlations by Fisher's z: :math:`\mathrm{atanh}(r)` is nearly normal with variance :math:`1 / (n - 3)`.

    Arguments:
        correlations: Of each table, with shape :math:`(m)` or :math:`(m, k)`.
        n: The number of rows of a table.
        level: Of the intervals.
        names: Of the k correlations.

    Returns:
        One row for each correlation: term, estimate and interval as correlations, statistic, degrees of freedom and
        p-value of the hypothesis that it is zero, fmi, lambda and riv on the scale of z.

    Example:
        >>> pool_correlations([0.50, 0.55, 0.45, 0.52], 103)[["estimate", "conf.low", "conf.high"]].round(3)
           estimate  conf.low  conf.high
        0     0.506     0.308      0.662
    """
    r = np.asarray(correlations, dtype=np.float64)
    if not (np.abs(r) < 1).all():
        raise ValueError("correlations: expected numbers between -1 and 1, both excluded.")
    if n <= 3:
        raise ValueError(f"n: got {n}, expected more than 3 rows.")
    out = pool(np.arctanh(r), np.full(r.shape, 1 / (n - 3)), names=names).summary(level).drop(columns="std.error")
    scaled = ["estimate", "conf.low", "conf.high"]
    out[scaled] = np.tanh(out[scaled])
    return out
