r"""Fields of variables that all have the same values, with weights of their own and a table for each edge.

.. math:: p(x) = \frac{1}{Z} \prod_i \phi_i(x_i) \prod_{(i, j)} \psi_{ij}(x_i, x_j)

On a rectangle sums are also done row by row, by the transfer matrix, where one side is short.
"""

import abc
from typing import Any

import torch
from torch import Tensor

from pyro_gen.models.bayesian_network.parts.elimination import Factor
from pyro_gen.models.undirected.parts.field import MAX_CELLS, DiscreteField
from pyro_gen.models.undirected.parts.graph import as_graph
from pyro_gen.models.undirected.parts.samplers import FieldSampler
from pyro_gen.models.undirected.parts.transfer_matrix import MAX_ENTRIES, log_sum_of_rows

__all__ = ["PairwiseField", "numbers"]


def numbers(name: str, given: float | Tensor, shape: tuple[int, ...], shared: bool = True) -> Tensor:
    """One number, or as many as an argument of that name is to have, as a tensor of its own.

    Arguments:
        name: The name of the argument.
        given: What was given.
        shape: How many there may be.
        shared: Whether one number stays one.

    Raises:
        ValueError: There are others.
    """
    found = torch.as_tensor(given, dtype=given.dtype if isinstance(given, Tensor) else torch.get_default_dtype())
    if found.dim() and found.shape != shape:
        raise ValueError(f"{name} has shape {tuple(found.shape)}: give one number for all, or shape {shape}.")
    return (found if shared else found.expand(shape)).clone()


class PairwiseField(DiscreteField):
    """A field on a graph whose variables have K values each.

    Arguments:
        graph: As :func:`pyro_gen.models.undirected.parts.graph.as_graph` reads it.
        levels: The number K of values.
        sampler: How chains move.
    """

    def __init__(self, graph: Any, levels: int, sampler: FieldSampler | None = None) -> None:
        graph = as_graph(graph)
        super().__init__(graph, [levels] * len(graph), sampler)
        first, second = graph.edges.T
        self.register_buffer("first", first.contiguous(), persistent=False)
        self.register_buffer("second", second.contiguous(), persistent=False)

    @abc.abstractmethod
    def log_base(self) -> Tensor:
        r""":math:`\log \phi`, with shape :math:`(n, K)`."""

    @abc.abstractmethod
    def log_pairs(self) -> Tensor:
        r""":math:`\log \psi`, with shape :math:`(E, K, K)`."""

    def factors(self) -> list[Factor]:
        own = [Factor((str(i),), t.unsqueeze(0)) for i, t in enumerate(self.log_base().double())]
        tables = self.log_pairs().double()
        ends = self.graph.edges.tolist()
        return own + [Factor((str(i), str(j)), t.unsqueeze(0)) for (i, j), t in zip(ends, tables, strict=True)]

    @property
    def summable(self) -> bool:
        if (lattice := self.graph.lattice) is not None:
            width = min(lattice[:2]) * (1 + lattice.wraps)
            return self.levels[0] ** width <= MAX_CELLS and super().summable
        return super().summable

    def log_sum(self, x: Tensor, *context: Any) -> Tensor | None:
        if (known := super().log_sum(x)) is not None:
            return known
        lattice = self.graph.lattice
        if lattice is None or self.levels[0] ** (min(lattice[:2]) * (1 + lattice.wraps)) > MAX_ENTRIES:
            return None
        base, tables = self.log_base().double(), self.log_pairs().double()
        evidence = torch.stack(self._evidence(x), 1)  # (N, n, K)
        return torch.stack([log_sum_of_rows(base + e, tables, lattice) for e in evidence])
