r"""Which nodes of a network belong together, how many groups there are, which edges were missed: with probabilities.

The model is the degree-corrected block model, by one of two ways.

**Merge and split** (:mod:`pyro_gen.structure.merge_split`): chains over all partitions, of any number of groups, by
description length. They start at what belief propagation found for each number. Right for networks of a few hundred
nodes: chains that change the number must find a whole split at once, which large networks do not allow.

**Belief propagation** (:mod:`pyro_gen.structure.belief_propagation`), for large sparse networks, where it is
right up to what loops do: the evidence of each number sums over all partitions, so that groups are found
that no single partition shows by its description length; degrees have one law for all groups. Gibbs chains then
draw partitions at each number that has evidence.

References:
    | Nonparametric Bayesian inference of the microcanonical stochastic block model (Peixoto, 2017)
    | https://doi.org/10.1103/PhysRevE.95.012317
    | Asymptotic analysis of the stochastic block model for modular networks (Decelle et al., 2011)
    | https://doi.org/10.1103/PhysRevE.84.066106
"""

import math
import warnings
from typing import Any, Self

import networkx as nx
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted

from pyro_gen.models.network.parts.description_length import description_length
from pyro_gen.structure.belief_propagation import Beliefs, Edges, propagate
from pyro_gen.structure.block_gibbs import sample_partitions
from pyro_gen.structure.estimator import chains_agree, with_probability
from pyro_gen.structure.merge_split import MergeSplit
from pyro_gen.structure.networks import Network, as_network
from pyro_gen.structure.partitions import canonical, representative

__all__ = ["Communities", "find_communities"]

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

METHODS = ("auto", "merge-split", "belief-propagation")
MERGE_SPLIT_NODES = 300  # the most for which "auto" takes it
CHAINS, BURN_IN, SPLITS = 16, 30, 8  # merges and splits for a sweep
GIBBS_CHAINS, GIBBS_BURN_IN, THIN = 4, 40, 4
HOPELESS, NUMBERS_WITHOUT_HOPE = 15.0, 2  # nats below the best; after so many numbers the search ends
LEAST_WEIGHT = 0.01  # of numbers that are sampled


