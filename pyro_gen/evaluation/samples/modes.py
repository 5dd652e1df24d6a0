"""What draws of a program are like, judged by the draws alone: which modes of a known mixture they cover, and how well.

References:
    | VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational Learning (Srivastava et al., 2017)
    | https://arxiv.org/abs/1705.07761
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_gen.data.mixtures import MIXTURES
from pyro_gen.inference.predictive import sample
from pyro_gen.program import Program
from pyro_gen.registry import Measured, measure

__all__ = ["Modes", "good_samples", "modes", "modes_covered"]

Progress = Callable[[float], None] | None

FAIR_SHARE = 0.2  # of its fair share is what a mode must have to count: one sample of it is no cover


@dataclass(frozen=True)
class Modes:
    """How samples lie about the modes of a mixture of K equal Gaussians.

    Attributes:
        shares: Of all samples, the share that are good ones of each mode, with shape (K,). Fair is 1 / K.
        size: The number of samples.
    """

    shares: Tensor
    size: int

    @property
    def good(self) -> float:
        """The share of good samples."""
        return float(self.shares.sum())

    @property
    def covered(self) -> int:
        """The number of modes with a fifth of their fair share, at least."""
        return int((self.shares >= FAIR_SHARE / len(self.shares)).sum())

    @property
    def good_error(self) -> float:
        """The standard error of :attr:`good`."""
        return float((self.good * (1 - self.good) / self.size) ** 0.5)

    @property
    def covered_error(self) -> float:
        """The standard error of :attr:`covered`: of so many normal shares, those that another draw may move across."""
        bound = FAIR_SHARE / len(self.shares)
        error = (self.shares * (1 - self.shares) / self.size).sqrt().clamp(min=1e-12)
        p = torch.distributions.Normal(0.0, 1.0).cdf((self.shares - bound) / error)
        return float((p * (1 - p)).sum().sqrt())


def modes(samples: Tensor, centres: Tensor, scale: float, deviations: float = 3.0) -> Modes:
    r"""Sorts samples by the nearest mode, the good ones: within some standard deviations of it.

    Of the mixture itself :math:`1 - e^{-9 / 2}`, 98.9%, are good in two dimensions.

    Arguments:
        samples: The samples, with shape :math:`(N, D)`.
        centres: The means of the modes, with shape :math:`(K, D)`.
        scale: Their standard deviation.
        deviations: The distance up to which a sample is good, in standard deviations.

    Example:
        >>> centres = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> found = modes(torch.tensor([[0.0, 0.01], [0.02, 0.0], [0.5, 0.5], [5.0, 0.0]]), centres, scale=0.05)
        >>> found.shares.tolist(), found.good, found.covered
        ([0.5, 0.0], 0.5, 1)
    """
    distance, nearest = torch.cdist(samples.double(), centres.to(samples).double()).min(1)
    counts = torch.bincount(nearest[distance <= deviations * scale], minlength=len(centres))
    return Modes(counts.double() / len(samples), len(samples))


def _modes_of(program: Program, of: str, draws: int, seed: int) -> Modes:
    if of not in MIXTURES:
        raise ValueError(f"there is no mixture {of!r} with known modes: choose one of {', '.join(MIXTURES)}.")
    return modes(sample(program, draws, seed=seed).cpu(), MIXTURES[of].centres, MIXTURES[of].scale)


@measure("modes_covered", unit="modes", better="higher")
def modes_covered(
    program: Program, data: Any, *, of: str, draws: int = 10_000, seed: int = 0, progress: Progress = None
) -> Measured:
    """The number of modes of the mixture ``of`` with a fifth of their fair share of samples, within 3 deviations."""
    found = _modes_of(program, of, draws, seed)
    return Measured(found.covered, found.covered_error, found.covered_error, "estimate", f"{draws} samples")


@measure("good_samples", unit="", better="higher")
def good_samples(
    program: Program, data: Any, *, of: str, draws: int = 10_000, seed: int = 0, progress: Progress = None
) -> Measured:
    """The share of samples within 3 standard deviations of a mode of the mixture ``of``."""
    found = _modes_of(program, of, draws, seed)
    return Measured(found.good, found.good_error, found.good_error, "estimate", f"{draws} samples")
