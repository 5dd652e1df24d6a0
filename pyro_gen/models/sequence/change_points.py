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

There is no latent variable left, and the likelihood is exact, with NaN, which a segment does not count, too. With the
same sum from the end, both give the probability of a change at one place, and keeping the number of segments in the sum
gives its posterior (:mod:`pyro_gen.models.sequence.parts.segmentations`). Several variables have changes at the same
time, and means and variances of their own. a, b, :math:`\kappa` and h can be trained, which is empirical Bayes; they
need not be.

References:
    | A Bayesian analysis for change point problems (Barry & Hartigan, 1993)
    | https://doi.org/10.1080/01621459.1993.10594323
    | Exact and efficient Bayesian inference for multiple changepoint problems (Fearnhead, 2006)
    | https://doi.org/10.1007/s11222-006-8450-8
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from pyro_gen._random import seeded
from pyro_gen.data.small import normal_rows
from pyro_gen.models.sequence.parts import segmentations
from pyro_gen.models.sequence.parts.segments import SegmentedSeries
from pyro_gen.models.sequence.parts.units import moments
from pyro_gen.observation import note_lengths, observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["ChangePoints"]


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
    any_length = True

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
                for buffer, value in zip((self.centre, self.unit), moments(x), strict=True):
                    buffer.copy_(value)
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

    def _weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithms of the weights of segments and of changes; x as below."""
        with torch.no_grad():
            d, y = self.series(x.shape[1]), x.reshape(*x.shape[:2], -1)
            return d.segments(y.nan_to_num(), ~y.isnan())[0], d.log_change(x.shape[1])

    def changes(self, x: Tensor) -> Tensor:
        """The posterior probability of a change before each step, 0 before the first, with shape :math:`(N, T)`.

        Arguments:
            x: Series with shape :math:`(N, T, *D)` and NaN where nothing was seen.
        """
        return segmentations.change_probabilities(*self._weights(x))

    def number(self, x: Tensor, most: int = 20) -> Tensor:
        """The posterior of the number of changes.

        Arguments:
            x: Series with shape :math:`(N, T, *D)` and NaN where nothing was seen.
            most: The greatest number to tell the probability of.

        Returns:
            Probabilities of 0, ..., ``most`` changes, with shape :math:`(N, most + 1)`, in float64; what they lack to 1
            is the probability of more.
        """
        return segmentations.number_of_changes(*self._weights(x), most)

    def memberships(self, x: Tensor, most: int = 20) -> Tensor:
        """The posterior of the number of changes up to each step, with shape :math:`(N, T, most + 1)`; as above."""
        return segmentations.segment_probabilities(*self._weights(x), most)

    def segmentation(self, x: Tensor) -> Tensor:
        """The most probable segmentation, the number 0, 1, ... of the segment of steps, (N, T); argument as above."""
        return segmentations.most_probable(*self._weights(x))

    def draw_changes(self, x: Tensor, draws: int, seed: int = 0) -> Tensor:
        """Draws segmentations given series, independently: whether there is a change before each step.

        Arguments:
            x: Series with shape :math:`(N, T, *D)` and NaN where nothing was seen.
            draws: The number S of draws.
            seed: Seeds them.

        Returns:
            Booleans with shape :math:`(S, N, T)`.
        """
        with seeded(seed):
            begins, _ = segmentations.draw(*self._weights(x), draws)
        at = torch.arange(x.shape[1], device=x.device)
        return (begins == at) & (at > 0)
