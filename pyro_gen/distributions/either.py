"""One of two laws, each value known by which."""

from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Either"]


class Either(TorchDistribution):
    """The first of two laws where a condition holds, else the second.

    Each is asked for the density of its own last draw as what it drew: a flow knows that without inverting itself.

    Arguments:
        condition: Booleans with shape :math:`(*)`.
        first: A law of vectors that can be reparametrised, with batch shape :math:`(*)`.
        second: Likewise.

    Example:
        >>> import pyro.distributions as dist
        >>> near, far = (dist.Normal(torch.full((2, 1), loc), 1.0).to_event(1) for loc in (0.0, 5.0))
        >>> law = Either(torch.tensor([True, False]), near, far)
        >>> law.log_prob(torch.tensor([[0.0], [5.0]])).tolist() == near.log_prob(torch.zeros(2, 1)).tolist()
        True
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, condition: Tensor, first: Any, second: Any) -> None:
        self.condition, self.first, self.second = condition, first, second
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None
        batch = torch.broadcast_shapes(condition.shape, first.batch_shape, second.batch_shape)
        super().__init__(batch, first.event_shape, validate_args=False)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        one, other = self.first.rsample(sample_shape), self.second.rsample(sample_shape)
        value = torch.where(self.condition.unsqueeze(-1), one, other)
        self._drawn = (value, one, other)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        one, other = value, value
        if self._drawn is not None and value is self._drawn[0]:
            _, one, other = self._drawn
        return torch.where(self.condition, self.first.log_prob(one), self.second.log_prob(other))
