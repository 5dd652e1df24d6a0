r"""Curves that make a column normal, or nearly so, learnt from its observed entries.

Of a real column there are three kinds of curves to choose from:

* the straight line;
* powers, which take skewness away and nothing else: with :math:`y` the entries less their median, in units of a
  multiple of their spread,

  .. math:: T(y) \propto \frac{(1 + y)^\lambda - 1}{\lambda} \;\; (y \ge 0), \qquad
      -\frac{(1 - y)^{2 - \lambda} - 1}{2 - \lambda} \;\; (y < 0), \qquad 0 \le \lambda \le 2 ,

  at the ends a logarithm on one side (Yeo & Johnson);
* quantiles of the entries smoothed by a normal kernel, which take everything away, clusters too,

  .. math:: \frac{1}{n} \sum_i \Phi\Big(\frac{x_k - x_i}{h}\Big) = \Phi(z_k) ,

  the normal-score transform for a small bandwidth :math:`h`.

The curve is chosen by the log-density of entries held out in turn, and the line stands unless a curve is better by more
than one standard error. Beyond the entries a curve goes on by what the outer fifth of them say on average,

.. math:: \frac{dx}{dz} = \frac{\mathbb{E}[x - u \mid x > u]}{\mathbb{E}[z - v \mid z > v]}, \qquad
    P(x > u) = P(z > v) = 0.2, \quad z \sim \mathcal{N}(0, 1) ,

not by the last two of its knots, between which there may be a single outlier.

A column of whole numbers is a rounded real one: :math:`x \le k` where :math:`z \le T(k + 1/2)`, with knots at the
distribution function of the observed entries.

References:
    | A new family of power transformations to improve normality or symmetry (Yeo & Johnson, 2000)
    | https://doi.org/10.1093/biomet/87.4.954
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_gen.models.tabular.warp import Warp

__all__ = ["fit_real", "fit_whole", "powers", "smooth"]

BANDWIDTHS = (0.5, 1.0, 2.0)  # in units of the rule of thumb, scale * n^(-1/5)
POWERS = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0)
UNITS = (0.25, 0.5, 1.0, 2.0)  # of powers, in spreads
FOLDS = 5
CENTRES = 400  # more observed entries than these are stood for by as many of their quantiles
SPACING = 0.4  # of knots, in standard deviations
FARTHEST = 4.0  # standard deviations at which the last knots of powers are, at most
OUTER = 0.2  # share of the entries that say how a tail goes on
TOGETHER = 5  # observed counts at least, and one in a hundred, from one knot to the next


def smooth(values: Tensor) -> Warp:
    """The curves through smoothed quantiles, of all bandwidths, by bisection of the smoothed distribution function."""
    bandwidth = torch.tensor(BANDWIDTHS).to(values) * _spread(values) * len(values) ** -0.2
    centres = values
    if len(values) > CENTRES:
        centres = values.quantile((torch.arange(CENTRES).to(values) + 0.5) / CENTRES)
    size = len(centres)
    outer = torch.special.ndtri(torch.tensor(size / (size + 1.0), dtype=values.dtype)).item()
    knots = 2 * max(1, round(outer / SPACING)) + 1
    z = torch.linspace(-outer, outer, knots).to(values).expand(len(BANDWIDTHS), -1)
    target = torch.special.ndtr(z)
    h = bandwidth.unsqueeze(-1)
    low, high = (centres.min() - 8 * h).expand_as(z), (centres.max() + 8 * h).expand_as(z)
    for _ in range(50):
        middle = (low + high) / 2
        share = torch.special.ndtr((middle.unsqueeze(-1) - centres) / h.unsqueeze(-1)).mean(-1)
        low, high = torch.where(share < target, middle, low), torch.where(share < target, high, middle)
    return _continued(Warp((low + high) / 2, z), values)


def powers(values: Tensor) -> Warp:
    """The curves by powers, of all powers and units."""
    power, unit = (v.to(values).unsqueeze(1) for v in torch.cartesian_prod(torch.tensor(POWERS), torch.tensor(UNITS)).T)
    unit = unit * _spread(values)
    middle = values.median()
    z = _power((values - middle) / unit, power)  # (P, n)
    loc, scale = z.mean(1, keepdim=True), z.std(1, keepdim=True).clamp(min=1e-3)
    first = ((z.amin(1, keepdim=True) - loc) / scale).clamp(min=-FARTHEST)  # never beyond the entries: powers grow fast
    last = ((z.amax(1, keepdim=True) - loc) / scale).clamp(max=FARTHEST)
    knots = first + (last - first) * torch.linspace(0, 1, 2 * round(FARTHEST / SPACING) + 1).to(values)
    return _continued(Warp(middle + unit * _inverse_power(loc + scale * knots, power), knots), values)


def _power(y: Tensor, power: Tensor) -> Tensor:
    return _half_power(y.clamp(min=0), power) - _half_power((-y).clamp(min=0), 2 - power)


def _half_power(y: Tensor, power: Tensor) -> Tensor:
    return torch.where(power > 0, (power * y.log1p()).expm1() / power, y.log1p())


def _inverse_power(z: Tensor, power: Tensor) -> Tensor:
    return _half_inverse(z.clamp(min=0), power) - _half_inverse((-z).clamp(min=0), 2 - power)


def _half_inverse(z: Tensor, power: Tensor) -> Tensor:
    return torch.where(power > 0, ((power * z).log1p() / power).expm1(), z.expm1())


def _continued(curves: Warp, values: Tensor) -> Warp:
    """The curves with a knot more on either side, by the outer fifths: beyond, lines go on as the last two knots do."""
    x, z = curves
    tails = torch.stack([_tail(-values), _tail(values)])
    secant = x.diff(dim=1) / z.diff(dim=1)
    left, right = torch.where(tails > 0, tails, secant[:, [0, -1]]).split(1, dim=1)
    return Warp(torch.cat([x[:, :1] - left, x, x[:, -1:] + right], 1), torch.cat([z[:, :1] - 1, z, z[:, -1:] + 1], 1))


def _spread(values: Tensor) -> Tensor:
    """The standard deviation, or that of a normal with the same quartiles, whichever is smaller."""
    quartiles = values.quantile(torch.tensor([0.25, 0.75]).to(values))
    spread = (quartiles[1] - quartiles[0]) / 1.349
    return torch.where(spread > 0, torch.minimum(spread, values.std()), values.std()).clamp(min=1e-6)


def fit_real(values: Tensor, families: Sequence[Callable[[Tensor], Warp]] = (powers, smooth)) -> Warp:
    """Learns the curve of a real column.

    Arguments:
        values: Its observed entries, with shape :math:`(n)`. In which order they are held out is drawn from torch's
            global generator.
        families: What else than the line there is to choose from: :func:`powers`, :func:`smooth`.

    Returns:
        One curve.
    """
    line = _line(values)
    if len(values) < 4 * FOLDS or not bool(values.std() > 1e-6):
        return line
    scores = []
    folds = torch.randperm(len(values)).to(values.device).chunk(FOLDS)
    for held in folds:
        rest = torch.ones_like(values, dtype=torch.bool)
        rest[held] = False
        curves = Warp.join([_line(values[rest]), *(family(values[rest]) for family in families)])
        z, _ = curves(values[rest].unsqueeze(-1).expand(-1, len(curves.x)))
        found, log_slope = curves(values[held].unsqueeze(-1).expand(-1, len(curves.x)))
        scale = z.std(0).clamp(min=1e-6)
        scores.append(log_slope - ((found - z.mean(0)) / scale).square() / 2 - scale.log())
    score = torch.cat(scores)  # (n, 1 + the number of curves)
    best = int(score[:, 1:].mean(0).argmax())
    gain = score[:, 1 + best] - score[:, 0]
    if gain.mean() < gain.std() / len(gain) ** 0.5:
        return line
    curves = Warp.join([family(values) for family in families])
    return Warp(curves.x[best : best + 1], curves.z[best : best + 1])


def _line(values: Tensor) -> Warp:
    """Standardises."""
    loc = values.mean().nan_to_num()
    scale = (values - loc).square().mean().sqrt().nan_to_num()
    scale = torch.where(scale > 0, scale, 1.0)
    z = torch.tensor([[-1.0, 1.0]]).to(values)
    return Warp(loc + scale * z, z)


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
