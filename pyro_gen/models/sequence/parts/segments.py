r"""The law of series that fall into segments with means and variances of their own, both integrated out."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen.models.sequence.parts import segmentations

__all__ = ["SegmentedSeries"]


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
        return segmentations.forward(weights, self.log_change(value.shape[-2]))[..., -1]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self._complete(self.centre.new_full(shape, math.nan))

    def log_change(self, steps: int) -> Tensor:
        """The logarithm of the prior probability of a change before each step, 0 before the first: (T)."""
        change = nn.functional.logsigmoid(self.logit.double())
        return torch.cat([change.new_zeros(1), change.expand(steps - 1)])

    def segments(self, value: Tensor, seen: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
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

    def _complete(self, value: Tensor) -> Tensor:
        """Draws segments, their means and variances, and what is missing given these."""
        seen, steps = ~torch.isnan(value), value.shape[-2]
        weights, parameters = self.segments(value.nan_to_num(), seen)
        (s,), (t,) = segmentations.draw(weights, self.log_change(steps), 1)  # (*, T)
        index = (s * (steps + 1) + t).unsqueeze(-1).expand(*s.shape, value.shape[-1])
        a, b, kappa, mean = (p.flatten(-3, -2).gather(-2, index) for p in parameters)  # (*, T, D)
        first = s.unsqueeze(-1).expand_as(a)  # what is drawn for a segment is what was drawn at its first step
        precision = torch.distributions.Gamma(a, b).sample().gather(-2, first)
        centre = mean + torch.randn_like(mean).gather(-2, first) / (kappa * precision).sqrt()
        drawn = centre + torch.randn_like(mean) / precision.sqrt()
        return torch.where(seen, value, (self.centre + self.unit * drawn).to(value.dtype))
