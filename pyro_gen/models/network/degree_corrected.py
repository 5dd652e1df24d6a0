r"""The degree-corrected block model: groups say which nodes have edges, and each node by itself how many.

.. math::
    \pi \sim \operatorname{Dirichlet}(1), \quad b_i \sim \operatorname{Categorical}(\pi), \quad
    \theta_i \sim \operatorname{Gamma}(1, 1), \quad \omega_{rs} \sim \operatorname{Gamma}(1, 1), \quad
    x_{ij} \sim \operatorname{Poisson}(\theta_i \theta_j \, \omega_{b_i b_j}), \quad i < j .

Entries are numbers of edges; of sparse networks with one edge at most the law is as good as Bernoulli's. Without
:math:`\theta` the best groups of a real network are those of many and of few edges. The conditionals are known: with
:math:`m_{rs}` edges between groups, :math:`d_i` of a node, and sums over pairs that were observed,

.. math::
    \omega_{rs} \mid \cdot &\sim \operatorname{Gamma}\Big(1 + m_{rs}, \; 1 + \sum_{i < j : \{b_i, b_j\} = \{r, s\}}
    \theta_i \theta_j\Big), \qquad
    \theta_i \mid \cdot \sim \operatorname{Gamma}\Big(1 + d_i, \; 1 + \sum_j \theta_j \omega_{b_i b_j}\Big), \\
    p(b_i = r \mid \cdot) &\propto \pi_r \prod_{j \ne i} \omega_{r b_j}^{x_{ij}}
    e^{- \theta_i \theta_j \omega_{r b_j}} .

With :math:`\theta` and :math:`\omega` at their maximum, twice the log-likelihood of a partition is, up to a constant,
:math:`\sum_{rs} m_{rs} \log \frac{m_{rs}}{\kappa_r \kappa_s}` with :math:`\kappa_r = \sum_s m_{rs}`, both directions
counted: :func:`profile_log_likelihood`. Its posterior relative, which knows how many groups there are, is the
description length of :mod:`pyro_gen.models.network.parts.description_length`;
:func:`pyro_gen.structure.find_communities` samples it.

References:
    | Stochastic blockmodels and community structure in networks (Karrer & Newman, 2011)
    | https://doi.org/10.1103/PhysRevE.83.016107
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import network_rows
from pyro_gen.distributions.adjacency import Adjacency
from pyro_gen.models.network.parts.groups import BlockModel, Terms, Values, counts, of_pairs
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["DegreeCorrectedBlockModel", "profile_log_likelihood", "profile_optimum"]


@model(
    "degree-corrected block model",
    paper="Karrer & Newman (2011)",
    small={"": lambda: (DegreeCorrectedBlockModel(5, 2), network_rows(4, 5, counts=True))},
)
class DegreeCorrectedBlockModel(BlockModel):
    r"""Creates a degree-corrected block model of networks without directions.

    Arguments:
        nodes: The number of nodes :math:`N`.
        groups: The number of groups :math:`K`; some may stay empty.

    Raises:
        ValueError: There are fewer than two nodes, or no group.

    Example:
        >>> program = DegreeCorrectedBlockModel(4, 2)
        >>> program.model(torch.full((1, 4, 4), torch.nan)).shape
        torch.Size([1, 4, 4])
    """

    pair_sites = ("omega", "theta")

    def __init__(self, nodes: int, groups: int) -> None:
        super().__init__(nodes, groups)
        self.log_omega = nn.Parameter(torch.zeros(2, *self.pairs))
        self.log_theta = nn.Parameter(torch.zeros(2, nodes))

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of all parameters and networks with shape :math:`(G, N, N)`; returns them completed."""
        b = self.sample_groups(x)
        omega = pyro.sample("omega", dist.Gamma(x.new_ones(self.pairs), 1.0).to_event(1))
        theta = pyro.sample("theta", dist.Gamma(x.new_ones(self.nodes), 1.0).to_event(1))
        rate = theta.unsqueeze(-1) * theta.unsqueeze(-2) * of_pairs(self.matrix(omega), b, b)  # (*, N, N)
        with self.plate(x):
            return observe("x", Adjacency(dist.Poisson(rate.unsqueeze(-3))), x)

    def guide(self, x: Tensor) -> None:
        """Independent draws of all parameters."""
        self.guide_groups()
        pyro.sample("omega", dist.Gamma(*self.log_omega.exp()).to_event(1))
        pyro.sample("theta", dist.Gamma(*self.log_theta.exp()).to_event(1))

    def terms(self, values: Values, x: Tensor) -> Terms:
        omega, theta = self.matrix(values["omega"]), values["theta"]
        edges, pairs = (t.sum(-3) for t in self.observed(x))
        exposure = theta.unsqueeze(-1) * theta.unsqueeze(-2) * pairs
        return [(edges, omega.clamp(min=1e-30).log()), (exposure, -omega)]

    def draw_pairs(self, values: Values, x: Tensor, *context: Any) -> Values:
        edges, pairs = (t.sum(-3) for t in self.observed(x))
        theta, b = values["theta"].clone(), values["b"]
        exposure = self.between(theta.unsqueeze(-1) * theta.unsqueeze(-2) * pairs, b)
        omega = torch.distributions.Gamma(1 + self.between(edges, b), 1 + exposure).sample()
        weight = of_pairs(self.matrix(omega), b, b) * pairs  # (C, N, N)
        for i in range(self.nodes):
            rate = 1 + (weight[..., i, :] * theta).sum(-1)
            theta[..., i] = torch.distributions.Gamma(1 + edges[..., i, :].sum(-1), rate).sample()
        return {"omega": omega, "theta": theta}


def profile_log_likelihood(x: Tensor, b: Tensor) -> Tensor:
    r"""Twice the log-likelihood of partitions at the best parameters, up to a constant, with shape (*).

    The half is left out as by Karrer & Newman.

    Arguments:
        x: A network, with shape :math:`(N, N)`.
        b: Groups, with shape :math:`(*, N)`.
    """
    m = counts(x.double(), b, int(b.max()) + 1)
    kappa = m.sum(-1)
    value = torch.xlogy(m, m).sum((-2, -1)) - 2 * torch.xlogy(kappa, kappa).sum(-1)
    return value


def profile_optimum(x: Tensor, groups: int, starts: int = 64, seed: int = 0) -> tuple[Tensor, float]:
    """The best partition into a number of groups that steps of one node find, from random starts.

    Returns:
        The groups with shape (N,), and the profile log-likelihood.
    """
    n = len(x)
    b = torch.randint(groups, (starts, n), generator=torch.Generator().manual_seed(seed))
    value = torch.full((starts,), -torch.inf, dtype=torch.float64)
    for _ in range(50 * n):
        tried = b[:, None, None].repeat(1, n, groups, 1)  # (starts, node, group, N)
        tried[:, torch.arange(n), :, torch.arange(n)] = torch.arange(groups)
        found, step = profile_log_likelihood(x, tried).flatten(1).max(1)
        if not bool((found > value + 1e-9).any()):
            break
        better = found > value + 1e-9
        b = torch.where(better.unsqueeze(-1), tried.flatten(1, 2)[torch.arange(starts), step], b)
        value = torch.maximum(value, found)
    return b[value.argmax()], float(value.max())
