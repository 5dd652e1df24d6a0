"""Pyro's splines, of ``spline_coupling`` and its relations, in a form that ``torch.func.vmap`` can carry.

The original writes into a result at the places that a mask says, and asserts what it finds in it: where one or many
chains are evaluated, the numbers here are the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_gen.distributions.monotone_spline import RationalQuadratic

__all__ = ["monotonic_rational_spline"]


def monotonic_rational_spline(
    inputs: Tensor,
    widths: Tensor,
    heights: Tensor,
    derivatives: Tensor,
    lambdas: Tensor | None = None,
    inverse: bool = False,
    bound: float = 3.0,
    min_bin_width: float = 1e-3,
    min_bin_height: float = 1e-3,
    min_derivative: float = 1e-3,
    min_lambda: float = 0.025,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """A monotone spline inside of a box and the identity outside of it, or its inverse.

    Arguments:
        inputs: Numbers with shape :math:`(*, D)`.
        widths: Shares of the K bins in the box, with shape :math:`(*, D, K)`, those in ``heights`` alike.
        heights: Of its height.
        derivatives: At the knots between bins, with shape :math:`(*, D, K - 1)`.
        lambdas: Where each bin of a linear spline is divided, with shape :math:`(*, D, K)`; ``None`` is a quadratic
            spline.
        inverse: Whether to invert.
        bound: Half of the width of the box.
        min_bin_width: Of each bin.
        min_bin_height: Of each bin.
        min_derivative: At each knot.
        min_lambda: The distance of divisions from the ends of their bins.
        eps: By which knots are moved where bins are looked up.

    Returns:
        The values, and the logarithms of the derivatives, each with shape :math:`(*, D)`.

    Raises:
        ValueError: There are too many bins for their least size.
    """
    bins = widths.shape[-1]
    for name, least in (("width", min_bin_width), ("height", min_bin_height)):
        if least * bins > 1:
            raise ValueError(f"Minimal bin {name} too large for the number of bins")
    x_knots = _knots(min_bin_width + (1 - min_bin_width * bins) * widths, bound)
    y_knots = _knots(min_bin_height + (1 - min_bin_height * bins) * heights, bound)
    slopes = F.pad(min_derivative + derivatives, (1, 1), value=1 - min_derivative)
    inside = (inputs >= -bound) & (inputs <= bound)
    within = torch.where(inside, inputs, 0.0)  # elsewhere the gradient of what is not taken would be NaN
    index = ((within.unsqueeze(-1) >= (y_knots if inverse else x_knots) + eps).sum(-1) - 1).clamp(0, bins - 1)

    def of_bin(values: Tensor) -> Tensor:
        rows = torch.broadcast_shapes(index.shape, values.shape[:-1])
        return values.expand(*rows, -1).gather(-1, index.expand(rows).unsqueeze(-1)).squeeze(-1)

    piece = RationalQuadratic(
        of_bin(x_knots[..., :-1]),
        of_bin(x_knots.diff(dim=-1)),
        of_bin(y_knots[..., :-1]),
        of_bin(y_knots.diff(dim=-1)),
        of_bin(slopes[..., :-1]),
        of_bin(slopes[..., 1:]),
    )
    if lambdas is not None:
        split = of_bin((1 - 2 * min_lambda) * lambdas + min_lambda)
        values, log_slope = _linear(piece, split, within, inverse)
    elif inverse:
        t = piece.solve(within - piece.low)
        values, log_slope = piece.left + t * piece.width, -piece.log_slope(t)
    else:
        t = (within - piece.left) / piece.width
        values, log_slope = piece.value(t), piece.log_slope(t)
    return torch.where(inside, values, inputs), torch.where(inside, log_slope, 0.0)


def _knots(shares: Tensor, bound: float) -> Tensor:
    """The ends of bins, from -bound to bound."""
    inner = 2 * bound * shares.cumsum(-1)[..., :-1] - bound
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def _linear(piece: RationalQuadratic, split: Tensor, at: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Two quotients of lines in a bin, one on each side of ``split``, that weights of its ends and of it join."""
    left, width, low, height, slope_left, slope_right = piece
    high = low + height
    # Of weights (1, w_split, w_right) by which the two lines pass through the ends with their slopes.
    w_right = (slope_left / slope_right).sqrt()
    w_split = (split * slope_left + (1 - split) * w_right * slope_right) * width / height
    middle = ((1 - split) * low + split * w_right * high) / (1 - split + split * w_right)
    if inverse:
        first = at <= middle
        right = (w_split - split * w_right) * at + split * w_right * high - w_split * middle
        above = torch.where(first, split * (low - at), right)
        below = torch.where(first, (w_split - 1) * at + low, (w_split - w_right) * at + w_right * high)
        below = below - w_split * middle
    else:
        t = (at - left) / width
        first = t <= split
        line = torch.where(first, low * (split - t), w_right * high * (t - split))
        above = line + w_split * middle * torch.where(first, t, 1 - t)
        below = torch.where(first, split - t, w_right * (t - split)) + w_split * torch.where(first, t, 1 - t)
    rise = torch.where(first, w_split * split * (middle - low), w_right * w_split * (1 - split) * (high - middle))
    log_slope = (rise * width if inverse else rise / width).log() - 2 * below.abs().log()
    value = above / below
    return (value * width + left if inverse else value), log_slope
