r"""The stochastic block model: nodes have groups, and the groups of two nodes say how likely their edge is.

.. math::
    \pi \sim \operatorname{Dirichlet}(1, \ldots, 1), \qquad
    p_{rs} \sim \operatorname{Beta}(1, 1), \qquad
    b_i \sim \operatorname{Categorical}(\pi), \qquad
    x_{ij} \mid b \sim \operatorname{Bernoulli}(p_{b_i b_j}), \quad i < j ,

or, of a directed network, all :math:`i \ne j`, with :math:`p_{rs}` and :math:`p_{sr}` of their own. A datum is a
network, a matrix of 0 and 1 with a diagonal that is not looked at; all networks of a data set have the same nodes, with
the same groups, :math:`\pi` and p. A pair that was not observed, NaN, drops out of the product.

Groups, weights and probabilities are *global* latent variables. Their conditionals are known: with :math:`n_r` nodes in
group r, :math:`m_{rs}` edges and :math:`t_{rs}` pairs that were observed between groups,

.. math::
    \pi \mid b &\sim \operatorname{Dirichlet}(1 + n), \qquad
    p_{rs} \mid b, x \sim \operatorname{Beta}(1 + m_{rs}, 1 + t_{rs} - m_{rs}), \\
    p(b_i = r \mid b_{-i}, x) &\propto \pi_r \prod_{j \ne i} p_{r b_j}^{x_{ij}} (1 - p_{r b_j})^{1 - x_{ij}} ,

which ``blocks`` hands to :func:`pyro_gen.posterior`. The guide is the variational posterior of
the same form, independent of each other. Degrees inside a group vary as little as binomials do: where they vary more,
the groups are those of many and of few edges, and :class:`DegreeCorrectedBlockModel` is the model.

References:
    | Estimation and prediction for stochastic blockmodels for graphs with latent block structure
    | (Snijders & Nowicki, 1997), https://doi.org/10.1007/s003579900004
    | A mixture model for random graphs (Daudin, Picard & Robin, 2008), https://doi.org/10.1007/s11222-007-9046-7
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import network_rows
from pyro_gen.distributions.adjacency import Adjacency
from pyro_gen.models.network.parts.groups import BlockModel, Terms, Values, of_pairs
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["StochasticBlockModel"]


@model(
    "stochastic block model",
    paper="Snijders & Nowicki (1997)",
    small={
        "": lambda: (StochasticBlockModel(5, 2), network_rows(4, 5)),
        "directed": lambda: (StochasticBlockModel(5, 2, directed=True), network_rows(4, 5, directed=True)),
    },
)
class StochasticBlockModel(BlockModel):
    r"""Creates a stochastic block model.

    Arguments:
        nodes: The number of nodes :math:`N`.
        groups: The number of groups :math:`K`; some may stay empty.
        directed: Whether edges have directions.

    Raises:
        ValueError: There are fewer than two nodes, or no group.

    Example:
        >>> import pyro_gen as pg
        >>> x = torch.block_diag(torch.ones(6, 6), torch.ones(6, 6)).unsqueeze(0)
        >>> program = StochasticBlockModel(12, 2)
        >>> options = dict(blocks=program.blocks(), chains=8, warmup=50, draws=50, progress=False)
        >>> b = pg.posterior(program, x, method="gibbs", **options).posterior["b"]
        >>> float((b[..., 0] == b[..., 5]).mean()) > 0.9 > 0.1 > float((b[..., 0] == b[..., 6]).mean())
        True
    """

    pair_sites = ("p",)

    def __init__(self, nodes: int, groups: int, directed: bool = False) -> None:
        super().__init__(nodes, groups, directed)
        self.log_counts = nn.Parameter(torch.zeros(2, *self.pairs))

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of groups, parameters and networks :math:`(G, N, N)`; returns them completed."""
        b = self.sample_groups(x)
        p = pyro.sample("p", dist.Beta(x.new_ones(self.pairs), 1.0).to_event(len(self.pairs)))
        chance = of_pairs(self.matrix(p), b, b).unsqueeze(-3)  # (*, 1, N, N)
        with self.plate(x):
            return observe("x", Adjacency(dist.Bernoulli(chance), self.directed), x)

    def guide(self, x: Tensor) -> None:
        """Independent draws of the weights, of the group of each node, and of the probabilities."""
        self.guide_groups()
        ones, zeros = self.log_counts.exp()
        pyro.sample("p", dist.Beta(ones, zeros).to_event(len(self.pairs)))

    def terms(self, values: Values, x: Tensor) -> Terms:
        p = self.matrix(values["p"]).clamp(1e-12, 1 - 1e-7)
        edges, pairs = (t.sum(-3) for t in self.observed(x))
        return [(edges, p.log() - (-p).log1p()), (pairs, (-p).log1p())]

    def draw_pairs(self, values: Values, x: Tensor, *context: Any) -> Values:
        edges, pairs = (self.between(t.sum(-3), values["b"]) for t in self.observed(x))
        return {"p": torch.distributions.Beta(1 + edges, 1 + pairs - edges).sample()}