class Communities(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Finds groups of nodes, with a posterior over their number and over who is together; NaN is "not observed".

    Arguments:
        max_groups: The most groups that are tried.
        draws: Partitions that each chain draws, of 16 by merge and split, of 4 after belief propagation.
        method: ``"merge-split"``, ``"belief-propagation"``, or ``"auto"``: the former up to 300 nodes and of bipartite
            networks.
        weight: The attribute of edges, or column of an edge list, that has their numbers; NaN is not observed.
        bipartite: Whether nodes are of two kinds, see :func:`pyro_gen.structure.networks.as_network`; groups then have
            one kind each.
        random_state: An integer that seeds all that is random.

    Attributes:
        number_probabilities_: The posterior of the number of groups, a mapping.
        n_groups_: The number of the representative partition.
        labels_: The representative partition, groups 0, 1, ... by size, with shape (N,): by merge and split the one
            with the least expected variation of information, after belief propagation the most probable group of each
            node given the most probable number.
        group_probabilities_: The probability of each of its groups for each node, with shape (N, K).
        description_length_: Of the network and the representative partition, nats.
        description_length_of_one_group_: The same for one group (of each kind).
        links_: The probability of an edge at each pair that was not observed, a data frame of source, target and
            probability.
        partitions_: The draws, with shape (C, S, N).
        evidence_: After belief propagation, the log-evidence of each number, nats.
        r_hat_: R-hat of the number, the entropy of the partition and its description length, which do not depend on
            labels.
        network_: The network that was read, see :class:`pyro_gen.structure.networks.Network`.

    Raises:
        ValueError: The network cannot be read, see :func:`pyro_gen.structure.networks.as_network`.

    Example:
        >>> found = Communities(draws=4).fit(nx.planted_partition_graph(2, 16, 0.6, 0.02, seed=0))
        >>> found.n_groups_, found.labels_.sum(), found.number_probabilities_[2] > 0.9
        (2, np.int64(16), True)
    """

    def __init__(
        self,
        max_groups: int = 12,
        draws: int = 100,
        method: str = "auto",
        weight: str | None = None,
        bipartite: bool = False,
        random_state: int = 0,
    ) -> None:
        self.max_groups = max_groups
        self.draws = draws
        self.method = method
        self.weight = weight
        self.bipartite = bipartite
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> Self:
        """Finds the groups of the nodes of a network.

        Arguments:
            X: A graph of networkx, an edge list or a matrix, see :func:`pyro_gen.structure.networks.as_network`.
            y: Not used.
        """
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}: there are {', '.join(METHODS)}.")
        if self.max_groups < 2 or self.draws < 4:
            raise ValueError(f"Communities(max_groups={self.max_groups}, draws={self.draws}): give 2 and 4 or more.")
        network = as_network(X, weight=self.weight, bipartite=self.bipartite)
        if self.method == "belief-propagation" and network.kinds is not None:
            raise ValueError(
                'method="belief-propagation" knows no kinds of nodes: give "merge-split" for bipartite ones.'
            )
        self.network_ = network
        generator = np.random.default_rng(self.random_state)
        small = network.kinds is not None or len(network.names) <= MERGE_SPLIT_NODES
        self.method_ = self.method if self.method != "auto" else METHODS[1] if small else METHODS[2]
        if self.method_ == "merge-split":
            self._merge_split(network, generator)
        else:
            self._belief_propagation(network, generator)
        self.n_groups_ = self.group_probabilities_.shape[1]
        self.description_length_ = description_length(network.adjacency, self.labels_, network.kinds)
        one = np.zeros(len(network.names)) if network.kinds is None else network.kinds
        self.description_length_of_one_group_ = description_length(network.adjacency, one, network.kinds)
        self.r_hat_ = self._r_hats()
        return self

    # ------------------------------------------------------------------------------------------------------------------
    # Two ways

    def _beliefs(self, network: Network, generator: np.random.Generator) -> dict[int, Beliefs]:
        """What belief propagation finds for each number of groups; nodes without edges are as all others."""
        joined = np.flatnonzero(network.adjacency.sum(1) > 0)
        number = np.full(len(network.names), -1)
        number[joined] = np.arange(len(joined))
        missing = number[network.missing]
        missing = missing[(missing >= 0).all(1)].reshape(-1, 2)
        self._joined, self._edges = joined, Edges.of(network.adjacency[joined][:, joined], missing)
        found: dict[int, Beliefs] = {}
        hopeless = 0
        for k in range(1, min(self.max_groups, len(joined) - 1) + 1):
            found[k] = propagate(self._edges, k, generator)
            best = max(one.log_evidence for one in found.values())
            hopeless = hopeless + 1 if found[k].log_evidence < best - HOPELESS else 0
            if hopeless == NUMBERS_WITHOUT_HOPE:
                break
        return found

    def _whole(self, of_joined: Array, fill: Array) -> Array:
        """Rows for all nodes, of those that have edges and one for those that have none."""
        rows = np.repeat(fill[None], len(self.network_.names), 0)
        rows[self._joined] = of_joined
        return np.asarray(rows)

    def _merge_split(self, network: Network, generator: np.random.Generator) -> None:
        found = self._beliefs(network, generator)
        kinds = network.kinds
        starts = []
        for chain in range(CHAINS):
            beliefs = found[1 + chain % len(found)]
            marginals = self._whole(beliefs.marginals, beliefs.p)
            u = generator.random((len(marginals), 1))
            labels = (u > marginals.cumsum(1)[:, :-1]).sum(1)
            if kinds is not None:  # groups of each kind apart, as many as there is room for
                labels = 2 * np.minimum(labels, self.max_groups // 2 - 1) + kinds
            starts.append(np.unique(labels, return_inverse=True)[1])
        chains = MergeSplit(
            network.adjacency.toarray(), np.stack(starts), self.max_groups, generator, kinds, network.missing
        )
        partitions, lengths, probabilities = [], [], np.zeros(len(network.missing))
        for step in range(BURN_IN + self.draws):
            chains.sweep()
            for _ in range(SPLITS):
                chains.merge_split()
            chains.impute()
            if step >= BURN_IN:
                partitions.append(canonical(chains.b))
                lengths.append(-chains.log_posterior())
                probabilities += chains.probability.mean(0) / self.draws
        self.partitions_ = np.stack(partitions, 1)
        constant = description_length(chains.a[0], chains.b[0], kinds) - lengths[-1][0]
        self._lengths = np.stack(lengths, 1) + constant
        self._count(self.partitions_)
        self.labels_, _ = representative(self.partitions_.reshape(-1, len(network.names)))
        self.group_probabilities_ = _aligned(self.partitions_.reshape(-1, len(network.names)), self.labels_)
        self.links_ = self._links(probabilities)

    def _belief_propagation(self, network: Network, generator: np.random.Generator) -> None:
        found = self._beliefs(network, generator)
        evidence = np.array([one.log_evidence for one in found.values()])
        weights = np.exp(evidence - logsumexp(evidence))
        self.evidence_ = dict(zip(found, evidence.tolist(), strict=True))
        self.number_probabilities_ = dict(zip(found, weights.tolist(), strict=True))
        kept = [k for k, w in zip(found, weights, strict=True) if w >= min(LEAST_WEIGHT, weights.max())]
        share = np.array([self.number_probabilities_[k] for k in kept])
        counts = np.diff(np.round(self.draws * np.cumsum(share / share.sum())), prepend=0).astype(int)
        parts, links = [], np.zeros(len(network.missing))
        for k, count in zip(kept, counts, strict=True):
            if count == 0:
                continue
            labels, omega = sample_partitions(
                self._edges, found[k], GIBBS_CHAINS, GIBBS_BURN_IN, int(count), THIN, generator
            )
            links += self._chances(labels, omega, network) * count / self.draws
            whole = generator.choice(k, size=(*labels.shape[:2], len(network.names)), p=found[k].p)
            whole[:, :, self._joined] = labels
            parts.append(canonical(whole.reshape(-1, whole.shape[2])).reshape(whole.shape))
        drawn = np.concatenate(parts, 1)
        if len(parts) > 1:
            drawn = drawn[:, generator.permutation(drawn.shape[1])]
        self.partitions_ = drawn
        self._lengths = np.array([[description_length(network.adjacency, b) for b in chain] for chain in drawn])
        best = max(found, key=lambda k: found[k].log_evidence)
        marginals = self._whole(found[best].marginals, found[best].p)
        order = np.argsort(-np.bincount(marginals.argmax(1), minlength=best), kind="stable")
        self.group_probabilities_ = marginals[:, order]
        self.labels_ = self.group_probabilities_.argmax(1)
        self.links_ = self._links(links)

    def _chances(self, labels: Labels, omega: Array, network: Network) -> Array:
        """The probability of an edge at pairs that were not observed, by partitions (C, S, N) of nodes with edges."""
        number = np.full(len(network.names), -1)
        number[self._joined] = np.arange(len(self._joined))
        i, j = number[network.missing].T
        known = (i >= 0) & (j >= 0)
        d = self._edges.degree
        chain, draw = np.ogrid[: labels.shape[0], : labels.shape[1]]
        rate = omega[chain[..., None], draw[..., None], labels[:, :, i], labels[:, :, j]] * d[i] * d[j] / d.sum()
        return np.asarray(np.where(known, -np.expm1(-rate).mean((0, 1)), 0.0))

    # ------------------------------------------------------------------------------------------------------------------
    # What was found

    def _count(self, partitions: Labels) -> None:
        numbers = partitions.max(-1).ravel() + 1
        self.number_probabilities_ = {int(k): float((numbers == k).mean()) for k in np.unique(numbers)}

    def _links(self, probabilities: Array) -> pd.DataFrame:
        names = self.network_.names
        ends = [[names[k] for k in column] for column in self.network_.missing.T]
        return pd.DataFrame({"source": ends[0], "target": ends[1], "probability": probabilities})

    def _r_hats(self) -> dict[str, float]:
        import arviz

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chains that never change, whose R-hat is NaN: they agree
            found = arviz.rhat(self.posterior_, var_names=["number", "entropy", "description_length"])
        return {str(name): 1.0 if math.isnan(v := float(found[name])) else v for name in found.data_vars}

    @property
    def posterior_(self) -> Any:
        """The draws as ArviZ's InferenceData: ``number``, ``entropy``, ``description_length`` (nats), ``group``."""
        import arviz

        check_is_fitted(self, "partitions_")
        shares = np.stack([(self.partitions_ == k).mean(-1) for k in range(self.partitions_.max() + 1)])
        values = {
            "number": self.partitions_.max(-1) + 1,
            "entropy": -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(0),
            "description_length": self._lengths,
            "group": self.partitions_,
        }
        return arviz.from_dict(
            posterior=values, dims={"group": ["node"]}, coords={"node": [str(v) for v in self.network_.names]}
        )

    @property
    def graph_(self) -> nx.Graph:
        """The network as a graph of networkx, nodes with ``group`` and ``probability`` of that group."""
        check_is_fitted(self, "partitions_")
        graph = self.network_.graph()
        for v, k, p in zip(self.network_.names, self.labels_, self.group_probabilities_, strict=True):
            graph.nodes[v]["group"], graph.nodes[v]["probability"] = int(k), float(p[k])
        return graph

    def table(self) -> pd.DataFrame:
        """The group of each node, with the probability of each group."""
        check_is_fitted(self, "partitions_")
        columns = {f"probability {k}": p for k, p in enumerate(self.group_probabilities_.T)}
        return pd.DataFrame({"node": self.network_.names, "group": self.labels_, **columns})

    def summary(self) -> str:
        """The answer in a few sentences, a line each."""
        check_is_fitted(self, "partitions_")
        network = self.network_
        chances = with_probability(self.number_probabilities_)
        sizes = ", ".join(str(n) for n in np.bincount(self.labels_, minlength=self.n_groups_))
        edges = int(network.adjacency.sum()) // 2
        parts = network.components
        lines = [
            f"Communities of {len(network.names)} nodes and {edges} edges: {chances}.",
            f"The representative partition has {self.n_groups_}, of {sizes} nodes; its description length is "
            f"{self.description_length_:.1f} nats, of one group{' of each kind' if network.kinds is not None else ''} "
            f"{self.description_length_of_one_group_:.1f}.",
            chains_agree(self.r_hat_),
        ]
        if self.method_ == "belief-propagation":
            lines.append("The number was judged by the evidence of belief propagation, which sums over partitions.")
        if network.unused:
            name = network.unused[0]
            lines.append(
                f"Each pair counts as one edge: the numbers {name!r} were not asked for, weight={name!r} does."
            )
        if parts > 1:
            lines.append(f"The network has {parts} parts that no edge joins; they may share groups.")
        if len(self.links_):
            at = self.links_.iloc[int(self.links_["probability"].argmax())]
            lines.append(
                f"Of {len(self.links_)} pairs that were not observed {self.links_['probability'].sum():.1f} are "
                f"expected to have an edge, {at['source']} and {at['target']} most probably ({at['probability']:.2f})."
            )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Draws the network with its groups, beside the posterior of the number; a figure."""
        from pyro_gen.structure.pictures import communities_figure

        return communities_figure(self.graph_, self.number_probabilities_)


def _aligned(partitions: Labels, labels: Labels) -> Array:
    """The share of draws (S, N) in which a node is in each group of a partition (N,), matched by common nodes."""
    groups = int(labels.max()) + 1
    member = np.eye(groups, dtype=np.int64)[labels]
    total = np.zeros((len(labels), groups))
    draws, counts = np.unique(partitions, axis=0, return_counts=True)
    for b, count in zip(draws, counts, strict=True):
        common = np.eye(int(b.max()) + 1, dtype=np.int64)[b].T @ member  # (B, K)
        to = common.argmax(1)
        mine, theirs = linear_sum_assignment(-common)
        to[mine] = theirs
        total[np.arange(len(labels)), to[b]] += count
    return total / len(partitions)


def find_communities(
    graph: Any,
    *,
    max_groups: int = 12,
    draws: int = 100,
    method: str = "auto",
    weight: str | None = None,
    bipartite: bool = False,
    seed: int = 0,
) -> Communities:
    """Finds groups of nodes and their number, see :class:`Communities`.

    Arguments:
        graph: A graph of networkx, an edge list or a matrix, see :func:`pyro_gen.structure.networks.as_network`.
        max_groups: The most groups that are tried.
        draws: Partitions that each chain draws.
        method: ``"merge-split"``, ``"belief-propagation"`` or ``"auto"``.
        weight: The attribute or column that has the numbers of edges; NaN is not observed.
        bipartite: Whether nodes are of two kinds.
        seed: Seeds all that is random.

    Returns:
        The fitted estimator.
    """
    return Communities(max_groups, draws, method, weight, bipartite, seed).fit(graph)
