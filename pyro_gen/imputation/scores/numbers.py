"""Scores of numbers, entry by entry: errors of points and the continuous ranked probability score."""

from typing import Any

import torch
from torch import Tensor

from pyro_gen.imputation.scores.pairs import pair

__all__ = ["crps", "mae", "median_of_draws", "rmse"]


def rmse(draws: Any, truth: Any, of: str = "mean") -> Tensor:
    r"""The root mean squared error.

    Arguments:
        draws: Draws of each entry, with shape :math:`(m, *)`.
        truth: The true values, with shape :math:`(*)`; NaN = not scored.
        of: ``"mean"``: of the mean of the draws. ``"draws"``: of single draws, the mean being over them too; that is
            larger, by a factor :math:`\sqrt 2` where the draws are right, and no reason to prefer the mean as a draw.

    Returns:
        One number, over all entries.

    Raises:
        ValueError: If the shapes do not match, or ``of`` is unknown.

    Example:
        >>> float(rmse([[1.0], [3.0]], [2.0])), float(rmse([[1.0], [3.0]], [2.0], of="draws"))
        (0.0, 1.0)
    """
    draws, truth = pair(draws, truth, "rmse")
    if of not in ("mean", "draws"):
        raise ValueError(f'rmse(of={of!r}): give "mean" or "draws".')
    errors: Tensor = (draws.mean(0) if of == "mean" else draws) - truth
    return errors.square().nanmean().sqrt()


def mae(draws: Any, truth: Any, of: str = "median") -> Tensor:
    """The mean absolute error.

    Arguments:
        draws: As for :func:`rmse`.
        truth: As for :func:`rmse`.
        of: ``"median"``: of the median of the draws. ``"draws"``: of single draws.

    Returns:
        One number, over all entries.

    Raises:
        ValueError: If the shapes do not match, or ``of`` is unknown.

    Example:
        >>> float(mae([[1.0], [2.0], [9.0]], [2.0])), float(mae([[1.0], [2.0], [9.0]], [2.0], of="draws"))
        (0.0, 2.6666666666666665)
    """
    draws, truth = pair(draws, truth, "mae")
    if of not in ("median", "draws"):
        raise ValueError(f'mae(of={of!r}): give "median" or "draws".')
    errors: Tensor = (median_of_draws(draws) if of == "median" else draws) - truth
    return errors.abs().nanmean()


def median_of_draws(draws: Tensor) -> Tensor:
    """The median over the first dimension, the mean of the middle two where the number of draws is even."""
    ordered = draws.sort(0).values  # torch.median takes the lower one of two, torch.quantile refuses much data
    return (ordered[(len(draws) - 1) // 2] + ordered[len(draws) // 2]) / 2


def crps(draws: Any, truth: Any) -> Tensor:
    r"""The continuous ranked probability score, in its fair form, by sorting: :math:`O(m \log m)`.

    In the unit of the data, less is better; single estimates can be negative. It is the integral over all thresholds of
    the Brier score, and generalises the absolute error, which is what a point forecast has in its place.

    Arguments:
        draws: Draws of each entry, with shape :math:`(m, *)`, at least two.
        truth: The true values, with shape :math:`(*)`; NaN = not scored.

    Returns:
        The score of each entry, with shape :math:`(*)`; NaN where the truth is.

    Raises:
        ValueError: If the shapes do not match, or there is only one draw.

    Example:
        >>> crps([[0.0], [2.0], [4.0]], [3.0])  # (3 + 1 + 1) / 3 - (2 + 4 + 2) / 6
        tensor([0.3333], dtype=torch.float64)
    """
    draws, truth = pair(draws, truth, "crps", 2)
    m = len(draws)
    rank = torch.arange(1 - m, m, 2, dtype=draws.dtype, device=draws.device)  # 2 i - m - 1
    spread: Tensor = torch.einsum("i,i...->...", rank, draws.sort(0).values) / (m * (m - 1))
    error: Tensor = (draws - truth).abs().mean(0)
    return error - spread
