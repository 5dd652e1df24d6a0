r"""The Ising model on any graph: spins that like to agree with their neighbours, or to differ.

.. math::
    p(s) = \frac{1}{Z} \exp \Big( \sum_{(i, j)} J_{ij} \, s_i s_j + \sum_i h_i s_i \Big), \qquad s_i \in \{-1, 1\} .

Data are :math:`x = (s + 1) / 2`, 0 or 1, so that any table of binary columns will do. The base are spins in the fields
alone, :math:`p_0(s) = \prod_i e^{h_i s_i} / 2 \cosh h_i`, and the factor has the couplings and the base's constant: the
program's Z is that of the formula, a sum over all states. A path from the base to the model raises the couplings.

Given its neighbours, a spin is up with the probability :math:`\sigma \big( 2 h_i + 2 \sum_j J_{ij} s_j \big)`. Spins of
one colour are drawn together (:class:`BlockedGibbs`): on a grid, the black and the white fields of a board. Where
couplings are positive, :class:`SwendsenWang` draws whole clusters.

Z is exact on trees and graphs of small width by elimination; on grids with one side up to 24 (12 for a torus) by the
transfer matrix; and on any torus with one positive coupling and no field by Kaufman's formula. Else annealed importance
sampling estimates it. Parameters are learned by pseudo-likelihood, or by contrastive divergence with chains that
persist.

References:
    | Beitrag zur Theorie des Ferromagnetismus (Ising, 1925)
    | https://doi.org/10.1007/BF02980577
    | Crystal statistics I (Onsager, 1944)
    | https://doi.org/10.1103/PhysRev.65.117
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import binary_rows
from pyro_gen.inference.objectives import ContrastiveDivergence, Objective, PseudoLikelihood
from pyro_gen.models.undirected.parts.graph import Neighbours
from pyro_gen.models.undirected.parts.kaufman import log_partition_of_torus
from pyro_gen.models.undirected.parts.pairwise import PairwiseField, numbers
from pyro_gen.models.undirected.parts.samplers import FieldSampler, SwendsenWang
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["Ising"]

DENSE = 16  # a row of a matrix with fewer entries for each neighbour is multiplied faster than neighbours are gathered


@model(
    "Ising model",
    paper="Ising (1925)",
    small={
        "on a grid": lambda: (Ising({"grid": [2, 3]}, 0.4, 0.1), binary_rows(9, 2, 3)),
        "on a graph, each edge its own": lambda: (
            Ising([(0, 1), (1, 2), (2, 0), (2, 3)], torch.tensor([0.5, -0.3, 0.2, 1.0]), torch.zeros(4)),
            binary_rows(9, 4),
        ),
        "by contrastive divergence": lambda: (
            Ising({"complete": 3}, torch.zeros(3), objective=ContrastiveDivergence(2, persistent=50)),
            binary_rows(9, 3),
        ),
        "in clusters": lambda: (Ising({"grid": [2, 2]}, 0.7, sampler=SwendsenWang()), binary_rows(9, 2, 2)),
    },
)
class Ising(PairwiseField):
    r"""Creates an Ising model.

    Arguments:
        graph: A networkx graph, a list of pairs of names, a symmetric matrix of 0 and 1, or ``{"grid": [3, 4]}``,
            ``{"torus": [3, 4]}``, ``{"complete": [3, 4]}``. Data of these have that shape, else one entry a node,
            in the order of the graph's nodes.
        couplings: :math:`J`, a number for all edges, or one for each, with shape :math:`(E,)`, in the order of
            ``ising.graph.edges``.
        fields: :math:`h`, a number for all spins, or one for each, with shape :math:`(n,)`.
        shared: Whether one number that is given is learned as one; else each edge, or spin, has a copy of its own.
        sampler: How chains move, :class:`BlockedGibbs` by default.
        objective: What it is trained by, by default the pseudo-likelihood.

    Raises:
        ValueError: The graph is none, or couplings or fields are neither one nor as many as edges or nodes.

    Example:
        >>> import pyro_gen as pg
        >>> print(pg.log_partition(Ising({"grid": [3, 3]}, 0.5)))
        log Z 7.892 +- 0.000 nats (exact)
        >>> print(pg.log_partition(Ising({"torus": [32, 32]}, 0.4)))
        log Z 900.478 +- 0.000 nats (exact)
    """

    def __init__(
        self,
        graph: Any,
        couplings: float | Tensor = 0.0,
        fields: float | Tensor = 0.0,
        *,
        shared: bool = True,
        sampler: FieldSampler | None = None,
        objective: Objective | None = None,
    ) -> None:
        super().__init__(graph, 2, sampler)
        self.couplings = nn.Parameter(numbers("couplings", couplings, (len(self.graph.edges),), shared))
        self.fields = nn.Parameter(numbers("fields", fields, (len(self.graph),), shared))
        self.objective = objective or PseudoLikelihood()

    def model(self, x: Tensor) -> Tensor:
        r"""The density of spins x in {0, 1} with shape :math:`(N, *event)`; returns them completed by the base."""
        with self.plate(x):
            fields = self.fields.expand(len(self.graph)).reshape(self.event_shape)
            x = observe("x", dist.Bernoulli(logits=2 * fields).to_event(len(self.event_shape)), x)
            pyro.factor("energy", self.agreements(x) + torch.logaddexp(fields, -fields).sum())  # (N,)
            return x

    def agreements(self, x: Tensor) -> Tensor:
        r""":math:`\sum_{(i, j)} J_{ij} s_i s_j` of spins with shape :math:`(N, *event)`: (N,), in nats."""
        s = 2 * x.reshape(*x.shape[: x.dim() - len(self.event_shape)], -1) - 1
        pairs = s.index_select(-1, self.first) * s.index_select(-1, self.second)
        return (pairs * self.couplings).sum(-1)

    def log_base(self) -> Tensor:
        h = self.fields.expand(len(self.graph))
        return torch.stack([-h, h], -1)

    def log_pairs(self) -> Tensor:
        sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).to(self.couplings)
        return self.couplings.expand(len(self.graph.edges)).reshape(-1, 1, 1) * sign

    def agreement(self) -> Tensor:
        r"""How much more agreeing ends of each edge weigh than differing ones, :math:`2 J`, with shape :math:`(E,)`."""
        return 2 * self.couplings.expand(len(self.graph.edges))

    def draw_block(self, block: Neighbours, x: Tensor, beta: float) -> Tensor:
        j = torch.cat([self.couplings.expand(len(self.graph.edges)), self.couplings.new_zeros(1)])[
            block.edges
        ]  # (b, D)
        h = self.fields.expand(len(self.graph))[block.nodes]
        # 2 h + 2 sum J s, with s = 2 x - 1.
        logits = (2 * h - 2 * beta * j.sum(1)).reshape(-1, 1, 1).expand(-1, *x.shape[1:])
        if len(x) <= DENSE * j.shape[1]:
            matrix = j.new_zeros(len(j), len(x)).scatter_add(1, block.beside, 4 * beta * j)
            logits = logits + (matrix @ x.flatten(1)).view(logits.shape)
        else:
            for d in range(j.shape[1]):
                logits = torch.addcmul(logits, 4 * beta * j[:, d, None, None], x.index_select(0, block.beside[:, d]))
        return (torch.rand_like(logits) < logits.sigmoid()).to(x.dtype)

    def log_sum(self, x: Tensor, *context: Any) -> Tensor | None:
        if (known := super().log_sum(x)) is not None:
            return known
        lattice, coupling = self.graph.lattice, self.couplings
        plain = lattice is not None and lattice.wraps and coupling.dim() == 0 and bool(coupling > 0)
        if lattice is None or not plain or bool(self.fields.any()) or not bool(x.isnan().all()):
            return None
        return log_partition_of_torus(lattice.rows, lattice.columns, coupling).expand(len(x))
