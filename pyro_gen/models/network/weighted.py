r"""The weighted block model: the groups of two nodes say what the weight of their pair is like.

.. math::
    \pi \sim \operatorname{Dirichlet}(1), \quad b_i \sim \operatorname{Categorical}(\pi), \quad
    \tau_{rs} \sim \operatorname{Gamma}(1, 1), \quad
    \mu_{rs} \sim \mathcal{N}(0, 1 / \tau_{rs}), \quad
    x_{ij} \sim \mathcal{N}(\mu_{b_i b_j}, 1 / \tau_{b_i b_j}), \quad i < j .

Weights are real numbers, standardised: correlations, or logarithms of what flows. NaN is a pair without a weight, of
which nothing is said: where it is the absence of an edge that tells, :class:`StochasticBlockModel` is the model, for
numbers of edges :class:`DegreeCorrectedBlockModel`. With :math:`t_{rs}` weights between groups, their sum
:math:`s_{rs}` and sum of squares :math:`q_{rs}`,

.. math::
    \tau_{rs} \mid b, x &\sim \operatorname{Gamma}\Big(1 + \frac{t_{rs}}{2}, \;
    1 + \frac12 \Big(q_{rs} - \frac{s_{rs}^2}{1 + t_{rs}}\Big)\Big), \qquad
    \mu_{rs} \mid \tau, b, x \sim \mathcal{N}\Big(\frac{s_{rs}}{1 + t_{rs}}, \frac{1}{(1 + t_{rs}) \tau_{rs}}\Big) .

References:
    | Learning latent block structure in weighted networks (Aicher, Jacobs & Clauset, 2015)
    | https://doi.org/10.1093/comnet/cnu026
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.adjacency import Adjacency
from pyro_gen.models.network.parts.groups import BlockModel, Terms, Values, of_pairs
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["WeightedBlockModel"]


def _small() -> Tensor:
    upper = normal_rows(4, 5, 5).triu(1)
    return upper + upper.mT


@model(
    "weighted block model",
    paper="Aicher, Jacobs & Clauset (2015)",
    small={
        "": lambda: (WeightedBlockModel(5, 2), _small()),
        "directed": lambda: (WeightedBlockModel(5, 2, directed=True), normal_rows(4, 5, 5) * (1 - torch.eye(5))),
    },
)
class WeightedBlockModel(BlockModel):
    r"""Creates a block model of normal weights.

    Arguments:
        nodes: The number of nodes :math:`N`.
        groups: The number of groups :math:`K`; some may stay empty.
        directed: Whether weights have directions.

    Raises:
        ValueError: There are fewer than two nodes, or no group.

    Example:
        >>> program = WeightedBlockModel(4, 2)
        >>> program.model(torch.full((1, 4, 4), torch.nan)).shape
        torch.Size([1, 4, 4])
    """

    pair_sites = ("tau", "mu")

    def __init__(self, nodes: int, groups: int, directed: bool = False) -> None:
        super().__init__(nodes, groups, directed)
        self.log_tau = nn.Parameter(torch.zeros(2, *self.pairs))
        self.loc = nn.Parameter(torch.zeros(self.pairs))
        self.log_scale = nn.Parameter(torch.zeros(self.pairs))

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of all parameters and networks with shape :math:`(G, N, N)`; returns them completed."""
        b, dims = self.sample_groups(x), len(self.pairs)
        tau = pyro.sample("tau", dist.Gamma(x.new_ones(self.pairs), 1.0).to_event(dims))
        mu = pyro.sample("mu", dist.Normal(torch.zeros_like(tau), tau.rsqrt()).to_event(dims))
        loc, precision = (of_pairs(self.matrix(v), b, b).unsqueeze(-3) for v in (mu, tau))
        with self.plate(x):
            return observe("x", Adjacency(dist.Normal(loc, precision.rsqrt()), self.directed), x)

    def guide(self, x: Tensor) -> None:
        """Independent draws of all parameters."""
        self.guide_groups()
        dims = len(self.pairs)
        pyro.sample("tau", dist.Gamma(*self.log_tau.exp()).to_event(dims))
        pyro.sample("mu", dist.Normal(self.loc, self.log_scale.exp()).to_event(dims))

    def terms(self, values: Values, x: Tensor) -> Terms:
        tau, mu = self.matrix(values["tau"]), self.matrix(values["mu"])
        weights, pairs = self.observed(x)
        constant = tau.log() / 2 - tau * mu.square() / 2
        return [
            (weights.square().sum(-3), -tau / 2),
            (weights.sum(-3), tau * mu),
            (pairs.sum(-3), constant),
        ]

    def draw_pairs(self, values: Values, x: Tensor, *context: Any) -> Values:
        weights, pairs = self.observed(x)
        s, q, t = (self.between(v.sum(-3), values["b"]) for v in (weights, weights.square(), pairs))
        tau = torch.distributions.Gamma(1 + t / 2, 1 + (q - s.square() / (1 + t)) / 2).sample()
        return {"tau": tau, "mu": s / (1 + t) + torch.randn_like(s) * ((1 + t) * tau).rsqrt()}
