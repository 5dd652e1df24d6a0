r"""The Potts model on any graph: variables of q values that like to agree with their neighbours, or to differ.

.. math::
    p(x) = \frac{1}{Z} \exp \Big( \sum_{(i, j)} J_{ij} \, [x_i = x_j] + \sum_i h_i(x_i) \Big), \qquad
    x_i \in \{0, \ldots, q - 1\} .

With two values it is the Ising model, of couplings half as large. The base are independent variables with the weights
:math:`e^{h_i}`, the factor has the couplings and the constant of the base: the program's Z is a sum over all states.

Given its neighbours, a variable has the value k with a probability proportional to
:math:`\exp \big( h_i(k) + \sum_j J_{ij} [x_j = k] \big)`. Variables of one colour of the graph are drawn together, or
where couplings are positive whole clusters (:class:`SwendsenWang`). A field with seen values is a smoother of labels:
images of classes with holes, maps. On an infinite square lattice an order appears at :math:`J = \log(1 + \sqrt{q})`.

References:
    | Some generalized order-disorder transformations (Potts, 1952)
    | https://doi.org/10.1017/S0305004100027419
    | The Potts model (Wu, 1982)
    | https://doi.org/10.1103/RevModPhys.54.235
"""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_gen.data.small import level_rows
from pyro_gen.distributions import LevelCategorical
from pyro_gen.inference.objectives import Objective, PseudoLikelihood
from pyro_gen.models.undirected.parts.draws import draw_values
from pyro_gen.models.undirected.parts.graph import Neighbours
from pyro_gen.models.undirected.parts.pairwise import PairwiseField, numbers
from pyro_gen.models.undirected.parts.samplers import FieldSampler, SwendsenWang
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["Potts"]


@model(
    "Potts model",
    paper="Potts (1952)",
    small={
        "on a grid": lambda: (Potts({"grid": [2, 2]}, 3, 0.8), level_rows(3, 9, 2, 2)),
        "on a graph, each edge its own": lambda: (
            Potts([("a", "b"), ("b", "c")], 3, torch.tensor([0.5, -1.0]), torch.zeros(3, 3)),
            level_rows(3, 9, 3),
        ),
        "in clusters": lambda: (Potts({"grid": [2, 2]}, 3, 0.8, sampler=SwendsenWang()), level_rows(3, 9, 2, 2)),
    },
)
class Potts(PairwiseField):
    r"""Creates a Potts model.

    Arguments:
        graph: As for :class:`~pyro_gen.models.Ising`.
        levels: The number q of values.
        couplings: :math:`J`, a number for all edges, or one for each, with shape :math:`(E,)`.
        fields: :math:`h`, 0 by default, for all variables with shape :math:`(q,)`, or for each, :math:`(n, q)`.
        shared: Whether numbers for all are learned as such; else each edge, or variable, has a copy of its own.
        sampler: How chains move, :class:`BlockedGibbs` by default.
        objective: What it is trained by, by default the pseudo-likelihood.

    Raises:
        ValueError: The graph is none, there are fewer than two values, or couplings or fields have other shapes.

    Example:
        >>> import pyro_gen as pg
        >>> print(pg.log_partition(Potts({"grid": [1, 2]}, 3, 1.0)))  # log(3 e + 6)
        log Z 2.650 +- 0.000 nats (exact)
    """

    def __init__(
        self,
        graph: Any,
        levels: int,
        couplings: float | Tensor = 0.0,
        fields: Tensor | None = None,
        *,
        shared: bool = True,
        sampler: FieldSampler | None = None,
        objective: Objective | None = None,
    ) -> None:
        if levels < 2:
            raise ValueError(f"Potts(levels={levels}): a variable has at least two values.")
        super().__init__(graph, levels, sampler)
        self.couplings = nn.Parameter(numbers("couplings", couplings, (len(self.graph.edges),), shared))
        fields = torch.zeros(levels) if fields is None else fields
        fields = fields if shared else fields.expand(len(self.graph), levels)
        if fields.shape not in ((levels,), (len(self.graph), levels)):
            raise ValueError(
                f"fields has shape {tuple(fields.shape)}: give ({levels},), or ({len(self.graph)}, {levels}) for one "
                "row for each node."
            )
        self.fields = nn.Parameter(fields.clone())
        self.objective = objective or PseudoLikelihood()

    def model(self, x: Tensor) -> Tensor:
        r"""The density of values 0, ..., q - 1 with shape :math:`(N, *event)`; returns them completed by the base."""
        with self.plate(x):
            fields = self.log_base().reshape(*self.event_shape, -1)
            base: Any = LevelCategorical(logits=fields)
            x = observe("x", base.to_event(len(self.event_shape)), x)
            pyro.factor("energy", self.agreements(x) + fields.logsumexp(-1).sum())  # (N,)
            return x

    def agreements(self, x: Tensor) -> Tensor:
        r""":math:`\sum_{(i, j)} J_{ij} [x_i = x_j]` of values with shape :math:`(N, *event)`: shape :math:`(N,)`."""
        flat = x.reshape(*x.shape[: x.dim() - len(self.event_shape)], -1)
        same = flat.index_select(-1, self.first) == flat.index_select(-1, self.second)
        return (same * self.couplings).sum(-1)

    def log_base(self) -> Tensor:
        return self.fields.expand(len(self.graph), self.levels[0])

    def log_pairs(self) -> Tensor:
        return self.agreement().reshape(-1, 1, 1) * torch.eye(self.levels[0]).to(self.couplings)

    def agreement(self) -> Tensor:
        r"""How much more agreeing ends of each edge weigh than differing ones, J, with shape :math:`(E,)`."""
        return self.couplings.expand(len(self.graph.edges))

    def draw_block(self, block: Neighbours, x: Tensor, beta: float) -> Tensor:
        j = beta * torch.cat([self.agreement(), self.couplings.new_zeros(1)])[block.edges]  # (b, D)
        values = torch.arange(self.levels[0], device=x.device)[:, None, None, None]
        h = self.log_base()[block.nodes].T[:, :, None, None]  # (q, b, 1, 1)
        logits = h.expand(-1, -1, *x.shape[1:])
        for d in range(j.shape[1]):
            same = x.index_select(0, block.beside[:, d]) == values  # (q, b, C, N)
            logits = torch.addcmul(logits, j[:, d, None, None], same.to(logits.dtype))
        return draw_values(logits).to(x.dtype)
