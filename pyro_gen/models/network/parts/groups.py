r"""What block models share: groups and their weights, matrices over pairs of groups, a Gibbs scan over the nodes.

.. math:: \pi \sim \operatorname{Dirichlet}(1, \ldots, 1), \qquad b_i \sim \operatorname{Categorical}(\pi)

Pairs are of an exponential family, :math:`\log p(x_{ij} \mid r, s) = \sum_l T_l(x_{ij}) \, \eta_{l, rs} + c`. So a node
needs only what its row of each :math:`T_l` sums to over the groups of the others:

.. math:: p(b_i = r \mid b_{-i}, x) \propto \pi_r \exp \sum_{l, j \ne i} T_l(x_{ij}) \, \eta_{l, r b_j} .
"""

from collections.abc import Sequence
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen.inference.objectives import ScoreFunctionELBO
from pyro_gen.program import Program

__all__ = ["BlockModel", "Terms", "Values", "counts", "draw_groups", "of_pairs", "square", "triangle"]

Values = dict[str, Tensor]
Terms = list[tuple[Tensor, Tensor]]


class BlockModel(Program):
    r"""A program whose nodes have groups, ``b`` with weights ``pi``; both are global latent variables.

    Data are networks of the same N nodes, with shape :math:`(G, N, N)`; NaN is a pair that was not observed.

    Arguments:
        nodes: The number of nodes :math:`N`.
        groups: The number of groups :math:`K`; some may stay empty.
        directed: Whether edges have directions.

    Raises:
        ValueError: There are fewer than two nodes, or no group.
    """

    pair_sites: tuple[str, ...] = ()  # what a model has beside groups and weights

    def __init__(self, nodes: int, groups: int, directed: bool = False) -> None:
        super().__init__()
        if nodes < 2 or groups < 1:
            raise ValueError(f"{type(self).__name__}({nodes}, {groups}): give 2 nodes and 1 group or more.")
        self.nodes, self.groups, self.directed = nodes, groups, directed
        self.event_shape = torch.Size((nodes, nodes))
        self.objective = ScoreFunctionELBO()
        self.logits = nn.Parameter(0.1 * torch.randn(nodes, groups))
        self.log_weights = nn.Parameter(torch.zeros(groups))

    @property
    def pairs(self) -> tuple[int, ...]:
        """The shape of a parameter of pairs of groups: K (K + 1) / 2, or (K, K) where edges have directions."""
        return (self.groups,) * 2 if self.directed else (self.groups * (self.groups + 1) // 2,)

    def matrix(self, values: Tensor) -> Tensor:
        """Such a parameter as a matrix, with shape (*, K, K)."""
        return values if self.directed else square(values, self.groups)

    def sample_groups(self, x: Tensor) -> Tensor:
        """The sites of weights and groups in the model; groups have the shape (*, N)."""
        pi = pyro.sample("pi", dist.Dirichlet(x.new_ones(self.groups)))
        with pyro.plate("nodes", self.nodes):
            return pyro.sample("b", dist.Categorical(pi.unsqueeze(-2)))

    def guide_groups(self) -> None:
        """The same sites in the guide, independent of each other."""
        pyro.sample("pi", dist.Dirichlet(self.log_weights.exp()))
        with pyro.plate("nodes", self.nodes):
            pyro.sample("b", dist.Categorical(logits=self.logits))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Checks that data are networks of its kind."""
        self.observed(x)
        return super().initialise(x, *context, seed=seed)

    def observed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data with 0 for what was not observed and on the diagonal, and 1 where it was, (*, G, N, N)."""
        if not self.directed:
            x = torch.where(torch.isnan(x), x.mT, x)
            if not torch.equal(x.nan_to_num(), x.mT.nan_to_num()):
                raise ValueError(
                    f"{type(self).__name__}: the matrix of a network without directions is symmetric, and this one is "
                    "not: give x + x.mT, or take a model whose edges have directions."
                )
        off = 1 - torch.eye(self.nodes).to(x)
        return x.nan_to_num() * off, (~torch.isnan(x)).to(x) * off

    def terms(self, values: Values, x: Tensor) -> Terms:
        r"""The statistics :math:`T_l`, (N, N) or (C, N, N), and natural parameters :math:`\eta_l`, (C, K, K)."""
        raise NotImplementedError

    def draw_pairs(self, values: Values, x: Tensor, *context: Any) -> Values:
        """Draws of ``pair_sites`` given all else."""
        raise NotImplementedError

    def blocks(self) -> dict[Any, Any]:
        """The conditionals, as :func:`pyro_gen.posterior` with ``method="gibbs"`` takes them."""
        return {"pi": self.draw_weights, self.pair_sites: self.draw_pairs, "b": self.draw_nodes}

    def draw_weights(self, values: Values, x: Tensor, *context: Any) -> Values:
        """Draws of the weights given the groups."""
        sizes = F.one_hot(values["b"].long(), self.groups).to(x).sum(-2)
        return {"pi": torch.distributions.Dirichlet(1 + sizes).sample()}

    def draw_nodes(self, values: Values, x: Tensor, *context: Any) -> Values:
        """A scan over the groups of all nodes."""
        terms = self.terms(values, x)
        return {"b": draw_groups(values["b"], values["pi"].log(), terms, self.directed)}

    def between(self, t: Tensor, b: Tensor) -> Tensor:
        """What a statistic (*, N, N) sums to over the pairs of each pair of groups, with the shape of a parameter."""
        total = counts(t, b, self.groups)
        return total if self.directed else triangle(total * (1 - torch.eye(self.groups).to(t) / 2))


def square(values: Tensor, groups: int) -> Tensor:
    """Symmetric matrices (*, K, K) from their entries of r <= s, (*, K (K + 1) / 2).

    Example:
        >>> square(torch.tensor([1, 2, 3]), 2).tolist()
        [[1, 2], [2, 3]]
    """
    r, s = torch.triu_indices(groups, groups)
    index = torch.zeros(groups, groups, dtype=torch.long)
    index[r, s] = index[s, r] = torch.arange(len(r))
    return values[..., index.to(values.device)]


def triangle(matrix: Tensor) -> Tensor:
    """The entries of r <= s of matrices (*, K, K), with shape (*, K (K + 1) / 2)."""
    r, s = torch.triu_indices(matrix.shape[-1], matrix.shape[-1])
    return matrix[..., r.to(matrix.device), s.to(matrix.device)]


def of_pairs(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The entry of the groups of each pair, (*, N, M), of matrices (*, K, L) and groups (*, N), (*, M)."""
    rows, columns = rows.long(), columns.long()
    lead = torch.broadcast_shapes(matrix.shape[:-2], rows.shape[:-1], columns.shape[:-1])
    left = matrix.expand(*lead, *matrix.shape[-2:])
    left = left.gather(-2, rows.expand(*lead, -1).unsqueeze(-1).expand(*lead, rows.shape[-1], matrix.shape[-1]))
    return left.gather(-1, columns.expand(*lead, -1).unsqueeze(-2).expand(*lead, rows.shape[-1], columns.shape[-1]))


def counts(t: Tensor, b: Tensor, groups: int) -> Tensor:
    """What a matrix (*, N, N) sums to over pairs of groups, (C, K, K); without directions twice inside a group."""
    z = F.one_hot(b.long(), groups).to(t)
    return z.mT @ t @ z


def draw_groups(
    b: Tensor,
    log_pi: Tensor,
    terms: Sequence[tuple[Tensor, Tensor]],
    directed: bool = False,
    own: Tensor | None = None,
) -> Tensor:
    r"""A Gibbs scan over all nodes, of all chains at once, by the global generator.

    Arguments:
        b: Groups with shape :math:`(C, N)`.
        log_pi: Their log-weights, with shape :math:`(C, K)`.
        terms: The :math:`T_l`, 0 on the diagonal and where a pair was not observed, with shape :math:`(N, N)` or
            :math:`(C, N, N)`, and the :math:`\eta_l`, with shape :math:`(C, K, K)`.
        directed: Whether entries ij and ji are different variables; else one of them counts.
        own: What a node adds by itself, with shape :math:`(C, N, K)`.

    Returns:
        Groups with shape :math:`(C, N)`.
    """
    b, groups = b.long().clone(), log_pi.shape[-1]
    z = F.one_hot(b, groups).to(log_pi)
    for i in range(b.shape[-1]):
        logits = log_pi if own is None else log_pi + own[:, i]
        for t, eta in terms:
            near = (t[..., i, None, :] @ z).squeeze(-2)  # (C, K)
            logits = logits + (eta @ near.unsqueeze(-1)).squeeze(-1)
            if directed:
                near = (t[..., :, i].unsqueeze(-2) @ z).squeeze(-2)
                logits = logits + (eta.mT @ near.unsqueeze(-1)).squeeze(-1)
        b[:, i] = torch.distributions.Categorical(logits=logits).sample()
        z[:, i] = F.one_hot(b[:, i], groups).to(z)
    return b
