r"""The equal mixture of Gaussians at many points, with one diagonal covariance.

.. math:: p(x) = \frac{1}{N} \sum_{n=1}^N \prod_d \mathcal{N}(x_d; x_{nd}, h_d^2)

Squared distances are sums of products of matrices, so no array has an entry for each datum, point and dimension, and
none more than :math:`2^{22}` entries: rows are taken some at a time. Missing entries drop out of the product.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["GaussianKernels"]

ENTRIES = 2**22  # of a matrix of distances


class GaussianKernels(dist.TorchDistribution):
    """Creates the equal mixture of Gaussians at points.

    Arguments:
        points: The points, with shape (N, D).
        bandwidth: The standard deviations of the entries, with shape (D,).
        seen: Which entries of a value are scored, with shape (*, D); ``None`` for all.
        batch_shape: The batch shape.

    Example:
        >>> kernels = GaussianKernels(torch.tensor([[0.0], [2.0]]), torch.ones(1))
        >>> density = torch.distributions.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(torch.tensor(0.5)).exp()
        >>> round((kernels.log_prob(torch.tensor([0.5])).exp() - density.mean()).item(), 6)
        0.0
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self, points: Tensor, bandwidth: Tensor, seen: Tensor | None = None, batch_shape: Sequence[int] = ()
    ) -> None:
        self.points, self.bandwidth, self.seen = points, bandwidth, seen
        super().__init__(torch.Size(batch_shape), points.shape[1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "GaussianKernels":
        return GaussianKernels(self.points, self.bandwidth, self.seen, batch_shape)

    def log_kernels(self, value: Tensor) -> Tensor:
        """The log-density of rows (R, D) under the Gaussian of each point, with shape (R, N)."""
        return self._log_kernels(value, self._seen(value))

    def _log_kernels(self, value: Tensor, seen: Tensor) -> Tensor:
        middle = self.points.mean(0)  # differences of large numbers have few digits
        p, v = (self.points - middle) / self.bandwidth, seen * (value - middle) / self.bandwidth
        squares = v.square().sum(-1, keepdim=True) - 2 * v @ p.T + seen @ p.square().T
        constants = self.bandwidth.log() + 0.5 * math.log(2 * math.pi)
        return -0.5 * squares.clamp(min=0.0) - (seen * constants).sum(-1, keepdim=True)

    def _seen(self, value: Tensor) -> Tensor:
        return torch.ones_like(value) if self.seen is None else self.seen.expand(value.shape).to(value.dtype)

    def _parts(self, value: Tensor, seen: Tensor) -> Iterator[Tensor]:
        """The log-densities of some rows at a time."""
        size, last = max(1, ENTRIES // len(self.points)), value.shape[-1]
        for v, s in zip(value.reshape(-1, last).split(size), seen.reshape(-1, last).split(size), strict=True):
            yield self._log_kernels(v, s)

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.expand(torch.broadcast_shapes(value.shape, (*self.batch_shape, *self.event_shape)))
        parts = [log_kernels.logsumexp(-1) for log_kernels in self._parts(value, self._seen(value))]
        log_p: Tensor = torch.cat(parts).reshape(value.shape[:-1]) - math.log(len(self.points))
        return log_p

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self._about(torch.randint(len(self.points), self._extended_shape(torch.Size(sample_shape))[:-1]))

    def _about(self, which: Tensor) -> Tensor:
        centres = self.points[which.to(self.points.device)]
        return centres + self.bandwidth * torch.randn_like(centres)

    def marginalise(self, value: Tensor) -> tuple["GaussianKernels", Tensor, Callable[[], Tensor]]:
        """The law of the seen entries, the value without NaN, and what draws all entries given the seen ones."""
        seen, filled = ~torch.isnan(value), value.nan_to_num()

        def draw() -> Tensor:
            parts = self._parts(filled, seen.to(filled.dtype))
            chosen = [dist.Categorical(logits=log_kernels).sample() for log_kernels in parts]
            return self._about(torch.cat(chosen).reshape(value.shape[:-1]))

        return GaussianKernels(self.points, self.bandwidth, seen, self.batch_shape), filled, draw
