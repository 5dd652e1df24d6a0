r"""A classifier two-sample test: can samples be told from real data?

As many samples as real data are dealt into folds, each with as many of either. For each fold a classifier is fitted to
the others, least squares in the space of a Gaussian kernel whose width is the median distance,

.. math:: f(x) = k(x)^\top (K + \lambda I)^{-1} y, \qquad y = \pm 1, \quad \lambda = 1,

and its share of right answers in all folds together is the accuracy: a half of equal laws, in expectation. Predictions
are linear in the labels, so their distribution under permutation (within folds, which equal laws leave as likely) costs
one matrix product. The p-value is that of the accuracy among those of 999 permutations, ties broken at random: it is
exact, uniform under equal laws, though the folds share their data.

References:
    | Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab, 2017)
    | https://arxiv.org/abs/1610.06545
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.evaluation.samples.result import rows

__all__ = ["TwoSampleTest", "two_sample_test"]

FOLDS, PERMUTATIONS, RIDGE = 5, 999, 1.0


@dataclass(frozen=True)
class TwoSampleTest:
    """What a classifier two-sample test found.

    Attributes:
        value: The accuracy, 1/2 where nothing tells samples from real data.
        p_value: The probability of an accuracy so high, were the laws equal.
        size: The number of samples, and of real data.
        real: The same of other real data in the place of the samples, or ``None``.
    """

    value: float
    p_value: float
    size: int
    real: "TwoSampleTest | None" = None

    @property
    def standard_error(self) -> float:
        """The standard error of the accuracy, as if the answers were independent."""
        return float((self.value * (1 - self.value) / (2 * self.size)) ** 0.5)

    def __str__(self) -> str:
        beside = "" if self.real is None else f" (real against real {self.real})"
        return f"{self.value:.3f} +- {self.standard_error:.3f}, p = {self.p_value:.2g}{beside}"


def two_sample_test(
    samples: Tensor, real: Tensor, other: Tensor | None = None, *, most: int = 1000, seed: int = 0
) -> TwoSampleTest:
    """Tests whether samples and real data have one law; of the larger set a random part is taken.

    Arguments:
        samples: Features of the samples, with shape :math:`(N, D)`.
        real: Features of real data, with shape :math:`(N_r, D)`.
        other: Features of other real data, for what real data are at.
        most: How many of either are used at most; a matrix of twice that many rows and columns is inverted.
        seed: Deals the folds and permutes.

    Raises:
        ValueError: There are too few rows, or values are missing.

    Example:
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> shifted, same = two_sample_test(x[:200] + 1.0, x[200:]), two_sample_test(x[:200], x[200:])
        >>> shifted.value > 0.65, shifted.p_value <= 0.001, same.p_value > 0.05
        (True, True, True)
    """
    beside = None if other is None else two_sample_test(other, real, most=most, seed=seed)
    s, r = rows(samples, "samples"), rows(real, "real data")
    n = min(len(s), len(r), most) // FOLDS * FOLDS
    with seeded(seed):
        x = torch.cat([part[torch.randperm(len(part))[:n].to(part.device)] for part in (s, r)])
        orders = torch.rand(PERMUTATIONS, FOLDS, 2 * n // FOLDS).argsort(-1)
        tie = torch.rand(())
    labels = torch.ones(FOLDS, 2 * n // FOLDS)  # sorted by folds, in each the samples first
    labels[:, n // FOLDS :] = -1.0
    permuted = labels[0][orders].reshape(PERMUTATIONS, 2 * n)
    y = torch.cat([labels.reshape(1, -1), permuted]).to(x)  # (1 + permutations, 2 n)
    by_fold = torch.arange(2 * n, device=x.device).reshape(2, FOLDS, -1).movedim(1, 0).reshape(-1)
    score = _answers(x[by_fold], y) * y
    right = (score > 0).double().mean(1) + 0.5 * (score == 0).double().mean(1)  # of no answer, half
    higher, equal = (right[1:] > right[0]).sum(), (right[1:] == right[0]).sum()
    p = (higher + tie * (1 + equal)) / (1 + PERMUTATIONS)
    return TwoSampleTest(float(right[0]), float(p), n, beside)


def _answers(x: Tensor, y: Tensor) -> Tensor:
    """Predictions for each row of labels, of each fold by a classifier of the others, with the shape of ``y``."""
    distance = torch.cdist(x, x)
    kernel = torch.exp(-0.5 * (distance / distance.median().clamp(min=1e-12)).square())
    folds = torch.arange(len(x), device=x.device).chunk(FOLDS)
    out = torch.empty_like(y)
    for fold in folds:
        rest = torch.cat([other for other in folds if other is not fold])
        ridge = RIDGE * torch.eye(len(rest), dtype=x.dtype, device=x.device)
        weights = torch.linalg.solve(kernel[rest][:, rest] + ridge, kernel[rest][:, fold])  # (rest, fold)
        out[:, fold] = y[:, rest] @ weights
    return out
