"""Where a series changes, how often, and how sure that is: the posterior over all of its segmentations, exactly.

The model is :class:`pyro_gen.models.ChangePoints`: segments with means and variances of their own, which all columns
change at the same time. Nothing is drawn, so there is no chain to diagnose.
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_gen.inference import log_likelihood
from pyro_gen.models import ChangePoints
from pyro_gen.structure.estimator import StructureEstimator, as_matrix

__all__ = ["Regimes", "find_regimes"]


class Regimes(StructureEstimator):
    """Finds the changes of a series, with a posterior over where and over how many; NaN is "not seen".

    Arguments:
        probability: The prior probability of a change between two steps.
        max_changes: The most changes that their number is told of.

    Attributes:
        change_probabilities_: The probability of a change before each step, with shape (T,).
        number_probabilities_: The posterior of the number of changes, a mapping; it lacks the probability of more.
        labels_: The most probable segmentation, regimes 0, 1, ... in time, with shape (T,).
        log_evidence_: The log-density of the series, nats.
        n_features_in_: The number of columns.

    Raises:
        ValueError: A column does not vary, there is one step only, or a number is infinite.

    Example:
        >>> import pyro_gen as pg
        >>> found = Regimes().fit(pg.data.load("nile").train[0].reshape(-1, 1))
        >>> 1871 + int(found.change_probabilities_.argmax()), round(found.number_probabilities_[1], 2)
        (1899, 0.71)
    """

    def __init__(self, probability: float = 0.02, max_changes: int = 20) -> None:
        self.probability = probability
        self.max_changes = max_changes

    def fit(self, X: Any, y: None = None) -> Self:
        """Finds the changes of a series.

        Arguments:
            X: A series with shape (T, D), steps in time as rows, NaN where an entry is missing.
            y: Not used.
        """
        values = torch.tensor(as_matrix(self, X, reset=True))
        self._values = values.numpy()
        x = values.unsqueeze(0)
        program = ChangePoints(x.shape[1:], self.probability).double().initialise(x)
        self.change_probabilities_ = _numpy(program.changes(x)[0])
        number = program.number(x, min(self.max_changes, len(values) - 1))[0]
        self.number_probabilities_ = dict(enumerate(number.tolist()))
        self.labels_ = _numpy(program.segmentation(x)[0])
        self.log_evidence_ = float(log_likelihood(program, x).value)
        return self

    def plot(self) -> Any:
        """Draws each column with its regimes, over the probability of a change; a figure."""
        from matplotlib.figure import Figure  # takes a second to import

        check_is_fitted(self, "labels_")
        columns = self._values.shape[1]
        figure = Figure(figsize=(8.5, 2 + 2 * columns), layout="constrained")
        *series, below = figure.subplots(columns + 1, 1, sharex=True)
        for axes, column in zip(series, self._values.T, strict=True):
            axes.plot(column, color="0.6", marker=".", lw=0.8)
            for regime in np.unique(self.labels_):
                at = np.flatnonzero(self.labels_ == regime)
                axes.hlines(np.nanmean(column[at]), at[0], at[-1], color=f"C{regime}", lw=2)
        below.vlines(np.arange(len(self.labels_)), 0, self.change_probabilities_, color="C3")
        below.set(xlabel="step", ylabel="probability of a change", ylim=(0, 1))
        return figure


def _numpy(x: Tensor) -> npt.NDArray[Any]:
    return x.numpy()


def find_regimes(data: Any, *, probability: float = 0.02, max_changes: int = 20) -> Regimes:
    """Finds the changes of a series and their number, see :class:`Regimes`.

    Arguments:
        data: A series with shape (T,) or (T, D), steps in time as rows, NaN where an entry is missing.
        probability: The prior probability of a change between two steps.
        max_changes: The most changes that their number is told of.

    Returns:
        The fitted estimator.
    """
    one = np.ndim(data) == 1
    return Regimes(probability, max_changes).fit(np.asarray(data, dtype=np.float64).reshape(-1, 1) if one else data)
