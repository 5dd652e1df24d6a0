"""A categorical distribution over the levels of a quantity."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["LevelCategorical"]


class LevelCategorical(dist.Categorical):
    """A categorical distribution over the levels 0, ..., K - 1 of a quantity: its draws are floats, and have a mean."""

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)  # type: ignore[no-any-return, no-untyped-call]

    @property
    def mean(self) -> Tensor:
        """The expected level, with the batch shape."""
        levels = torch.arange(self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device)
        return (self.probs * levels).sum(-1)
