"""Levels of real numbers: the boxes [x, x + 1) that they stand for, and the way into them."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

__all__ = ["IntoBox", "LevelOf", "Relative"]

MARGIN = 1e-5  # between noise and the edges of a box, which rounding would carry it over


class LevelOf(dist.TorchDistribution):
    """The level of a real number: a law of one value."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, v: Tensor, levels: int) -> None:
        self.v, self.levels = v, levels
        super().__init__(v.shape, torch.Size(), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LevelOf":
        return LevelOf(self.v.expand(batch_shape), self.levels)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        level = self.v.detach().floor().clamp(0, self.levels - 1)
        return level.expand(*sample_shape, *self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        same = self.v.floor().clamp(0, self.levels - 1) == value
        return torch.where(same, 0.0, -math.inf).to(self.v)


class IntoBox(Transform):
    """Real numbers into the boxes [x, x + 1) of what is seen; where x is missing they stay."""

    domain, codomain, bijective = constraints.real, constraints.real, True

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.seen, self.level = ~torch.isnan(x), x.nan_to_num()

    def _call(self, x: Tensor) -> Tensor:
        inside = self.level + MARGIN + (1 - 2 * MARGIN) * torch.sigmoid(x)
        return torch.where(self.seen, inside, x)

    def _inverse(self, y: Tensor) -> Tensor:
        share = ((y - self.level - MARGIN) / (1 - 2 * MARGIN)).clamp(MARGIN, 1 - MARGIN)
        return torch.where(self.seen, torch.logit(share), y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        inside = F.logsigmoid(x) + F.logsigmoid(-x) + math.log1p(-2 * MARGIN)
        return torch.where(self.seen, inside, 0.0)


class Relative(dist.TorchDistribution):
    """A site whose log-density is given: what the flow says of v relative to the law of u."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(self, log_ratio: Tensor) -> None:
        self.log_ratio = log_ratio
        super().__init__(log_ratio.shape, torch.Size(), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Relative":
        return Relative(self.log_ratio.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_ratio
