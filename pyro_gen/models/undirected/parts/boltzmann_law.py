"""A restricted Boltzmann machine as a distribution, the prior of another model's latent variables."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen.models.undirected.restricted_boltzmann import RestrictedBoltzmann

__all__ = ["BoltzmannLaw"]

SWEEPS = 200  # of the chains that draws come from, where there are too many hidden units for exact ones


class BoltzmannLaw(dist.TorchDistribution):
    r"""Creates the law of the visible units of a machine, with the event shape :math:`(K,)`.

    Draws are exact where the machine's are, else the ends of chains of 200 sweeps from the base.

    Arguments:
        machine: The machine, of binary units in one row.
        log_partition: Its log Z, a scalar.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, machine: RestrictedBoltzmann, log_partition: Tensor, batch_shape: Any = ()) -> None:
        self.machine, self.log_partition = machine, log_partition
        super().__init__(torch.Size(batch_shape), machine.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "BoltzmannLaw":
        return BoltzmannLaw(self.machine, self.log_partition, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        rows = value.reshape(-1, *self.event_shape)
        base = self.machine.visible.base(self.event_shape).log_prob(rows).sum(-1)
        log_p: Tensor = base + self.machine.tempered_factor(rows, 1.0) - self.log_partition.to(base)
        return log_p.reshape(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        nothing = self.log_partition.new_full((1, *self.event_shape), torch.nan, dtype=self.machine.weights.dtype)
        with torch.no_grad():
            drawn = self.machine.draw_missing(nothing, shape.numel())
            if drawn is None:
                drawn = self.machine.visible.base(self.event_shape).sample((shape.numel(), 1))
                for _ in range(SWEEPS):
                    drawn = self.machine.kernel(drawn, nothing.isnan(), 1.0)
        return drawn.reshape(*shape, *self.event_shape)
