r"""Columns that mask themselves: the mechanism of a selection model, and its posterior given complete rows.

.. math::
    P(s_d = 1 \mid x_d) = \operatorname{logit}^{-1}\big(\beta_d x_d - \sqrt{1 + \beta_d^2} \, \tau_d\big), \qquad
    \beta_d \sim \mathcal{N}(0, \sigma_\beta^2), \quad \tau_d \sim \mathcal{N}(0, 3^2) ,

where :math:`s_d = 1` says that the entry is missing. A steep slope makes :math:`\tau_d` a threshold, no slope makes
:math:`-\tau_d` the logit of the share that is missing. Where the sign of a slope is known, its absolute value counts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_gen.data.column import Column

__all__ = ["THRESHOLD_SCALE", "Mechanism", "known_signs", "signed"]

THRESHOLD_SCALE = 3.0  # prior standard deviation of tau
METROPOLIS_STEPS = 5  # of Metropolis, of slopes and of thresholds
LOG_STEP_RANGE = 5.0  # steps have sizes from exp(-5) of the prior's scale to all of it


class Mechanism(NamedTuple):
    """Slopes and thresholds of columns.

    Attributes:
        slope: The slopes, of known signs, with shape :math:`(*, D)`.
        threshold: The thresholds, with shape :math:`(*, D)`.
    """

    slope: Tensor
    threshold: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """The logits of being missing, of rows (*, D).

        Example:
            >>> steep = Mechanism(torch.tensor([100.0]), torch.tensor([0.5]))
            >>> (steep.logits(torch.tensor([[0.4], [0.6]])) > 0).tolist()
            [[False], [True]]
        """
        return self.slope * x - (1 + self.slope.square()).sqrt() * self.threshold

    def log_likelihood(self, missing: Tensor, taken: Tensor) -> Callable[[Tensor], Tensor]:
        """What it did to the missing entries: took them, or left them where they were held out.

        Arguments:
            missing: Which entries are missing, boolean with shape :math:`(N, D)`.
            taken: Which of them it took.

        Returns:
            The log-likelihood, with shape :math:`(*, N)`, as a function of complete rows :math:`(*, N, D)`.
        """
        sign = 2.0 * taken - 1.0
        rows = Mechanism(self.slope.unsqueeze(-2), self.threshold.unsqueeze(-2))

        def log_likelihood(x: Tensor) -> Tensor:
            return (F.logsigmoid(sign * rows.logits(x)) * missing).sum(-1)

        return log_likelihood

    def moved(self, x: Tensor, taken: Tensor, sign: Tensor, strength: float) -> "Mechanism":
        """Takes steps of random-walk Metropolis, of all sizes, column by column.

        Arguments:
            x: Complete rows with shape :math:`(*, N, D)`.
            taken: Which entries are missing, boolean with shape :math:`(N, D)`.
            sign: The signs of slopes that are known, 0 where nothing is, with shape :math:`(D)`.
            strength: The scale of the slopes' prior.
        """
        observed = 2.0 * taken - 1.0

        def log_prob(found: Mechanism) -> Tensor:
            rows = Mechanism(found.slope.unsqueeze(-2), found.threshold.unsqueeze(-2))
            prior: Tensor = (found.slope / strength).square() + (found.threshold / THRESHOLD_SCALE).square()
            return F.logsigmoid(observed * rows.logits(x)).sum(-2) - 0.5 * prior

        state, current = self, log_prob(self)
        for i in range(2 * METROPOLIS_STEPS):
            size = torch.exp(-LOG_STEP_RANGE * torch.rand_like(current)) * torch.randn_like(current)
            if i % 2:
                proposed = Mechanism(state.slope, state.threshold + THRESHOLD_SCALE * size)
            else:
                proposed = Mechanism(signed(state.slope + strength * size, sign), state.threshold)
            value = log_prob(proposed)
            accepted = torch.rand_like(value).log() < value - current
            pairs = zip(proposed, state, strict=True)
            state = Mechanism(*(torch.where(accepted, new, old) for new, old in pairs))
            current = torch.where(accepted, value, current)
        return state


def signed(slope: Tensor, sign: Tensor) -> Tensor:
    """Slopes of which the absolute value counts where the sign is known, not 0; a reflection of random walks too."""
    return torch.where(sign == 0, slope, sign * slope.abs())


def known_signs(program: str, columns: Sequence[Column], sign: str | Mapping[str, str]) -> list[float]:
    """What is known of the slopes of columns: 1 where high values go missing, -1 where low ones do, 0 where nothing is.

    Arguments:
        program: The name of the program that asks, for messages.
        columns: The columns.
        sign: ``"high"``, ``"low"`` or ``"unknown"``, or one of these for columns by name.

    Raises:
        ValueError: There is no such column or value.
    """
    values = {"unknown": 0.0, "high": 1.0, "low": -1.0}
    names = [column.name for column in columns]
    given = dict.fromkeys(names, sign) if isinstance(sign, str) else dict(sign)
    if strange := [name for name in given if name not in names]:
        raise ValueError(f"{program}(sign=...): there is no column {strange[0]!r}: {', '.join(map(repr, names))}.")
    if wrong := [value for value in given.values() if value not in values]:
        raise ValueError(f'{program}(sign={wrong[0]!r}): give "unknown", "high" or "low".')
    return [values[given.get(name, "unknown")] for name in names]
