r"""The posterior over the graphs of a Gaussian graphical model: which columns depend on each other given all others.

Given its neighbours, a column is a regression on them. Its score has the regression integrated out under the fraction
1/n of its own likelihood for a prior, which does not depend on the units: with the scatter matrix S of n + 1 centred
rows and a neighbourhood of p columns

.. math::
    \log p(x_i \mid x_{\mathrm{ne}(i)}) = \log \Gamma \Big(\frac{n + p}{2}\Big) - \log \Gamma \Big(\frac{p + 1}{2}\Big)
    - \frac{2 p + 1}{2} \log n - \frac{n - 1}{2} \log \frac{|S_{i \cup \mathrm{ne}(i)}|}{|S_{\mathrm{ne}(i)}|}

up to a constant. The product over columns sees each edge from both of its ends, so that its square root stands for the
likelihood of a graph: of two columns the posterior is then exact, and probabilities are about right where those of the
whole product claim half of the errors that they make. Neighbourhoods have fewer than n - 1 columns.

**Gibbs sampling** draws pairs by their conditional probability, which is averaged (Rao-Blackwellised) for that of the
edge. S swept on the neighbourhood of each column has the residual variances with each further column and without each
present one, so that a chain needs :math:`D^3` numbers.

**Missing values** are drawn along with the graphs: the precision from its G-Wishart posterior given the graph and the
completed rows, then rows given the precision.

References:
    | Learning Gaussian graphical models with fractional marginal pseudo-likelihood (Leppa-aho et al., 2017)
    | https://doi.org/10.1016/j.ijar.2017.01.001
    | A direct sampler for G-Wishart variates (Lenkoski, 2013)
    | https://doi.org/10.1002/sta4.23
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import gammaln

from pyro_gen.distributions.covariance_selection import select_covariance
from pyro_gen.distributions.gaussian import draw_missing
from pyro_gen.structure.graphs.base import GraphDraws
from pyro_gen.structure.graphs.pairs import EdgePrior, tournament

__all__ = ["gaussian_edges"]

Array = npt.NDArray[np.float64]
Edges = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

SHARE = 0.5  # of the product of scores, which sees each edge twice
BURN_IN = 100
FRESH = 25  # sweeps after which swept matrices are made anew
MOST_COLUMNS = 200  # whose swept matrices, D^3 numbers a chain, have room
PRIOR_ROWS = 3.0  # degrees of freedom of the G-Wishart prior by which missing values are drawn


def gaussian_edges(
    values: Array,
    *,
    forbidden: Edges | None = None,
    required: Edges | None = None,
    chains: int = 4,
    draws: int = 500,
    seed: int = 0,
) -> GraphDraws:
    """Draws graphs of columns, an edge where two depend on each other given all others.

    Arguments:
        values: Rows with shape (N, D), NaN where an entry is missing; each column varies.
        forbidden: Pairs without an edge, with shape (D, D); one direction suffices.
        required: Pairs with an edge, the same.
        chains: The number of chains.
        draws: The graphs that each draws, after 100 sweeps.
        seed: Seeds all that is random.

    Raises:
        ValueError: There are fewer than four rows, or more than 200 columns, or a column has as many required edges as
            there are rows.

    Example:
        >>> a = np.random.default_rng(0).normal(size=(100, 3))
        >>> a[:, 1] += a[:, 0]
        >>> gaussian_edges(a, draws=50).probabilities.round(1)[0, 1:].tolist()
        [1.0, 0.1]
    """
    if len(values) < 4:
        raise ValueError(f"gaussian_edges: got {len(values)} rows: a graph of numbers is found in four or more.")
    d = values.shape[1]
    if d > MOST_COLUMNS:
        raise ValueError(f"gaussian_edges: got {d} columns: there is room for {MOST_COLUMNS}, choose among them.")
    generator = np.random.default_rng(seed)
    x = (values - np.nanmean(values, 0)) / np.nanstd(values, 0)
    holes = bool(np.isnan(x).any())
    prior = EdgePrior(d, chains, forbidden, required)
    if prior.required.sum(1).max() >= len(x) - 2:
        raise ValueError(
            f"gaussian_edges: a column has {prior.required.sum(1).max()} required edges, in {len(x)} rows."
        )
    state = _Swept(np.broadcast_to(_scatter(np.nan_to_num(x)), (chains, d, d)), len(x) - 1, prior.required)
    total = np.zeros((d, d))
    graphs = np.zeros((chains, draws, d, d), dtype=bool)
    scores = np.zeros((chains, draws))
    for step in range(-BURN_IN, draws):
        if holes:
            state.scatter = _completed_scatter(x, state, generator)
            state.refresh()
        elif step % FRESH == 0:
            state.refresh()
        probabilities = _sweep(state, prior, generator)
        if step >= 0:
            total += probabilities
            graphs[:, step] = state.graphs
            scores[:, step] = SHARE * state.score() + prior.log_prior(state.graphs)
    best = graphs.reshape(-1, d, d)[scores.argmax()]
    return GraphDraws(total / draws, graphs, graphs, best, scores, directed=False)


def _scatter(x: Array) -> Array:
    centred = x - x.mean(0)
    return np.asarray(centred.T @ centred)


def _sweep(state: "_Swept", prior: EdgePrior, generator: np.random.Generator) -> Array:
    """Draws each pair of each chain, and returns the probabilities of edges (D, D), their mean over chains."""
    d = state.graphs.shape[1]
    found = np.zeros((d, d))
    for one, other in tournament(d, generator):
        p = prior.probability(SHARE * (state.gain(one, other) + state.gain(other, one)), one, other)
        found[one, other] = found[other, one] = p.mean(0)
        chain, pair = np.nonzero((generator.random(p.shape) < p) != state.graphs[:, one, other])
        state.turn(chain, one[pair], other[pair])
    prior.draw(state.graphs, generator)
    return found


def _completed_scatter(x: Array, state: "_Swept", generator: np.random.Generator) -> Array:
    """Draws precisions, means and what is missing of rows (N, D): the scatter matrices of the completed, (C, D, D)."""
    chains, d = state.graphs.shape[:2]
    n = len(x)
    root = np.linalg.cholesky(np.linalg.inv(state.scatter + np.eye(d)))
    freedom = PRIOR_ROWS + n - 1 + d - 1
    lower = np.tril(generator.normal(size=(chains, d, d)), -1)  # Bartlett's decomposition
    diagonal = np.sqrt(generator.chisquare(freedom - np.arange(d), size=(chains, d)))
    factor = root @ (lower + diagonal[:, :, None] * np.eye(d))
    wishart = torch.from_numpy(factor @ factor.swapaxes(1, 2))
    covariances = select_covariance(torch.linalg.inv(wishart), torch.from_numpy(state.graphs), 1e-6)
    rows = torch.from_numpy(x)
    scatters = []
    for c, covariance in enumerate(covariances):
        loc = state.means[c] + np.linalg.cholesky(covariance.numpy()) @ generator.normal(size=d) / np.sqrt(n)
        noise = torch.from_numpy(generator.normal(size=x.shape))
        completed = draw_missing(rows, torch.from_numpy(loc), covariance, noise).numpy()
        state.means[c] = completed.mean(0)
        scatters.append(_scatter(completed))
    return np.stack(scatters)


class _Swept:
    """Graphs of C chains, with the scatter matrix of each swept on the neighbourhood of each column.

    Entries of what is not in the neighbourhood are residual products, with those of neighbours regression weights;
    of neighbours alone it is the inverse, negative.
    """

    def __init__(self, scatter: Array, n: int, required: Edges) -> None:
        chains, d = scatter.shape[:2]
        self.scatter, self.n = scatter, n
        self.means = np.zeros((chains, d))
        self.graphs = np.broadcast_to(required, (chains, d, d)).copy()
        p = np.arange(d)
        self.of_size = gammaln((n + p) / 2) - gammaln((p + 1) / 2) - (2 * p + 1) / 2 * np.log(n)  # (D,)
        self.of_size[p >= n - 1] = -np.inf
        self.refresh()

    def refresh(self) -> None:
        """Sweeps anew."""
        inside = self.graphs.astype(np.float64)  # (C, D, D): of node i the neighbours
        row, column = inside[..., :, None], inside[..., None, :]
        whole = self.scatter[:, None]
        inverse = np.linalg.inv(whole * row * column + (1 - row) * np.eye(inside.shape[-1])) * row * column
        weights = inverse @ whole
        rest = (whole - whole @ weights) * (1 - row) * (1 - column)
        self.swept = rest + weights * (1 - column) + weights.swapaxes(-1, -2) * (1 - row) - inverse

    def gain(self, i: Places, j: Places) -> Array:
        """By how much the score of columns i is greater with neighbours j than without, nats, with shape (C, P)."""
        chain = np.arange(len(self.graphs))[:, None]
        there = self.graphs[:, i, j]
        now = self.swept[chain, i, i, i]
        turned = now - self.swept[chain, i, i, j] ** 2 / self.swept[chain, i, j, j]
        ratio = np.where(there, now / turned, turned / now)
        p = self.graphs[:, i].sum(2) - there
        return np.asarray(self.of_size[p + 1] - self.of_size[p] - (self.n - 1) / 2 * np.log(ratio))

    def turn(self, chain: Places, i: Places, j: Places) -> None:
        """Puts an edge between i and j, or takes it away, in some chains, with shape (F,) each."""
        for node, other in ((i, j), (j, i)):
            matrix = self.swept[chain, node]
            at = np.arange(len(chain))
            column, pivot = matrix[at, :, other], matrix[at, other, other]
            sign = np.where(self.graphs[chain, node, other], -1.0, 1.0)
            matrix = matrix - column[:, :, None] * column[:, None, :] / pivot[:, None, None]
            matrix[at, :, other] = matrix[at, other, :] = sign[:, None] * column / pivot[:, None]
            matrix[at, other, other] = -1 / pivot
            self.swept[chain, node] = matrix
            self.graphs[chain, node, other] ^= True

    def score(self) -> Array:
        """The sum of the scores of all columns, nats, with shape (C,)."""
        residual = np.einsum("ciii->ci", self.swept)
        return np.asarray((self.of_size[self.graphs.sum(2)] - (self.n - 1) / 2 * np.log(residual)).sum(1))
