r"""The microcanonical degree-corrected block model: the description length of a network and its groups, exactly.

The number of edges between groups, :math:`e_{rs}` (:math:`e_{rr}` twice that inside), and the degrees :math:`k_i` are
variables of their own, and each is drawn from all that are possible given the one before:

.. math::
    p(A, k, e, b) &= p(A \mid k, e, b) \, p(k \mid e, b) \, p(e \mid b) \, p(b), \\
    p(A \mid k, e, b) &= \frac{\prod_{r < s} e_{rs}! \prod_r e_{rr}!! \prod_i k_i!}
    {\prod_r e_r! \prod_{i < j} A_{ij}! \prod_i A_{ii}!!}, \qquad e_r = \textstyle\sum_s e_{rs}, \\
    p(k \mid e, b) &= \prod_r \frac{\prod_k \eta^r_k!}{n_r! \; q(e_r, n_r)}, \qquad
    p(e \mid b) = \binom{B (B + 1) / 2 + E - 1}{E}^{-1}, \\
    p(b) &= \frac{\prod_r n_r!}{N!} \binom{N - 1}{B - 1}^{-1} \frac1N ,

with :math:`\eta^r_k` nodes of degree k in group r, and :math:`q(m, n)` the number of partitions of the integer m into
n parts or less. The description length is :math:`\Sigma = -\log p(A, k, e, b)`, in nats. Nothing is approximated up to
some ten thousand edges:
:math:`q(m, n) = q(m, n - 1) + q(m - n, n)`. Of nodes of two kinds, with edges between them only, groups have one
kind each, and pairs of groups of one kind are not counted in :math:`p(e \mid b)`; :math:`p(b)` is a product over kinds.

References:
    | Nonparametric Bayesian inference of the microcanonical stochastic block model (Peixoto, 2017)
    | https://doi.org/10.1103/PhysRevE.95.012317
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.special import gammaln, spence

__all__ = ["description_length", "log_binomial", "log_double_factorial", "log_partitions", "log_partitions_asymptotic"]

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def log_binomial(n: npt.ArrayLike, k: npt.ArrayLike) -> Array:
    r""":math:`\log \binom nk`, of arrays that broadcast."""
    n, k = np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64)
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


def log_double_factorial(n: npt.ArrayLike) -> Array:
    r""":math:`\log n!!` of even numbers, :math:`(2 m)!! = 2^m m!`."""
    half = np.asarray(n, dtype=np.float64) / 2
    return np.asarray(half * np.log(2) + gammaln(half + 1))


@functools.lru_cache(maxsize=4)
def log_partitions(total: int, parts: int) -> Array:
    r"""A table of :math:`\log q(m, n)`, the integers m up to ``total``, the parts n up to ``parts``.

    It is exact up to 20 million entries with m up to 70,000 (larger numbers of partitions are no floats), else by the
    asymptotic formula of :func:`log_partitions_asymptotic`.

    Returns:
        The table, with shape (parts + 1, total + 1); :math:`-\infty` where there is no partition. It is kept: do not
        write into it.

    Example:
        >>> np.exp(log_partitions(5, 3)[:, 5]).round().tolist()  # none; 5; 4 + 1, 3 + 2; 3 + 1 + 1, 2 + 2 + 1
        [0.0, 1.0, 3.0, 5.0]
    """
    if not _exact(total, parts):
        return log_partitions_asymptotic(np.arange(total + 1), np.arange(parts + 1)[:, None])
    table = np.zeros((parts + 1, total + 1))
    table[0, 0] = 1.0
    for n in range(1, parts + 1):
        row = np.zeros(-(-(total + 1) // n) * n)
        row[: total + 1] = table[n - 1]
        table[n] = row.reshape(-1, n).cumsum(0).ravel()[: total + 1]
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(table))


def _exact(total: int, parts: int) -> bool:
    return total <= 70_000 and total * parts <= 20_000_000


def log_partitions_asymptotic(m: npt.ArrayLike, n: npt.ArrayLike) -> Array:
    r""":math:`\log q(m, n)` for large m (Szekeres, 1951): some tenths of a nat too small at m of a hundred.

    With :math:`u = n / \sqrt m` and :math:`v = u \sqrt{\operatorname{Li}_2(1 - e^{-v})}`, it is
    :math:`\sqrt m \, (2 v / u - u \log(1 - e^{-v})) + \log \frac{v}{2^{3/2} \pi u m} - \frac12 \log(1 - e^{-v} (1 +
    u^2 / 2))`; for :math:`n < m^{1/4}`, :math:`\binom{m - 1}{n - 1} / n!`.

    Example:
        >>> float((log_partitions(5000, 200) - log_partitions_asymptotic(5000, 200))[200, 5000].round(2))
        -0.01
    """
    m, n = np.broadcast_arrays(np.asarray(m, dtype=np.float64), np.asarray(n, dtype=np.float64))
    m_, n_ = np.maximum(m, 1.0), np.minimum(np.maximum(n, 1.0), np.maximum(m, 1.0))
    u = n_ / np.sqrt(m_)
    v = u.copy()
    for _ in range(60):
        v = u * np.sqrt(spence(np.exp(-v)))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_one = np.log1p(-np.exp(-v))
        large = np.sqrt(m_) * (2 * v / u - u * log_one) + np.log(v / (2**1.5 * np.pi * u * m_))
        large = large - np.log1p(-np.exp(-v) * (1 + u**2 / 2)) / 2
    value = np.where(n_ < m_**0.25, log_binomial(m_ - 1, n_ - 1) - gammaln(n_ + 1), large)
    return np.asarray(np.where(m == 0, 0.0, np.where(n == 0, -np.inf, value)))


def description_length(adjacency: Any, labels: npt.ArrayLike, kinds: npt.ArrayLike | None = None) -> float:
    r"""The description length :math:`\Sigma` of a network and its groups, in nats.

    Arguments:
        adjacency: Symmetric numbers of edges with shape (N, N), dense or sparse; the diagonal has each loop twice.
        labels: The group of each node, with shape (N,).
        kinds: Of a bipartite network, the kind of each node, 0 or 1, with shape (N,).

    Example:
        >>> import networkx as nx
        >>> karate = nx.to_numpy_array(nx.karate_club_graph(), weight=None)
        >>> round(description_length(karate, np.zeros(34)), 4)
        222.8901
    """
    a = scipy.sparse.coo_array(adjacency)
    b = np.unique(np.asarray(labels), return_inverse=True)[1]
    nodes, groups = len(b), int(b.max()) + 1
    weight = np.rint(a.data).astype(np.int64)
    e = np.bincount(b[a.row] * groups + b[a.col], weight, groups**2).reshape(groups, groups)
    k = np.rint(np.bincount(a.row, weight, nodes)).astype(np.int64)
    e_r, n_r = np.rint(e.sum(1)).astype(np.int64), np.bincount(b)
    edges = int(weight.sum()) // 2
    upper = np.triu_indices(groups, 1)
    given = gammaln(e_r + 1).sum() - gammaln(e[upper] + 1).sum() - log_double_factorial(np.diag(e)).sum()
    given += gammaln(weight[a.row < a.col] + 1).sum() + log_double_factorial(weight[a.row == a.col]).sum()
    given -= gammaln(k + 1).sum()
    eta = np.bincount(b * (int(k.max()) + 1) + k)
    exact = _exact(2 * edges, nodes)
    q = log_partitions(2 * edges, nodes)[n_r, e_r] if exact else log_partitions_asymptotic(e_r, n_r)
    of_degrees = (gammaln(n_r + 1) + q).sum() - gammaln(eta + 1).sum()
    kind = np.zeros(nodes, dtype=np.int64) if kinds is None else np.asarray(kinds)
    of_kind = [np.unique(b[kind == t]) for t in np.unique(kind)]
    pairs = groups * (groups + 1) // 2 if kinds is None else int(np.prod([len(g) for g in of_kind]))
    of_groups = -gammaln(n_r + 1).sum()
    for g in of_kind:
        size = n_r[g].sum()
        of_groups += gammaln(size + 1) + log_binomial(size - 1, len(g) - 1) + np.log(size)
    return float(given + of_degrees + log_binomial(pairs + edges - 1, edges) + of_groups)
