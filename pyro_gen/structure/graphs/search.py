"""The networks among which is searched, and draws of them given complete data: exact, or by chains over orders."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pyro_gen.structure.graphs.base import GraphDraws
from pyro_gen.structure.graphs.cpdag import completed
from pyro_gen.structure.graphs.exact import OrderSums, order_weights
from pyro_gen.structure.graphs.modular import modular_sums
from pyro_gen.structure.graphs.orders import OrderChains, candidate_parents
from pyro_gen.structure.graphs.scores import (
    Families,
    SetScores,
    family_scores,
    graph_weights,
    parent_sets,
    set_prior,
)

__all__ = ["EXACT_NODES", "Search", "exact_draws", "mixture_weights", "order_draws"]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

EXACT_NODES = 20
MODULAR_NODES = 13  # up to which the sums count each graph once themselves
HOPELESS = 30.0  # nats below the best equivalent sample size
POOL = 5  # draws among which one is chosen by its weight
CANDIDATES = 10
BURN_IN, THIN = 400, 3


@dataclass(frozen=True)
class Search:
    """The networks among which is searched.

    Attributes:
        levels: The number of categories of each column, 0 of numbers, (d,).
        allowed: Which edges may be, (d, d).
        required: Which must be, (d, d).
        targets: Whether a column was set by intervention in a row, (N, d), or none was.
        most: The most parents of a node.
        sizes: Equivalent sample sizes.
        prior: ``"sizes"`` or ``"uniform"``, see :func:`pyro_gen.structure.graphs.scores.set_prior`.
    """

    levels: Ints
    allowed: Bools
    required: Bools
    targets: Bools | None
    most: int
    sizes: tuple[float, ...]
    prior: str

    @property
    def known(self) -> Bools:
        """Pairs whose direction is told by interventions, or by what may and must be, (d, d)."""
        known: Bools = self.required | self.required.T | (self.allowed ^ self.allowed.T)
        if self.targets is not None:
            for row in np.unique(self.targets, axis=0):
                known |= row[:, None] ^ row
        return known

    def scores(self, x: Array) -> SetScores:
        return SetScores(x, self.levels, self.sizes)

    def families(self, x: Array, candidates: Ints | None = None) -> Families:
        """All sets of parents and their weights; those of candidates (d, K) alone, if given."""
        sets = []
        for i in range(len(self.levels)):
            among = np.flatnonzero(self.allowed[:, i]) if candidates is None else candidates[i][candidates[i] >= 0]
            sets.append(parent_sets(i, among, self.required[:, i], self.most))
        return family_scores(self.scores(x), sets, self.targets, self.prior)

    def weights_of(self, x: Array, graphs: Bools) -> Array:
        """The log weight of each graph (G, d, d) by each equivalent sample size, (E, G), nats."""
        sets = [np.unique(graphs[:, :, i], axis=0) for i in range(len(self.levels))]
        return graph_weights(family_scores(self.scores(x), sets, self.targets, self.prior), graphs)


def mixture_weights(families: Families, graphs: Bools) -> Array:
    r"""The log weight of each graph, with shape (\*, d, d), summed over equivalent sample sizes: (\*)."""
    total: Array = np.logaddexp.reduce(graph_weights(families, graphs.reshape(-1, *graphs.shape[-2:])), axis=0)
    return total.reshape(graphs.shape[:-2])


def exact_draws(
    families: Families, search: Search, chains: int, draws: int, generator: np.random.Generator
) -> GraphDraws:
    """Independent draws by sums over all orders, and probabilities: by sums over graphs up to 13 nodes."""
    d, n = len(families.sets), chains * draws
    modular = d <= MODULAR_NODES
    sums = [OrderSums(families, e) for e in range(len(search.sizes))]
    log_z = np.array([s.log_z for s in sums])
    hopeless = log_z < log_z.max() - HOPELESS
    pools, edges, bests = {}, np.zeros((len(sums), d, d)), []
    for e in np.flatnonzero(~hopeless).tolist():
        graphs, orders = sums[e].draw(POOL * n, torch.Generator().manual_seed(int(generator.integers(2**31))))
        log_weights = order_weights(graphs, orders)
        share = np.exp(log_weights - log_weights.max())
        pools[e] = graphs, share / share.sum()
        if modular:
            log_z[e], edges[e] = modular_sums(families, e)
        else:
            log_z[e] += np.log(np.exp(log_weights).mean())
            edges[e] = np.einsum("n,nij->ij", pools[e][1], graphs)
        bests.append(sums[e].best()[0])
    log_z[hopeless] = -np.inf
    posterior = np.exp(log_z - np.logaddexp.reduce(log_z))
    taken = []
    for e, number in zip(pools, generator.multinomial(n, posterior[list(pools)]), strict=True):
        graphs, share = pools[e]
        taken.append(graphs[generator.choice(len(graphs), number, p=share)])
    drawn = generator.permutation(np.concatenate(taken)).reshape(chains, draws, d, d)
    candidates = np.stack(bests)
    best = candidates[mixture_weights(families, candidates).argmax()]
    return GraphDraws(
        probabilities=np.einsum("e,eij->ij", posterior, edges),
        graphs=drawn,
        patterns=completed(drawn, search.known),
        best=best,
        log_evidence=_evidence(families, log_z, search.prior) if modular else None,
        details={"method": "exact", "equivalent sample sizes": _by_size(search.sizes, posterior)},
        best_pattern=completed(best, search.known),
    )


def _by_size(sizes: Sequence[float], posterior: Array) -> dict[float, float]:
    return dict(zip(map(float, sizes), posterior.tolist(), strict=True))


def _evidence(families: Families, log_z: Array, prior: str) -> float:
    d = len(families.sets)
    flat = Families(families.sets, [set_prior(sets.sum(1), d, prior)[None] for sets in families.sets])
    return float(np.logaddexp.reduce(log_z) - np.log(len(log_z)) - modular_sums(flat, 0)[0])


def order_draws(
    search: Search, x: Array, chains: int, draws: int, generator: np.random.Generator, start: Ints | None = None
) -> tuple[GraphDraws, Ints]:
    """Draws by chains over orders, and the orders where copies end; given those of a run before, it goes on there.

    Arguments:
        search: Where.
        x: Complete data.
        chains: The number of chains.
        draws: Graphs of each.
        generator: Draws all that is random.
        start: Orders of all copies, for a run without burn-in.
    """
    d = len(search.levels)
    number = min(max(CANDIDATES, int(search.required.sum(0).max())), d - 1)
    candidates = candidate_parents(
        search.scores(x), search.allowed, search.required, search.targets, number, search.most
    )
    families = search.families(x, candidates)
    walk = OrderChains(families, candidates, chains, generator, start)
    found = walk.run(BURN_IN if start is None else 0, draws, THIN)
    scores = mixture_weights(families, found.graphs)
    best = found.graphs.reshape(-1, d, d)[scores.argmax()]
    share = np.bincount(found.sizes.ravel(), minlength=len(search.sizes)) / found.sizes.size
    result = GraphDraws(
        probabilities=found.graphs.mean((0, 1)),
        graphs=found.graphs,
        patterns=completed(found.graphs, search.known),
        best=best,
        log_scores=scores,
        details={
            "method": "orders",
            "equivalent sample sizes": _by_size(search.sizes, share),
            "acceptance": found.acceptance,
            "swap rate": found.swap_rate,
        },
        best_pattern=completed(best, search.known),
    )
    return result, walk.orders
