r"""Belief propagation for the degree-corrected block model, its parameters by EM: groups whose signal is weak.

.. math::
    b_i \sim \operatorname{Categorical}(p), \qquad
    A_{ij} \mid b \sim \operatorname{Poisson}\Big(\frac{d_i d_j}{2 m} \, \omega_{b_i b_j}\Big),

for degrees :math:`d_i` and m edges. On a sparse network, which is locally a tree, the marginals of b solve

.. math::
    \psi_{i \to j}(r) \propto p_r e^{-d_i h_r} \prod_{k \in \partial i \setminus j} \sum_s \omega_{rs} \psi_{k \to i}(s)
    , \qquad h_r = \sum_s \frac{\omega_{rs} D_s}{2 m}, \quad D_s = \sum_k d_k \psi_k(s),

where pairs without an edge act through the field h alone, less the pairs that were not observed. With all neighbours
in the product it is :math:`\psi_i`, of the normalising constant :math:`Z_i`, and an edge has
:math:`Z_{ij} = \sum_{rs} \omega_{rs} \psi_{i \to j}(r) \psi_{j \to i}(s)`. The log-likelihood of the parameters, which
sums over all partitions and not only the best, is the Bethe free energy, negative,

.. math::
    \log p(A \mid p, \omega) \approx
    \sum_i \log Z_i - \sum_{i < j} A_{ij} \log Z_{ij} + \frac{D^\top \omega D}{4 m} .

**EM** sets :math:`p_r` to the mean of :math:`\psi_i(r)`, and :math:`\omega_{rs}` to the edges between groups that are
expected over those at random. **Evidence**: the log-likelihood is changed by what integrating p and :math:`\omega`
takes from that of the expected counts, :math:`n_r` nodes and :math:`m_{rs}` edges (Cheeseman & Stutz, 1996). Of
:math:`p \sim \operatorname{Dirichlet}(1)` it is known. Degrees are given, so that :math:`\sum_s m_{rs} = D_r`, and the
:math:`m_{rs}` of r < s are free: exponential ones up to the smaller of :math:`D_r, D_s`, with mean
:math:`D_r D_s / 2 m`, integrated by Laplace's method. The K! labellings are counted.

References:
    | Asymptotic analysis of the stochastic block model for modular networks (Decelle et al., 2011)
    | https://doi.org/10.1103/PhysRevE.84.066106
    | Model selection for degree-corrected block models (Yan et al., 2014)
    | https://doi.org/10.1088/1742-5468/2014/05/P05007
    | Spectral clustering of graphs with the Bethe Hessian (Saade, Krzakala & Zdeborova, 2014)
    | https://arxiv.org/abs/1406.1880
    | Bayesian classification (AutoClass): theory and results (Cheeseman & Stutz, 1996)
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.sparse.linalg import eigsh
from scipy.special import gammaln, xlogy
from sklearn.cluster import KMeans

__all__ = ["Beliefs", "Edges", "State", "propagate", "run"]

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

DAMPING, TOLERANCE = 0.3, 1e-4  # of messages
EM_EVERY, STEPS = 5, (60, 400)  # of all starts, of the best of them
RANDOM_STARTS, KEPT_STARTS = 2, 2
FLOOR = 1e-300


class Edges(NamedTuple):
    """A network of N nodes by its edges, each in both directions, ordered by where it comes to.

    Attributes:
        source: Where each of 2 M directed edges comes from.
        target: Where it comes to, ascending; every node has one.
        back: The number of the edge in the other direction.
        weight: How many edges it stands for.
        degree: Of each node, by its edges and the share of its pairs that was observed, with shape (N,).
        missing: Pairs that were not observed, with shape (P, 2).
        first: Of each node, the first edge that comes to it.
    """

    source: Labels
    target: Labels
    back: Labels
    weight: Array
    degree: Array
    missing: Labels
    first: Labels

    @classmethod
    def of(cls, adjacency: scipy.sparse.csr_array, missing: Labels) -> "Edges":
        """Of a symmetric matrix of numbers of edges in which every node has one."""
        coo = adjacency.tocoo()
        order = np.lexsort((coo.col, coo.row))
        target, source, weight = (v[order] for v in (coo.row, coo.col, coo.data))
        back = np.lexsort((target, source))  # the edges by where they come from: (i, j) at the place of (j, i)
        plain = np.asarray(np.bincount(target, weight), dtype=np.float64)
        degree = plain.copy()
        for _ in range(5 if len(missing) else 0):
            unseen = np.zeros_like(degree)
            np.add.at(unseen, missing[:, 0], degree[missing[:, 1]])
            np.add.at(unseen, missing[:, 1], degree[missing[:, 0]])
            degree = plain / (1 - unseen / degree.sum())
        first = np.searchsorted(target, np.arange(len(plain)))
        return cls(source, target, back, weight.astype(np.float64), degree, missing, first)


class Beliefs(NamedTuple):
    """Where belief propagation came to.

    Attributes:
        log_evidence: Of the number of groups, nats; -inf where one of them came to be empty.
        log_likelihood: Of the parameters, nats.
        marginals: The probability of each group, with shape (N, K).
        p: The sizes of the groups, with shape (K,).
        omega: Edges between groups over those at random, with shape (K, K).
    """

    log_evidence: float
    log_likelihood: float
    marginals: Array
    p: Array
    omega: Array


def propagate(edges: Edges, groups: int, generator: np.random.Generator) -> Beliefs:
    """The best of several starts, all at once.

    Arguments:
        edges: The network.
        groups: Their number K.
        generator: What draws the starts.
    """
    if groups == 1:
        return run(edges, State(np.ones((1, 1, len(edges.degree))), np.ones((1, 1)), np.ones((1, 1, 1))), 1)[1][0]
    node, omega = _starts(edges, groups, generator)
    state = State(node, np.full((len(omega), groups), 1 / groups), omega)
    state, found = run(edges, state, STEPS[0])
    best = np.argsort([-one.log_evidence for one in found])[:KEPT_STARTS]
    kept = State(state.node[best], state.p[best], state.omega[best], None if state.psi is None else state.psi[best])
    return max(run(edges, kept, STEPS[1])[1], key=lambda one: one.log_evidence)


class State(NamedTuple):
    """Of R starts: marginals of nodes (R, K, N), p (R, K), omega (R, K, K), messages (R, K, 2 M) that follow."""

    node: Array
    p: Array
    omega: Array
    psi: Array | None = None


def _starts(edges: Edges, groups: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Marginals (R, K, N) and omega (R, K, K): two by spectra, some random, drawn to and from their own group."""
    starts, omegas = [], []
    for sign in (1.0, -1.0):
        label = _spectral(edges, groups, sign, generator)
        starts.append(0.8 * np.eye(groups)[label].T + 0.2 / groups)
        omegas.append(_contrast(groups, 3.0 if sign > 0 else 1 / 3))
    for start in range(RANDOM_STARTS):
        starts.append(generator.dirichlet(np.ones(groups), len(edges.degree)).T)
        omegas.append(_contrast(groups, (3.0, 1 / 3)[start]))
    return np.stack(starts), np.stack(omegas)


