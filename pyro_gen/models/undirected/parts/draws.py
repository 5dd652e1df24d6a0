"""Draws of discrete variables from their log-weights."""

import torch
from torch import Tensor

__all__ = ["draw_values"]


def draw_values(log_weights: Tensor) -> Tensor:
    """Draws numbers of values by the global generator, one uniform number each; what has no weight is never drawn.

    Arguments:
        log_weights: Of K values, with shape :math:`(K, *)`.

    Returns:
        Whole numbers with shape :math:`(*)`.

    Example:
        >>> draw_values(torch.tensor([[-torch.inf] * 5, [0.0] * 5, [-torch.inf] * 5])).tolist()
        [1, 1, 1, 1, 1]
    """
    total = log_weights.softmax(0).cumsum(0)
    at = total[-1] * (1 - torch.rand_like(total[0]))  # above 0, and not above the last
    return (at > total[:-1]).sum(0)
