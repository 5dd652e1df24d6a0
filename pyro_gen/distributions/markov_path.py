r"""Paths of a Markov process: each step follows from the one before it by one law.

.. math:: p(z_1, \dots, z_T) = \prod_{t=1}^T p_t(z_t \mid z_{t-1}), \qquad z_0 \text{ given.}

Drawing goes step by step. The density of a path does not: its steps are all there, so the law is asked once for all of
them.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["MarkovPath"]


class MarkovPath(TorchDistribution):
    r"""Paths :math:`z_1, \dots, z_T` with the law of a step given the one before it.

    Arguments:
        law: Maps :math:`z_{t-1}`, with shape :math:`(*, K)`, and a step of the inputs, each with shape :math:`(*, F)`,
            to a distribution with event shape :math:`(K)` that can be reparametrised. It is called with one step, and
            with all, :math:`(*, T, K)`.
        start: The given :math:`z_0`, with shape :math:`(*, K)`.
        steps: The number T of steps.
        inputs: What else the law of a step depends on, each with shape :math:`(*, T, F)`.
        keep: Whether the laws of steps know the density of what they have drawn, as flows do: that of a path is then
            the sum of theirs, and asks nothing anew.

    Example:
        >>> import pyro.distributions as dist
        >>> walk = MarkovPath(lambda z: dist.Normal(z, 1.0).to_event(1), torch.zeros(5, 2), 3)
        >>> walk.sample().shape, walk.log_prob(torch.zeros(5, 3, 2)).shape
        (torch.Size([5, 3, 2]), torch.Size([5]))
        >>> round(walk.log_prob(torch.zeros(5, 3, 2))[0].item(), 4)  # six standard normals at their modes
        -5.5136
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        law: Callable[..., Any],
        start: Tensor,
        steps: int,
        inputs: tuple[Tensor, ...] = (),
        keep: bool = False,
    ) -> None:
        self.law, self.start, self.inputs, self.keep = law, start, inputs, keep
        self._drawn: tuple[Tensor, list[tuple[Any, Tensor]]] | None = None
        shapes = [start.shape[:-1], *(part.shape[:-2] for part in inputs)]
        event = torch.Size((steps, start.shape[-1]))
        super().__init__(torch.broadcast_shapes(*shapes), event, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MarkovPath":
        start = self.start.expand(*batch_shape, self.start.shape[-1])
        return MarkovPath(self.law, start, self.event_shape[0], self.inputs, self.keep)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = self.start.expand(*sample_shape, *self.batch_shape, self.event_shape[1])
        path, laws = [], []
        for t in range(self.event_shape[0]):
            law = self.law(z, *(part[..., t, :] for part in self.inputs))
            z = law.rsample()
            path.append(z)
            laws.append((law, z))
        drawn = torch.stack(path, -2)
        if self.keep:
            self._drawn = (drawn, laws)
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None and value is self._drawn[0]:
            return torch.stack([law.log_prob(z) for law, z in self._drawn[1]]).sum(0)
        value = value.expand(*torch.broadcast_shapes(self.batch_shape, value.shape[:-2]), *value.shape[-2:])
        start = self.start.unsqueeze(-2).expand(*value.shape[:-2], 1, value.shape[-1])
        before = torch.cat([start, value[..., :-1, :]], -2)
        return self.law(before, *self.inputs).log_prob(value).sum(-1)  # type: ignore[no-any-return]
