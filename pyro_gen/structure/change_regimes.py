"""Regimes that do not come back: the segments between changes, exactly (:class:`pyro_gen.models.ChangePoints`).

Several series have segments of their own; what they share is their scale. Draws are independent.
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pyro_gen._random import fork
from pyro_gen.inference import log_likelihood
from pyro_gen.models import ChangePoints
from pyro_gen.structure.series import SeriesData

__all__ = ["ChangeRegimes"]

CHAINS = 4
MOST_STEPS = 5_000  # of which numbers between all pairs are kept

Array = npt.NDArray[Any]


class ChangeRegimes:
    """The posterior of the changes of series and of their number.

    Attributes:
        number_probabilities: Of 0, 1, ... changes of each series.
        change: The probability of a change before each step, (S).
        labels: The most probable segmentation, 0, 1, ... in each series, (S).
        probabilities: Of the number of changes up to each step, (S, K).
        log_evidence: Of all series, nats.
        draws: By name, four chains: (4, draws) or (4, draws, S).
    """

    def __init__(self, probability: float, max_changes: int, draws: int, seed: int) -> None:
        self.probability, self.max_changes, self.count, self.seed = probability, max_changes, draws, seed

    def fit(self, series: SeriesData) -> Self:
        """Finds the posterior.

        Raises:
            ValueError: A series is longer than 5,000 steps.
        """
        if max(series.lengths) > MOST_STEPS:
            raise ValueError(
                f"Regimes(kind='change points') has memory for {MOST_STEPS} steps, and a series has "
                f"{max(series.lengths)}: take means of successive steps, or kind='states'."
            )
        pooled = torch.from_numpy(series.values).unsqueeze(0)
        self._program = ChangePoints(pooled.shape[1:], self.probability).double().initialise(pooled)
        parts = self._series(series)
        most = min(self.max_changes, max(series.lengths) - 1)
        self.number_probabilities = [dict(enumerate(self._program.number(x, most)[0].tolist())) for x in parts]
        self.change = np.concatenate([self._program.changes(x)[0].numpy() for x in parts])
        self.labels, self.probabilities, self.log_evidence = self.said(series)
        drawn, seed = [], self.seed
        for x in parts:
            seed = fork(seed)
            drawn.append(self._program.draw_changes(x, CHAINS * self.count, seed)[:, 0])
        change = torch.cat(drawn, -1).unflatten(0, (CHAINS, -1)).numpy()
        number = np.stack([part.sum(-1) for part in np.split(change, np.cumsum(series.lengths)[:-1], -1)], -1)
        self.draws = {"number": number if series.several else number[..., 0], "change": change}
        self._values = series
        return self

    def _series(self, series: SeriesData) -> list[Tensor]:
        return [torch.from_numpy(part).unsqueeze(0) for part in series.split(series.values)]

    def said(self, series: SeriesData) -> tuple[Array, Array, float]:
        """The labels and the probabilities of the segments of other series, and the log-density of these, nats."""
        parts = self._series(series)
        most = min(self.max_changes, max(series.lengths) - 1)
        labels = np.concatenate([self._program.segmentation(x)[0].numpy() for x in parts])
        found = np.concatenate([self._program.memberships(x, most)[0].numpy() for x in parts])
        log_density = sum(float(log_likelihood(self._program, x, progress=False).value) for x in parts)
        return labels, found, log_density

    def table(self, columns: list[str]) -> pd.DataFrame:
        """A row for each segment: its steps, and mean and deviation of what is seen of columns."""
        rows = []
        parts = zip(
            self._values.split(self._values.values), self._values.split(self.labels), self._values.times, strict=True
        )
        for i, (values, labels, times) in enumerate(parts):
            for k in np.unique(labels):
                at = np.flatnonzero(labels == k)
                row: dict[str, Any] = {"series": i} if self._values.several else {}
                row |= {"regime": k, "from": times[at[0]], "to": times[at[-1]], "steps": len(at)}
                for d, column in enumerate(columns):
                    seen = values[at, d][~np.isnan(values[at, d])]
                    row[f"mean of {column}"] = seen.mean() if len(seen) else np.nan
                    row[f"standard deviation of {column}"] = seen.std(ddof=1) if len(seen) > 1 else np.nan
                rows.append(row)
        return pd.DataFrame(rows).set_index(["series", "regime"] if self._values.several else "regime")
