r"""How many factors columns have in common, and which columns load on each, with their uncertainty.

The number is asked of factor analysis under a prior that no rotation changes: its evidence by sequential Monte Carlo
for 0, 1, 2, ... factors (:mod:`pyro_gen.structure.factor_evidence`). Given the number, loadings are drawn under a prior
that has zeros (:mod:`pyro_gen.structure.sparse_factors`), which settles rotations where there are zeros to find. Sign
and order of factors are free in each draw: draws are matched to their common mean, factors sorted by the variance that
they carry, and signs chosen so that the largest loading of each is positive.

References:
    | Order-invariant prior specification in Bayesian factor analysis (Leung & Drton, 2016)
    | Efficiently resolving rotational ambiguity in Bayesian matrix sampling with matching (Poworoznek et al., 2021)
"""

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_gen._random import fork, seeded
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.structure.estimator import StructureEstimator, as_matrix, chains_agree, with_probability
from pyro_gen.structure.factor_evidence import factor_evidence, pooled
from pyro_gen.structure.sparse_factors import Draws, compress, expectation, gibbs, log_density

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Factors", "aligned", "find_factors"]

HOPELESS, NUMBERS_WITHOUT_HOPE = 6.0, 2  # nats below the best; after so many numbers the search ends
EXACT_ENOUGH, REPEATS = 0.05, 4  # error of a probability; runs that numbers in doubt have besides
CHAINS, BURN_IN, THIN = 4, 500, 4
DRAWS_OF_ROWS, NUMBERS_AT_ONCE = 200, 2**22  # draws that scores and densities average over; numbers held at once
INTERVAL = (0.05, 0.95)
ROUNDS = 20  # of matching draws to their mean


