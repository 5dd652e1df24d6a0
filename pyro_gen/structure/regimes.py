"""The regimes of series: states that come back, or segments between changes, how many, and how sure that is.

``kind="states"`` is a hidden Markov model: a series is in one of K states, which have laws of their own and come back
(:mod:`pyro_gen.structure.state_regimes`); the posterior of K is by evidence. ``kind="change points"`` knows segments
that do not come back (:mod:`pyro_gen.structure.change_regimes`); all about it is exact. Times are taken for equally far
apart; what was not seen at one is NaN.
"""

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from pyro_gen.structure.change_regimes import ChangeRegimes
from pyro_gen.structure.emission_priors import EMISSIONS
from pyro_gen.structure.estimator import StructureEstimator, chains_agree, r_hats, with_probability
from pyro_gen.structure.series import SeriesData, in_words, read_series
from pyro_gen.structure.state_regimes import StateRegimes

__all__ = ["KINDS", "Regimes", "find_regimes"]

KINDS = ("states", "change points")


class Regimes(StructureEstimator):
    """Finds the regimes of one or several series, with posteriors of their number and of each step; NaN is "not seen".

    Of several series, a list, what has an entry for each step is a list.

    Arguments:
        kind: ``"states"``, which come back and which all series share, or ``"change points"``.
        emission: Of states, ``"normal"``, ``"student_t"`` (robust to outliers), ``"poisson"`` (counts) or
            ``"categorical"`` (levels 0, 1, ...), of each column by itself.
        max_states: The most states that are tried.
        probability: Of change points, the prior probability of one between two steps.
        max_changes: The most changes of a series that their number is told of.
        draws: What each of four chains draws; with more, evidences are more exact.
        random_state: An integer that seeds all that is random.

    Attributes:
        number_probabilities_: The posterior of the number K of states, a priori as 2^-K, or of changes, a mapping; of
            changes it lacks the probability of more, and is a list of mappings for several series.
        number_errors_: The standard errors of these; of states alone.
        log_evidences_: The log-evidence of each number of states, in nats, and its standard error, a mapping.
        log_evidence_: The log-density of the series, nats.
        n_regimes_: The number of states of the labels: the most probable one; of change points the most segments that
            the labels of a series have.
        probabilities_: The probability of each regime at each step, (T, K): of states in the order of their means in
            the first column; of segments that of 0, 1, ... changes up to the step.
        labels_: The most probable state of each step, with shape (T,), or the most probable segmentation.
        change_probabilities_: The probability that the regime before each step is another, whatever their number, (T,).
        regimes_: A frame with a row for each regime: its share or its steps, means and deviations, with intervals.
        r_hat_: R-hat of what does not depend on labels: number, changes, entropy of the states' shares (nats),
            log-density; of change points, whose draws are independent, of the number.
        n_features_in_: The number of columns.

    Raises:
        ValueError: A column does not vary, a series has one step only, a number is infinite, or does not suit the
            emission.

    Example:
        >>> import pyro_gen as pg
        >>> nile = pd.Series(pg.data.load("nile").train[0], index=pd.period_range("1871", "1970", freq="Y"))
        >>> found = Regimes("change points").fit(nile)
        >>> nile.index[found.change_probabilities_.argmax()].year, round(found.number_probabilities_[1], 2)
        (1899, 0.71)
    """

    def __init__(
        self,
        kind: str = "states",
        *,
        emission: str = "normal",
        max_states: int = 6,
        probability: float = 0.02,
        max_changes: int = 20,
        draws: int = 100,
        random_state: int = 0,
    ) -> None:
        self.kind = kind
        self.emission = emission
        self.max_states = max_states
        self.probability = probability
        self.max_changes = max_changes
        self.draws = draws
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> Self:
        """Finds the regimes.

        Arguments:
            X: A series with shape (T, D), steps as rows, NaN where an entry is missing, a pandas Series, or a list of
                series of any lengths.
            y: Not used.
        """
        if self.kind not in KINDS or self.emission not in EMISSIONS:
            raise ValueError(
                f"Regimes(kind={self.kind!r}, emission={self.emission!r}): choose a kind of {', '.join(KINDS)}, and an "
                f"emission of {', '.join(EMISSIONS)}."
            )
        if self.max_states < 1 or self.max_changes < 1 or self.draws < 4:
            raise ValueError(
                f"Regimes(max_states={self.max_states}, max_changes={self.max_changes}, draws={self.draws}): give 1, 1 "
                "and 4 or more."
            )
        series = read_series(self, X, reset=True)
        self._check_values(series)
        found: StateRegimes | ChangeRegimes
        if self.kind == "states":
            found = StateRegimes(self.emission, self.max_states, self.draws, self.random_state).fit(series)
            self.number_probabilities_: Any = found.number_probabilities
            self.number_errors_ = found.number_errors
            self.log_evidences_ = {k: (v, found.errors[k]) for k, v in found.log_evidences.items()}
            self.n_regimes_ = found.number
        else:
            found = ChangeRegimes(self.probability, self.max_changes, self.draws, self.random_state).fit(series)
            numbers = found.number_probabilities
            self.number_probabilities_ = numbers if series.several else numbers[0]
            self.n_regimes_ = int(found.labels.max()) + 1
        self._found, self._series = found, series
        self.log_evidence_ = found.log_evidence
        self.labels_ = series.shaped(found.labels)
        self.probabilities_ = series.shaped(found.probabilities)
        self.change_probabilities_ = series.shaped(found.change)
        self.regimes_ = found.table(series.columns)
        free = [name for name in found.draws if name not in ("state", "change")]
        self.r_hat_ = r_hats(self.posterior_, free)
        return self

    def _check_values(self, series: SeriesData) -> None:
        """Refuses numbers that the emission has no density for."""
        if self.kind != "states" or self.emission not in ("poisson", "categorical"):
            return
        values = series.values[~np.isnan(series.values)]
        wrong = values[(values < 0) | (values != np.floor(values))]
        if len(wrong):
            raise ValueError(
                f"Regimes(emission={self.emission!r}) takes the numbers 0, 1, 2, ..., not {wrong[0]:g}: choose "
                "another emission, or code levels by such numbers."
            )

    @property
    def posterior_(self) -> Any:
        """What was drawn as ArviZ's InferenceData, the variables of ``r_hat_`` and the regime of each step.

        Of states ``state``, whose labels are those of ``labels_`` in draws of the most probable number; of change
        points ``change``, whether there is one before a step. Steps of several series are one after the other.
        """
        import arviz

        check_is_fitted(self, "labels_")
        names = {"state": ["step"], "change": ["step"]}
        if self.kind == "change points" and self._series.several:
            names["number"] = ["series"]
        return arviz.from_dict(
            posterior=self._found.draws, dims={name: dims for name, dims in names.items() if name in self._found.draws}
        )

    def _read(self, X: Any) -> SeriesData:
        check_is_fitted(self, "labels_")
        series = read_series(self, X, reset=False)
        self._check_values(series)
        if self.kind == "states" and self.emission == "categorical":
            fitted = np.nanmax(self._series.values, 0)
            if (series.values > fitted).any():
                raise ValueError("Regimes: a level is greater than all of those fitted, so nothing is known of it.")
        return series

    def predict(self, X: Any) -> Any:
        """The most probable state of each step given all of its series, (T,), or the most probable segmentation."""
        series = self._read(X)
        return series.shaped(self._found.said(series)[0])

    def predict_proba(self, X: Any) -> Any:
        """The probabilities of regimes at each step given all of its series, as ``probabilities_``: (T, K)."""
        series = self._read(X)
        return series.shaped(self._found.said(series)[1])

    def score(self, X: Any, y: None = None) -> float:
        """The log-density of what is seen of series, in nats per step."""
        series = self._read(X)
        return float(self._found.said(series)[2]) / len(series.values)

    def steps(self) -> pd.DataFrame:
        """A row for each step, under its time: its regime, the probabilities of regimes, and that of a change."""
        check_is_fitted(self, "labels_")
        series, found = self._series, self._found
        columns = {"series": np.repeat(np.arange(len(series.lengths)), series.lengths)} if series.several else {}
        columns |= {"regime": found.labels}
        columns |= {f"probability {k}": p for k, p in enumerate(found.probabilities[:, : self.n_regimes_].T)}
        columns |= {"probability of a change": found.change}
        index = series.times[0]
        for more in series.times[1:]:
            index = index.append(more)
        return pd.DataFrame(columns, index=index)

    def summary(self) -> str:
        """The answer in a few sentences, a line each."""
        check_is_fitted(self, "labels_")
        series = self._series
        what = (
            f"{len(series.lengths)} series of {sum(series.lengths)} steps"
            if series.several
            else (f"a series of {len(series.values)} steps")
        )
        ends = chains_agree(self.r_hat_)
        if isinstance(self._found, StateRegimes):
            chances = with_probability(self.number_probabilities_, self.number_errors_)
            sure = self._found.probabilities.max(1)
            return (
                f"States of {what}: {chances}.\n"
                f"With {self.n_regimes_}, {np.mean(sure > 0.9):.0%} of the steps are in one with probability .9 or "
                f"more.\n{ends}"
            )
        lines = [f"Changes of {what}, prior probability {self.probability:g} a step:"]
        for i, of_changes in enumerate(self._found.number_probabilities):
            chances = with_probability(of_changes)
            at = (np.flatnonzero(np.diff(series.split(self._found.labels)[i])) + 1).tolist()
            change = series.split(self._found.change)[i]
            places = ", ".join(f"before {in_words(series.times[i][t])} ({change[t]:.2f})" for t in at)
            of = f"series {i}: " if series.several else ""
            lines.append(f"{of}{chances}; the most probable segmentation changes {places or 'nowhere'}.")
        return "\n".join([*lines, ends])

    def plot(self) -> Any:
        """Draws the series with their regimes, over the probabilities of these or of changes; a figure."""
        from pyro_gen.structure.pictures import regimes_figure

        check_is_fitted(self, "labels_")
        return regimes_figure(
            self._series,
            self._found.labels,
            self._found.probabilities if self.kind == "states" else None,
            self._found.change,
        )


