r"""Fidelity and diversity of samples, by balls about data that reach to their k-th nearest neighbour.

With :math:`B_i` the ball about real datum i up to its k-th nearest real neighbour, and :math:`C_j` that about sample j
up to its k-th nearest sample,

.. math::
    \text{precision} = \tfrac{1}{n} \sum_j 1[s_j \in \textstyle\bigcup_i B_i], \qquad
    \text{recall} = \tfrac{1}{m} \sum_i 1[r_i \in \textstyle\bigcup_j C_j],

    \text{density} = \tfrac{1}{k n} \sum_j \sum_i 1[s_j \in B_i], \qquad
    \text{coverage} = \tfrac{1}{m} \sum_i 1[\text{some } s_j \in B_i].

Precision and density are about the samples, whether each looks real; recall and coverage about the real data, whether
each has its like among the samples. One outlier with a large ball raises precision and recall; density counts balls and
may exceed 1 where samples crowd in the middle of the data, and coverage takes balls of the real data alone. All depend
on the numbers of data: compare at equal ones, with what other real data have.

References:
    | Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019)
    | https://arxiv.org/abs/1904.06991
    | Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020)
    | https://arxiv.org/abs/2002.09797
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen.evaluation.samples.result import SampleFigure, figures

__all__ = ["Neighbours", "nearest_neighbours"]

CHUNK = 512  # rows of distances at a time


class Neighbours(NamedTuple):
    """Fidelity and diversity of samples; of each, higher is better."""

    precision: SampleFigure
    recall: SampleFigure
    density: SampleFigure
    coverage: SampleFigure


def nearest_neighbours(samples: Tensor, real: Tensor, other: Tensor | None = None, k: int = 5) -> Neighbours:
    """Precision, recall, density and coverage of samples against real data.

    Arguments:
        samples: Features of the samples, with shape :math:`(N, D)`.
        real: Features of real data, with shape :math:`(N_r, D)`.
        other: Features of other real data, for what real data are at; as many as samples.
        k: Balls reach to the k-th nearest neighbour, the datum itself not counted.

    Raises:
        ValueError: There are too few rows, or values are missing.

    Example:
        >>> x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> found = nearest_neighbours(0.3 * x[:500], x[500:])  # samples in the middle of the data alone
        >>> found.precision.value > 0.95, found.coverage.value < 0.6
        (True, True)
    """
    if k < 1:
        raise ValueError(f"nearest_neighbours(k={k}): give a positive number.")
    return Neighbours(*figures(lambda s, r: _four(s, r, k), samples, real, other, smallest=k + 1))


def _four(s: Tensor, r: Tensor, k: int) -> Tensor:
    about_real, about_samples = _radii(r, k), _radii(s, k)
    balls = torch.cat([(d <= about_real).sum(1) for d in _squares(s, r)])  # how many a sample is in, (N)
    near = torch.cat([(d <= about_samples).any(1) for d in _squares(r, s)])
    radii = about_real.split(CHUNK)
    filled = torch.cat([(d <= radii[i][:, None]).any(1) for i, d in enumerate(_squares(r, s))])
    shares = [(balls > 0).double().mean(), near.double().mean(), balls.double().mean() / k, filled.double().mean()]
    return torch.stack(shares)


def _radii(x: Tensor, k: int) -> Tensor:
    """The squared distance of each datum to the k-th nearest other, a rounding error above, with shape (N)."""
    return torch.cat([d.kthvalue(k + 1, dim=1).values for d in _squares(x, x)]) * (1 + 1e-9)


def _squares(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Squared distances of some rows of x at a time to all of y; copies of one datum are at 0."""
    of_y = y.square().sum(1)
    for part in x.split(CHUNK):
        sums = part.square().sum(1, keepdim=True) + of_y
        squares = sums - 2 * part @ y.T
        yield squares.where(squares > 1e-12 * sums, 0.0)
