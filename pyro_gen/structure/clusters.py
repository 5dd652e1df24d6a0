r"""How many clusters rows fall into, and which rows are together, each with its probability.

The model is a mixture of Student-t laws with covariances that are alike
(:mod:`pyro_gen.structure.student_mixture`). Its evidence is found for each number of components, for how alike the
covariances are and how heavy the tails, a bound by variational Bayes from the best of several starts; what has evidence
is then sampled by Gibbs steps, each number in chains of its own: chains that change the number by themselves do not
mix. A draw is a partition; the number of clusters is that of those with rows in it.

The bound has many maxima, some nats apart: from the best starts Gibbs steps lead on to others. And the number depends
on how far means spread a priori: what it were with means nearer to each other, and farther, is told beside.

References:
    | Bayesian Cluster Analysis: Point Estimation and Credible Balls (Wade & Ghahramani, 2018)
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp
from sklearn.base import ClusterMixin
from sklearn.cluster import KMeans
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_gen._random import fork, seeded
from pyro_gen.structure.estimator import StructureEstimator, chains_agree, r_hats, with_probability
from pyro_gen.structure.mixed import MixedTable
from pyro_gen.structure.partitions import ROWS_FOR_MATRIX, canonical, co_assignment, representative
from pyro_gen.structure.student_mixture import Categories, Setting, Variational, ascend, gibbs, log_joint

__all__ = ["Clusters", "find_clusters"]

LIKENESS, DOF = (15.0, 5.0, 45.0), (16.0, 4.0, 256.0)  # of which the first of each are those of the starts
STARTS, KEPT_STARTS = 4, 2
WALKS, SWEEPS = 4, 25  # from each kept start, Gibbs sweeps to another maximum
SPREADS = {0.25: "a quarter as far", 0.5: "half as far", 1.0: "so far", 2.0: "twice as far"}  # of means a priori
NEAR = 3.0  # nats from the best setting of a number
ROWS_IN_PICTURE = 1000
HOPELESS, NUMBERS_WITHOUT_HOPE = 15.0, 2  # nats below the best; after so many numbers the search ends
CHAINS, BURN_IN, THIN = 4, 100, 4
LEAST_WEIGHT = 0.01  # of settings that are sampled


class Clusters(ClusterMixin, StructureEstimator):  # type: ignore[misc]
    """Finds clusters of rows, with a posterior over their number and over who is together; NaN is "not seen".

    Arguments:
        max_clusters: The most clusters that are tried.
        draws: Partitions that each of four chains draws.
        random_state: An integer that seeds all that is random.

    Attributes:
        number_probabilities_: The posterior of the number of clusters, a mapping.
        n_clusters_: The number of the representative partition.
        labels_: The representative partition: the one with the least expected variation of information to the
            posterior's; clusters 0, 1, ... by size, with shape (N,).
        expected_loss_: That expectation, nats.
        co_assignment_: The probability that two rows are together, with shape (N, N), of up to 5,000 rows;
            :meth:`together` has it for some rows of more.
        partitions_: The draws, four chains, with shape (4, S, N).
        settings_: The weight of each (number, likeness, degrees of freedom, precision of means) that was tried.
        prior_sensitivity_: The posterior of the number of components by its evidence alone, where means spread a
            quarter as far a priori, half as far, as far, and twice as far: a mapping of 0.25, 0.5, 1, 2 to mappings.
        r_hat_: R-hat of the number and of the entropy of the partition, which do not depend on labels.
        n_features_in_: The number of columns.

    Raises:
        ValueError: A column does not vary, there is one row only, or a number is infinite.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> found = Clusters(draws=20).fit(load_iris().data)
        >>> found.n_clusters_, round(found.number_probabilities_[3], 1)
        (3, 1.0)
    """

    def __init__(self, max_clusters: int = 10, draws: int = 100, random_state: int = 0) -> None:
        self.max_clusters = max_clusters
        self.draws = draws
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> Self:
        """Finds the clusters of rows.

        Arguments:
            X: A table with shape (N, D), NaN where an entry is missing. Columns of a data frame that are categories,
                words or booleans are independent inside a cluster.
            y: Not used.
        """
        if self.max_clusters < 1 or self.draws < 4:
            raise ValueError(f"Clusters(max_clusters={self.max_clusters}, draws={self.draws}): give 1 and 4 or more.")
        self._table = MixedTable(self, X)
        values, codes = self._table.split(X, reset=True)
        self._mean, self._scale = np.nanmean(values, 0), np.nanstd(values, 0)
        x, categories = self._standardised(values), self._categories(codes)
        with seeded(self.random_state):
            found = self._search(x, categories)
        bounds = np.array([q.bound for q, _ in found])
        weights = np.exp(bounds - logsumexp(bounds))
        self.settings_ = {q.setting: float(w) for (q, _), w in zip(found, weights, strict=True)}
        with seeded(fork(self.random_state)):
            self.partitions_ = self._sample(x, categories, [q for q, _ in found], weights)
        flat = self.partitions_.reshape(-1, len(x))
        numbers = flat.max(1) + 1
        self.number_probabilities_ = {int(k): float((numbers == k).mean()) for k in np.unique(numbers)}
        self.labels_, self.expected_loss_ = representative(flat)
        self.n_clusters_ = int(self.labels_.max()) + 1
        best = max(self.settings_, key=lambda s: self.settings_[s])
        start = torch.nn.functional.one_hot(torch.from_numpy(self.labels_)).to(x)
        self._classifier, _ = ascend(x, start, best._replace(components=self.n_clusters_), categories)
        self.prior_sensitivity_ = _sensitivity(x, categories, found)
        self.r_hat_ = r_hats(self.posterior_, ("number", "entropy"))
        return self

    def _standardised(self, values: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy((values - self._mean) / self._scale)

    def _categories(self, codes: npt.NDArray[np.int64]) -> Categories:
        sizes = tuple(len(levels) for levels in self._table.levels.values())
        parts = [torch.from_numpy(column[:, None] == np.arange(n)) for column, n in zip(codes.T, sizes, strict=True)]
        empty = torch.zeros(len(codes), 0, dtype=torch.float64)
        return Categories(torch.cat([empty, *(part.double() for part in parts)], 1), sizes)

    def _search(self, x: Tensor, categories: Categories) -> list[tuple[Variational, Tensor]]:
        """The best variational posterior of each setting, with its responsibilities."""
        filled = torch.cat([x.nan_to_num(), categories.seen], 1).numpy()
        most = min(self.max_clusters, len(np.unique(filled, axis=0)))
        found: list[tuple[Variational, Tensor]] = []
        hopeless = 0
        for k in range(1, most + 1):
            starts = []
            for _ in range(STARTS if k > 1 else 1):
                seed = int(torch.randint(2**31, ()))
                labels = KMeans(k, n_init=1, random_state=seed).fit_predict(filled)
                r = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), k).to(x)
                starts.append(ascend(x, r, Setting(k, LIKENESS[0], DOF[0]), categories))
            starts = sorted(starts, key=lambda s: -s[0].bound)[:KEPT_STARTS]
            if k > 1:
                starts = [_walk(x, categories, start) for start in starts]
            starts.sort(key=lambda s: -s[0].bound)
            of_number = [starts[0]]
            for setting in [Setting(k, likeness, dof) for likeness in LIKENESS for dof in DOF][1:]:
                of_number.append(max((ascend(x, r, setting, categories) for _, r in starts), key=lambda s: s[0].bound))
            found += of_number
            best = max(q.bound for q, _ in found)
            hopeless = hopeless + 1 if max(q.bound for q, _ in of_number) < best - HOPELESS else 0
            if hopeless == NUMBERS_WITHOUT_HOPE:
                break
        return found

    def _sample(
        self, x: Tensor, categories: Categories, posteriors: list[Variational], weights: npt.NDArray[np.float64]
    ) -> npt.NDArray[Any]:
        """Partitions from chains in each setting, draws of which are taken by the weights, with shape (4, S, N)."""
        kept = np.flatnonzero(weights >= min(LEAST_WEIGHT, weights.max()))
        share = weights[kept] / weights[kept].sum()
        counts = np.diff(np.round(self.draws * np.cumsum(share)), prepend=0).astype(int)
        chains = []
        for _ in range(CHAINS):
            parts = [
                gibbs(x, posteriors[j], THIN * count, BURN_IN, categories)[0][::THIN].numpy()
                for j, count in zip(kept, counts, strict=True)
                if count > 0
            ]
            drawn = np.concatenate(parts)
            mixed = torch.randperm(len(drawn)).numpy() if len(parts) > 1 else slice(None)
            chains.append(canonical(drawn[mixed]))
        return np.stack(chains)

    @property
    def posterior_(self) -> Any:
        """What was drawn as ArviZ's InferenceData: ``number``, ``entropy`` of the partition (nats), ``label``."""
        import arviz

        check_is_fitted(self, "partitions_")
        shares = np.stack([(self.partitions_ == k).mean(-1) for k in range(self.partitions_.max() + 1)])
        entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(0)
        number = self.partitions_.max(-1) + 1
        values = {"number": number, "entropy": entropy, "label": self.partitions_}
        return arviz.from_dict(posterior=values, dims={"label": ["row"]})

    def _log_joint(self, X: Any) -> Tensor:
        check_is_fitted(self, "partitions_")
        values, codes = self._table.split(X, reset=False)
        constant = np.where(np.isnan(values), 0.0, np.log(self._scale)).sum(1, keepdims=True)
        return log_joint(self._standardised(values), self._classifier, self._categories(codes)) - torch.from_numpy(
            constant
        )

    @property
    def co_assignment_(self) -> npt.NDArray[np.float64]:
        """The probability that two rows are together, with shape (N, N).

        Raises:
            ValueError: There are more rows than such a matrix is made for.
        """
        check_is_fitted(self, "partitions_")
        rows = self.partitions_.shape[-1]
        if rows > ROWS_FOR_MATRIX:
            raise ValueError(
                f"Clusters: the co-assignment matrix of {rows:,} rows has {rows * rows * 8 / 1e9:.1f} GB: ask for that "
                "of some rows, by together(rows)."
            )
        return co_assignment(self.partitions_.reshape(-1, rows))

    def together(self, rows: Any) -> npt.NDArray[np.float64]:
        """The probability that two of some rows are together, with shape (M, M) for M numbers of rows."""
        check_is_fitted(self, "partitions_")
        return co_assignment(self.partitions_.reshape(-1, self.partitions_.shape[-1])[:, np.asarray(rows)])

    def membership(self) -> npt.NDArray[np.float64]:
        """How probably each row is together with a row of its own cluster, in the mean over these, with shape (N,)."""
        check_is_fitted(self, "partitions_")
        flat = self.partitions_.reshape(-1, self.partitions_.shape[-1])
        sizes = np.bincount(self.labels_)
        total = np.zeros(len(self.labels_))
        for drawn in flat:
            both = np.zeros((self.n_clusters_, int(drawn.max()) + 1))
            np.add.at(both, (self.labels_, drawn), 1.0)
            total += both[self.labels_, drawn] / sizes[self.labels_]
        return total / len(flat)

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """The most probable cluster of the representative partition for each row, with shape (N,)."""
        return np.asarray(self.predict_proba(X).argmax(1), dtype=np.int64)

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """The probabilities of its clusters given what is seen of each row, with shape (N, K)."""
        return np.asarray(self._log_joint(X).softmax(1).numpy())

    def score(self, X: Any, y: None = None) -> float:
        """The mean log-density of what is seen of rows, in nats, of categories their log-probability."""
        return float(self._log_joint(X).logsumexp(1).mean())

    def summary(self) -> str:
        """The answer in a few sentences, a line each."""
        check_is_fitted(self, "partitions_")
        rows = self.partitions_.shape[-1]
        chances = with_probability(self.number_probabilities_)
        sizes = ", ".join(str(n) for n in np.bincount(self.labels_))
        return (
            f"Clusters of {rows} rows: {chances}.\n"
            f"The representative partition has {self.n_clusters_}, of {sizes} rows; its expected distance from the "
            f"posterior's is {self.expected_loss_:.2f} nats.\n{self._of_the_prior()}\n" + chains_agree(self.r_hat_)
        )

    def _of_the_prior(self) -> str:
        """Whether the most probable number would be another if means spread otherwise a priori."""
        best = {spread: max(p.items(), key=lambda item: item[1]) for spread, p in self.prior_sensitivity_.items()}
        if len({k for k, _ in best.values()}) == 1:
            return "The number is the same where means spread from a quarter to twice as far a priori."
        others = [f"{k} with probability {p:.2f} if they spread {SPREADS[s]}" for s, (k, p) in best.items() if s != 1]
        return f"The number depends on how far means spread a priori: by evidence alone {', '.join(others)}."

    def plot(self) -> Any:
        """Draws the co-assignment matrix under its dendrogram, beside the posterior of the number; a figure.

        Of more than 1,000 rows, 1,000 are drawn.
        """
        from pyro_gen.structure.pictures import clusters_figure

        check_is_fitted(self, "partitions_")
        rows = np.arange(len(self.labels_))
        if len(rows) > ROWS_IN_PICTURE:
            rows = np.sort(np.random.default_rng(self.random_state).choice(rows, ROWS_IN_PICTURE, replace=False))
        return clusters_figure(self.together(rows), self.labels_[rows], self.number_probabilities_)


