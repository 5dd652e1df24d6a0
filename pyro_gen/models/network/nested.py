r"""The nested block model: groups have groups themselves, which say what edges between them are like.

.. math::
    \rho &\sim \operatorname{Dirichlet}(1), \qquad c_r \sim \operatorname{Categorical}(\rho), \qquad
    R_{uv} \sim \operatorname{Gamma}(1, 1), \\
    \pi &\sim \operatorname{Dirichlet}(1), \qquad b_i \sim \operatorname{Categorical}(\pi), \qquad
    \lambda_{rs} \sim \operatorname{Gamma}(2, R_{c_r c_s}), \qquad
    x_{ij} \sim \operatorname{Poisson}(\lambda_{b_i b_j}), \quad i < j .

A model of many groups has many rates, and with one prior for all of them small groups are drowned in its penalty. Here
the rates of pairs of groups are a network of groups, of L larger ones with rates of their own: what many pairs of
groups share is learned once. Conditionals are known, with :math:`m_{rs}` edges and :math:`t_{rs}` observed pairs,

.. math::
    \lambda_{rs} \mid \cdot \sim \operatorname{Gamma}(2 + m_{rs}, R_{c_r c_s} + t_{rs}), \qquad
    R_{uv} \mid \cdot \sim
    \operatorname{Gamma}\Big(1 + 2 \, \#_{uv}, 1 + \sum_{\{c_r, c_s\} = \{u, v\}} \lambda_{rs}\Big)

with :math:`\#_{uv}` pairs of groups r <= s, and those of b and c as in :class:`StochasticBlockModel`.

References:
    | Hierarchical block structures and high-resolution model selection in large networks (Peixoto, 2014)
    | https://doi.org/10.1103/PhysRevX.4.011047
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen.data.small import network_rows
from pyro_gen.distributions.adjacency import Adjacency
from pyro_gen.models.network.parts.groups import (
    BlockModel,
    Terms,
    Values,
    counts,
    draw_groups,
    of_pairs,
    square,
    triangle,
)
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["NestedBlockModel"]

SHAPE = 2.0  # of the law of a rate


@model(
    "nested block model",
    paper="Peixoto (2014)",
    small={"": lambda: (NestedBlockModel(5, (3, 2)), network_rows(4, 5, counts=True))},
)
class NestedBlockModel(BlockModel):
    r"""Creates a nested block model of two levels, of networks without directions.

    Arguments:
        nodes: The number of nodes :math:`N`.
        groups: The number of groups, and of groups of these, :math:`(K, L)`; some may stay empty.

    Raises:
        ValueError: There are fewer than two nodes, or no group.

    Example:
        >>> program = NestedBlockModel(4, (3, 2))
        >>> program.model(torch.full((1, 4, 4), torch.nan)).shape
        torch.Size([1, 4, 4])
    """

    pair_sites = ("rate", "r", "rho", "c")

    def __init__(self, nodes: int, groups: tuple[int, int]) -> None:
        super().__init__(nodes, groups[0])
        if groups[1] < 1:
            raise ValueError(f"NestedBlockModel({nodes}, {groups}): give 1 group of groups or more.")
        self.above = groups[1]
        above = self.above * (self.above + 1) // 2
        self.upper_logits = nn.Parameter(0.1 * torch.randn(self.groups, self.above))
        self.upper_log_weights = nn.Parameter(torch.zeros(self.above))
        self.log_rate, self.log_r = nn.Parameter(torch.zeros(2, *self.pairs)), nn.Parameter(torch.zeros(2, above))

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of all parameters and networks with shape :math:`(G, N, N)`; returns them completed."""
        b = self.sample_groups(x)
        rho = pyro.sample("rho", dist.Dirichlet(x.new_ones(self.above)))
        with pyro.plate("groups", self.groups):
            c = pyro.sample("c", dist.Categorical(rho.unsqueeze(-2)))
        r = pyro.sample("r", dist.Gamma(x.new_ones(self.log_r.shape[1]), 1.0).to_event(1))
        prior_rate = triangle(of_pairs(square(r, self.above), c, c))
        rate = pyro.sample("rate", dist.Gamma(torch.full_like(prior_rate, SHAPE), prior_rate).to_event(1))
        with self.plate(x):
            law = dist.Poisson(of_pairs(self.matrix(rate), b, b).unsqueeze(-3))
            return observe("x", Adjacency(law), x)

    def guide(self, x: Tensor) -> None:
        """Independent draws of all parameters."""
        self.guide_groups()
        pyro.sample("rho", dist.Dirichlet(self.upper_log_weights.exp()))
        with pyro.plate("groups", self.groups):
            pyro.sample("c", dist.Categorical(logits=self.upper_logits))
        pyro.sample("r", dist.Gamma(*self.log_r.exp()).to_event(1))
        pyro.sample("rate", dist.Gamma(*self.log_rate.exp()).to_event(1))

    def terms(self, values: Values, x: Tensor) -> Terms:
        rate = self.matrix(values["rate"])
        edges, pairs = (t.sum(-3) for t in self.observed(x))
        return [(edges, rate.clamp(min=1e-30).log()), (pairs, -rate)]

    def draw_pairs(self, values: Values, x: Tensor, *context: Any) -> Values:
        edges, pairs = (self.between(t.sum(-3), values["b"]) for t in self.observed(x))
        prior_rate = triangle(of_pairs(square(values["r"], self.above), values["c"], values["c"]))
        rate = torch.distributions.Gamma(SHAPE + edges, prior_rate + pairs).sample()
        matrix, c = self.matrix(rate), values["c"]
        r = square(self._draw_r(matrix, c), self.above)
        inside = r.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)  # of a group with itself, (C, 1, L)
        own = SHAPE * inside.log() - inside * matrix.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        sizes = F.one_hot(c.long(), self.above).to(x).sum(-2)
        rho = torch.distributions.Dirichlet(1 + sizes).sample()
        off = 1 - torch.eye(self.groups).to(x)
        c = draw_groups(c, rho.log(), [(off, SHAPE * r.log()), (matrix * off, -r)], own=own)
        return {"rate": rate, "r": triangle(r), "rho": rho, "c": c}

    def _draw_r(self, matrix: Tensor, c: Tensor) -> Tensor:
        """Draws of R given rates (C, K, K) and groups of groups (C, K)."""
        total, number = (counts(t, c, self.above) for t in (matrix, torch.ones_like(matrix)))
        alone = F.one_hot(c.long(), self.above).to(matrix)
        once = torch.diag_embed((alone * matrix.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)).sum(-2))
        half = 1 - torch.eye(self.above).to(matrix) / 2  # pairs r <= s: those inside are there twice, but r = s
        total, number = total * half + once / 2, number * half + torch.diag_embed(alone.sum(-2)) / 2
        return torch.distributions.Gamma(1 + SHAPE * triangle(number), 1 + triangle(total)).sample()
