r"""Schedules of noise: the negative log signal-to-noise ratio :math:`\gamma(t)`, which rises with the time t in [0, 1].

With variance preserved, the datum has the weight :math:`\alpha_t` and the noise the standard deviation
:math:`\sigma_t`,

.. math:: \alpha_t^2 = \operatorname{sigmoid}(-\gamma(t)), \qquad \sigma_t^2 = \operatorname{sigmoid}(\gamma(t)) .
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "SCHEDULES",
    "CosineSchedule",
    "LearnedSchedule",
    "LinearSchedule",
    "Schedule",
    "alpha_sigma",
    "make_schedule",
]


def alpha_sigma(gamma: Tensor) -> tuple[Tensor, Tensor]:
    r"""The weight :math:`\alpha` of the datum and the standard deviation :math:`\sigma` of the noise."""
    return torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()


class Schedule(nn.Module):
    r"""How fast noise is added."""

    def forward(self, time: Tensor) -> Tensor:
        r""":math:`\gamma(t)` of times of any shape."""
        raise NotImplementedError

    def slope(self, time: Tensor) -> Tensor:
        r"""The derivative :math:`\gamma'(t)`, positive."""
        raise NotImplementedError

    def between(self) -> tuple[nn.Parameter, ...]:
        """The parameters that leave both ends where they are."""
        return ()


class LinearSchedule(Schedule):
    r"""Noise at a rate :math:`\beta` that rises linearly, :math:`\alpha^2 = \exp(-\int \beta)` (Ho et al., 2020).

    Time 0 is the first of a thousand steps, since without any noise :math:`\gamma` is infinite.

    Arguments:
        least: The rate at the beginning; a thousandth of it is the variance of the noise of the first of 1000 steps.
        greatest: The rate at the end.

    Example:
        >>> alpha, sigma = alpha_sigma(LinearSchedule()(torch.tensor([0.0, 1.0])))
        >>> [round(a, 4) for a in alpha.tolist()], [round(s, 4) for s in sigma.tolist()]
        ([0.9999, 0.0066], [0.0105, 1.0])
    """

    def __init__(self, least: float = 0.1, greatest: float = 20.0) -> None:
        super().__init__()
        self.least, self.greatest = least, greatest

    def _integral(self, time: Tensor) -> tuple[Tensor, Tensor]:
        t = 1e-3 + (1 - 1e-3) * time
        rate = self.least + (self.greatest - self.least) * t
        return t * (self.least + rate) / 2, rate

    def forward(self, time: Tensor) -> Tensor:
        total = self._integral(time)[0]
        return total + torch.log(-torch.expm1(-total))

    def slope(self, time: Tensor) -> Tensor:
        total, rate = self._integral(time)
        return (1 - 1e-3) * rate / -torch.expm1(-total)


class CosineSchedule(Schedule):
    r""":math:`\alpha = \cos u, \sigma = \sin u` with u linear in time (Nichol & Dhariwal, 2021).

    Arguments:
        least: :math:`\gamma(0)`.
        greatest: :math:`\gamma(1)`.
    """

    def __init__(self, least: float = -10.0, greatest: float = 8.0) -> None:
        super().__init__()
        self.least, self.greatest = least, greatest

    def _angle(self, time: Tensor) -> tuple[Tensor, float]:
        first, last = math.atan(math.exp(self.least / 2)), math.atan(math.exp(self.greatest / 2))
        return first + (last - first) * time, last - first

    def forward(self, time: Tensor) -> Tensor:
        return 2 * self._angle(time)[0].tan().log()

    def slope(self, time: Tensor) -> Tensor:
        angle, width = self._angle(time)
        return 4 * width / torch.sin(2 * angle)


class LearnedSchedule(Schedule):
    r"""A monotone network between two learned ends (Kingma et al., 2021).

    .. math::
        \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0) \frac{g(t) - g(0)}{g(1) - g(0)}, \qquad
        g(t) = t + \sum_k c_k \operatorname{sigmoid}(b_k + a_k t), \quad a, c > 0

    It starts nearly linear. In continuous time the expected loss depends on the ends alone; what lies between them is
    there to make its variance small.

    Arguments:
        least: :math:`\gamma_0` at first.
        greatest: :math:`\gamma_1` at first.
        units: The number of hidden units.
    """

    def __init__(self, least: float = -10.0, greatest: float = 6.0, units: int = 32) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor([least, greatest]))
        self.raw_slopes = nn.Parameter(torch.full((units,), 8.0))
        self.shifts = nn.Parameter(-8.0 * torch.linspace(0.0, 1.0, units))
        self.raw_heights = nn.Parameter(torch.full((units,), -3.0 - math.log(units)))

    def _network(self, time: Tensor) -> tuple[Tensor, Tensor]:
        slopes, heights = F.softplus(self.raw_slopes), F.softplus(self.raw_heights)
        h = torch.sigmoid(self.shifts + slopes * time.unsqueeze(-1))  # (*, units)
        return time + (heights * h).sum(-1), 1 + (heights * slopes * h * (1 - h)).sum(-1)

    def between(self) -> tuple[nn.Parameter, ...]:
        return self.raw_slopes, self.shifts, self.raw_heights

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """The values of the network at both ends."""
        first, last = self._network(self.ends.new_tensor([0.0, 1.0]))[0].unbind()
        return first, last

    def forward(self, time: Tensor) -> Tensor:
        first, last = self._bounds()
        return self.ends[0] + (self.ends[1] - self.ends[0]) * (self._network(time)[0] - first) / (last - first)

    def slope(self, time: Tensor) -> Tensor:
        first, last = self._bounds()
        return (self.ends[1] - self.ends[0]) * self._network(time)[1] / (last - first)


SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": CosineSchedule,
    "learned": LearnedSchedule,
    "linear": LinearSchedule,
}


def make_schedule(schedule: str | Schedule) -> Schedule:
    """Creates a schedule by name; a schedule is returned as it is.

    Raises:
        ValueError: There is no schedule of that name.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(f"There is no schedule of noise named {schedule!r}: choose one of {', '.join(SCHEDULES)}.")
    return SCHEDULES[schedule]()
