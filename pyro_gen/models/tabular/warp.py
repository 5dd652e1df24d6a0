r"""Monotone curves that make a column normal, or nearly so, learnt from its observed entries.

A curve :math:`T : \mathbb{R} \to \mathbb{R}` is smooth and increasing: a rational-quadratic spline through knots
:math:`(x_k, z_k)`, continued by straight lines, so that columns have normal tails. The density of :math:`x = T^{-1}(z)`
is :math:`p(z) \, T'(x)`, proper whatever :math:`p(z)`.

For real columns the knots are the quantiles of the observed entries smoothed by a normal kernel,

.. math:: \frac{1}{n} \sum_i \Phi\Big(\frac{x_k - x_i}{h}\Big) = \Phi(z_k) ,

which is the normal-score transform for a small bandwidth :math:`h`, and a straight line for a large one: the bandwidth,
or the line, is chosen by the log-density of entries held out in turn, and the line stands unless a curve is better by
more than one standard error. Beyond its knots a curve goes on by what the outer fifth of the entries say on average,

.. math:: \frac{dx}{dz} = \frac{\mathbb{E}[x - u \mid x > u]}{\mathbb{E}[z - v \mid z > v]}, \qquad
    P(x > u) = P(z > v) = 0.2, \quad z \sim \mathcal{N}(0, 1) ,

not by the last two knots, between which there may be a single outlier.

A column of whole numbers is a rounded real one: :math:`x \le k` where :math:`z \le T(k + 1/2)`, with knots at the
distribution function of the observed entries.

References:
    | Piecewise Rational Quadratic Interpolation to Monotonic Data (Gregory & Delbourgo, 1982)
    | https://doi.org/10.1093/imanum/2.2.123
    | Neural Spline Flows (Durkan et al., 2019)
    | https://arxiv.org/abs/1906.04032
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Warp", "fit_real", "fit_whole"]

BANDWIDTHS = (0.5, 1.0, 2.0)  # in units of the rule of thumb, scale * n^(-1/5)
FOLDS = 5
CENTRES = 400  # more observed entries than these are stood for by as many of their quantiles
SPACING = 0.4  # of knots, in standard deviations
OUTER = 0.2  # share of the entries that say how a tail goes on
TOGETHER = 5  # observed counts at least, and one in a hundred, from one knot to the next


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


def fit_real(values: Tensor) -> Warp:
    """Learns the curve of a real column.

    Arguments:
        values: Its observed entries, with shape :math:`(n)`. In which order they are held out is drawn from torch's
            global generator.

    Returns:
        One curve.
    """
    line = _line(values)
    if len(values) < 4 * FOLDS or not bool(values.std() > 1e-6):
        return line
    scores = torch.empty(len(BANDWIDTHS) + 1, len(values), dtype=values.dtype, device=values.device)
    for held in torch.randperm(len(values)).to(values.device).chunk(FOLDS):
        rest = torch.ones_like(values, dtype=torch.bool)
        rest[held] = False
        curves = Warp.join([_line(values[rest]), _smooth(values[rest])])
        z, _ = curves(values[rest].unsqueeze(-1).expand(-1, len(scores)))
        found, log_slope = curves(values[held].unsqueeze(-1).expand(-1, len(scores)))
        scale = z.std(0).clamp(min=1e-6)
        scores[:, held] = (log_slope - ((found - z.mean(0)) / scale).square() / 2 - scale.log()).T
    best = int(scores[1:].mean(1).argmax())
    gain = scores[1 + best] - scores[0]
    if gain.mean() < gain.std() / len(gain) ** 0.5:
        return line
    curves = _smooth(values)
    return Warp(curves.x[best : best + 1], curves.z[best : best + 1])


def _line(values: Tensor) -> Warp:
    """Standardises."""
    loc = values.mean().nan_to_num()
    scale = (values - loc).square().mean().sqrt().nan_to_num()
    scale = torch.where(scale > 0, scale, 1.0)
    z = torch.tensor([[-1.0, 1.0]]).to(values)
    return Warp(loc + scale * z, z)


def _smooth(values: Tensor) -> Warp:
    """The curves of all bandwidths, by bisection of the smoothed distribution function."""
    quartiles = values.quantile(torch.tensor([0.25, 0.75]).to(values))
    spread = (quartiles[1] - quartiles[0]) / 1.349
    scale = torch.where(spread > 0, torch.minimum(spread, values.std()), values.std()).clamp(min=1e-6)
    bandwidth = torch.tensor(BANDWIDTHS).to(values) * scale * len(values) ** -0.2
    tails = torch.stack([_tail(-values), _tail(values)])
    if len(values) > CENTRES:
        values = values.quantile((torch.arange(CENTRES).to(values) + 0.5) / CENTRES)
    size = len(values)
    outer = torch.special.ndtri(torch.tensor(size / (size + 1.0), dtype=values.dtype)).item()
    knots = 2 * max(1, round(outer / SPACING)) + 1
    z = torch.linspace(-outer, outer, knots).to(values).expand(len(BANDWIDTHS), -1)
    target = torch.special.ndtr(z)
    h = bandwidth.unsqueeze(-1)
    low, high = (values.min() - 8 * h).expand_as(z), (values.max() + 8 * h).expand_as(z)
    for _ in range(50):
        middle = (low + high) / 2
        share = torch.special.ndtr((middle.unsqueeze(-1) - values) / h.unsqueeze(-1)).mean(-1)
        low, high = torch.where(share < target, middle, low), torch.where(share < target, high, middle)
    x = (low + high) / 2
    secant = x.diff(dim=1) / z.diff(dim=1)
    left, right = torch.where(tails > 0, tails, secant[:, [0, -1]]).split(1, dim=1)
    # A knot more on either side: straight lines go on as the last two knots do.
    return Warp(torch.cat([x[:, :1] - left, x, x[:, -1:] + right], 1), torch.cat([z[:, :1] - 1, z, z[:, -1:] + 1], 1))


def _tail(values: Tensor) -> Tensor:
    """The slope dx/dz to the right, by the mean excess of the outer fifth; 0 where all its entries are equal."""
    edge = values.quantile(1 - OUTER)
    v = torch.special.ndtri(torch.tensor(1 - OUTER).to(values))
    normal = (-v * v / 2).exp() / (OUTER * math.sqrt(2 * math.pi)) - v
    slope: Tensor = (values - edge).clamp(min=0).mean() / OUTER / normal  # entries equal to the edge count
    return slope


def fit_whole(values: Tensor, levels: int | None = None) -> Warp:
    """Learns the curve of a column of whole numbers.

    Arguments:
        values: Its observed entries 0, 1, ..., with shape :math:`(n)`.
        levels: The number of levels, ``None`` for counts. Levels never observed have half an observation each.

    Returns:
        One curve, with knots between the numbers.
    """
    found, counts = values.unique(return_counts=True)
    weights = counts.to(values)
    if levels is not None:
        weights = torch.full((levels,), 0.5).to(values).index_add(0, found.long(), weights)
        found = torch.arange(levels).to(values)
    edges = found + 0.5
    z = torch.special.ndtri(weights.cumsum(0) / (weights.sum() + (1 if levels is None else 0)))
    if levels is not None:
        edges, z = edges[:-1], z[:-1]
    elif len(z):
        kept, passed = [], 0.0
        for k, weight in enumerate(weights.tolist()):
            passed += weight
            if passed >= max(TOGETHER, len(values) / 100):
                kept.append(k)
                passed = 0.0
        kept = kept or [len(z) // 2]
        edges, z = edges[kept], z[kept]
    if len(z) < 2:  # a line of slope one
        edges = edges[:1] if len(edges) else torch.tensor([0.5]).to(values)
        z = z[:1] if len(z) else torch.zeros(1).to(values)
        edges, z = torch.cat([edges, edges + 1]), torch.cat([z, z + 1])
    return Warp(edges[None], z[None])
