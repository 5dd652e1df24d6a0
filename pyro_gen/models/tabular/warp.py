r"""Smooth increasing curves through knots, and their inverses: columns that they make normal have proper densities.

A curve :math:`T : \mathbb{R} \to \mathbb{R}` is a rational-quadratic spline through knots :math:`(x_k, z_k)`, continued
by straight lines, so that columns have normal tails. The density of :math:`x = T^{-1}(z)` is :math:`p(z) \, T'(x)`,
proper whatever :math:`p(z)`. How curves are learnt stands in :mod:`pyro_gen.models.tabular.curves`.

References:
    | Piecewise Rational Quadratic Interpolation to Monotonic Data (Gregory & Delbourgo, 1982)
    | https://doi.org/10.1093/imanum/2.2.123
    | Neural Spline Flows (Durkan et al., 2019)
    | https://arxiv.org/abs/1906.04032
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Warp"]


class Warp(NamedTuple):
    """Increasing curves, one a column.

    Attributes:
        x: The knots, increasing, with shape :math:`(D, K)`.
        z: Their values, increasing, with the same shape.

    Example:
        >>> warp = Warp(torch.tensor([[0.0, 1.0, 4.0]]), torch.tensor([[-1.0, 0.0, 1.0]]))
        >>> z, log_slope = warp(torch.tensor([[0.5], [10.0]]))
        >>> [round(v, 4) for v in z.flatten().tolist()]  # beyond the last knot a straight line
        [-0.4409, 3.0]
        >>> [round(v, 4) for v in warp.inverse(z).flatten().tolist()]
        [0.5, 10.0]
    """

    x: Tensor
    z: Tensor

    @staticmethod
    def join(curves: "Sequence[Warp]") -> "Warp":
        """Puts the columns of several curves side by side; knots are added on the straight line to the right."""
        size = max(curve.x.shape[1] for curve in curves)
        parts = []
        for x, z in curves:
            more = torch.arange(1, size - x.shape[1] + 1).to(x)
            parts.append(Warp(*(torch.cat([v, v[:, -1:] + more * (v[:, -1:] - v[:, -2:-1])], 1) for v in (x, z))))
        return Warp(*(torch.cat(v) for v in zip(*parts, strict=True)))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""The curve's values and logarithms of its slope at numbers with shape :math:`(*, D)`; NaN stays NaN."""
        left, width, low, height, slope, slope_right, x = self._bins(x, self.x)
        secant = height / width
        t = ((x - left) / width).clamp(0, 1)
        bend = t * (1 - t)
        below = secant + (slope_right + slope - 2 * secant) * bend
        inside = low + height * (secant * t * t + slope * bend) / below
        log_slope = torch.log(
            secant.square() * (slope_right * t * t + 2 * secant * bend + slope * (1 - t).square()) / below.square()
        )
        # Beyond the knots t is 0 or 1, and the rest is straight.
        rest = x - left - t * width
        return (inside + rest * secant).movedim(0, -1), log_slope.movedim(0, -1)

    def inverse(self, z: Tensor) -> Tensor:
        r"""The numbers with shape :math:`(*, D)` at which the curve has these values."""
        left, width, low, height, slope, slope_right, z = self._bins(z, self.z)
        secant = height / width
        y = torch.minimum((z - low).clamp(min=0), height)
        bent = y * (slope_right + slope - 2 * secant)
        a, b, c = height * (secant - slope) + bent, height * slope - bent, -secant * y
        t = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())
        return (left + t * width + (z - low - y) / secant).movedim(0, -1)

    def expected(self, loc: Tensor, scale: Tensor, nodes: int) -> Tensor:
        r"""The expectation of :math:`T^{-1}(z)` for normal z, by the rule of Gauss and Hermite; exact for lines.

        Arguments:
            loc: The means of z, with shape :math:`(*, D)`.
            scale: The standard deviations of z, with the same shape.
            nodes: How many points the rule has.

        Returns:
            With shape :math:`(*, D)`.

        Example:
            >>> warp = Warp(torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor([[-1.0, 0.0, 1.0]]))
            >>> warp.expected(torch.zeros(1, 1), torch.ones(1, 1), 15) > 0  # numbers above 0 are drawn out
            tensor([[True]])
        """
        secant = self.z.diff(dim=1) / self.x.diff(dim=1)
        bent = ((secant - secant[:, :1]).abs() > 1e-9 * secant).any(1).nonzero()[:, 0]
        out = self.inverse(loc)
        curve, loc, scale = Warp(self.x[bent], self.z[bent]), loc[..., bent], scale[..., bent]
        points, weights = (torch.from_numpy(v).to(loc) for v in np.polynomial.hermite_e.hermegauss(nodes))
        mean = torch.zeros_like(loc)
        for point, weight in zip(points, weights / weights.sum(), strict=True):
            mean = mean + weight * curve.inverse(loc + scale * point)
        out[..., bent] = mean
        return out

    def _bins(self, values: Tensor, knots: Tensor) -> tuple[Tensor, ...]:
        """Edge, width, value and height of the bin of each number, the slopes at its ends, and the numbers (D, *)."""
        values = values.movedim(-1, 0)
        flat = values.flatten(1).contiguous()
        size = knots.shape[1]
        index = (torch.searchsorted(knots, flat, right=True) - 1).clamp(0, size - 2)
        width, height = self.x.diff(dim=1), self.z.diff(dim=1)
        secant = height / width
        slopes = torch.cat([secant[:, :1], (secant[:, 1:] * secant[:, :-1]).sqrt(), secant[:, -1:]], 1)
        parts = (self.x[:, :-1], width, self.z[:, :-1], height, slopes[:, :-1], slopes[:, 1:])
        return (*(part.gather(1, index).reshape(values.shape) for part in parts), values)
