r"""The posterior over the graphs of an Ising model: which binary columns depend on each other given all others.

Of spins :math:`s \in \{-1, 1\}^D` the pseudo-likelihood is a logistic regression of each spin on all others, in which
both ends of an edge have one coupling,

.. math::
    \log \tilde p(s \mid J, h) = \sum_i \log \sigma(s_i \psi_i), \qquad
    \psi_i = 2 h_i + 2 \sum_j J_{ij} (s_j - \bar s_j), \qquad
    J_{ij} \sim (1 - \theta) \, \delta_0 + \theta \, \mathcal{N}(0, \tau^2) ,

with :math:`\tau = 1/2`, unit normal fields h and a uniform :math:`\theta`. It sees each coupling from both ends, and so
twice: its square root stands for the likelihood, whose information on a coupling of two spins is then the right one.

**Gibbs sampling.** With :math:`\omega \sim \operatorname{PG}(1/2, \psi)`, a Polya-Gamma variable for each row and spin,
couplings and fields are Gaussian, and whether a coupling is zero is drawn with the coupling integrated out; that
probability is averaged for that of the edge. Polya-Gamma variables are sums of weighted gamma variables, cut after
:data:`TERMS` and completed by the mean of the rest. **Missing values** are drawn given the row and the couplings.

References:
    | Statistical analysis of non-lattice data (Besag, 1975)
    | https://doi.org/10.2307/2987782
    | Bayesian inference for logistic models using Polya-Gamma latent variables (Polson, Scott & Windle, 2013)
    | https://doi.org/10.1080/01621459.2013.829001
"""

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit

from pyro_gen.structure.graphs.base import GraphDraws
from pyro_gen.structure.graphs.pairs import EdgePrior, most_drawn, tournament

__all__ = ["ising_edges", "polya_gamma"]

Array = npt.NDArray[np.float64]
Edges = npt.NDArray[np.bool_]

SHARE = 0.5  # of the pseudo-likelihood, which sees each coupling twice
SLAB, FIELD = 0.5, 1.0  # standard deviations of couplings that are not zero, and of fields
BURN_IN = 100
TERMS = 12


def ising_edges(
    values: Array,
    *,
    forbidden: Edges | None = None,
    required: Edges | None = None,
    chains: int = 4,
    draws: int = 500,
    seed: int = 0,
) -> GraphDraws:
    """Draws graphs of binary columns, an edge where two depend on each other given all others.

    Arguments:
        values: Rows of 0 and 1 with shape (N, D), NaN where an entry is missing; each column varies.
        forbidden: Pairs without an edge, with shape (D, D); one direction suffices.
        required: Pairs with an edge, the same.
        chains: The number of chains.
        draws: The graphs that each draws, after 100 sweeps.
        seed: Seeds all that is random.

    Returns:
        The draws; their log scores are the logarithm of the square root of the pseudo-likelihood, at the couplings that
        were drawn with them, ``details["couplings"]`` the mean of J, with shape (D, D).

    Raises:
        ValueError: A value is neither 0 nor 1, nor missing.
    """
    if not np.isin(values[~np.isnan(values)], (0.0, 1.0)).all():
        raise ValueError("ising_edges: columns are of 0 and 1, with NaN where an entry is missing.")
    generator = np.random.default_rng(seed)
    d = values.shape[1]
    prior = EdgePrior(d, chains, forbidden, required)
    state = _State(values, chains, prior.required, generator)
    probabilities, couplings = np.zeros((2, d, d))
    graphs = np.zeros((chains, draws, d, d), dtype=bool)
    scores = np.zeros((chains, draws))
    for step in range(-BURN_IN, draws):
        found = state.sweep(prior, generator)
        if step >= 0:
            probabilities += found
            couplings += state.couplings.mean(0)
            graphs[:, step] = state.graphs
            scores[:, step] = state.score()
    drawn = GraphDraws(
        probabilities / draws,
        graphs,
        graphs,
        graphs[0, 0],
        scores,
        directed=False,
        details={"couplings": couplings / draws},
    )
    return most_drawn(drawn)


