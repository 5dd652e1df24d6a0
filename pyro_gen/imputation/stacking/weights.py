r"""Stacking: how much to trust each of several programs, by what they said of entries that were hidden from them.

With :math:`p_{kc}` the density that program k gives to the hidden entry c, the weights are

.. math::
    \hat w = \arg\max_w \; \sum_c \log \sum_k w_k \, p_{kc} + a \sum_k \log w_k , \qquad
    w_k \ge 0, \quad \sum_k w_k = 1 ,

the mixture that predicts best, not the best single program. The few pseudo-counts a keep weights away from zero as
long as the hidden entries cannot tell programs apart. The objective is concave; EM finds its maximum.

References:
    | Using Stacking to Average Bayesian Predictive Distributions (Yao et al., 2018)
    | https://doi.org/10.1214/17-BA1091
"""

import torch
from torch import Tensor

from pyro_gen._random import seeded

__all__ = ["hide", "stacking_weights"]


def stacking_weights(log_prob: Tensor, pseudo_counts: float = 2.0) -> Tensor:
    """Computes stacking weights.

    Arguments:
        log_prob: Log predictive densities of K programs at the same C entries, with shape :math:`(K, C)`, in nats.
        pseudo_counts: What is added to the entries that speak for each program.

    Returns:
        Weights that sum to 1, with shape :math:`(K)`; equal ones where there is no entry.

    Raises:
        ValueError: A program gives a log-density that is not finite.

    Example:
        >>> stacking_weights(torch.tensor([[-1.0] * 50, [-3.0] * 50]).double()).round(decimals=2).tolist()
        [0.96, 0.04]
    """
    if not bool(log_prob.isfinite().all()):
        raise ValueError("stacking_weights: a log-density is not finite: that program cannot be scored.")
    weights = log_prob.new_full((len(log_prob),), 1 / len(log_prob))
    if not log_prob.shape[1]:
        return weights
    shifted = (log_prob - log_prob.max(0).values).exp()
    for _ in range(10_000):
        shares = weights.unsqueeze(-1) * shifted
        counts = (shares / shares.sum(0)).sum(1) + pseudo_counts
        new = counts / counts.sum()
        if float((new - weights).abs().max()) < 1e-9:
            break
        weights = new
    return weights


def hide(x: Tensor, share: float, seed: int, columns: Tensor) -> Tensor:
    """Chooses observed entries to hide from a program: at random, never the last two that a column has.

    Arguments:
        x: A table with NaN where nothing was observed, with shape :math:`(N, D)`.
        share: The share of the observed entries.
        seed: Seeds the choice.
        columns: Of which columns they may be, a mask with shape :math:`(D)`.

    Returns:
        A mask with shape :math:`(N, D)`.
    """
    seen = ~torch.isnan(x)
    with seeded(seed):
        order = torch.rand(x.shape, dtype=torch.float64).to(x.device)
    chosen = seen & columns & (order < share)
    # The two entries of each column that come last in the order stay.
    last = order.where(seen, -1.0).topk(min(2, len(x)), dim=0).indices
    return chosen.scatter(0, last, False)