class Factors(TransformerMixin, StructureEstimator):  # type: ignore[misc]
    """Finds factors of columns, with a posterior over their number and over loadings; NaN is "not seen".

    Arguments:
        max_factors: The most factors that are tried; ``None`` is 8, or as many as the columns can determine.
        draws: Draws of loadings that each of four chains keeps.
        random_state: An integer that seeds all that is random.

    Attributes:
        number_probabilities_: The posterior of the number of factors, a mapping, uniform before.
        number_errors_: The Monte Carlo standard errors of these probabilities.
        evidences_: The log-evidence of each number that was tried.
        n_factors_: The most probable number.
        loadings_: Posterior means of loadings of standardised columns, (D, K), in canonical order and signs.
        loadings_interval_: Their 5% and 95% quantiles, with shape (2, D, K).
        included_: The probability that a loading is not 0, with shape (D, K).
        uniquenesses_: Posterior means of the share of each column's variance that is its own, (D,).
        uniquenesses_interval_: Their 5% and 95% quantiles, with shape (2, D).
        r_hat_: R-hat of ``communality``, the largest of a column, and ``log_determinant`` of the covariance, which do
            not depend on signs, order and rotation; and the largest of ``loadings``, which says whether the data
            settle the rotation.
        n_features_in_: The number of columns.

    Raises:
        ValueError: A column does not vary, there is one row or column only, or a number is infinite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(80, 1)) * [1.0, 1.0, 1.0, 0.0] + 0.5 * rng.normal(size=(80, 4))
        >>> found = Factors(max_factors=1, draws=50).fit(x)
        >>> found.n_factors_, bool(found.number_probabilities_[1] > 0.99), (found.included_[:, 0] > 0.5).tolist()
        (1, True, [True, True, True, False])
    """

    def __init__(self, max_factors: int | None = None, draws: int = 250, random_state: int = 0) -> None:
        self.max_factors = max_factors
        self.draws = draws
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> Self:
        """Finds the factors of columns.

        Arguments:
            X: A table of numbers with shape (N, D), NaN where an entry is missing.
            y: Not used.
        """
        if (self.max_factors is not None and self.max_factors < 1) or self.draws < 4:
            raise ValueError(f"Factors(max_factors={self.max_factors}, draws={self.draws}): give 1 and 4 or more.")
        values = as_matrix(self, X, reset=True)
        if values.shape[1] < 2:
            raise ValueError("Factors: a table of 1 feature(s), columns, has nothing in common: give two or more.")
        self._mean, self._scale = np.nanmean(values, 0), np.nanstd(values, 0)
        x = self._standardised(values)
        self.evidences_ = self._search(x)
        self.number_probabilities_, self.number_errors_ = _probabilities(self.evidences_)
        self.n_factors_ = max(self.number_probabilities_, key=lambda k: self.number_probabilities_[k])
        with seeded(fork(self.random_state)):
            drawn = gibbs(compress(x), self.n_factors_, self.draws, BURN_IN, CHAINS, THIN)
        loadings = aligned(drawn.loadings.flatten(0, 1)).unflatten(0, drawn.loadings.shape[:2])
        self._draws = Draws(*(part.transpose(0, 1) for part in drawn._replace(loadings=loadings)))  # chains first
        self._summarise()
        return self

    def _standardised(self, values: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy((values - self._mean) / self._scale)

    def _search(self, x: Tensor) -> dict[int, LogLikelihood]:
        """The evidence of each number, up to where there is no hope; of those in doubt by several runs."""
        found: dict[int, LogLikelihood] = {}
        hopeless = 0
        for number in range(_most(x.shape[1], self.max_factors) + 1):
            found[number] = factor_evidence(x, number, fork(self.random_state))
            best = max(e.mean() for e in found.values())
            hopeless = hopeless + 1 if found[number].mean() < best - HOPELESS else 0
            if hopeless == NUMBERS_WITHOUT_HOPE:
                break
        seed = fork(self.random_state)
        for _ in range(REPEATS):
            p, errors = _probabilities(found)
            if max(errors.values()) < EXACT_ENOUGH:
                break
            seed = fork(seed)
            for number in [k for k in found if p[k] + 2 * errors[k] > EXACT_ENOUGH]:
                found[number] = pooled(found[number], factor_evidence(x, number, seed))
        return found

    def _summarise(self) -> None:
        w, noise = self._draws.loadings.numpy(), self._draws.noise.numpy()
        self._communality = 1 - noise / (np.square(w).sum(-1) + noise)  # (C, S, D)
        flat = w.reshape(w.shape[0] * w.shape[1], *w.shape[2:])
        self.loadings_, self.included_ = flat.mean(0), (flat != 0).mean(0)
        self.loadings_interval_ = np.quantile(flat, INTERVAL, axis=0)
        own = 1 - self._communality.reshape(-1, w.shape[2])
        self.uniquenesses_, self.uniquenesses_interval_ = own.mean(0), np.quantile(own, INTERVAL, axis=0)
        self.r_hat_ = self._r_hats()

    def _r_hats(self) -> dict[str, float]:
        import arviz

        names = ["communality", "log_determinant", "loadings"] if self.n_factors_ else ["log_determinant"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of loadings that are 0 in all draws, whose R-hat is NaN: they agree
            found = arviz.rhat(self.posterior_, var_names=names)
        return {name: float(np.nanmax(found[name].values)) for name in names}

    @property
    def posterior_(self) -> Any:
        """The draws as ArviZ's InferenceData, of standardised columns, with as many factors as are most probable.

        ``loadings`` (chain, draw, column, factor), ``noise``, ``mean`` and ``communality`` (chain, draw, column), and
        ``log_determinant`` of the covariance.
        """
        import arviz

        check_is_fitted(self, "n_factors_")
        w, noise, mean = (part.numpy() for part in self._draws)
        covariance = w @ w.swapaxes(-1, -2) + noise[..., None] * np.eye(w.shape[-2])
        values = {"loadings": w, "noise": noise, "mean": mean, "communality": self._communality}
        columns = [str(name) for name in getattr(self, "feature_names_in_", range(w.shape[2]))]
        dims = {name: ["column"] for name in values} | {"loadings": ["column", "factor"]}
        values["log_determinant"] = np.linalg.slogdet(covariance)[1]
        return arviz.from_dict(posterior=values, dims=dims, coords={"column": columns, "factor": range(w.shape[3])})

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """The posterior means of the factors of each row given what is seen of it, with shape (N, K)."""
        return self.scores(X)[0]

    def scores(self, X: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The posterior means of the factors of each row, and their standard deviations, each with shape (N, K).

        The deviations take in that the loadings are not known; a row without a value has mean 0 and deviation 1.
        """
        means, deviations = [], []
        for x, draws in self._rows(X):
            if not self.n_factors_:
                means.append(x[:, :0])
                deviations.append(x[:, :0])
                continue
            mean, covariance = expectation(x, draws)
            means.append(mean.mean(0))
            variance = covariance.diagonal(dim1=-2, dim2=-1).mean(0) + mean.var(0, correction=0)
            deviations.append(variance.sqrt())
        return torch.cat(means).numpy(), torch.cat(deviations).numpy()

    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """The table with its holes filled by their expectations given what is seen of their row, with shape (N, D)."""
        parts = []
        for x, draws in self._rows(X):
            fitted = expectation(x, draws)[0] @ draws.loadings.mT + draws.mean.unsqueeze(1)
            parts.append(fitted.mean(0))
        values = as_matrix(self, X, reset=False)
        return np.where(np.isnan(values), torch.cat(parts).numpy() * self._scale + self._mean, values)

    def score(self, X: Any, y: None = None) -> float:
        """The mean log predictive density of what is seen of rows, in nats."""
        scale = torch.from_numpy(np.log(self._scale))
        parts = []
        for x, draws in self._rows(X):
            log_p = log_density(x, draws)
            parts.append(log_p.logsumexp(0) - np.log(len(log_p)) - (~x.isnan()).to(x) @ scale)
        return float(torch.cat(parts).mean())

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """The names of the factors: factor0, factor1, ..."""
        check_is_fitted(self, "n_factors_")
        return np.array([f"factor{k}" for k in range(self.n_factors_)], dtype=object)

    def _rows(self, X: Any) -> Any:
        """Chunks of standardised rows with the draws that they are to be averaged over."""
        check_is_fitted(self, "n_factors_")
        x = self._standardised(as_matrix(self, X, reset=False))
        flat = Draws(*(part.flatten(0, 1) for part in self._draws))
        index = torch.linspace(0, len(flat.noise) - 1, min(DRAWS_OF_ROWS, len(flat.noise))).round().long()
        draws = Draws(*(part[index] for part in flat))
        for chunk in x.split(max(1, NUMBERS_AT_ONCE // (len(index) * max(self.n_factors_**2, x.shape[1])))):
            yield chunk, draws

    def table(self) -> "pd.DataFrame":
        """Loadings with intervals: a row for each column and factor, and ``uniqueness`` of each column by itself."""
        import pandas as pd

        check_is_fitted(self, "n_factors_")
        columns = [str(name) for name in getattr(self, "feature_names_in_", range(len(self.uniquenesses_)))]
        rows = []
        for d, column in enumerate(columns):
            for k, factor in enumerate(self.get_feature_names_out()):
                low, high = self.loadings_interval_[:, d, k]
                rows.append((column, factor, self.loadings_[d, k], low, high, self.included_[d, k]))
            low, high = self.uniquenesses_interval_[:, d]
            rows.append((column, "uniqueness", self.uniquenesses_[d], low, high, 1.0))
        return pd.DataFrame(rows, columns=["column", "of", "mean", "5%", "95%", "probability not 0"])

    def summary(self) -> str:
        """The answer in a few sentences, a line each."""
        check_is_fitted(self, "n_factors_")
        chances = with_probability(self.number_probabilities_, self.number_errors_)
        lines = [f"Factors of {len(self.uniquenesses_)} columns: {chances}."]
        if self.n_factors_:
            many = (self.included_ > 0.5).sum(0)
            lines.append(
                f"They explain {1 - self.uniquenesses_.mean():.0%} of the variance; "
                f"{', '.join(map(str, many))} columns load on each with probability above one half."
            )
        unrotated = {name: v for name, v in self.r_hat_.items() if name != "loadings"}
        lines.append(chains_agree(unrotated, "what no rotation changes"))
        if self.r_hat_.get("loadings", 1.0) > 1.1:
            lines.append(
                f"R-hat of the loadings: {self.r_hat_['loadings']:.2f}: the data do not settle the rotation of the "
                "factors, and intervals of loadings take in several."
            )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Draws loadings with their intervals, a panel a factor, beside the posterior of the number; a figure."""
        from pyro_gen.structure.pictures import factors_figure

        check_is_fitted(self, "n_factors_")
        columns = [str(name) for name in getattr(self, "feature_names_in_", range(len(self.uniquenesses_)))]
        return factors_figure(columns, self.loadings_, self.loadings_interval_, self.number_probabilities_)


def _most(features: int, given: int | None) -> int:
    """The most factors: no more than leave noise to be determined (Ledermann, 1937), one at least."""
    bound = int((2 * features + 1 - (8 * features + 1) ** 0.5) / 2)
    return max(1, min(8, bound) if given is None else min(given, features - 1))


def _probabilities(evidences: dict[int, LogLikelihood]) -> tuple[dict[int, float], dict[int, float]]:
    """The posterior of the number, and its Monte Carlo errors by the delta method."""
    value = np.array([e.mean() for e in evidences.values()])
    error = np.array([e.mean_standard_error() for e in evidences.values()])
    p = np.exp(value - value.max())
    p /= p.sum()
    gradient = p[:, None] * (np.eye(len(p)) - p)
    errors = np.sqrt(np.square(gradient * error).sum(1))
    return dict(zip(evidences, p.tolist(), strict=True)), dict(zip(evidences, errors.tolist(), strict=True))


def aligned(loadings: Tensor) -> Tensor:
    """Draws of loadings (S, D, K) with signs and order of factors that are alike.

    Each draw is matched to the mean of all, from the last one on, until nothing changes; factors are then sorted by the
    squares of the mean's loadings, and the largest of each is positive.

    Example:
        >>> w = torch.tensor([[0.25, 1.0], [0.25, -2.0], [0.5, 0.5]])
        >>> one, two = aligned(torch.stack([w, -w.flip(1)]))
        >>> torch.equal(one, two), one[:, 0].tolist()
        (True, [-1.0, 2.0, -0.5])
    """
    reference, out = loadings[-1], loadings
    for _ in range(ROUNDS):
        inner = torch.einsum("dk,sdj->skj", reference, loadings)
        order = torch.stack([torch.from_numpy(linear_sum_assignment(-m.abs().numpy())[1]) for m in inner])
        sign = inner.gather(2, order.unsqueeze(-1)).squeeze(-1).sign()
        sign = torch.where(sign == 0, 1.0, sign)
        out = loadings.gather(2, order.unsqueeze(1).expand_as(loadings)) * sign.unsqueeze(1)
        if torch.equal(out.mean(0), reference):
            break
        reference = out.mean(0)
    order = reference.square().sum(0).argsort(descending=True)
    largest = reference.gather(0, reference.abs().argmax(0, keepdim=True))[0] if reference.numel() else reference.sum(0)
    return (out * torch.where(largest < 0, -1.0, 1.0))[..., order]


def find_factors(data: Any, *, max_factors: int | None = None, draws: int = 250, seed: int = 0) -> Factors:
    """Finds factors of columns and their number, see :class:`Factors`.

    Arguments:
        data: A table of numbers with shape (N, D), NaN where an entry is missing.
        max_factors: The most factors that are tried; ``None`` is 8, or as many as the columns can determine.
        draws: Draws of loadings that each of four chains keeps.
        seed: Seeds all that is random.

    Returns:
        The fitted estimator.
    """
    return Factors(max_factors, draws, seed).fit(data)