def _walk(x: Tensor, categories: Categories, start: tuple[Variational, Tensor]) -> tuple[Variational, Tensor]:
    """The best maximum of the bound that Gibbs steps from one lead to."""
    best = start
    for _ in range(WALKS):
        labels = gibbs(x, best[0], 1, SWEEPS - 1, categories)[0][-1]
        r = torch.nn.functional.one_hot(labels, best[0].setting.components).to(x)
        best = max(best, ascend(x, r, best[0].setting, categories), key=lambda s: s[0].bound)
    return best


def _sensitivity(
    x: Tensor, categories: Categories, found: list[tuple[Variational, Tensor]]
) -> dict[float, dict[int, float]]:
    """The posterior of the number of components where means spread as far a priori, or so many times as far."""
    evidence: dict[float, dict[int, list[float]]] = {1.0: {}}
    for q, _ in found:
        evidence[1.0].setdefault(q.setting.components, []).append(q.bound)
    best: dict[int, list[tuple[Setting, Tensor]]] = {}  # the likeliest setting of each number, and what comes near it
    for q, r in found:
        if q.bound > max(evidence[1.0][q.setting.components]) - NEAR:
            best.setdefault(q.setting.components, []).append((q.setting, r))
    for spread in SPREADS.keys() - {1.0}:
        evidence[spread] = {
            k: [
                ascend(x, r, s._replace(mean_precision=s.mean_precision / spread**2), categories)[0].bound
                for s, r in starts
            ]
            for k, starts in best.items()
        }
    return {f: _probabilities(evidence[f]) for f in sorted(evidence)}


def _probabilities(bounds: dict[int, list[float]]) -> dict[int, float]:
    """Probabilities of numbers from the bounds of their settings."""
    total = logsumexp([b for of_number in bounds.values() for b in of_number])
    return {k: float(np.exp(logsumexp(of_number) - total)) for k, of_number in bounds.items()}


def find_clusters(data: Any, *, max_clusters: int = 10, draws: int = 100, seed: int = 0) -> Clusters:
    """Finds clusters of rows and their number, see :class:`Clusters`.

    Arguments:
        data: A table with shape (N, D), NaN where an entry is missing; categories as in :meth:`Clusters.fit`.
        max_clusters: The most clusters that are tried.
        draws: Partitions that each of four chains draws.
        seed: Seeds all that is random.

    Returns:
        The fitted estimator.
    """
    return Clusters(max_clusters, draws, seed).fit(data)
