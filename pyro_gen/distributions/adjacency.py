r"""Laws of networks whose pairs of nodes are independent: a matrix of laws, of which each pair counts once.

References:
    | Stochastic blockmodels: First steps (Holland, Laskey & Leinhardt, 1983)
    | https://doi.org/10.1016/0378-8733(83)90021-7
"""

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Adjacency"]


class Adjacency(dist.TorchDistribution):
    r"""Creates the law of a matrix of N nodes by N, of independent pairs.

    Without directions the matrix is symmetric and each pair counts once, above the diagonal; the diagonal is 0, and is
    not looked at. NaN is a pair that was not observed; without directions one half says what the other lacks.

    Arguments:
        base: The law of the entries, with batch shape (\*, N, N) and no event dimension.
        directed: Whether the two entries of a pair are different variables.
        observed: Which entries count, with a shape that broadcasts with the value's; all where not given.

    Example:
        >>> law = Adjacency(dist.Bernoulli(torch.full((3, 3), 0.5)))
        >>> round(law.log_prob(torch.ones(3, 3)).item() / torch.tensor(0.5).log().item())  # pairs
        3
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, base: Any, directed: bool = False, observed: Tensor | None = None) -> None:
        self.base, self.directed, self.observed = base, directed, observed
        super().__init__(base.batch_shape[:-2], base.batch_shape[-2:], validate_args=False)

    @constraints.dependent_property(event_dim=2)
    def support(self) -> Any:
        """That of the entries."""
        return constraints.independent(self.base.support, 2)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Adjacency":
        """The same law for each network of a batch."""
        return Adjacency(self.base.expand(torch.Size(batch_shape) + self.event_shape), self.directed, self.observed)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density in nats of what is observed of matrices with shape (*, N, N), (*)."""
        entries = self.base.log_prob(value)
        ones = torch.ones(self.event_shape, dtype=torch.bool, device=value.device)
        counted = ones & ~torch.eye(len(ones), dtype=torch.bool, device=value.device) if self.directed else ones.triu(1)
        if self.observed is not None:
            counted = counted & self.observed
        return torch.where(counted, entries, 0.0).sum((-2, -1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of matrices."""
        with torch.no_grad():
            drawn: Tensor = self.base.sample(torch.Size(sample_shape))
        upper: Tensor = drawn.triu(1)
        return upper + (drawn.tril(-1) if self.directed else upper.mT)

    def marginalise(self, value: Tensor) -> tuple["Adjacency", Tensor, Callable[[], Tensor]]:
        """The law of what is seen, the value without NaN, and draws of all entries."""
        if not self.directed:
            value = torch.where(torch.isnan(value), value.mT, value)
        missing = torch.isnan(value)
        inside = self.base.support
        fill = 1.0 if inside is constraints.positive else 0.0
        filled = value.masked_fill(missing, fill)

        def complete() -> Tensor:
            drawn = self.expand(torch.broadcast_shapes(self.batch_shape, value.shape[:-2])).sample()
            return torch.where(missing, drawn.to(value), value)

        return Adjacency(self.base, self.directed, ~missing), filled, complete
