r"""Smooth increasing curves through knots, and their inverses: columns that they make normal have proper densities.

A curve :math:`T : \mathbb{R} \to \mathbb{R}` is a rational-quadratic spline through knots :math:`(x_k, z_k)`, continued
by straight lines, so that columns have normal tails. The density of :math:`x = T^{-1}(z)` is :math:`p(z) \, T'(x)`,
proper whatever :math:`p(z)`. How curves are learnt stands in :mod:`pyro_gen.models.tabular.parts.marginal_transforms`.

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

__all__ = ["MonotoneSpline", "RationalQuadratic"]


class RationalQuadratic(NamedTuple):
    r"""Pieces of monotone splines, one for each number: a quotient of two quadratics in :math:`t \in [0, 1]`.

    .. math::
        T(x_0 + t w) = y_0 + h \, \frac{s t^2 + d_0 t (1 - t)}{s + (d_0 + d_1 - 2 s) \, t (1 - t)} , \qquad s = h / w

    Attributes:
        left: Where pieces begin, :math:`x_0`.
        width: How wide they are, w.
        low: Their values there, :math:`y_0`.
        height: How much they rise, h.
        slope_left: Their slopes at the beginning, :math:`d_0`.
        slope_right: Their slopes at the end, :math:`d_1`.
    """

    left: Tensor
    width: Tensor
    low: Tensor
    height: Tensor
    slope_left: Tensor
    slope_right: Tensor

    def value(self, t: Tensor) -> Tensor:
        """The values at t."""
        secant = self.height / self.width
        bend = t * (1 - t)
        below = secant + (self.slope_left + self.slope_right - 2 * secant) * bend
        return self.low + self.height * t * (secant * t + self.slope_left * (1 - t)) / below

    def log_slope(self, t: Tensor) -> Tensor:
        """The logarithms of the derivatives by x at t."""
        secant = self.height / self.width
        bend = t * (1 - t)
        below = secant + (self.slope_left + self.slope_right - 2 * secant) * bend
        above = self.slope_right * t.square() + 2 * secant * bend + self.slope_left * (1 - t).square()
        return above.log() + 2 * (secant / below).log()

    def solve(self, rise: Tensor) -> Tensor:
        """The t at which the value is ``low + rise``."""
        secant = self.height / self.width
        bent = rise * (self.slope_left + self.slope_right - 2 * secant)
        a, b, c = self.height * (secant - self.slope_left) + bent, self.height * self.slope_left - bent, -secant * rise
        return 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())


class MonotoneSpline(NamedTuple):
    """Increasing curves, one a column.

    Attributes:
        x: The knots, increasing, with shape :math:`(D, K)`.
        z: Their values, increasing, with the same shape.

    Example:
        >>> spline = MonotoneSpline(torch.tensor([[0.0, 1.0, 4.0]]), torch.tensor([[-1.0, 0.0, 1.0]]))
        >>> z, log_slope = spline(torch.tensor([[0.5], [10.0]]))
        >>> [round(v, 4) for v in z.flatten().tolist()]  # beyond the last knot a straight line
        [-0.4409, 3.0]
        >>> [round(v, 4) for v in spline.inverse(z).flatten().tolist()]
        [0.5, 10.0]
    """

    x: Tensor
    z: Tensor

    @staticmethod
    def join(curves: "Sequence[MonotoneSpline]") -> "MonotoneSpline":
        """Puts the columns of several curves side by side; knots are added on the straight line to the right."""
        size = max(curve.x.shape[1] for curve in curves)
        parts = []
        for x, z in curves:
            more = torch.arange(1, size - x.shape[1] + 1).to(x)
            parts.append(
                MonotoneSpline(*(torch.cat([v, v[:, -1:] + more * (v[:, -1:] - v[:, -2:-1])], 1) for v in (x, z)))
            )
        return MonotoneSpline(*(torch.cat(v) for v in zip(*parts, strict=True)))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""The curve's values and logarithms of its slope at numbers with shape :math:`(*, D)`; NaN stays NaN."""
        pieces, x = self._pieces(x, self.x)
        t = ((x - pieces.left) / pieces.width).clamp(0, 1)
        # Beyond the knots t is 0 or 1, and the rest is straight.
        rest = x - pieces.left - t * pieces.width
        value = pieces.value(t) + rest * (pieces.height / pieces.width)
        return value.movedim(0, -1), pieces.log_slope(t).movedim(0, -1)

    def inverse(self, z: Tensor) -> Tensor:
        r"""The numbers with shape :math:`(*, D)` at which the curve has these values."""
        pieces, z = self._pieces(z, self.z)
        rise = torch.minimum((z - pieces.low).clamp(min=0), pieces.height)
        rest = (z - pieces.low - rise) * (pieces.width / pieces.height)
        return (pieces.left + pieces.solve(rise) * pieces.width + rest).movedim(0, -1)

    def expected_inverse(self, loc: Tensor, scale: Tensor, nodes: int) -> Tensor:
        r"""The expectation of :math:`T^{-1}(z)` for normal z, by the rule of Gauss and Hermite; exact for lines.

        Arguments:
            loc: The means of z, with shape :math:`(*, D)`.
            scale: The standard deviations of z, with the same shape.
            nodes: How many points the rule has.

        Returns:
            With shape :math:`(*, D)`.

        Example:
            >>> spline = MonotoneSpline(torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor([[-1.0, 0.0, 1.0]]))
            >>> spline.expected_inverse(torch.zeros(1, 1), torch.ones(1, 1), 15) > 0  # numbers above 0 are drawn out
            tensor([[True]])
        """
        secant = self.z.diff(dim=1) / self.x.diff(dim=1)
        bent = ((secant - secant[:, :1]).abs() > 1e-9 * secant).any(1).nonzero()[:, 0]
        out = self.inverse(loc)
        curve, loc, scale = MonotoneSpline(self.x[bent], self.z[bent]), loc[..., bent], scale[..., bent]
        points, weights = (torch.from_numpy(v).to(loc) for v in np.polynomial.hermite_e.hermegauss(nodes))
        mean = torch.zeros_like(loc)
        for point, weight in zip(points, weights / weights.sum(), strict=True):
            mean = mean + weight * curve.inverse(loc + scale * point)
        out[..., bent] = mean
        return out

    def _pieces(self, values: Tensor, knots: Tensor) -> tuple[RationalQuadratic, Tensor]:
        """The piece that each number is in, and the numbers (D, *)."""
        values = values.movedim(-1, 0)
        flat = values.flatten(1).contiguous()
        size = knots.shape[1]
        index = (torch.searchsorted(knots, flat, right=True) - 1).clamp(0, size - 2)
        width, height = self.x.diff(dim=1), self.z.diff(dim=1)
        secant = height / width
        slopes = torch.cat([secant[:, :1], (secant[:, 1:] * secant[:, :-1]).sqrt(), secant[:, -1:]], 1)
        parts = (self.x[:, :-1], width, self.z[:, :-1], height, slopes[:, :-1], slopes[:, 1:])
        return RationalQuadratic(*(part.gather(1, index).reshape(values.shape) for part in parts)), values
