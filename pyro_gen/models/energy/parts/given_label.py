r"""Data given their label, or data alone, by the outputs of a classifier: what the chains of a joint energy move by.

.. math:: p(x \mid y = k) \propto p_0(x) \, e^{f_k(x)}, \qquad p(x) \propto p_0(x) \sum_k e^{f_k(x)}
"""

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from pyro_gen.models.energy.parts.base import IndependentBase
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.program import Program

__all__ = ["GivenLabel"]


class GivenLabel(Program):
    """A density of data with shape :math:`(N, *event)` given labels with shape :math:`(N,)`, NaN where not known.

    Arguments:
        event_shape: The shape of one datum.
        base: Its base.
        network: Maps data less their mean to the K outputs f.
    """

    def __init__(self, event_shape: Sequence[int], base: IndependentBase, network: nn.Module) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.base, self.network = base, network

    def outputs(self, x: Tensor) -> Tensor:
        """The outputs f, with shape :math:`(N, K)`, of complete data."""
        x = self.base.centre(x)
        return self.network(x.flatten(1) if isinstance(self.network, MLP) else x)  # type: ignore[no-any-return]

    def model(self, x: Tensor, y: Tensor) -> Tensor:
        """The density; returns the data completed by the base."""
        with self.plate(x):
            x = observe("x", self.base.law(), x)
            f = self.outputs(x)
            own = f.gather(-1, y.nan_to_num().long().unsqueeze(-1)).squeeze(-1)
            pyro.factor("energy", torch.where(y.isnan(), f.logsumexp(-1), own))  # (N,)
            return x
