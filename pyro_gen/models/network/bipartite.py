r"""The bipartite block model, or latent block model: rows and columns of a matrix have groups of their own.

.. math::
    \pi \sim \operatorname{Dirichlet}(1), \quad \rho \sim \operatorname{Dirichlet}(1), \quad
    b_i \sim \operatorname{Categorical}(\pi), \quad c_j \sim \operatorname{Categorical}(\rho), \quad
    p_{rs} \sim \operatorname{Beta}(1, 1), \quad x_{ij} \sim \operatorname{Bernoulli}(p_{b_i c_j}) .

A datum is the matrix of incidence of nodes of two kinds: who was at which event, who bought what; NaN is a pair that
was not observed. Given the columns' groups those of rows are independent, and the other way round, so that a Gibbs scan
is two draws, with :math:`m_{is}` edges and :math:`t_{is}` pairs of row i and the columns of group s,

.. math:: p(b_i = r \mid c, p, x) \propto \pi_r \prod_s p_{rs}^{m_{is}} (1 - p_{rs})^{t_{is} - m_{is}} .

References:
    | Clustering with block mixture models (Govaert & Nadif, 2003), https://doi.org/10.1016/S0031-3203(02)00074-2
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen.data.small import binary_rows
from pyro_gen.inference.objectives import ScoreFunctionELBO
from pyro_gen.models.network.parts.groups import Values, of_pairs
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["BipartiteBlockModel"]


@model(
    "bipartite block model",
    paper="Govaert & Nadif (2003)",
    small={"": lambda: (BipartiteBlockModel((5, 3), (2, 2)), binary_rows(4, 5, 3))},
)
class BipartiteBlockModel(Program):
    r"""Creates a block model of networks with two kinds of nodes.

    Arguments:
        nodes: The numbers of rows and columns, :math:`(N, M)`.
        groups: The numbers of their groups, :math:`(K, L)`; some may stay empty.

    Raises:
        ValueError: A number is not positive.

    Example:
        >>> program = BipartiteBlockModel((4, 3), (2, 2))
        >>> program.model(torch.full((1, 4, 3), torch.nan)).shape
        torch.Size([1, 4, 3])
    """

    def __init__(self, nodes: tuple[int, int], groups: tuple[int, int]) -> None:
        super().__init__()
        if min(*nodes, *groups) < 1:
            raise ValueError(f"BipartiteBlockModel({nodes}, {groups}): give positive numbers.")
        self.nodes, self.groups = nodes, groups
        self.event_shape = torch.Size(nodes)
        self.objective = ScoreFunctionELBO()
        self.logits = nn.ParameterList(0.1 * torch.randn(n, k) for n, k in zip(nodes, groups, strict=True))
        self.log_weights = nn.ParameterList(torch.zeros(k) for k in groups)
        self.log_counts = nn.Parameter(torch.zeros(2, *groups))

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of groups, parameters and matrices :math:`(G, N, M)`; returns them completed."""
        n, m = self.nodes
        k, l = self.groups  # noqa: E741
        pi = pyro.sample("pi", dist.Dirichlet(x.new_ones(k)))
        rho = pyro.sample("rho", dist.Dirichlet(x.new_ones(l)))
        with pyro.plate("rows", n):
            b = pyro.sample("b", dist.Categorical(pi.unsqueeze(-2)))
        with pyro.plate("columns", m):
            c = pyro.sample("c", dist.Categorical(rho.unsqueeze(-2)))
        p = pyro.sample("p", dist.Beta(x.new_ones(k, l), 1.0).to_event(2))
        chance = of_pairs(p, b, c).unsqueeze(-3)  # (*, 1, N, M)
        with self.plate(x):
            return observe("x", dist.Bernoulli(chance).to_event(2), x)

    def guide(self, x: Tensor) -> None:
        """Independent draws of all parameters."""
        for name, weights in zip(("pi", "rho"), self.log_weights, strict=True):
            pyro.sample(name, dist.Dirichlet(weights.exp()))
        for name, plate, logits in zip(("b", "c"), ("rows", "columns"), self.logits, strict=True):
            with pyro.plate(plate, len(logits)):
                pyro.sample(name, dist.Categorical(logits=logits))
        pyro.sample("p", dist.Beta(*self.log_counts.exp()).to_event(2))

    def blocks(self) -> dict[Any, Any]:
        """The conditionals, as :func:`pyro_gen.posterior` with ``method="gibbs"`` takes them."""
        return {("pi", "rho", "p"): self.draw_parameters, "b": self.draw_rows, "c": self.draw_columns}

    def draw_parameters(self, values: Values, x: Tensor, *context: Any) -> Values:
        """Draws of weights and probabilities given the groups."""
        z, y = (F.one_hot(values[n].long(), k).to(x) for n, k in zip("bc", self.groups, strict=True))
        edges, pairs = (z.mT @ t @ y for t in _statistics(x))
        weights = {n: torch.distributions.Dirichlet(1 + v.sum(-2)).sample() for n, v in (("pi", z), ("rho", y))}
        return {**weights, "p": torch.distributions.Beta(1 + edges, 1 + pairs - edges).sample()}

    def draw_rows(self, values: Values, x: Tensor, *context: Any) -> Values:
        """Draws of the groups of all rows given those of columns."""
        return {"b": _draw(values["pi"], values["p"], values["c"], *_statistics(x))}

    def draw_columns(self, values: Values, x: Tensor, *context: Any) -> Values:
        """Draws of the groups of all columns given those of rows."""
        return {"c": _draw(values["rho"], values["p"].mT, values["b"], *(t.mT for t in _statistics(x)))}


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Edges and observed pairs of all networks, (N, M)."""
    return x.nan_to_num().sum(-3), (~torch.isnan(x)).to(x).sum(-3)


def _draw(weights: Tensor, p: Tensor, others: Tensor, edges: Tensor, pairs: Tensor) -> Tensor:
    """Groups (C, N) of rows, given those of columns (C, M)."""
    p = p.clamp(1e-12, 1 - 1e-7)
    z = F.one_hot(others.long(), p.shape[-1]).to(p)
    log_odds, log_none = p.log() - (-p).log1p(), (-p).log1p()
    logits = weights.log().unsqueeze(-2) + (edges @ z) @ log_odds.mT + (pairs @ z) @ log_none.mT
    drawn: Tensor = torch.distributions.Categorical(logits=logits).sample()
    return drawn
