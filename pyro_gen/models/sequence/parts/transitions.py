"""Transitions of a deep Markov model: the law of the next state given this one."""

from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen.nets import MLP

__all__ = ["GatedTransition", "LinearTransition"]


class GatedTransition(nn.Module):
    """A transition between a line and a network, entry by entry; the line starts as the identity."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.gate = MLP((latent, hidden, latent), "relu")
        self.proposed = MLP((latent, hidden, latent), "relu")
        self.line = nn.Linear(latent, latent)
        nn.init.eye_(self.line.weight)
        nn.init.zeros_(self.line.bias)
        self.raw_scale = nn.Linear(latent, latent)

    def forward(self, z: Tensor) -> Any:
        """The law of the next state, of states with shape :math:`(*, K)`."""
        g, h = torch.sigmoid(self.gate(z)), self.proposed(z)
        scale = 1e-3 + F.softplus(self.raw_scale(F.relu(h)))
        return dist.Normal((1 - g) * self.line(z) + g * h, scale).to_event(1)


class LinearTransition(nn.Module):
    """A transition that is a line with constant noise; it starts as half of the state before."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.line = nn.Linear(latent, latent)
        with torch.no_grad():
            self.line.weight.copy_(0.5 * torch.eye(latent))
            self.line.bias.zero_()
        self.raw_scale = nn.Parameter(torch.full((latent,), 0.5413))  # softplus of it is 1

    def forward(self, z: Tensor) -> Any:
        """The law of the next state, of states with shape :math:`(*, K)`."""
        loc = self.line(z)
        return dist.Normal(loc, F.softplus(self.raw_scale).expand_as(loc)).to_event(1)
