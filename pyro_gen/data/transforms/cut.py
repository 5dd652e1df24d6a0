"""Numbers as levels: how many of some thresholds they reach."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pyro_gen.data.transforms.base import Transform, check_batch, check_levels

__all__ = ["Cut"]


@dataclass(frozen=True, eq=False)
class Cut(Transform):
    r"""Creates the number of thresholds that are reached, :math:`y = \#\{k : x \ge c_k\}`: levels 0, ..., K - 1.

    Arguments:
        thresholds: The numbers :math:`c_1 < \ldots < c_{K - 1}`, with shape :math:`(K - 1,)`.

    Raises:
        ValueError: If there is none, or they do not increase.

    Example:
        >>> Cut(torch.tensor([1.0, 2.0]))(torch.tensor([0.5, 1.0, 7.0, torch.nan]))
        tensor([0., 1., 2., nan])
    """

    thresholds: Tensor

    def __post_init__(self) -> None:
        if self.thresholds.dim() != 1 or not len(self.thresholds) or not bool((self.thresholds.diff() > 0).all()):
            raise ValueError(f"Cut: expected thresholds that increase, got {self.thresholds.tolist()}.")

    def __repr__(self) -> str:
        return f"Cut(thresholds={self.thresholds.tolist()})"

    @property
    def levels_out(self) -> int:  # type: ignore[override]
        """The number K of levels."""
        return len(self.thresholds) + 1

    @classmethod
    def fit(cls, x: Tensor, levels: int) -> Self:
        """Takes the quantiles of what is seen, so that each level has as many of the data.

        Raises:
            ValueError: If so many numbers are the same that two quantiles are.
        """
        check_batch("Cut.fit", x)
        check_levels(levels)
        return cls(torch.nanquantile(x.double(), torch.arange(1, levels).double() / levels).to(x.dtype))

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        reached = (x.unsqueeze(-1) >= self.thresholds.to(x)).sum(-1).to(x)
        return torch.where(torch.isnan(x), torch.nan, reached)
