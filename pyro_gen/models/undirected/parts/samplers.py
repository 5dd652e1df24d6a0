r"""How chains of a field of discrete variables move: blocks of one colour, or clusters.

Swendsen and Wang's clusters are for couplings that like values to agree: where neighbours agree, a bond joins them with
probability :math:`1 - e^{-a}`, for the factor :math:`e^{a [x_i = x_j]}`, and each cluster of joined variables takes one
value for all of its variables, drawn with the product of their own weights. Near a critical point, where blocked Gibbs
sampling needs ever more sweeps on larger graphs, a few such moves forget the state.

References:
    | Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images (Geman & Geman, 1984)
    | https://doi.org/10.1109/TPAMI.1984.4767596
    | Nonuniversal critical dynamics in Monte Carlo simulations (Swendsen & Wang, 1987)
    | https://doi.org/10.1103/PhysRevLett.58.86
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from pyro_gen.models.undirected.parts.draws import draw_values
from pyro_gen.models.undirected.parts.graph import Graph, Neighbours

__all__ = ["BlockedGibbs", "FieldSampler", "SwendsenWang"]

#: Moves (field, states (n, C, N), which move (n, 1, N), beta) -> states.
FieldSampler = Callable[..., Tensor]


class _Blocks(Protocol):
    @property
    def blocks(self) -> Iterable[Neighbours]: ...

    def draw_block(self, block: Neighbours, x: Tensor, beta: float) -> Tensor: ...


class _Agreeing(Protocol):
    graph: Graph

    def agreement(self) -> Tensor: ...

    def log_base(self) -> Tensor: ...


class BlockedGibbs:
    """Draws all variables of one colour given the others, colour after colour.

    Arguments:
        sweeps: How often each variable is drawn in one move.
    """

    def __init__(self, sweeps: int = 1) -> None:
        self.sweeps = sweeps

    def __call__(self, field: _Blocks, x: Tensor, moving: Tensor, beta: float) -> Tensor:
        x = x.clone()
        for _ in range(self.sweeps):
            for block in field.blocks:
                nodes = block.nodes
                x[nodes] = torch.where(moving[nodes], field.draw_block(block, x, beta), x[nodes])
        return x


class SwendsenWang:
    """Draws clusters of agreeing variables; a cluster with a variable that does not move keeps its value.

    Raises:
        ValueError: A coupling is negative: neighbours that like to differ make no clusters.
    """

    def __call__(self, field: _Agreeing, x: Tensor, moving: Tensor, beta: float) -> Tensor:
        agreement, log_base = field.agreement(), field.log_base()  # (E,), (n, K)
        if bool((agreement < 0).any()):
            raise ValueError(
                "SwendsenWang is for couplings of at least 0, and one of them is "
                f"{float(agreement.min()):.3g}: use BlockedGibbs."
            )
        n = len(x)
        flat = x.reshape(n, -1)  # (n, B)
        copies = flat.shape[1]
        first, second = field.graph.edges.to(x.device).T
        probability = -torch.expm1(-beta * agreement).unsqueeze(1)  # (E, 1)
        bond = (flat[first] == flat[second]) & (torch.rand(len(first), copies, device=x.device) < probability)
        edge, copy = bond.nonzero().T
        label = joined(n * copies, first[edge] * copies + copy, second[edge] * copies + copy)  # roots, (n B,)
        levels = log_base.shape[1]
        own = log_base.unsqueeze(1).expand(n, copies, levels)
        kept = ~moving.expand(x.shape).reshape(n, copies)
        values = torch.arange(levels, device=x.device)
        own = torch.where(kept.unsqueeze(2) & (flat.unsqueeze(2) != values), -torch.inf, own)
        weight = own.new_zeros(n * copies, levels).index_add_(0, label, own.reshape(-1, levels))
        drawn = draw_values(weight.T)[label]
        return torch.where(moving, drawn.to(x.dtype).reshape(x.shape), x)


def joined(count: int, first: Tensor, second: Tensor) -> Tensor:
    """The smallest number in the cluster of each of ``count`` points that bonds join.

    Arguments:
        count: The number of points.
        first: One end of each bond.
        second: The other end.

    Example:
        >>> joined(5, torch.tensor([4, 1]), torch.tensor([1, 2])).tolist()
        [0, 1, 1, 3, 1]
    """
    label = torch.arange(count, device=first.device)
    while len(first):
        # Each end's root takes the smaller root of the two; then each point goes up to the root of its root.
        one, other = label[first], label[second]
        label = label.scatter_reduce(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
        while not torch.equal(up := label[label], label):
            label = up
        apart = label[first] != label[second]
        first, second = first[apart], second[apart]
    return label
