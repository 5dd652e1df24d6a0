"""Scores of levels, whose draws are codes 0, 1, ..."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_gen.imputation.scores.numbers import crps
from pyro_gen.imputation.scores.pairs import pair

__all__ = ["brier", "level_shares", "log_loss", "ranked_probability_score"]


def _levels(draws: Any, truth: Any, levels: int, name: str, fewest: int = 1) -> tuple[Tensor, Tensor]:
    draws, truth = pair(draws, truth, name, fewest)
    for values, what in ((draws, "draws"), (truth[~truth.isnan()], "truth")):
        if not bool(((values >= 0) & (values < levels) & (values == values.floor())).all()):
            raise ValueError(
                f"{name}: {what} are not all whole numbers from 0 to {levels - 1}, the codes of the levels."
            )
    return draws, truth


def level_shares(draws: Any, levels: int, pseudo: float = 0.5) -> Tensor:
    r"""The probabilities of levels that draws of them stand for, :math:`(n_l + c) / (m + c L)`.

    Arguments:
        draws: Codes 0, ..., L - 1, with shape :math:`(m, *)`.
        levels: Their number L.
        pseudo: The count c that each level has for a start; 1/2 is Jeffreys' prior.

    Returns:
        Probabilities with shape :math:`(*, L)`.

    Example:
        >>> level_shares([[1], [1], [0]], 2)
        tensor([[0.3750, 0.6250]], dtype=torch.float64)
    """
    draws = (draws if isinstance(draws, Tensor) else torch.as_tensor(np.asarray(draws))).double()
    counts = torch.stack([(draws == level).sum(0) for level in range(levels)], -1)
    return (counts.double() + pseudo) / (len(draws) + pseudo * levels)


def log_loss(draws: Any, truth: Any, levels: int) -> Tensor:
    """The negative log-probability of the true level, by the shares of the levels among the draws.

    With half a pseudo-count for each level: without, a level that no draw has would cost infinitely much. So m draws
    can cost no more than log(2 m + L) nats, and certainty costs about (L - 1) / (2 m).

    Arguments:
        draws: Codes 0, ..., L - 1, with shape :math:`(m, *)`.
        truth: The true codes, with shape :math:`(*)`; NaN = not scored.
        levels: The number L of levels.

    Returns:
        Nats, with shape :math:`(*)`; NaN where the truth is.

    Raises:
        ValueError: If the shapes do not match, or values are no codes.
    """
    draws, truth = _levels(draws, truth, levels, "log_loss")
    share = level_shares(draws, levels).gather(-1, truth.nan_to_num().long().unsqueeze(-1)).squeeze(-1)
    loss: Tensor = -share.log()
    return loss.masked_fill(truth.isnan(), math.nan)


def brier(draws: Any, truth: Any, levels: int) -> Tensor:
    r"""The Brier score of the shares of levels among the draws, in its fair form.

    .. math:: \frac{1}{2} \sum_l \Big[ (f_l - [y = l])^2 - \frac{f_l (1 - f_l)}{m - 1} \Big]

    The factor makes it :math:`(f_1 - y)^2` for two levels, between 0 and 1 in the limit of many draws.

    Arguments:
        draws: Codes 0, ..., L - 1, with shape :math:`(m, *)`, at least two.
        truth: The true codes, with shape :math:`(*)`; NaN = not scored.
        levels: The number L of levels.

    Returns:
        Scores with shape :math:`(*)`; NaN where the truth is.

    Raises:
        ValueError: If the shapes do not match, values are no codes, or there is only one draw.
    """
    draws, truth = _levels(draws, truth, levels, "brier", 2)
    share = level_shares(draws, levels, pseudo=0.0)
    true = truth.unsqueeze(-1) == torch.arange(levels, device=truth.device)
    terms: Tensor = (share - true.double()).square() - share * (1 - share) / (len(draws) - 1)
    return (terms.sum(-1) / 2).masked_fill(truth.isnan(), math.nan)


def ranked_probability_score(draws: Any, truth: Any, levels: int) -> Tensor:
    r"""The ranked probability score of ordered levels, in its fair form: to be far off costs more than to be next.

    .. math::
        \frac{1}{L - 1} \sum_{l < L - 1} \Big[ (F_l - [y \le l])^2 - \frac{F_l (1 - F_l)}{m - 1} \Big]

    with :math:`F_l` the share of draws up to level l. It is the CRPS of the codes over L - 1.

    Arguments:
        draws: Codes 0, ..., L - 1, in order, with shape :math:`(m, *)`, at least two.
        truth: The true codes, with shape :math:`(*)`; NaN = not scored.
        levels: The number L of levels.

    Returns:
        Scores with shape :math:`(*)`; NaN where the truth is.

    Raises:
        ValueError: If the shapes do not match, values are no codes, or there is only one draw.
    """
    draws, truth = _levels(draws, truth, levels, "ranked_probability_score", 2)
    return crps(draws, truth) / max(levels - 1, 1)
