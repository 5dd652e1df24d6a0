"""Paths of a Markov chain with K states, as one variable."""

import itertools
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["MarkovPath"]

LISTED = 2**14  # paths of which a list is made, for sums over them


class MarkovPath(TorchDistribution):
    r"""States :math:`z_1, \dots, z_T`, integers from 0 to K - 1, of a chain that may run backwards.

    Arguments:
        initial: Log-probabilities of the state at the first step, or at the last of a chain that runs backwards, with
            shape :math:`(*, K)`.
        transition: Of the next state (or of the one before) given each, with shape :math:`(*, T - 1, K, K)`: between
            the steps t and t + 1, from the row to the column.
        backwards: Whether the chain runs from the last step to the first.

    Example:
        >>> chain = MarkovPath(torch.tensor([0.5, 0.5]).log(), torch.tensor([[[0.9, 0.1], [0.2, 0.8]]]).log())
        >>> chain.log_prob(chain.enumerate_support()).exp()
        tensor([0.4500, 0.0500, 0.1000, 0.4000])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, initial: Tensor, transition: Tensor, backwards: bool = False) -> None:
        self.initial, self.transition, self.backwards = initial, transition, backwards
        batch = torch.broadcast_shapes(initial.shape[:-1], transition.shape[:-3])
        super().__init__(batch, torch.Size((transition.shape[-3] + 1,)), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.integer_interval(0, self.initial.shape[-1] - 1), 1)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return bool(self.initial.shape[-1] ** self.event_shape[0] <= LISTED)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All paths, with shape :math:`(K^T, *, T)`."""
        states, steps = range(self.initial.shape[-1]), self.event_shape[0]
        paths = torch.tensor(list(itertools.product(states, repeat=steps)), device=self.initial.device)
        paths = paths.view(-1, *(1 for _ in self.batch_shape), steps)
        return paths.expand(-1, *self.batch_shape, -1) if expand else paths

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MarkovPath":
        return MarkovPath(self.initial.expand(*batch_shape, -1), self.transition, self.backwards)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        steps, count = self.event_shape[0], self.initial.shape[-1]
        noise = -torch.log(-torch.log(torch.rand(steps, *shape, count).to(self.initial).clamp(1e-38, 1 - 6e-8)))
        path = [(self.initial + noise[0]).argmax(-1)]  # Gumbel's trick
        for step in range(1, steps):
            between = self.transition[..., steps - 1 - step if self.backwards else step - 1, :, :]
            rows = between.expand(*shape, count, count)
            index = path[-1][..., None, None].expand(*shape, 1, count)
            path.append((rows.gather(-2, index).squeeze(-2) + noise[step]).argmax(-1))
        return torch.stack(path[::-1] if self.backwards else path, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.long()
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        value = value.expand(*shape, -1)
        start = value[..., -1:] if self.backwards else value[..., :1]
        total = self.initial.expand(*shape, -1).gather(-1, start).squeeze(-1)
        given, drawn = (value[..., 1:], value[..., :-1]) if self.backwards else (value[..., :-1], value[..., 1:])
        count = self.initial.shape[-1]
        pairs = self.transition.flatten(-2).expand(*shape, -1, -1).gather(-1, (given * count + drawn).unsqueeze(-1))
        return total + pairs.squeeze(-1).sum(-1)