def _contrast(groups: int, ratio: float) -> Array:
    omega = np.where(np.eye(groups, dtype=bool), ratio, 1.0)
    return np.asarray(omega / omega.mean())


def _spectral(edges: Edges, groups: int, sign: float, generator: np.random.Generator) -> Labels:
    """Groups by the lowest eigenvectors of the Bethe Hessian, (r^2 - 1) I - r A + D."""
    n, d = len(edges.degree), edges.degree
    r = sign * math.sqrt(max(float((d**2).mean() / d.mean()) - 1, 1.0))
    a = scipy.sparse.csr_array((edges.weight, (edges.target, edges.source)), (n, n))
    h = scipy.sparse.diags_array(r**2 - 1 + d) - r * a
    if n > 200:
        _, vectors = eigsh(h.tocsc(), groups, which="SA", v0=generator.normal(size=n), tol=1e-3)
    else:
        vectors = np.linalg.eigh(h.toarray())[1][:, :groups]
    seed = int(generator.integers(2**31))
    return np.asarray(KMeans(groups, n_init=3, random_state=seed).fit_predict(vectors), dtype=np.int64)


def _softmax(logits: Array) -> tuple[Array, Array]:
    """Over the groups of (R, K, ...), and the logarithm of the sum, (R, ...)."""
    top = logits.max(1, keepdims=True)
    value = np.exp(logits - top)
    total = value.sum(1, keepdims=True)
    return value / total, (np.log(total) + top)[:, 0]


