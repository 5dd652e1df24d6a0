r"""A linear-Gaussian Bayesian network: a regression on its parents at each node of a directed acyclic graph.

.. math::
    x_i \mid x_{\mathrm{pa}(i)} \sim \mathcal{N}\Big(b_i + \sum_{j \in \mathrm{pa}(i)} W_{ij} x_j, \; \sigma_i^2\Big)

so that :math:`x = (I - W)^{-1} (b + \sigma \epsilon)` is jointly Gaussian,

.. math:: x \sim \mathcal{N}(\mu, \Sigma), \qquad \mu = (I - W)^{-1} b, \qquad
    \Sigma = (I - W)^{-1} \operatorname{diag}(\sigma^2) (I - W)^{-\top} .

Missing values integrate out of it and queries are its conditionals, in closed form. An intervention
:math:`\mathrm{do}(x_i = v)` takes the equation of :math:`x_i` away and sets it in the others; it is no conditional:
what is above :math:`x_i` is left as it was.

References:
    | Gaussian influence diagrams (Shachter & Kenley, 1989), https://doi.org/10.1287/mnsc.35.5.527
    | Causality (Pearl, 2009), section 5.1
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.models.bayesian_network.parts.graph import check_graph, check_known
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["LinearGaussianBayesianNetwork"]


@model(
    "linear-Gaussian Bayesian network",
    paper="Shachter & Kenley (1989)",
    small={
        "diamond": lambda: (
            LinearGaussianBayesianNetwork({"d": ["b", "c"], "a": [], "b": ["a"], "c": ["a"]}),
            normal_rows(9, 4),
        ),
    },
)
class LinearGaussianBayesianNetwork(Program):
    r"""Creates a network of independent standard normal nodes.

    Arguments:
        parents: The parents of each node, by name; data have a column for each node, in this order.

    Attributes:
        parents: The parents of each node, as tuples.
        weights: The matrix :math:`W`, with shape :math:`(D, D)`; only entries of parents count.
        intercept: The vector :math:`b`, with shape :math:`(D,)`.
        log_scale: The logarithms :math:`\log \sigma_i`, with shape :math:`(D,)`.

    Raises:
        ValueError: The graph has a circle or names that it does not have.

    Example:
        >>> x = torch.tensor([[0.0, 0.1], [1.0, 1.9], [2.0, 3.9], [3.0, 6.1]])
        >>> network = LinearGaussianBayesianNetwork.from_data(x, {"dose": [], "effect": ["dose"]})
        >>> round(network.query("effect", given={"dose": 3.0}).mean.item(), 3)
        6.0
    """

    edges: Tensor

    def __init__(self, parents: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.parents = check_graph(parents)
        self.nodes = tuple(self.parents)
        size = len(self.nodes)
        self.event_shape = torch.Size((size,))
        self.weights = nn.Parameter(torch.zeros(size, size))
        self.intercept = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.register_buffer(
            "edges", torch.tensor([[float(p in self.parents[n]) for p in self.nodes] for n in self.nodes])
        )

    @classmethod
    def from_data(cls, x: Tensor, parents: Mapping[str, Sequence[str]], prior_precision: float = 0.0) -> Self:
        r"""Creates a network with the posterior mode of its regressions given complete data.

        The weights of a node have the prior :math:`\mathcal{N}(0, \sigma_i^2 / \lambda)`, intercept and log-scale a
        flat one; without it, the network is at the maximum of the likelihood.

        Arguments:
            x: Data with shape :math:`(N, D)`, a column for each node.
            parents: As in the constructor.
            prior_precision: The precision :math:`\lambda \ge 0` of the weights.

        Raises:
            ValueError: Values are missing, or the parents of a node explain it without noise.
        """
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        network = cls(parents).to(x)
        if x.dim() != 2 or x.shape[1] != len(network.nodes) or not bool(torch.isfinite(x).all()):
            raise ValueError(
                f"from_data: expected a complete (N, {len(network.nodes)}) matrix, got {tuple(x.shape)}; with missing "
                "values, train by pg.fit instead."
            )
        mean = x.double().mean(0)
        centred = x.double() - mean
        weights = torch.zeros_like(network.weights, dtype=torch.float64)
        variance = torch.zeros_like(mean)
        for i, above in enumerate(network.parents.values()):
            columns = [network.nodes.index(p) for p in above]
            z = centred[:, columns]
            ridge = torch.cat([z, prior_precision**0.5 * torch.eye(len(columns)).to(z)])
            w = torch.linalg.lstsq(ridge, torch.cat([centred[:, i], z.new_zeros(len(columns))])[:, None]).solution[:, 0]
            weights[i, columns] = w
            # At the mode of (w, sigma) the prior of w counts as rows: sum of squares + lambda |w|^2 over N + parents.
            rows = len(x) + (len(columns) if prior_precision else 0)
            variance[i] = ((centred[:, i] - z @ w).square().sum() + prior_precision * w.square().sum()) / rows
            if not variance[i] > 1e-12 * centred[:, i].square().mean():
                raise ValueError(
                    f"from_data: {network.nodes[i]!r} has no noise given its parents: take it, or one, away."
                )
        with torch.no_grad():
            network.weights.copy_(weights)
            network.intercept.copy_(mean - weights @ mean)
            network.log_scale.copy_(variance.log() / 2)
        return network

    def moments(self) -> tuple[Tensor, Tensor]:
        r"""The mean :math:`\mu`, (D,), and the covariance :math:`\Sigma`, (D, D), of all nodes."""
        inverse = torch.linalg.inv(torch.eye(len(self.nodes)).to(self.weights) - self.weights * self.edges)
        root = inverse * self.log_scale.exp()  # (I - W)^-1 diag(sigma)
        return inverse @ self.intercept, root @ root.T

    def model(self, x: Tensor) -> Tensor:
        r"""The density :math:`p(x)` of data with shape :math:`(N, D)`; returns it completed."""
        loc, covariance = self.moments()
        with self.plate(x):
            return observe("x", dist.MultivariateNormal(loc, covariance), x)

    def query(
        self,
        targets: str | Sequence[str],
        given: Mapping[str, float | Tensor] | None = None,
        do: Mapping[str, float] | None = None,
    ) -> Any:
        r"""The distribution of some nodes given others, in closed form.

        Arguments:
            targets: The name of a node, or several.
            given: What was seen, by name: a number, or one for each of N rows, (N,).
            do: Values set by intervention, see :meth:`do`.

        Returns:
            A normal distribution of one name, of several a multivariate one with event shape (targets,), in float64;
            batch shape () or (N,).

        Raises:
            ValueError: A name is not in the network, or a target is among what is given.
        """
        if do:
            return self.do(do).query(targets, given)
        given = given or {}
        names = [targets] if isinstance(targets, str) else list(targets)
        check_known("query", (*names, *given), self.parents)
        if both := [n for n in names if n in given]:
            raise ValueError(f"query: {both[0]!r} is a target, and given: take it away from one of them.")
        t, o = ([self.nodes.index(n) for n in some] for some in (names, given))
        loc, covariance = (m.detach().double() for m in self.moments())
        values = [torch.as_tensor(v).to(loc) for v in given.values()]
        seen = torch.stack(torch.broadcast_tensors(*values), -1) if values else loc.new_zeros(0)  # (*rows, given)
        gain = torch.linalg.solve(covariance[o][:, o], covariance[o][:, t]).T  # (targets, given)
        mean = loc[t] + (seen - loc[o]) @ gain.T
        left = covariance[t][:, t] - gain @ covariance[o][:, t]
        if isinstance(targets, str):
            return dist.Normal(mean[..., 0], left[0, 0].sqrt())
        return dist.MultivariateNormal(mean, (left + left.T) / 2)

    def do(self, values: Mapping[str, float]) -> "LinearGaussianBayesianNetwork":
        r"""The network of the other nodes where some are set to values: :math:`p(x_{-i} \mid \mathrm{do}(x_i = v))`.

        Raises:
            ValueError: A name is not in the network, or all of its nodes are set.
        """
        check_known("do", values, self.parents)
        parents = {n: [p for p in above if p not in values] for n, above in self.parents.items() if n not in values}
        network = LinearGaussianBayesianNetwork(parents).to(self.weights)
        rest, fixed = ([self.nodes.index(n) for n in some] for some in (parents, values))
        with torch.no_grad():
            w = self.weights * self.edges
            network.weights.copy_(w[rest][:, rest])
            network.intercept.copy_(self.intercept[rest] + w[rest][:, fixed] @ torch.tensor([*values.values()]).to(w))
            network.log_scale.copy_(self.log_scale[rest])
        return network
