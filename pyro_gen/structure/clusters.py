r"""How many clusters rows fall into, and which rows are together, each with its probability.

The model is a mixture of Student-t laws with covariances that are alike
(:mod:`pyro_gen.structure.student_mixture`). Its evidence is found for each number of components, for how alike the
covariances are and how heavy the tails, a bound by variational Bayes from the best of several starts; what has evidence
is then sampled by Gibbs steps, each number in chains of its own: chains that change the number by themselves do not
mix. A draw is a partition; the number of clusters is that of those with rows in it.

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
from pyro_gen.structure.estimator import StructureEstimator, as_matrix, chains_agree, r_hats
from pyro_gen.structure.partitions import canonical, co_assignment, representative
from pyro_gen.structure.student_mixture import Setting, Variational, ascend, gibbs, log_joint

__all__ = ["Clusters", "find_clusters"]

LIKENESS, DOF = (15.0, 5.0, 45.0), (16.0, 4.0, 256.0)  # of which the first of each are those of the starts
STARTS, KEPT_STARTS = 4, 2
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
        co_assignment_: The probability that two rows are together, with shape (N, N).
        partitions_: The draws, four chains, with shape (4, S, N).
        settings_: The weight of each (number, likeness, degrees of freedom) that was tried.
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
            X: A table of numbers with shape (N, D), NaN where an entry is missing.
            y: Not used.
        """
        if self.max_clusters < 1 or self.draws < 4:
            raise ValueError(f"Clusters(max_clusters={self.max_clusters}, draws={self.draws}): give 1 and 4 or more.")
        values = as_matrix(self, X, reset=True)
        self._mean, self._scale = np.nanmean(values, 0), np.nanstd(values, 0)
        x = self._standardised(values)
        with seeded(self.random_state):
            found = self._search(x)
        bounds = np.array([q.bound for q, _ in found])
        weights = np.exp(bounds - logsumexp(bounds))
        self.settings_ = {q.setting: float(w) for (q, _), w in zip(found, weights, strict=True)}
        with seeded(fork(self.random_state)):
            self.partitions_ = self._sample(x, [q for q, _ in found], weights)
        flat = self.partitions_.reshape(-1, len(x))
        numbers = flat.max(1) + 1
        self.number_probabilities_ = {int(k): float((numbers == k).mean()) for k in np.unique(numbers)}
        self.co_assignment_ = co_assignment(flat)
        self.labels_, self.expected_loss_ = representative(flat)
        self.n_clusters_ = int(self.labels_.max()) + 1
        best = max(self.settings_, key=lambda s: self.settings_[s])
        start = torch.nn.functional.one_hot(torch.from_numpy(self.labels_)).to(x)
        self._classifier, _ = ascend(x, start, best._replace(components=self.n_clusters_))
        self.r_hat_ = r_hats(self.posterior_, ("number", "entropy"))
        return self

    def _standardised(self, values: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy((values - self._mean) / self._scale)

    def _search(self, x: Tensor) -> list[tuple[Variational, Tensor]]:
        """The best variational posterior of each setting, with its responsibilities."""
        filled = x.nan_to_num().numpy()
        most = min(self.max_clusters, len(np.unique(filled, axis=0)))
        found: list[tuple[Variational, Tensor]] = []
        hopeless = 0
        for k in range(1, most + 1):
            starts = []
            for _ in range(STARTS if k > 1 else 1):
                seed = int(torch.randint(2**31, ()))
                labels = KMeans(k, n_init=1, random_state=seed).fit_predict(filled)
                r = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), k).to(x)
                starts.append(ascend(x, r, Setting(k, LIKENESS[0], DOF[0])))
            starts = sorted(starts, key=lambda s: -s[0].bound)[:KEPT_STARTS]
            of_number = [starts[0]]
            for setting in [Setting(k, likeness, dof) for likeness in LIKENESS for dof in DOF][1:]:
                of_number.append(max((ascend(x, r, setting) for _, r in starts), key=lambda s: s[0].bound))
            found += of_number
            best = max(q.bound for q, _ in found)
            hopeless = hopeless + 1 if max(q.bound for q, _ in of_number) < best - HOPELESS else 0
            if hopeless == NUMBERS_WITHOUT_HOPE:
                break
        return found

    def _sample(self, x: Tensor, posteriors: list[Variational], weights: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Partitions from chains in each setting, draws of which are taken by the weights, with shape (4, S, N)."""
        kept = np.flatnonzero(weights >= min(LEAST_WEIGHT, weights.max()))
        share = weights[kept] / weights[kept].sum()
        counts = np.diff(np.round(self.draws * np.cumsum(share)), prepend=0).astype(int)
        chains = []
        for _ in range(CHAINS):
            parts = [
                gibbs(x, posteriors[j], THIN * count, BURN_IN)[0][::THIN].numpy()
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
        values = as_matrix(self, X, reset=False)
        constant = np.where(np.isnan(values), 0.0, np.log(self._scale)).sum(1, keepdims=True)
        return log_joint(self._standardised(values), self._classifier) - torch.from_numpy(constant)

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """The most probable cluster of the representative partition for each row, with shape (N,)."""
        return np.asarray(self.predict_proba(X).argmax(1), dtype=np.int64)

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """The probabilities of its clusters given what is seen of each row, with shape (N, K)."""
        return np.asarray(self._log_joint(X).softmax(1).numpy())

    def score(self, X: Any, y: None = None) -> float:
        """The mean log-density of what is seen of rows, in nats."""
        return float(self._log_joint(X).logsumexp(1).mean())

    def summary(self) -> str:
        """The answer in a few sentences, a line each."""
        check_is_fitted(self, "partitions_")
        rows = self.partitions_.shape[-1]
        numbers = sorted(self.number_probabilities_.items(), key=lambda item: -item[1])
        chances = ", ".join(f"{k} with probability {p:.2f}" for k, p in numbers[:4])
        sizes = ", ".join(str(n) for n in np.bincount(self.labels_))
        return (
            f"Clusters of {rows} rows: {chances}.\n"
            f"The representative partition has {self.n_clusters_}, of {sizes} rows; its expected distance from the "
            f"posterior's is {self.expected_loss_:.2f} nats.\n" + chains_agree(self.r_hat_)
        )

    def plot(self) -> Any:
        """Draws the co-assignment matrix under its dendrogram, beside the posterior of the number; a figure."""
        from pyro_gen.structure.pictures import clusters_figure

        check_is_fitted(self, "partitions_")
        return clusters_figure(self.co_assignment_, self.labels_, self.number_probabilities_)


def find_clusters(data: Any, *, max_clusters: int = 10, draws: int = 100, seed: int = 0) -> Clusters:
    """Finds clusters of rows and their number, see :class:`Clusters`.

    Arguments:
        data: A table of numbers with shape (N, D), NaN where an entry is missing.
        max_clusters: The most clusters that are tried.
        draws: Partitions that each of four chains draws.
        seed: Seeds all that is random.

    Returns:
        The fitted estimator.
    """
    return Clusters(max_clusters, draws, seed).fit(data)