def run(edges: Edges, state: State, steps: int, learn: bool = True) -> tuple[State, list[Beliefs]]:
    """Belief propagation from where R starts are.

    Arguments:
        edges: The network.
        state: Where they are.
        steps: The most steps.
        learn: Whether p and omega are learned.

    Returns:
        Where they end, and what each found.
    """
    node, p, omega, psi = state
    d, total = edges.degree, float(edges.degree.sum())
    psi = node[:, :, edges.source] if psi is None else psi
    for step in range(steps):
        into = edges.weight * np.log(np.maximum(omega @ psi, FLOOR))
        local = np.log(np.maximum(p, FLOOR))[:, :, None] - d * _field(edges, node, omega, total)
        local = local + np.add.reduceat(into, edges.first, 2)
        new, _ = _softmax(local[:, :, edges.source] - into[:, :, edges.back])
        change = float(np.abs(new - psi).mean((1, 2)).max())
        psi = DAMPING * psi + (1 - DAMPING) * new
        node, log_z = _softmax(local)
        if learn and step % EM_EVERY == EM_EVERY - 1 and node.shape[1] > 1:
            p = node.mean(2)
            mass = node @ d
            omega = total * _counts(edges, psi, omega) / np.maximum(mass[:, :, None] * mass[:, None], 1e-12)
            omega = np.maximum(omega, 1e-6)
        if step > 3 * EM_EVERY and change < TOLERANCE:
            break
    mass, counts = node @ d, _counts(edges, psi, omega)
    likelihood = log_z.sum(1) + (mass[:, :, None] * omega * mass[:, None]).sum((1, 2)) / (2 * total)
    likelihood -= np.log(_pairs(edges, psi, omega)) @ edges.weight / 2
    if len(edges.missing):
        i, j = edges.missing.T
        likelihood -= np.einsum("m,rkm,rkm->r", d[i] * d[j] / total, node[:, :, i], omega @ node[:, :, j])
    found = []
    for r, value in enumerate(likelihood):
        evidence = float(value) + _integrated(node[r].sum(1), counts[r], mass[r], total)
        found.append(Beliefs(evidence, float(value), node[r].T, p[r], omega[r]))
    return State(node, p, omega, psi), found


def _pairs(edges: Edges, psi: Array, omega: Array) -> Array:
    """Z_ij of each directed edge, with shape (R, 2 M)."""
    return np.asarray((psi[:, :, edges.back] * (omega @ psi)).sum(1))


def _counts(edges: Edges, psi: Array, omega: Array) -> Array:
    """Expected numbers of directed edges between groups, with shape (R, K, K)."""
    share = edges.weight / _pairs(edges, psi, omega)
    return np.asarray(omega * ((share[:, None] * psi[:, :, edges.back]) @ psi.transpose(0, 2, 1)))


def _field(edges: Edges, node: Array, omega: Array, total: float) -> Array:
    """h_r, for each node less what was not observed, with shape (R, K, 1 or N)."""
    field = omega @ (node @ edges.degree)[:, :, None] / total
    if len(edges.missing):
        mixed = edges.degree * (omega @ node) / total
        unseen = np.zeros((node.shape[2], *node.shape[:2]))
        for i, j in (edges.missing.T, edges.missing.T[::-1]):
            np.add.at(unseen, i, mixed[:, :, j].transpose(2, 0, 1))
        field = field - unseen.transpose(1, 2, 0)
    return np.asarray(field)


def _integrated(sizes: Array, counts: Array, mass: Array, total: float) -> float:
    """What integrating the parameters takes from the log-likelihood of the expected counts, K! labellings counted."""
    groups, n = len(sizes), float(sizes.sum())
    if sizes.min() < 1:
        return -math.inf  # a group is empty: this is the evidence of fewer
    value = gammaln(groups) + gammaln(sizes + 1).sum() - gammaln(n + groups) - xlogy(sizes, sizes / n).sum()
    r, s = np.triu_indices(groups, 1)
    between, random = np.maximum(counts[r, s], 1.0), mass[r] * mass[s] / total
    value -= (between / random + np.log(random) + np.log1p(-np.exp(-np.minimum(mass[r], mass[s]) / random))).sum()
    ends = (np.arange(groups) == r[:, None]) | (np.arange(groups) == s[:, None])  # which pairs a group is in
    hessian = np.diag(1 / between) + (ends / (2 * np.maximum(np.diag(counts), 1.0))) @ ends.T
    value += len(r) / 2 * math.log(2 * math.pi) - np.linalg.slogdet(hessian)[1] / 2
    return float(value + gammaln(groups + 1))
