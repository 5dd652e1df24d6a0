r"""One step of a chain that reveals hidden entries.

An entry has one of K values, or is hidden (the value K). A step leaves a known entry as it is, and reveals a hidden one
with the probability r,

.. math:: p(s_d \mid z_d = K) = (1 - r) \, [s_d = K] + r \, p_d(s_d), \qquad p(s_d \mid z_d < K) = [s_d = z_d] .
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

__all__ = ["Unmasking"]


class Unmasking(dist.TorchDistribution):
    """The law of entries after a step.

    Arguments:
        z: The entries before it, with shape (*, D): 0, ..., K - 1, or K where hidden.
        reveal: The probability r.
        probs: The probabilities of the values of each entry, with shape (*, D, K).
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 -- as torch has it
    has_rsample = False

    def __init__(self, z: Tensor, reveal: Tensor, probs: Tensor) -> None:
        z, last = torch.broadcast_tensors(z, probs[..., 0])
        del last
        self.z, self.reveal, self.probs = z, reveal, probs
        self.values = probs.shape[-1]
        super().__init__(z.shape[:-1], z.shape[-1:], validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.integer_interval(0, self.values), 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Unmasking":
        return Unmasking(self.z.expand(*batch_shape, *self.event_shape), self.reveal, self.probs)

    @property
    def hidden(self) -> Tensor:
        """Which entries are hidden before the step, (*, D)."""
        return self.z == self.values

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.z.shape
        uniform = torch.rand(*shape, 1, dtype=self.probs.dtype, device=self.z.device)
        value = (self.probs.cumsum(-1)[..., :-1] < uniform).sum(-1).to(self.probs.dtype)
        revealed = torch.rand(shape, dtype=self.probs.dtype, device=self.z.device) < self.reveal
        return torch.where(self.hidden & revealed, value, self.z.to(value.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        index = value.long().clamp(0, self.values - 1).unsqueeze(-1)
        probs = self.probs.expand(*torch.broadcast_shapes(index.shape[:-1], self.probs.shape[:-1]), self.values)
        index = index.expand(*probs.shape[:-1], 1)
        told = (self.reveal * probs.gather(-1, index).squeeze(-1)).log()
        stays = torch.log1p(-self.reveal).expand_as(told)
        score = torch.where(value == self.values, stays, told)
        kept = torch.where(value == self.z, 0.0, -torch.inf)
        return torch.where(self.hidden, score, kept).sum(-1)


@register_kl(Unmasking, Unmasking)  # type: ignore[untyped-decorator]
def _kl(p: Unmasking, q: Unmasking) -> Tensor:
    """Of two steps from the same entries that reveal as often."""
    each = torch.special.xlogy(p.probs, p.probs) - torch.special.xlogy(p.probs, q.probs)
    return (torch.where(p.hidden, p.reveal * each.sum(-1), 0.0)).sum(-1)
