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

__all__ = ["elliptical_slice", "slice_uniforms"]

POINTS_PER_SLICE = 20  # points of an ellipse, after which the chain stays


def slice_uniforms(size: int, slices: int) -> int:
    """How many uniform numbers :func:`elliptical_slice` takes for a row of some size."""
    return slices * (size + 1 + POINTS_PER_SLICE)


def elliptical_slice(
    x: Tensor, mean: Tensor, factor: Tensor, log_likelihood: Callable[[Tensor], Tensor], u: Tensor
) -> Tensor:
    """Takes slices one after another.

    Arguments:
        x: Complete rows where the chains are, with shape :math:`(*, N, D)`.
        mean: Means of the missing entries, the seen ones elsewhere, with shape :math:`(*, N, D)`.
        factor: Factors of their covariances, with shape :math:`(*, N, D, D)`, see :func:`condition_factor`.
        log_likelihood: Of complete rows, with shape :math:`(*, N)`.
        u: Uniform numbers with shape :math:`(*, N, R)`, R that of :func:`slice_uniforms`.

    Returns:
        Complete rows, with shape :math:`(*, N, D)`.
    """
    current = log_likelihood(x)
    for own in u.unflatten(-1, (-1, x.shape[-1] + 1 + POINTS_PER_SLICE)).unbind(-2):
        noise, share, tries = own.split([x.shape[-1], 1, POINTS_PER_SLICE], -1)
        centred = x - mean
        other = (factor @ torch.special.ndtri(noise).unsqueeze(-1)).squeeze(-1)
        least = current + share.squeeze(-1).log()
        angle = 2 * math.pi * tries[..., 0]
        low, high = angle - 2 * math.pi, angle
        moving = torch.ones_like(current, dtype=torch.bool)
        for i in range(1, POINTS_PER_SLICE):
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
