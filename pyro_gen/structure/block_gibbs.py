r"""Partitions given the number of groups, of large networks: Gibbs sampling of nodes by the hundred.

The model is that of :mod:`pyro_gen.structure.belief_propagation`, with priors
:math:`p \sim \operatorname{Dirichlet}(1)` and :math:`\omega_{rs} \sim \operatorname{Exponential}(1)`,
and both are drawn from their conditionals,

.. math:: p \mid b \sim \operatorname{Dirichlet}(1 + n), \qquad
    \omega_{rs} \mid b \sim \operatorname{Gamma}(1 + m_{rs}, 1 + t_{rs}),

of :math:`m_{rs}` edges where :math:`t_{rs}` are expected at random. Nodes that no edge joins act on one another by the
field only, which is weak. So a set of them is drawn at once, each from its own conditional given all others as they
are, and the whole is accepted or refused by Metropolis & Hastings, which makes the step exact; few are refused.

References:
    | Estimation and prediction for stochastic blockmodels ... (Snijders & Nowicki, 1997)
    | https://doi.org/10.1007/s003579900004
"""

import networkx as nx
import numpy as np
import numpy.typing as npt
import scipy.sparse

from pyro_gen.structure.belief_propagation import Beliefs, Edges

__all__ = ["sample_partitions"]

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

SET_SHARE = 0.125  # of the nodes that are drawn at once, at most


def sample_partitions(
    edges: Edges, beliefs: Beliefs, chains: int, burn_in: int, draws: int, thin: int, generator: np.random.Generator
) -> tuple[Labels, Array]:
    """Chains that start at draws of the beliefs.

    Arguments:
        edges: The network.
        beliefs: Where belief propagation came to.
        chains: Their number C.
        burn_in: Sweeps before the first draw.
        draws: Their number S in each chain.
        thin: Sweeps for a draw.
        generator: What draws.

    Returns:
        Partitions with shape (C, S, N), and the rates omega (C, S, K, K).
    """
    cumulative = beliefs.marginals.cumsum(1)
    u = generator.random((chains, len(cumulative), 1))
    sampler = _Sampler(edges, (u > cumulative[None, :, :-1]).sum(2), beliefs.p, beliefs.omega, generator)
    kept, rates = [], []
    for sweep in range(burn_in + draws * thin):
        sampler.parameters()
        sampler.nodes()
        if sweep >= burn_in and (sweep - burn_in) % thin == thin - 1:
            kept.append(sampler.b.copy())
            rates.append(sampler.omega)
    return np.stack(kept, 1), np.stack(rates, 1)


