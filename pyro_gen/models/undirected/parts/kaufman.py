r"""Kaufman's formula: the sum over all states of an Ising model on a torus, with one coupling and no field.

For n rows of m spins and the coupling :math:`K > 0`,

.. math::
    Z = \tfrac12 (2 \sinh 2K)^{nm/2} \Big[ \prod_r 2 \cosh \tfrac{n \gamma_{2r+1}}{2} +
    \prod_r 2 \sinh \tfrac{n \gamma_{2r+1}}{2} + \prod_r 2 \cosh \tfrac{n \gamma_{2r}}{2} +
    \prod_r 2 \sinh \tfrac{n \gamma_{2r}}{2} \Big] ,

products over :math:`r = 0, \ldots, m - 1`, with :math:`\cosh \gamma_l = \cosh 2K \coth 2K - \cos \frac{\pi l}{m}` and
:math:`\gamma_0 = 2K + \log \tanh K`, which is negative above the critical temperature, where
:math:`\sinh 2K < 1`.

References:
    | Crystal statistics II: Partition function evaluated by spinor analysis (Kaufman, 1949)
    | https://doi.org/10.1103/PhysRev.76.1232
"""

import math

import torch
from torch import Tensor

__all__ = ["CRITICAL", "log_partition_of_torus"]

CRITICAL = 0.5 * math.log(1 + math.sqrt(2))  # the coupling at which an infinite torus becomes magnetic


def log_partition_of_torus(rows: int, columns: int, coupling: Tensor | float) -> Tensor:
    r"""Computes log Z; its derivative with respect to the coupling is the mean of :math:`\sum s_i s_j` over edges.

    Arguments:
        rows: The number n of rows.
        columns: The number m of columns.
        coupling: The coupling K, positive.

    Returns:
        A scalar in float64, in nats, differentiable in the coupling.

    Example:
        >>> k = torch.tensor(CRITICAL, dtype=torch.float64, requires_grad=True)
        >>> log_z = log_partition_of_torus(32, 32, k)
        >>> (energy,) = torch.autograd.grad(log_z, k)
        >>> round(energy.item(), 2)
        1468.07
    """
    k = torch.as_tensor(coupling, dtype=torch.float64)
    order = torch.arange(1, 2 * columns, dtype=torch.float64, device=k.device)
    gamma = torch.acosh((2 * k).cosh() / (2 * k).tanh() - (math.pi * order / columns).cos())
    gamma = torch.cat([(2 * k + k.tanh().log()).reshape(1), gamma])
    half = rows * gamma / 2
    log_cosh = torch.logaddexp(half, -half)  # log 2 cosh
    size = half.abs().clamp(min=1e-300)
    log_sinh = size + torch.log(-torch.expm1(-2 * size))  # log |2 sinh|
    sign = half[0].sign()  # all others are positive
    odd, even = slice(1, None, 2), slice(0, None, 2)
    logs = torch.stack([log_cosh[odd].sum(), log_sinh[odd].sum(), log_cosh[even].sum(), log_sinh[even].sum()])
    top = logs.detach().max()
    terms = (logs - top).exp() * torch.stack([torch.ones_like(sign)] * 3 + [sign])
    return rows * columns / 2 * (2 * (2 * k).sinh()).log() - math.log(2) + top + terms.sum().log()