def find_regimes(
    data: Any,
    kind: str = "states",
    *,
    emission: str = "normal",
    max_states: int = 6,
    probability: float = 0.02,
    max_changes: int = 20,
    draws: int = 100,
    seed: int = 0,
) -> Regimes:
    """Finds the regimes of one or several series and their number, see :class:`Regimes`.

    Arguments:
        data: A series with shape (T,) or (T, D), steps as rows, NaN where an entry is missing: an array, a data frame,
            a pandas Series; or a list of such.
        kind: ``"states"``, which come back, or ``"change points"``.
        emission: Of states, ``"normal"``, ``"student_t"``, ``"poisson"`` or ``"categorical"``.
        max_states: The most states that are tried.
        probability: Of change points, the prior probability of one between two steps.
        max_changes: The most changes of a series that their number is told of.
        draws: What each of four chains draws.
        seed: Seeds all that is random.

    Returns:
        The fitted estimator.
    """
    estimator = Regimes(
        kind,
        emission=emission,
        max_states=max_states,
        probability=probability,
        max_changes=max_changes,
        draws=draws,
        random_state=seed,
    )
    if not isinstance(data, pd.Series | pd.DataFrame) and np.ndim(data[0] if len(data) else 0) == 0:
        data = np.asarray(data, dtype=np.float64).reshape(-1, 1)  # numbers of one series
    return estimator.fit(data)
