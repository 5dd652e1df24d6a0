"""A figure of samples with its error and, beside it, what other real data have in the place of the samples."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SampleFigure", "errors", "figures", "rows"]

BLOCKS = 10  # of the jackknife, on either side

Statistic = Callable[..., Tensor]


@dataclass(frozen=True)
class SampleFigure:
    """What a comparison of samples with real data found.

    Attributes:
        value: The figure.
        draw_error: Its standard error from the samples being a finite number of draws.
        data_error: Its standard error from the real data being so few.
        real: The same figure of other real data in the place of the samples, ``None`` if there were none. No model is
            expected to be better.

    Example:
        >>> print(SampleFigure(8.7, 0.3, 0.4, SampleFigure(5.2, 0.1, 0.2)))
        8.7 +- 0.5 (real against real 5.2 +- 0.22)
    """

    value: float
    draw_error: float
    data_error: float
    real: "SampleFigure | None" = None

    @property
    def standard_error(self) -> float:
        """The standard error from both."""
        return math.hypot(self.draw_error, self.data_error)

    def __str__(self) -> str:
        beside = "" if self.real is None else f" (real against real {self.real})"
        return f"{self.value:.4g} +- {self.standard_error:.2g}{beside}"


def figures(
    statistic: Statistic, samples: Tensor, real: Tensor, other: Tensor | None, smallest: int = 1
) -> list[SampleFigure]:
    """Figures of samples against real data, each with its :func:`errors`.

    Arguments:
        statistic: Takes two sets of rows, float64; returns M numbers.
        samples: The samples, with shape :math:`(N, *)`.
        real: The real data, with shape :math:`(N_r, *)`.
        other: Other real data, as many as samples if they are to be compared, with shape :math:`(N_o, *)`, or ``None``.
        smallest: The number of rows that the statistic needs.
    """
    s, r = rows(samples, "samples", smallest), rows(real, "real data", smallest)
    beside = None if other is None else figures(statistic, other, real, None, smallest)
    if s.shape[1] != r.shape[1]:
        raise ValueError(f"samples have {s.shape[1]} numbers each and real data {r.shape[1]}: expected the same.")
    values = statistic(s, r)
    draws, data = errors(statistic, s, r)
    return [
        SampleFigure(float(values[i]), float(draws[i]), float(data[i]), None if beside is None else beside[i])
        for i in range(len(values))
    ]


def errors(statistic: Statistic, *sets: Tensor) -> list[Tensor]:
    r"""The standard errors of a statistic of several sets of rows, from each of them: the jackknife over ten blocks.

    With :math:`\theta_b` the statistic without the b-th of B blocks of a set, the variance is
    :math:`\frac{B - 1}{B} \sum_b (\theta_b - \bar\theta)^2`.

    References:
        | The Jackknife, the Bootstrap and Other Resampling Plans (Efron, 1982)

    Arguments:
        statistic: Takes the sets; returns M numbers.
        sets: The sets, each with shape :math:`(N_k, *)`.

    Returns:
        M errors for each set.
    """
    out = []
    for k, part in enumerate(sets):
        left_out = [statistic(*sets[:k], _without(part, b), *sets[k + 1 :]) for b in range(BLOCKS)]
        out.append(((BLOCKS - 1) * torch.stack(left_out).var(0, correction=0)).sqrt())
    return out


def rows(x: Tensor, what: str, smallest: int = 1) -> Tensor:
    """A set of data as rows of numbers, float64, with shape (N, D).

    Raises:
        ValueError: There are too few of them, or values are missing.
    """
    least = max(2 * BLOCKS, 2 * smallest)
    if len(x) < least:
        raise ValueError(f"{what}: expected {least} rows at least, got {len(x)}.")
    if not x.isfinite().all():
        raise ValueError(
            f"{what}: values are missing or infinite; complete them before (pg.impute), or leave them out."
        )
    return x.reshape(len(x), -1).double()


def _without(x: Tensor, block: int) -> Tensor:
    return x[torch.arange(len(x), device=x.device) % BLOCKS != block]
