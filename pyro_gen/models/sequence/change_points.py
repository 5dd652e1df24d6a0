r"""Change points: a series falls into segments, each with a mean and a variance of its own.

Between two steps there is a change with probability h, so a segmentation with m changes has the prior
:math:`h^m (1 - h)^{T - 1 - m}`, and in each segment, in units of the scale of the data,

.. math::
    \sigma^2 \sim \operatorname{Inv-Gamma}(a, b), \qquad
    \mu \mid \sigma^2 \sim \mathcal{N}(0, \sigma^2 / \kappa), \qquad
    x_t \mid \mu, \sigma^2 \sim \mathcal{N}(\mu, \sigma^2) .

Mean and variance integrate out. With n steps seen in (s, t], of mean :math:`\bar x` and sum of squares S about it,

.. math::
    p(x_{s+1:t}) = \frac{\Gamma(a_n)}{\Gamma(a)} \frac{b^a}{b_n^{a_n}} \sqrt{\frac{\kappa}{\kappa + n}} \,
        (2 \pi)^{-n/2}, \qquad
    a_n = a + \frac{n}{2}, \quad b_n = b + \frac{1}{2} \Big( S + \frac{\kappa n \bar x^2}{\kappa + n} \Big) ,

and so do the segments, in :math:`T^2` terms: with :math:`F_0 = 1` and :math:`\ell = t - s`,

.. math:: F_t = \sum_{s < t} F_s \, h^{[s > 0]} (1 - h)^{\ell - 1} \, p(x_{s+1:t}), \qquad p(x) = F_T .

There is no latent variable left, and the likelihood is exact, with NaN, which a segment does not count, too. The
gradient with respect to the logarithm of h at one place is the probability of a change there; keeping the number of
segments in the sum gives its posterior. Several variables have changes at the same time, and means and variances of
their own. a, b, :math:`\kappa` and h can be trained, which is empirical Bayes; they need not be.

References:
    | A Bayesian analysis for change point problems (Barry & Hartigan, 1993)
    | https://doi.org/10.1080/01621459.1993.10594323
    | Exact and efficient Bayesian inference for multiple changepoint problems (Fearnhead, 2006)
    | https://doi.org/10.1007/s11222-006-8450-8
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen.data.small import normal_rows
from pyro_gen.observation import note_lengths, observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["ChangePoints", "SegmentedSeries"]


class SegmentedSeries(TorchDistribution):
    r"""Series with shape :math:`(T, D)` of segments with means and variances of their own, in units of one scale.

    Arguments:
        logit: Of the probability h of a change, with shape :math:`()`.
        prior: The numbers a, b and :math:`\kappa`, with shape :math:`(3)`.
        centre: What values are about, with shape :math:`(D)`.
        unit: Their scale, likewise.
        steps: The number T.
        rows: The batch shape.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(self, logit: Tensor, prior: Tensor, centre: Tensor, unit: Tensor, steps: int, rows: Any = ()) -> None:
        self.logit, self.prior, self.centre, self.unit = logit, prior, centre, unit
        self.seen: Tensor | None = None
        super().__init__(torch.Size(rows), torch.Size((steps, *centre.shape)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SegmentedSeries":
        new = SegmentedSeries(self.logit, self.prior, self.centre, self.unit, self.event_shape[0], batch_shape)
        new.seen = self.seen
        return new

    def marginalise(self, value: Tensor) -> tuple["SegmentedSeries", Tensor, Callable[[], Tensor]]:
        """What is seen of series with NaN, these without it, and a function that draws all given what is seen."""
        scored = self.expand(self.batch_shape)
        scored.seen = ~torch.isnan(value)
        return scored, value.nan_to_num(), lambda: self._complete(value)

    def log_prob(self, value: Tensor) -> Tensor:
        weights, _ = self.segments(value, self.seen)
        return self.forward(weights, self.log_change(value.shape[-2]))[..., -1]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self._complete(self.centre.new_full(shape, math.nan))

    def log_change(self, steps: int) -> Tensor:
        """The logarithm of the prior probability of a change before each step, 0 before the first: (T)."""
        change = nn.functional.logsigmoid(self.logit.double())
        return torch.cat([change.new_zeros(1), change.expand(steps - 1)])

    def segments(self, value: Tensor, seen: Tensor | None) -> tuple[Tensor, Sequence[Tensor]]:
        r"""The logarithms of :math:`(1 - h)^{\ell - 1} p(x_{s+1:t})`, and :math:`a_n, b_n, \kappa_n` and the mean.

        Arguments:
            value: Series with shape :math:`(*, T, D)`, without NaN.
            seen: What of them is seen, or ``None`` for all.

        Returns:
            Logarithms with shape :math:`(*, T + 1, T + 1)`, of no meaning where s is not before t, and the parameters
            of segments with shape :math:`(*, T + 1, T + 1, D)`.
        """
        a, b, kappa = self.prior.double().unbind(-1)
        unit = self.unit.double()
        one = torch.ones_like(value, dtype=torch.float64) if seen is None else seen.double()
        z = (value.double() - self.centre.double()) / unit * one

        def between(x: Tensor) -> Tensor:
            total = torch.cat([torch.zeros_like(x[..., :1, :]), x.cumsum(-2)], -2)
            return total.unsqueeze(-3) - total.unsqueeze(-2)  # (*, s, t, D)

        count, sums, squares = between(one).clamp(min=0), between(z), between(z.square())
        a_n, kappa_n = a + 0.5 * count, kappa + count
        b_n = b + 0.5 * (squares - sums.square() / kappa_n).clamp(min=0)
        log_prob = torch.lgamma(a_n) - torch.lgamma(a) + a * b.log() - a_n * b_n.log()
        log_prob = log_prob + 0.5 * (kappa.log() - kappa_n.log()) - count * (0.5 * math.log(2 * math.pi) + unit.log())
        at = torch.arange(value.shape[-2] + 1, device=value.device)
        length = (at - at.unsqueeze(-1)).clamp(min=1).double()
        stay = nn.functional.logsigmoid(-self.logit.double())
        return log_prob.sum(-1) + (length - 1) * stay, (a_n, b_n, kappa_n, sums / kappa_n)

    def forward(self, weights: Tensor, log_change: Tensor) -> Tensor:
        r"""The logarithms of :math:`F_0, \dots, F_T`, with shape :math:`(*, T + 1)`."""
        total = torch.zeros_like(weights[..., 0, :1])
        for t in range(1, weights.shape[-1]):
            new = (total + log_change[..., :t] + weights[..., :t, t]).logsumexp(-1, keepdim=True)
            total = torch.cat([total, new], -1)
        return total

    def _complete(self, value: Tensor) -> Tensor:
        """Draws segments from the last to the first, their means and variances, and what is missing given these."""
        seen, steps = ~torch.isnan(value), value.shape[-2]
        weights, parameters = self.segments(value.nan_to_num(), seen)
        log_change = self.log_change(steps)
        total = self.forward(weights, log_change)
        ends = torch.zeros(*total.shape[:-1], dtype=torch.long, device=value.device) + steps
        end, start = [], []  # of the segment of each step, from the last step to the first
        begin = torch.full_like(ends, steps)  # of the segment that is being drawn
        for last in range(steps, 0, -1):
            log_p = total[..., :last] + log_change[:last] + weights[..., :last, last]
            fresh = begin == last
            ends = torch.where(fresh, last, ends)
            begin = torch.where(fresh, torch.distributions.Categorical(logits=log_p).sample(), begin)
            end.append(ends)
            start.append(begin)
        s, t = torch.stack(start[::-1], -1), torch.stack(end[::-1], -1)  # (*, T)
        index = (s * (steps + 1) + t).unsqueeze(-1).expand(*s.shape, value.shape[-1])
        a, b, kappa, mean = (p.flatten(-3, -2).gather(-2, index) for p in parameters)  # (*, T, D)
        first = s.unsqueeze(-1).expand_as(a)  # what is drawn for a segment is what was drawn at its first step
        precision = torch.distributions.Gamma(a, b).sample().gather(-2, first)
        centre = mean + torch.randn_like(mean).gather(-2, first) / (kappa * precision).sqrt()
        drawn = centre + torch.randn_like(mean) / precision.sqrt()
        return torch.where(seen, value, (self.centre + self.unit * drawn).to(value.dtype))


@model(
    "change points",
    paper="Barry & Hartigan (1993)",
    small={
        "one variable": lambda: (ChangePoints(7), normal_rows(9, 7)),
        "two variables": lambda: (ChangePoints((7, 2)), normal_rows(9, 7, 2)),
    },
)
class ChangePoints(Program):
    r"""Creates a model of series with change points.

    Arguments:
        event_shape: The shape of a series to generate, :math:`(T)` or :math:`(T, D)`, or its length T; series of any
            length are observed.
        probability: The probability h of a change between two steps.
        shape: The number a of the prior of variances.
        rate: The number b.
        precision: The number :math:`\kappa`.

    Attributes:
        logit: The logit of h, with shape :math:`()`.
        log_prior: The logarithms of a, b and :math:`\kappa`, with shape :math:`(3)`.

    Raises:
        ValueError: A number is out of range, or the data are no series.

    Example:
        >>> import pyro_gen as pg
        >>> nile = pg.data.load("nile").train
        >>> program = ChangePoints(100, probability=1 / 50).initialise(nile)
        >>> change = program.changes(nile)[0]  # with a change before the step of that year
        >>> 1871 + int(change.argmax()), round(change.max().item(), 2)
        (1899, 0.75)
        >>> [round(p, 2) for p in program.number(nile)[0].tolist()[:3]]  # of no change, one, two
        [0.0, 0.71, 0.22]
    """

    centre: Tensor
    unit: Tensor
    initialised: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        probability: float = 0.02,
        *,
        shape: float = 1.0,
        rate: float = 0.5,
        precision: float = 0.1,
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        if not 1 <= len(self.event_shape) <= 2:
            raise ValueError(f"ChangePoints: a datum is a series, (T) or (T, D), not {tuple(self.event_shape)}.")
        if not 0 < probability < 1 or not min(shape, rate, precision) > 0:
            raise ValueError(
                f"ChangePoints(probability={probability}, shape={shape}, rate={rate}, precision={precision}): give a "
                "probability between 0 and 1, and positive numbers."
            )
        self.logit = nn.Parameter(torch.tensor(probability, dtype=torch.float64).logit().float())
        self.log_prior = nn.Parameter(torch.tensor([shape, rate, precision]).log())
        self.register_buffer("centre", torch.zeros(self.event_shape[1:]))
        self.register_buffer("unit", torch.ones(self.event_shape[1:]))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Takes location and scale from series with shape :math:`(N, T, *D)`, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                steps = x.flatten(0, 1)
                spread = (steps - steps.nanmean(0)).square().nanmean(0).sqrt()
                self.centre.copy_(steps.nanmean(0).nan_to_num())
                self.unit.copy_(torch.where(spread > 0, spread, 1.0))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def series(self, steps: int) -> SegmentedSeries:
        """The law of series of so many steps, with event shape :math:`(T, D)`."""
        centre, unit = self.centre.reshape(-1), self.unit.reshape(-1)
        return SegmentedSeries(self.logit, self.log_prior.exp(), centre, unit, steps)

    def model(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The density of series with shape :math:`(N, T, *D)`; returns them completed.

        With the length of each, :math:`(N)`, as context, what is beyond the end stays NaN; else it is a forecast.
        """
        if lengths is not None:
            note_lengths(x, lengths)
        with self.plate(x):
            y = observe("x", self.series(x.shape[1]), x.reshape(*x.shape[:2], -1))
            return y.reshape(x.shape)

    def changes(self, x: Tensor) -> Tensor:
        """The posterior probability of a change before each step.

        Arguments:
            x: Series with shape :math:`(N, T, *D)` and NaN where nothing was seen.

        Returns:
            Probabilities with shape :math:`(N, T)`, 0 before the first step, in float64.
        """
        with torch.no_grad():
            d, y = self.series(x.shape[1]), x.reshape(*x.shape[:2], -1)
            weights = d.segments(y.nan_to_num(), ~y.isnan())[0]
            log_change = d.log_change(x.shape[1])

        def log_prob(log_change: Tensor) -> Tensor:
            return d.forward(weights, log_change)[..., -1].sum()

        found: Tensor = torch.func.grad(log_prob)(log_change.expand(len(x), -1))
        return torch.where(torch.arange(x.shape[1], device=x.device) > 0, found, 0.0)

    def number(self, x: Tensor, most: int = 20) -> Tensor:
        """The posterior of the number of changes.

        Arguments:
            x: Series with shape :math:`(N, T, *D)` and NaN where nothing was seen.
            most: The greatest number to tell the probability of.

        Returns:
            Probabilities of 0, ..., ``most`` changes, with shape :math:`(N, most + 1)`, in float64; what they lack to 1
            is the probability of more.
        """
        with torch.no_grad():
            d, y = self.series(x.shape[1]), x.reshape(*x.shape[:2], -1)
            weights = d.segments(y.nan_to_num(), ~y.isnan())[0]
            log_change = d.log_change(x.shape[1])
            total = weights.new_full((*weights.shape[:1], 1, most + 2), -math.inf)  # by the number of segments
            total[..., 0] = 0.0
            for t in range(1, weights.shape[-1]):
                paths = total[..., :-1] + (log_change[:t] + weights[..., :t, t]).unsqueeze(-1)
                new = torch.nn.functional.pad(paths.logsumexp(1, keepdim=True), (1, 0), value=-math.inf)
                total = torch.cat([total, new], 1)
            whole = d.forward(weights, log_change)[..., -1:]
        return (total[:, -1, 1:] - whole).exp()

    def segmentation(self, x: Tensor) -> Tensor:
        """The most probable segmentation, the number 0, 1, ... of the segment of each step, with shape :math:`(N, T)`.

        Arguments:
            x: Series with shape :math:`(N, T, *D)` and NaN where nothing was seen.
        """
        with torch.no_grad():
            d, y = self.series(x.shape[1]), x.reshape(*x.shape[:2], -1)
            weights = d.segments(y.nan_to_num(), ~y.isnan())[0]
            log_change = d.log_change(x.shape[1])
            best, origins = torch.zeros_like(weights[..., 0, :1]), []
            for t in range(1, weights.shape[-1]):
                new, origin = (best + log_change[:t] + weights[..., :t, t]).max(-1, keepdim=True)
                best = torch.cat([best, new], -1)
                origins.append(origin)
            origin = torch.cat(origins, -1)  # where the last segment of the first t steps begins, (N, T)
            change = torch.zeros_like(origin)
            begin = origin[:, -1:]
            for _ in range(x.shape[1]):
                change.scatter_(1, begin, 1)
                begin = origin.gather(1, (begin - 1).clamp(min=0))
        return change.cumsum(1) - 1