class _Sampler:
    """Where C chains are."""

    def __init__(self, edges: Edges, b: Labels, p: Array, omega: Array, generator: np.random.Generator) -> None:
        n, groups = len(edges.degree), len(p)
        self.b, self.rng, self.d, self.total = b, generator, edges.degree, float(edges.degree.sum())
        self.p, self.omega = np.repeat(p[None], len(b), 0), np.repeat(omega[None], len(b), 0)
        self.z = np.ascontiguousarray((b.T[:, :, None] == np.arange(groups)).astype(np.float64))  # (N, C, K)
        self.a = scipy.sparse.csr_array((edges.weight, (edges.target, edges.source)), (n, n))
        i, j = edges.missing.T
        value = np.tile(edges.degree[i] * edges.degree[j] / self.total, 2)
        self.unseen = scipy.sparse.csr_array((value, (np.r_[i, j], np.r_[j, i])), (n, n))
        self.sets = [self._of(nodes) for nodes in _sets(self.a + self.unseen, max(1, int(SET_SHARE * n)), generator)]

    def _of(self, nodes: Labels) -> tuple[Labels, scipy.sparse.csr_array, scipy.sparse.csr_array | None]:
        return nodes, self.a[nodes], self.unseen[nodes] if self.unseen.nnz else None

    def parameters(self) -> None:
        """Draws p and omega."""
        n, _, groups = self.z.shape
        mass = np.einsum("n,nck->ck", self.d, self.z)
        flat = self.z.reshape(n, -1)
        counts = np.einsum("nck,ncl->ckl", self.z, (self.a @ flat).reshape(self.z.shape))
        expected = mass[:, :, None] * mass[:, None] / self.total
        own = np.einsum("n,nck->ck", self.d**2, self.z) / self.total
        expected -= own[:, :, None] * np.eye(groups)
        if self.unseen.nnz:
            expected -= np.einsum("nck,ncl->ckl", self.z, (self.unseen @ flat).reshape(self.z.shape))
        half = np.where(np.eye(groups, dtype=bool), 0.5, 1.0)
        omega = self.rng.gamma(1 + half * counts) / (1 + half * expected)
        upper = np.triu(omega)
        self.omega = upper + np.triu(omega, 1).transpose(0, 2, 1)
        weights = self.rng.gamma(1 + self.z.sum(0))
        self.p = weights / weights.sum(1, keepdims=True)

    def nodes(self) -> None:
        """Draws the groups of all nodes, a set at a time."""
        chains, groups = self.p.shape
        log_p, log_omega = np.log(self.p), np.log(np.maximum(self.omega, 1e-300))
        mass = np.einsum("n,nck->ck", self.d, self.z)
        for nodes, a, unseen in self.sets:
            flat, d = self.z.reshape(len(self.z), -1), self.d[nodes]
            near = (a @ flat).reshape(len(nodes), chains, groups)
            u = log_p + np.einsum("mcs,crs->mcr", near, log_omega)
            if unseen is not None:
                near = (unseen @ flat).reshape(len(nodes), chains, groups)
                u = u + np.einsum("mcs,crs->mcr", near, self.omega)
            old = self.z[nodes]
            forward = self._conditional(u, old, mass, d)
            total = np.exp(forward).cumsum(2)
            draw = (total[:, :, :-1] < self.rng.random((len(nodes), chains, 1)) * total[:, :, -1:]).sum(2)
            new = (draw[:, :, None] == np.arange(groups)).astype(np.float64)
            new_mass = mass + np.einsum("m,mck->ck", d, new - old)
            backward = self._conditional(u, new, new_mass, d)
            log_ratio = ((new - old) * u).sum((0, 2)) + (old * backward).sum((0, 2)) - (new * forward).sum((0, 2))
            log_ratio += self._among(old, mass, d) - self._among(new, new_mass, d)
            accepted = np.log(self.rng.random(chains)) < log_ratio
            self.z[nodes] = np.where(accepted[None, :, None], new, old)
            self.b[:, nodes] = np.where(accepted[:, None], draw.T, self.b[:, nodes])
            mass = np.where(accepted[:, None], new_mass, mass)

    def _conditional(self, u: Array, z: Array, mass: Array, d: Array) -> Array:
        """The logarithm of p(b_i | all others) of nodes whose groups are z, with shape (M, C, K)."""
        others = mass[None] - d[:, None, None] * z
        logits = u - d[:, None, None] * np.einsum("crs,mcs->mcr", self.omega, others) / self.total
        logits -= logits.max(2, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(2, keepdims=True)))

    def _among(self, z: Array, mass: Array, d: Array) -> Array:
        """The expected number of edges of all pairs, with shape (C,)."""
        whole = np.einsum("ck,ckl,cl->c", mass, self.omega, mass)
        return np.asarray((whole - np.einsum("m,mck,ckk->c", d**2, z, self.omega)) / (2 * self.total))


def _sets(graph: scipy.sparse.csr_array, largest: int, generator: np.random.Generator) -> list[Labels]:
    """Sets of nodes without a pair inside that the graph joins, of a largest size."""
    colour = nx.greedy_color(nx.from_scipy_sparse_array(graph), "largest_first")
    of = np.array([colour[v] for v in range(graph.shape[0])])
    sets = []
    for c in range(of.max() + 1):
        nodes = generator.permutation(np.flatnonzero(of == c))
        sets += [nodes[i : i + largest] for i in range(0, len(nodes), largest)]
    return sets
