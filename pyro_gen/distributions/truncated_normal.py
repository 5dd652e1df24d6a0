r"""Normal variables of which an interval is known, to full precision however far out in a tail.

With :math:`a < b` and the intervals to the right of zero mirrored to the left of it, where :math:`\Phi` loses no
digits,

.. math::
    \log \big(\Phi(b) - \Phi(a)\big) = \log \Phi(b) + \log\big(1 - r\big), \qquad r = \Phi(a) / \Phi(b) ,

and the quantile function of the truncated variable is that of the normal at
:math:`\log p = \log \Phi(b) + \log(r + u (1 - r))`.
"""

import math

import torch
from torch import Tensor

__all__ = ["log_interval", "log_mass", "truncated_normal"]

_LOG_PROB_FLOOR = -650.0  # of a log-probability whose exponential is still a number with all its digits


def log_interval(lower: Tensor, upper: Tensor) -> Tensor:
    r"""The log-probability that a standard normal variable lies in an interval.

    Arguments:
        lower: Where the interval begins, :math:`-\infty` allowed.
        upper: Where it ends, above ``lower``, :math:`\infty` allowed.

    Returns:
        :math:`\log(\Phi(b) - \Phi(a))` in nats, with the common shape.

    Example:
        >>> a, b = torch.tensor([-torch.inf, 40.0], dtype=torch.float64), torch.tensor([0.0, 41.0], dtype=torch.float64)
        >>> [round(v, 4) for v in log_interval(a, b).tolist()]
        [-0.6931, -804.6084]
    """
    _, log_b, ratio = _mirrored(lower, upper)
    return log_b + torch.log(-torch.expm1(ratio))


def log_mass(lower: Tensor, upper: Tensor, scale: Tensor) -> Tensor:
    r"""The log-probability that a normal variable lies in an interval, or its log-density where that is one number.

    Arguments:
        lower: Where the interval begins, standardised.
        upper: Where it ends, standardised.
        scale: The standard deviation.

    Returns:
        In nats, with the common shape.
    """
    point = lower == upper
    density = -lower.square() / 2 - scale.log() - math.log(2 * math.pi) / 2
    return torch.where(point, density, log_interval(torch.where(point, -torch.inf, lower), upper))


def truncated_normal(u: Tensor, lower: Tensor, upper: Tensor, *, branch: bool = False) -> Tensor:
    """The quantile function of a standard normal variable truncated to an interval.

    Arguments:
        u: Where to evaluate it, in the open interval (0, 1); uniform numbers give draws.
        lower: Where the interval begins, minus infinity allowed.
        upper: Where it ends, above ``lower``, infinity allowed.
        branch: Whether it may look whether there is any number far out in a tail, and save a third of the time where
            there is none: not under vmap.

    Returns:
        Numbers in the interval, increasing in ``u``, with the common shape.

    Example:
        >>> u, a, b = torch.tensor([[0.5], [40.0], [41.0]], dtype=torch.float64)
        >>> round(truncated_normal(u, a, b).item(), 4)  # 40 + log(2) / 40, nearly
        40.0173
    """
    flip, log_b, ratio = _mirrored(lower, upper)
    ratio = ratio.exp()
    u = torch.where(flip, 1 - u, u)
    log_p = log_b + torch.log(ratio + u * (1 - ratio))
    z = torch.special.ndtri(log_p.clamp(min=_LOG_PROB_FLOOR).exp().clamp(max=1 - 2**-53))
    if not branch or bool((log_p < _LOG_PROB_FLOOR).any()):
        # Newton's method for log Phi(z) = log p, whose slope is about -z there.
        deep = -(-2 * log_p.clamp(max=_LOG_PROB_FLOOR) - math.log(2 * math.pi)).sqrt()
        for _ in range(3):
            deep = deep + (torch.special.log_ndtr(deep) - log_p.clamp(max=_LOG_PROB_FLOOR)) / deep
        z = torch.where(log_p < _LOG_PROB_FLOOR, deep, z)
    return torch.where(flip, -z, z).clamp(lower, upper)


def _mirrored(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether an interval was mirrored, and of the one to the left log Phi(b) and log Phi(a) - log Phi(b)."""
    flip = lower + upper > 0  # False for the whole line
    log_b = torch.special.log_ndtr(torch.where(flip, -lower, upper))
    log_a = torch.special.log_ndtr(torch.where(flip, -upper, lower))
    return flip, log_b, log_a - log_b
