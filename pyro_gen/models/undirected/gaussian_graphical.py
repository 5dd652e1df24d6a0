r"""The Gaussian graphical model: a Gaussian in which columns without an edge are independent given all others.

.. math::
    x \sim \mathcal{N}(\mu, K^{-1}), \qquad K_{ij} = 0 \;\text{ where } i \text{ and } j \text{ have no edge.}

**Zeros in the precision.** With :math:`K = \Phi^\top \Phi`, upper triangular, the entries of :math:`\Phi` on the
diagonal and at edges are free, and the others follow from the rows above, so that K has its zeros for all values of the
free ones,

.. math:: \Phi_{ij} = - \frac{1}{\Phi_{ii}} \sum_{k < i} \Phi_{ki} \Phi_{kj} .

Each precision with these zeros is met by one :math:`\Phi` with a positive diagonal: training without bounds is maximum
likelihood. At the maximum the covariance is that of the data on the diagonal and at edges, found at once by
:meth:`GaussianGraphicalModel.from_data` (covariance selection).

What an edge says is the **partial correlation** :math:`-K_{ij} / \sqrt{K_{ii} K_{jj}}`. Missing entries integrate out.
Which edges there are is asked by :func:`pyro_gen.structure.find_graph`.

References:
    | Covariance selection (Dempster, 1972), https://doi.org/10.2307/2528966
    | A Monte Carlo method for computing the marginal likelihood in nondecomposable Gaussian graphical models
      (Atay-Kayis & Massam, 2005), https://doi.org/10.1093/biomet/92.2.317
"""

from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.covariance_selection import select_covariance
from pyro_gen.models.undirected.parts.graph import as_graph
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["GaussianGraphicalModel"]


@model(
    "Gaussian graphical model",
    paper="Dempster (1972)",
    small={
        "circle of four": lambda: (GaussianGraphicalModel([(0, 1), (1, 2), (2, 3), (3, 0)]), normal_rows(9, 4)),
        "no edge": lambda: (GaussianGraphicalModel({"nodes": 3, "edges": []}), normal_rows(9, 3)),
    },
)
class GaussianGraphicalModel(Program):
    r"""Creates a model of independent standard normal columns.

    Arguments:
        graph: A networkx graph, a list of pairs of names, a symmetric matrix of 0 and 1, or
            ``{"nodes": [...], "edges": [...]}``; data have a column for each node, in the order of the nodes.

    Attributes:
        graph: The graph.
        loc: The mean :math:`\mu`, with shape :math:`(D,)`.
        log_diagonal: The logarithms of the diagonal of :math:`\Phi`, with shape :math:`(D,)`.
        weights: The entries of :math:`\Phi` at edges, with shape :math:`(E,)`, in the order of ``graph.edges``.

    Raises:
        ValueError: The graph is none, see :func:`pyro_gen.models.undirected.as_graph`.

    Example:
        >>> x = torch.tensor([[0.0, 0.1, 1.0], [1.0, 0.9, 0.0], [2.0, 2.3, 1.0], [3.0, 2.9, 2.0]])
        >>> fitted = GaussianGraphicalModel.from_data(x, {"nodes": 3, "edges": [(0, 1)]})
        >>> round(fitted.partial_correlations()[0, 1].item(), 3), round(fitted.precision()[0, 2].item(), 6)
        (0.989, 0.0)
    """

    adjacency: Tensor

    def __init__(self, graph: Any) -> None:
        super().__init__()
        self.graph = as_graph(graph)
        size = len(self.graph)
        self.event_shape = torch.Size((size,))
        self.loc = nn.Parameter(torch.zeros(size))
        self.log_diagonal = nn.Parameter(torch.zeros(size))
        self.weights = nn.Parameter(torch.zeros(len(self.graph.edges)))
        adjacency = torch.zeros(size, size, dtype=torch.bool)
        adjacency[self.graph.edges[:, 0], self.graph.edges[:, 1]] = True
        self.register_buffer("adjacency", adjacency | adjacency.T)

    @classmethod
    def from_data(cls, x: Tensor, graph: Any) -> Self:
        r"""Creates the model with the maximum of the likelihood of complete data.

        Arguments:
            x: Data with shape :math:`(N, D)`, a column for each node.
            graph: As in the constructor.

        Raises:
            ValueError: Values are missing, or their covariance is not positive definite.
        """
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        fitted = cls(graph).to(x)
        if x.dim() != 2 or x.shape[1] != len(fitted.graph) or not bool(torch.isfinite(x).all()):
            raise ValueError(
                f"from_data: expected a complete (N, {len(fitted.graph)}) matrix, got {tuple(x.shape)}; with missing "
                "values, train by pg.fit instead."
            )
        mean = x.double().mean(0)
        centred = x.double() - mean
        covariance = centred.T @ centred / len(x)
        if int(torch.linalg.matrix_rank(covariance, hermitian=True)) < len(mean):
            raise ValueError(
                "from_data: the covariance of the columns is not positive definite: give more rows, or leave out a "
                "column that follows from others."
            )
        precision = torch.linalg.inv(select_covariance(covariance, fitted.adjacency))
        phi = torch.linalg.cholesky((precision + precision.T) / 2).T
        first, second = fitted.graph.edges.sort(1).values.T
        with torch.no_grad():
            fitted.loc.copy_(mean)
            fitted.log_diagonal.copy_(phi.diagonal().log())
            fitted.weights.copy_(phi[first, second])
        return fitted

    def factor(self) -> Tensor:
        r"""The matrix :math:`\Phi`, upper triangular with shape :math:`(D, D)`."""
        size = len(self.graph)
        first, second = self.graph.edges.sort(1).values.T.to(self.weights.device)
        free = self.weights.new_zeros(size, size).index_put((first, second), self.weights)
        rows: list[Tensor] = []
        for i, diagonal in enumerate(self.log_diagonal.exp()):
            above = torch.stack([row[i] * row for row in rows]).sum(0) if rows else torch.zeros_like(self.loc)
            follows = ~self.adjacency[i] & (torch.arange(size, device=self.loc.device) > i)
            rows.append(torch.where(follows, -above / diagonal, free[i]) + diagonal * (torch.eye(size)[i].to(self.loc)))
        return torch.stack(rows)

    def precision(self) -> Tensor:
        r"""The matrix K, with shape :math:`(D, D)`."""
        phi = self.factor()
        return phi.T @ phi

    def partial_correlations(self) -> Tensor:
        """Of each pair given all other columns, with shape (D, D) and 1 on the diagonal."""
        k = self.precision()
        scale = k.diagonal().rsqrt()
        return torch.eye(len(k)).to(k) * 2 - k * scale[:, None] * scale

    def model(self, x: Tensor) -> Tensor:
        r"""The density of data with shape :math:`(N, D)`; returns it completed."""
        root = torch.linalg.solve_triangular(self.factor(), torch.eye(len(self.loc)).to(self.loc), upper=True)
        with self.plate(x):
            return observe("x", dist.MultivariateNormal(self.loc, root @ root.T), x)
