"""The energy of data given their label."""

import pyro
import torch
from torch import Tensor, nn

from pyro_gen.models.energy.parts.base import IndependentBase
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.program import Program

__all__ = ["GivenLabel"]


class GivenLabel(Program):
    """Data with shape :math:`(N, *event)` given labels (N,), or by themselves where the label is NaN: chains move so.

    Arguments:
        base: The base.
        network: Maps data less their mean to the K outputs f.
    """

    def __init__(self, base: IndependentBase, network: nn.Module) -> None:
        super().__init__()
        self.base, self.network = base, network

    def outputs(self, x: Tensor) -> Tensor:
        """The outputs f, with shape :math:`(N, K)`, of complete data."""
        x = self.base.centre(x)
        return self.network(x.flatten(1) if isinstance(self.network, MLP) else x)  # type: ignore[no-any-return]

    def negative_energy(self, x: Tensor, y: Tensor) -> Tensor:
        r""":math:`f_y(x)`, or :math:`\log \sum_k e^{f_k(x)}` where y is not known, with shape :math:`(N,)`."""
        f = self.outputs(x)
        own = f.gather(-1, y.nan_to_num().long().unsqueeze(-1)).squeeze(-1)
        return torch.where(y.isnan(), f.logsumexp(-1), own)

    def model(self, x: Tensor, y: Tensor) -> Tensor:
        """The density; returns the data completed by the base."""
        with self.plate(x):
            x = observe("x", self.base.law(), x)
            pyro.factor("energy", self.negative_energy(x, y))  # (N,)
            return x
