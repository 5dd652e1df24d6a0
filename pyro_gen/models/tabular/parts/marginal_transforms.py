r"""Curves that make the columns of a table normal, and atoms: numbers that many entries are equal to.

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

**Atoms**: one number a that many rows have exactly, while the others are spread out.

Rainfall, wages or cigarettes a day are zero more often than not. Behind such a column may be a normal variable of which
only an interval is known where the column is at its atom. With the shares :math:`s_-, q, s_+` of entries below, at and
above a

.. math::
    x = a \;\Leftrightarrow\; z_- \le z \le z_+ , \qquad z_- = \Phi^{-1}(s_-), \quad z_+ = \Phi^{-1}(s_- + q) ,

and elsewhere :math:`z = T(x)`, a curve with a jump at a, made of the curve :math:`T_0` of the entries that are not a:

.. math::
    \Phi(-T(x)) = s_+ \frac{\Phi(-T_0(x))}{\Phi(-T_0(a))} \quad (x > a), \qquad
    \Phi(T(x)) = s_- \frac{\Phi(T_0(x))}{\Phi(T_0(a))} \quad (x < a) .

Where no entry is below a, no draw is: a censored regression in one variable.

References:
    | A new family of power transformations to improve normality or symmetry (Yeo & Johnson, 2000)
    | https://doi.org/10.1093/biomet/87.4.954
    | Estimation of Relationships for Limited Dependent Variables (Tobin, 1958)
    | https://doi.org/10.2307/1907382
    | Extending the rank likelihood for semiparametric copula estimation (Hoff, 2007): ties as intervals
    | https://doi.org/10.1214/07-AOAS107
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen.data.atoms import ROUNDING, at_atom
from pyro_gen.distributions.monotone_spline import MonotoneSpline

__all__ = ["SplineWithAtom", "fit_real", "fit_real_columns", "fit_whole", "powers", "smooth"]

BANDWIDTHS = (0.5, 1.0, 2.0)  # in units of the rule of thumb, scale * n^(-1/5)
POWERS = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0)
POWER_UNITS = (0.25, 0.5, 1.0, 2.0)  # of powers, in spreads
FOLDS = 5
KERNEL_CENTRES = 400  # more observed entries than these are stood for by as many of their quantiles
KNOT_SPACING = 0.4  # of knots, in standard deviations
LAST_KNOT = 4.0  # standard deviations at which the last knots of powers are, at most
TAIL_SHARE = 0.2  # share of the entries that say how a tail goes on
COUNTS_PER_KNOT = 5  # observed counts at least, and one in a hundred, from one knot to the next


def smooth(values: Tensor) -> MonotoneSpline:
    """The curves through smoothed quantiles, of all bandwidths, by bisection of the smoothed distribution function."""
    bandwidth = torch.tensor(BANDWIDTHS).to(values) * _spread(values) * len(values) ** -0.2
    centres = values
    if len(values) > KERNEL_CENTRES:
        centres = values.quantile((torch.arange(KERNEL_CENTRES).to(values) + 0.5) / KERNEL_CENTRES)
    size = len(centres)
    outer = torch.special.ndtri(torch.tensor(size / (size + 1.0), dtype=values.dtype)).item()
    knots = 2 * max(1, round(outer / KNOT_SPACING)) + 1
    z = torch.linspace(-outer, outer, knots).to(values).expand(len(BANDWIDTHS), -1)
    target = torch.special.ndtr(z)
    h = bandwidth.unsqueeze(-1)
    low, high = (centres.min() - 8 * h).expand_as(z), (centres.max() + 8 * h).expand_as(z)
    for _ in range(50):
        middle = (low + high) / 2
        share = torch.special.ndtr((middle.unsqueeze(-1) - centres) / h.unsqueeze(-1)).mean(-1)
        low, high = torch.where(share < target, middle, low), torch.where(share < target, high, middle)
    return _continued(MonotoneSpline((low + high) / 2, z), values)


def powers(values: Tensor) -> MonotoneSpline:
    """The curves by powers, of all powers and units."""
    power, unit = (
        v.to(values).unsqueeze(1) for v in torch.cartesian_prod(torch.tensor(POWERS), torch.tensor(POWER_UNITS)).T
    )
    unit = unit * _spread(values)
    middle = values.median()
    z = _power((values - middle) / unit, power)  # (P, n)
    loc, scale = z.mean(1, keepdim=True), z.std(1, keepdim=True).clamp(min=1e-3)
    first = ((z.amin(1, keepdim=True) - loc) / scale).clamp(
        min=-LAST_KNOT
    )  # never beyond the entries: powers grow fast
    last = ((z.amax(1, keepdim=True) - loc) / scale).clamp(max=LAST_KNOT)
    knots = first + (last - first) * torch.linspace(0, 1, 2 * round(LAST_KNOT / KNOT_SPACING) + 1).to(values)
    return _continued(MonotoneSpline(middle + unit * _inverse_power(loc + scale * knots, power), knots), values)


def _power(y: Tensor, power: Tensor) -> Tensor:
    return _half_power(y.clamp(min=0), power) - _half_power((-y).clamp(min=0), 2 - power)


def _half_power(y: Tensor, power: Tensor) -> Tensor:
    return torch.where(power > 0, (power * y.log1p()).expm1() / power, y.log1p())


def _inverse_power(z: Tensor, power: Tensor) -> Tensor:
    return _half_inverse(z.clamp(min=0), power) - _half_inverse((-z).clamp(min=0), 2 - power)


def _half_inverse(z: Tensor, power: Tensor) -> Tensor:
    return torch.where(power > 0, ((power * z).log1p() / power).expm1(), z.expm1())


def _continued(curves: MonotoneSpline, values: Tensor) -> MonotoneSpline:
    """The curves with a knot more on either side, by the outer fifths: beyond, lines go on as the last two knots do."""
    x, z = curves
    tails = torch.stack([_tail(-values), _tail(values)])
    secant = x.diff(dim=1) / z.diff(dim=1)
    left, right = torch.where(tails > 0, tails, secant[:, [0, -1]]).split(1, dim=1)
    return MonotoneSpline(
        torch.cat([x[:, :1] - left, x, x[:, -1:] + right], 1), torch.cat([z[:, :1] - 1, z, z[:, -1:] + 1], 1)
    )


def _spread(values: Tensor) -> Tensor:
    """The standard deviation, or that of a normal with the same quartiles, whichever is smaller."""
    quartiles = values.quantile(torch.tensor([0.25, 0.75]).to(values))
    spread = (quartiles[1] - quartiles[0]) / 1.349
    return torch.where(spread > 0, torch.minimum(spread, values.std()), values.std()).clamp(min=1e-6)


def fit_real(
    values: Tensor, families: Sequence[Callable[[Tensor], MonotoneSpline]] = (powers, smooth)
) -> MonotoneSpline:
    """Fits the curve of a real column.

    Arguments:
        values: Its observed entries, with shape :math:`(n)`. In which order they are held out is drawn from torch's
            global generator.
        families: What else than the line there is to choose from: :func:`powers`, :func:`smooth`.

    Returns:
        One curve.
    """
    line = _line(values)
    if not families or len(values) < 4 * FOLDS or not bool(values.std() > 1e-6):
        return line
    scores = []
    folds = torch.randperm(len(values)).to(values.device).chunk(FOLDS)
    for held in folds:
        rest = torch.ones_like(values, dtype=torch.bool)
        rest[held] = False
        curves = MonotoneSpline.join([_line(values[rest]), *(family(values[rest]) for family in families)])
        z, _ = curves(values[rest].unsqueeze(-1).expand(-1, len(curves.x)))
        found, log_slope = curves(values[held].unsqueeze(-1).expand(-1, len(curves.x)))
        scale = z.std(0).clamp(min=1e-6)
        scores.append(log_slope - ((found - z.mean(0)) / scale).square() / 2 - scale.log())
    score = torch.cat(scores)  # (n, 1 + the number of curves)
    best = int(score[:, 1:].mean(0).argmax())
    gain = score[:, 1 + best] - score[:, 0]
    if gain.mean() < gain.std() / len(gain) ** 0.5:
        return line
    curves = MonotoneSpline.join([family(values) for family in families])
    return MonotoneSpline(curves.x[best : best + 1], curves.z[best : best + 1])


def fit_real_columns(
    columns: Sequence[Tensor],
    families: Sequence[Callable[[Tensor], MonotoneSpline]] = (powers, smooth),
    deadline: float | None = None,
) -> list[MonotoneSpline]:
    """Learns the curves of real columns, as :func:`fit_real`, in half of the time that is left; then takes lines.

    Arguments:
        columns: Their observed entries, each with shape :math:`(n)`.
        families: What else than the line there is to choose from.
        deadline: A time of :func:`time.monotonic`.
    """
    now = time.monotonic()
    half = math.inf if deadline is None else now + (deadline - now) / 2
    return [fit_real(values, families if time.monotonic() < half else ()) for values in columns]


def _line(values: Tensor) -> MonotoneSpline:
    """Standardises."""
    loc = values.mean().nan_to_num()
    scale = (values - loc).square().mean().sqrt().nan_to_num()
    scale = torch.where(scale > 0, scale, 1.0)
    z = torch.tensor([[-1.0, 1.0]]).to(values)
    return MonotoneSpline(loc + scale * z, z)


def _tail(values: Tensor) -> Tensor:
    """The slope dx/dz to the right, by the mean excess of the outer fifth; 0 where all its entries are equal."""
    edge = values.quantile(1 - TAIL_SHARE)
    v = torch.special.ndtri(torch.tensor(1 - TAIL_SHARE).to(values))
    normal = (-v * v / 2).exp() / (TAIL_SHARE * math.sqrt(2 * math.pi)) - v
    slope: Tensor = (values - edge).clamp(min=0).mean() / TAIL_SHARE / normal  # entries equal to the edge count
    return slope


def fit_whole(values: Tensor, levels: int | None = None) -> MonotoneSpline:
    """Fits the curve of a column of whole numbers.

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
            if passed >= max(COUNTS_PER_KNOT, len(values) / 100):
                kept.append(k)
                passed = 0.0
        kept = kept or [len(z) // 2]
        edges, z = edges[kept], z[kept]
    if len(z) < 2:  # a line of slope one
        edges = edges[:1] if len(edges) else torch.tensor([0.5]).to(values)
        z = z[:1] if len(z) else torch.zeros(1).to(values)
        edges, z = torch.cat([edges, edges + 1]), torch.cat([z, z + 1])
    return MonotoneSpline(edges[None], z[None])


class SplineWithAtom(NamedTuple):
    """Increasing curves with a jump at an atom, one a column.

    Attributes:
        spline: The curves without their jumps: what is above the atom is too low by :math:`z_+ - z_-`, where both are
            finite.
        edges: The atoms a and the edges :math:`z_-, z_+` of their intervals, with shape :math:`(3, D)`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> rain = (torch.randn(1000, dtype=torch.float64) - 0.5).clamp(min=0)  # dry on 69 days of a hundred
        >>> curve = SplineWithAtom.fit(rain, 0.0)
        >>> lower, upper, _ = curve.interval(torch.tensor([[0.0], [1.0]]).double())
        >>> (lower[0] == -torch.inf).item(), round(upper[0].item(), 1), round(upper[1].item(), 1)
        (True, 0.5, 1.5)
        >>> curve.values(torch.tensor([[-3.0], [0.4], [1.5]]).double()).round(decimals=1).flatten().tolist()
        [0.0, 0.0, 1.0]
    """

    spline: MonotoneSpline
    edges: Tensor

    @staticmethod
    def start(atoms: Tensor) -> "SplineWithAtom":
        """Lines of slope one for atoms with shape :math:`(D)`, before anything was observed."""
        half = torch.full_like(atoms, 0.5)
        knots = torch.tensor([0.0, 1.0]).to(atoms)
        return SplineWithAtom(
            MonotoneSpline(atoms[:, None] + knots, knots.expand(len(atoms), -1) - 0.5),
            torch.stack([atoms, -half, half]),
        )

    @staticmethod
    def fit(values: Tensor, atom: float) -> "SplineWithAtom":
        """Fits the curve of a column.

        Arguments:
            values: Its observed entries, with shape :math:`(n)`. In which order they are held out is drawn from torch's
                global generator.
            atom: Its atom.
        """
        apart = values[~at_atom(values, values.new_tensor(atom))]
        below, above = int((apart < atom).sum()), int((apart > atom).sum())
        total = len(values) + 0.5  # half an observation more at the atom: all that are there may be hidden
        z_below, z_above = torch.special.ndtri(values.new_tensor([below / total, 1 - above / total]))
        curve = fit_real(apart)
        x_left, z_left = _side(MonotoneSpline(-curve.x.flip(1), -curve.z.flip(1)), -atom, below, total)
        x_right, z_right = _side(curve, atom, above, total)
        jump = z_above - z_below if below and above else 0.0
        middle = z_below if below else z_above if above else values.new_zeros(())
        x = torch.cat([-x_left.flip(0), values.new_tensor([atom]), x_right])
        z = torch.cat([-z_left.flip(0), middle.reshape(1), z_right - jump])
        if len(x) == 1:  # nothing but the atom
            return SplineWithAtom.start(values.new_tensor([atom]))._replace(
                edges=values.new_tensor([[atom], [-torch.inf], [torch.inf]])
            )
        return SplineWithAtom(
            MonotoneSpline(x[None], z[None]), torch.stack([values.new_tensor(atom), z_below, z_above])[:, None]
        )

    @staticmethod
    def join(curves: "Sequence[SplineWithAtom]") -> "SplineWithAtom":
        """Puts columns side by side."""
        return SplineWithAtom(MonotoneSpline.join([c.spline for c in curves]), torch.cat([c.edges for c in curves], 1))

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What entries with shape :math:`(N, D)` say of the variables behind them.

        Returns:
            Where these begin and end, one number where an entry is not at its atom, the whole line where it is missing;
            and the logarithms of the slopes of the curves, zero where there is an interval.
        """
        atom, below, above = self.edges
        z, log_slope = self.spline(x)
        z = torch.where(x > atom, z + self._jump(), z)
        at = at_atom(x, atom)
        lower = torch.where(at, below, torch.where(torch.isnan(x), -torch.inf, z))
        upper = torch.where(at, above, torch.where(torch.isnan(x), torch.inf, z))
        return lower, upper, torch.where(at, 0.0, log_slope).nan_to_num()

    def values(self, z: Tensor) -> Tensor:
        """The entries of variables with shape :math:`(*, D)`."""
        atom, below, above = self.edges
        x = self.spline.inverse(torch.where(z > above, z - self._jump(), z))
        return torch.where((z >= below) & (z <= above), atom, x)

    def _jump(self) -> Tensor:
        _, below, above = self.edges
        return torch.where(torch.isfinite(above - below), above - below, 0.0)


def _side(curve: MonotoneSpline, atom: float, count: int, total: float) -> tuple[Tensor, Tensor]:
    """Knots of the curve above an atom, of so many entries: at normal scores of what lies there."""
    if not count:
        return curve.x.new_empty(0), curve.z.new_empty(0)
    outer = float(torch.special.ndtri(torch.tensor(count / (count + 1.0), dtype=torch.float64)))
    size = 2 * max(1, round(outer / KNOT_SPACING)) + 1
    score = torch.cat([torch.linspace(-outer, outer, size), torch.tensor([outer + 1])]).to(curve.x)
    share = torch.special.ndtr(-score)  # of what lies there, beyond each knot
    reached = torch.special.ndtr(-curve(curve.x.new_full((1, 1), atom))[0]).squeeze().clamp(min=1e-300)
    x = curve.inverse(-torch.special.ndtri(share * reached).unsqueeze(-1)).squeeze(-1)
    z = -torch.special.ndtri(share * count / total)
    kept, last = [], atom
    for k, value in enumerate(x.tolist()):  # where the curve is all but flat there are fewer
        if math.isfinite(value) and value > last + ROUNDING:
            kept.append(k)
            last = value
    return (x[kept], z[kept]) if kept else (x.new_tensor([atom + 1]), z[-1:])
