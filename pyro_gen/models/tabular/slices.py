r"""Rows of a normal given what is seen in them, under any likelihood of the missing entries: elliptical slices.

Given the seen entries of a row the missing ones are normal, :math:`x_m \sim \mathcal{N}(m, V)`, and a likelihood
:math:`L(x_m)` makes that :math:`p(x_m) \propto \mathcal{N}(x_m; m, V) \, L(x_m)`. A slice draws :math:`y` from
:math:`\mathcal{N}(0, V)` and :math:`h` uniformly from :math:`[0, L(x_m)]`, and tries points of the ellipse

.. math:: m + (x_m - m) \cos \vartheta + y \sin \vartheta

from ever shorter arcs around :math:`x_m` until one has a likelihood above :math:`h`. There is nothing to tune.

References:
    | Elliptical Slice Sampling (Murray, Adams & MacKay, 2010)
    | https://arxiv.org/abs/1001.0175
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["elliptical_slices", "given_seen", "slice_randomness"]

TRIES = 20  # points of an ellipse, after which the chain stays


def given_seen(x: Tensor, loc: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of the missing entries of rows given the seen ones.

    Arguments:
        x: Rows with shape :math:`(N, D)`, NaN where an entry is missing.
        loc: The mean of rows, with shape :math:`(*, D)`.
        precision: The inverse covariance, with shape :math:`(*, D, D)`.

    Returns:
        Rows completed by the means, with shape :math:`(*, N, D)`, and factors of the covariances of missing entries,
        with shape :math:`(*, N, D, D)`, 0 in rows and columns of seen entries.

    Example:
        >>> precision = torch.linalg.inv(torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
        >>> mean, factor = given_seen(torch.tensor([[2.0, torch.nan]]), torch.zeros(2), precision)
        >>> [round(m, 3) for m in mean[0].tolist()], round((factor @ factor.mT)[0, 1, 1].item(), 3)
        ([2.0, 1.6], 0.36)
    """
    loc, precision = loc.unsqueeze(-2), precision.unsqueeze(-3)
    seen = ~torch.isnan(x)
    missing = (~seen).to(loc)  # (N, D)
    block = precision * missing.unsqueeze(-1) * missing.unsqueeze(-2)
    lower = torch.linalg.cholesky(block + torch.diag_embed(1 - missing))  # (*, N, D, D)
    residual = torch.where(seen, x - loc, 0.0).unsqueeze(-1)
    shift = (precision @ residual) * missing.unsqueeze(-1)
    mean = loc - torch.cholesky_solve(shift, lower).squeeze(-1)
    factor = torch.linalg.solve_triangular(lower.mT, torch.diag_embed(missing).expand_as(lower), upper=True)
    return torch.where(seen, x, mean), factor


def slice_randomness(size: int, slices: int) -> int:
    """How many uniform numbers :func:`elliptical_slices` takes for a row of some size."""
    return slices * (size + 1 + TRIES)


def elliptical_slices(
    x: Tensor, mean: Tensor, factor: Tensor, log_likelihood: Callable[[Tensor], Tensor], u: Tensor
) -> Tensor:
    """Takes slices one after another.

    Arguments:
        x: Complete rows where the chains are, with shape :math:`(*, N, D)`.
        mean: Means of the missing entries, the seen ones elsewhere, with shape :math:`(*, N, D)`.
        factor: Factors of their covariances, with shape :math:`(*, N, D, D)`, see :func:`given_seen`.
        log_likelihood: Of complete rows, with shape :math:`(*, N)`.
        u: Uniform numbers with shape :math:`(*, N, R)`, R that of :func:`slice_randomness`.

    Returns:
        Complete rows, with shape :math:`(*, N, D)`.
    """
    current = log_likelihood(x)
    for own in u.unflatten(-1, (-1, x.shape[-1] + 1 + TRIES)).unbind(-2):
        noise, share, tries = own.split([x.shape[-1], 1, TRIES], -1)
        centred = x - mean
        other = (factor @ torch.special.ndtri(noise).unsqueeze(-1)).squeeze(-1)
        least = current + share.squeeze(-1).log()
        angle = 2 * math.pi * tries[..., 0]
        low, high = angle - 2 * math.pi, angle
        moving = torch.ones_like(current, dtype=torch.bool)
        for i in range(1, TRIES):
            proposed = mean + centred * angle.cos().unsqueeze(-1) + other * angle.sin().unsqueeze(-1)
            value = log_likelihood(proposed)
            found = moving & (value > least)
            x, current = torch.where(found.unsqueeze(-1), proposed, x), torch.where(found, value, current)
            moving = moving & ~found
            if not moving.any():
                break
            low, high = torch.where(angle < 0, angle, low), torch.where(angle < 0, high, angle)
            angle = low + (high - low) * tries[..., i]
    return x