def polya_gamma(shape: Array, tilt: Array, generator: np.random.Generator) -> Array:
    r"""Draws from :math:`\operatorname{PG}(b, c)`, of the density of :math:`e^{-c^2 \omega / 2}` tilted.

    Arguments:
        shape: The parameter b > 0.
        tilt: The parameter c; both broadcast.

    Example:
        >>> w = polya_gamma(np.full(20000, 0.5), np.array(3.0), np.random.default_rng(0))
        >>> round(float(w.mean()), 2), round(float(0.5 / 6 * np.tanh(1.5)), 2)
        (0.08, 0.08)
    """
    shape, tilt = np.broadcast_arrays(shape, tilt)
    half = np.abs(tilt) / 2
    with np.errstate(invalid="ignore"):
        mean = shape / 4 * np.where(half > 1e-6, np.tanh(half) / np.maximum(half, 1e-6), 1.0)
    total, of_terms = np.zeros(shape.shape), np.zeros(shape.shape)
    for k in range(TERMS):
        weight = 0.5 / (np.pi**2 * (k + 0.5) ** 2 + half**2)
        total += weight * generator.standard_gamma(shape)
        of_terms += weight
    return np.asarray(total + mean - shape * of_terms)


class _State:
    """Graphs, couplings, fields and completed spins of C chains; spins of complete data are there once, rows merged."""

    def __init__(self, values: Array, chains: int, required: Edges, generator: np.random.Generator) -> None:
        self.missing = np.isnan(values)
        d = values.shape[1]
        share = np.nanmean(values, 0)
        if self.missing.any():
            drawn = generator.random((chains, *values.shape)) < share
            self.spins = 2 * np.where(self.missing, drawn, values) - 1.0
            self.counts = np.ones(len(values))
        else:
            rows, counts = np.unique(values, axis=0, return_counts=True)
            self.spins, self.counts = 2 * rows[None] - 1.0, counts.astype(np.float64)
        self.centre = 2 * share - 1
        self.graphs = np.broadcast_to(required, (chains, d, d)).copy()
        self.couplings = np.zeros((chains, d, d))
        self.fields = np.arctanh(np.clip(self.centre, -0.99, 0.99)) * np.ones((chains, 1))

    def tilts(self) -> Array:
        """The log-odds psi of all spins given the others, with shape (C, N, D)."""
        return np.asarray(2 * (self.fields[:, None] + (self.spins - self.centre) @ self.couplings))

    def score(self) -> Array:
        """The share of the log pseudo-likelihood, nats, with shape (C,)."""
        each = log_expit(self.spins * self.tilts())
        return np.asarray(SHARE * np.einsum("n,cni->c", self.counts, each))

    def sweep(self, prior: EdgePrior, generator: np.random.Generator) -> Array:
        """Draws all that is not seen, and returns the probabilities of edges (D, D), their mean over chains."""
        d = self.graphs.shape[1]
        self._complete(generator)
        weights = SHARE * self.counts[:, None]  # (N, 1)
        psi = self.tilts()
        omega = polya_gamma(np.broadcast_to(weights, psi.shape), psi, generator)
        rest = weights * self.spins / 2 - omega * psi  # (C, N, D)
        spins = self.spins - self.centre
        found = np.zeros((d, d))
        for one, other in tournament(d, generator):
            forth, back = spins[..., one], spins[..., other]  # (C or 1, N, P)
            curvature = 4 * (omega[..., one] * back**2 + omega[..., other] * forth**2).sum(1)  # (C, P)
            old = self.couplings[:, one, other]
            slope = 2 * (back * rest[..., one] + forth * rest[..., other]).sum(1) + old * curvature
            precision = curvature + SLAB**-2
            log_ratio = (slope**2 / precision - np.log1p(SLAB**2 * curvature)) / 2
            p = prior.probability(log_ratio, one, other)
            found[one, other] = found[other, one] = p.mean(0)
            there = generator.random(p.shape) < p
            new = there * (slope / precision + generator.normal(size=p.shape) / np.sqrt(precision))
            change = 2 * (new - old)[:, None]
            rest[..., one] -= change * omega[..., one] * back
            rest[..., other] -= change * omega[..., other] * forth
            self.couplings[:, one, other] = self.couplings[:, other, one] = new
            self.graphs[:, one, other] = self.graphs[:, other, one] = there
        curvature = 4 * omega.sum(1)  # (C, D)
        precision = curvature + FIELD**-2
        slope = 2 * rest.sum(1) + self.fields * curvature
        self.fields = slope / precision + generator.normal(size=slope.shape) / np.sqrt(precision)
        prior.draw(self.graphs, generator)
        return found

    def _complete(self, generator: np.random.Generator) -> None:
        """Draws what is missing, a column after the other, given the rest of the row."""
        for j in np.flatnonzero(self.missing.any(0)):
            rows = self.missing[:, j]
            others = self.spins[:, rows] - self.centre
            psi = 2 * (self.fields[:, None, j] + (others @ self.couplings[:, :, j, None])[..., 0])  # (C, M)
            self.spins[:, rows, j] = np.where(generator.random(psi.shape) < expit(psi), 1.0, -1.0)
