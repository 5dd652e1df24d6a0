"""Scores of rows, jointly over their entries."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_gen.imputation.scores.pairs import pair

__all__ = ["NUMBERS_AT_A_TIME", "energy_score", "variogram_score"]

NUMBERS_AT_A_TIME = 2**23  # that a score holds in memory


def energy_score(draws: Any, truth: Any) -> Tensor:
    r"""The energy score of rows, jointly over their entries, in its fair form.

    The CRPS in more than one dimension, with Euclidean distances: put all entries on one scale before. It sees wrong
    means and spreads well, wrong dependence less so: for that see :func:`variogram_score`.

    Arguments:
        draws: Draws of rows, with shape :math:`(m, *, D)`, at least two.
        truth: The true rows, with shape :math:`(*, D)`; NaN = not scored, whatever the draws have there.

    Returns:
        The score of each row, with shape :math:`(*)`; NaN for rows with nothing to score.

    Raises:
        ValueError: If the shapes do not match, or there is only one draw.

    Example:
        >>> energy_score([[0.0, 0.0], [3.0, 4.0]], [0.0, 0.0])  # (0 + 5) / 2 - 5 / 2
        tensor(0., dtype=torch.float64)
    """
    draws, truth = pair(draws, truth, "energy_score", 2)
    m = len(draws)

    def score(x: Tensor, y: Tensor) -> Tensor:  # (R, m, D), (R, D) -> (R)
        pairs = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2))
        score: Tensor = (x - y.unsqueeze(1)).norm(dim=-1).mean(1) - pairs / (2 * m * (m - 1))
        return score

    return _by_rows(draws, truth, score, m * m, seen=1)


def variogram_score(draws: Any, truth: Any, p: float = 0.5) -> Tensor:
    r"""The variogram score of rows, which sees wrong dependence between their entries, in its fair form.

    Arguments:
        draws: Draws of rows, with shape :math:`(m, *, D)`, at least two.
        truth: The true rows, with shape :math:`(*, D)`; NaN = not scored.
        p: The power of the differences.

    Returns:
        The score of each row, a sum over pairs of entries with weight 1, with shape :math:`(*)`; NaN for rows with less
        than two entries to score. It does not see a shift that all entries share: read it beside the energy score.

    Raises:
        ValueError: If the shapes do not match, or there is only one draw.

    Example:
        >>> variogram_score([[0.0, 1.0], [0.0, 4.0]], [1.0, 1.0], p=1.0)  # (0 - 2.5)^2 - 4.5 / 2
        tensor(4., dtype=torch.float64)
    """
    draws, truth = pair(draws, truth, "variogram_score", 2)
    m = len(draws)

    def score(x: Tensor, y: Tensor) -> Tensor:  # y has NaN where nothing is to be scored
        a, b = torch.triu_indices(y.shape[1], y.shape[1], 1, device=y.device)
        apart = (x[..., a] - x[..., b]).abs() ** p
        terms = ((y[..., a] - y[..., b]).abs() ** p - apart.mean(1)).square() - apart.var(1) / m
        return terms.nansum(-1)

    return _by_rows(draws, truth, score, m * truth.shape[-1], seen=2)


def _by_rows(draws: Tensor, truth: Tensor, score: Callable[[Tensor, Tensor], Tensor], work: int, seen: int) -> Tensor:
    """Applies a score to rows, as many at a time as memory has room for."""
    if not truth.dim():
        raise ValueError("a row has at least one dimension: expected a truth of shape (*, D), got one number.")
    batch, dim = truth.shape[:-1], truth.shape[-1]
    x, y = draws.reshape(len(draws), -1, dim), truth.reshape(-1, dim)
    scored = ~y.isnan()
    size = max(1, NUMBERS_AT_A_TIME // (work * max(dim, 1)))
    parts = [y.new_empty(0)]
    for x_part, y_part, at in zip(x.split(size, 1), y.split(size), scored.split(size), strict=True):
        x_part = x_part.transpose(0, 1).masked_fill(~at.unsqueeze(1), 0.0)
        # The energy score needs zeros for entries that do not count, the variogram score NaN.
        parts.append(score(x_part, y_part if seen > 1 else y_part.nan_to_num()))
    return torch.cat(parts).masked_fill(scored.sum(1) < seen, math.nan).reshape(batch)
