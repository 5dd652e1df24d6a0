r"""Regimes that come back: the states of a hidden Markov model, and how many there are.

The evidence of each number K of states (:mod:`pyro_gen.structure.hidden_states`) gives the posterior of the number,
which is proportional to :math:`2^{-K}` a priori; four islands of particles that do not meet are four chains, each with
an evidence of its own. Draws of one number are aligned, since their labels are arbitrary: to the draw of the greatest
likelihood, then to the mean, by the assignment of states with the most steps in common; regimes 0, 1, ... are in the
order of their means.

References:
    | Dealing with label switching in mixture models (Stephens, 2000), https://doi.org/10.1111/1467-9868.00265
"""

import math
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_gen._random import fork, seeded
from pyro_gen.inference.likelihood.paths import Particles
from pyro_gen.inference.likelihood.smc import smc
from pyro_gen.structure.emission_priors import EMISSIONS
from pyro_gen.structure.hidden_states import HiddenStates
from pyro_gen.structure.series import SeriesData

__all__ = ["StateRegimes"]

CHAINS = 4
LENGTH, STARTS_OF_DRAWS = 16, 0.16  # of the moves between temperatures, and how many start for each draw
HOPELESS, NUMBERS_WITHOUT_HOPE = 8.0, 2  # nats below the best; after so many numbers the search ends

Array = npt.NDArray[Any]


class _Number(NamedTuple):
    """What was found of one number of states."""

    path: HiddenStates
    particles: Particles


class StateRegimes:
    """The posterior of states and of their number, of series with steps (S, D).

    Attributes:
        log_evidences, errors: Of each number, in nats, and the standard errors.
        number_probabilities, number_errors: The posterior of the number, and its standard errors.
        number: The most probable number K.
        probabilities: Of the states of K, with shape (S, K).
        change: The probability that the state before each step is another, of all numbers, (S).
        labels: The most probable state of each step, (S).
        draws: By name, four chains: (4, draws) or (4, draws, S).
    """

    def __init__(self, emission: str, max_states: int, draws: int, seed: int) -> None:
        self.emission, self.max_states, self.count, self.seed = emission, max_states, draws, seed

    def fit(self, series: SeriesData) -> Self:
        """Finds the posterior."""
        self._scale(series.values)
        steps, self._data_constant = self._scaled(series.values), self._constant(series.values)
        islands: dict[int, Tensor] = {}
        found: dict[int, _Number] = {}
        hopeless, seed = 0, self.seed
        count = LENGTH * max(4, math.ceil(STARTS_OF_DRAWS * self.count))  # of particles of a chain
        for k in range(1, min(self.max_states, len(steps)) + 1):
            path, seed = HiddenStates(EMISSIONS[self.emission](k, steps), series.lengths), fork(seed)
            particles = smc(path, particles=count, islands=CHAINS, length=LENGTH, frozen=False, seed=seed)
            found[k] = _Number(path, particles)
            islands[k] = particles.evidence.diagnostics["islands"].flatten() + self._data_constant
            best = max(v.max() for v in islands.values())
            hopeless = hopeless + 1 if islands[k].max() < best - HOPELESS else 0
            if hopeless == NUMBERS_WITHOUT_HOPE:
                break
        self._weigh(islands)
        with seeded(fork(seed)):
            self._align(found[self.number])
            self._draw(found)
        return self

    def _weigh(self, islands: dict[int, Tensor]) -> None:
        """The evidence of numbers from those of islands, (4) of each number, which the error is from."""
        numbers = list(islands)
        values = torch.stack(list(islands.values()))  # (numbers, 4)
        mean = values.logsumexp(1) - math.log(CHAINS)
        relative = (values - mean.unsqueeze(1)).exp()
        errors = relative.std(1) / math.sqrt(CHAINS)
        self.log_evidences = dict(zip(numbers, mean.tolist(), strict=True))
        self.errors = dict(zip(numbers, errors.tolist(), strict=True))
        prior = -math.log(2) * torch.tensor(numbers, dtype=mean.dtype)
        p = (mean + prior).softmax(0)
        self.number_probabilities = dict(zip(numbers, p.tolist(), strict=True))
        # By the delta method: d p_k = p_k (e_k - sum_j p_j e_j), with relative errors e that are independent.
        jacobian = p.unsqueeze(1) * (torch.eye(len(p)).to(p) - p)
        self.number_errors = dict(zip(numbers, (jacobian @ errors.diag()).norm(dim=1).tolist(), strict=True))
        self.log_evidence = float((mean + prior).logsumexp(0)) - math.log1p(-(0.5**self.max_states))
        self.number = numbers[int(p.argmax())]
        self._of_chains = (values + prior.unsqueeze(1)).softmax(0).T.numpy()  # (4, numbers)

    def _align(self, found: _Number) -> None:
        """Puts the states of draws in one order, by their steps, and the states in that of their means."""
        self._path = found.path
        self._parameters = found.particles.draws(CHAINS * self.count, seed=int(torch.randint(2**31, ())))
        said = self._path.smoothed(self._parameters)
        p = said.probabilities.numpy()  # (C, S, K)
        reference = p[int(said.log_likelihood.argmax())]
        for _ in range(2):
            order = _orders(p, reference)
            reference = np.take_along_axis(p, order[:, None], 2).mean(0)
        emission = self._path.unpack(self._parameters)[2]
        mean, spread = (m.numpy() for m in self._path.emission.moments(emission))  # (C, K, D)
        by_mean = np.argsort(np.take_along_axis(mean, order[:, :, None], 1).mean(0)[:, 0], kind="stable")
        self._order = order = order[:, by_mean]
        self.probabilities = reference[:, by_mean]
        self.labels = self.probabilities.argmax(1)
        self.means = np.take_along_axis(mean, order[:, :, None], 1) * self._unit + self._centre  # (C, K, D)
        self.deviations = np.take_along_axis(spread, order[:, :, None], 1) * self._unit
        moves = self._path.unpack(self._parameters)[1].numpy()
        moves = np.take_along_axis(moves, order[:, :, None], 1)
        self.transition = np.take_along_axis(moves, order[:, None], 2)  # (C, K, K)

    def _draw(self, found: dict[int, _Number]) -> None:
        """Draws of numbers and parameters in four chains, and what they say of the states."""
        numbers = np.array(list(found))
        points = (np.arange(self.count) + float(torch.rand(()))) / self.count
        index = np.stack([np.searchsorted(p.cumsum(), points) for p in self._of_chains])
        number = numbers[index.clip(max=len(numbers) - 1)][:, torch.randperm(self.count).numpy()]  # (4, draws)
        steps = len(self.labels)
        log_likelihood, entropy = np.empty(number.shape), np.empty(number.shape)
        states, total = np.empty((*number.shape, steps), dtype=np.int64), np.zeros(steps)
        for k in np.unique(number):
            at = np.nonzero(number == k)
            particles = found[k].particles.z.unflatten(0, (CHAINS, -1))
            said = found[k].path.smoothed(
                particles[torch.from_numpy(at[0]), torch.randint(particles.shape[1], (len(at[0]),))]
            )
            states[at] = drawn = said.states.numpy()
            if k == self.number:  # of which labels have a meaning
                inverse = np.argsort(_orders(said.probabilities.numpy(), self.probabilities), 1)
                states[at] = np.take_along_axis(inverse, drawn, 1)
            log_likelihood[at] = said.log_likelihood.numpy()
            shares = said.probabilities.mean(1)
            entropy[at] = -torch.xlogy(shares, shares).sum(1).numpy()
            total += said.change.sum(0).numpy()
        self.change = total / number.size
        inside = ~self._path.first.numpy()[1:]
        changes = ((np.diff(states, axis=-1) != 0) & inside).sum(-1)
        self.draws = {
            "number": number,
            "changes": changes,
            "entropy": entropy,
            "log_density": log_likelihood + self._data_constant,
            "state": states,
        }

    # ------------------------------------------------------------------------------------------------------------------

    def _scale(self, values: Array) -> None:
        """Normal and Student-t emissions are of columns with mean 0 and variance 1."""
        scaled = self.emission in ("normal", "student_t")
        self._centre = np.nanmean(values, 0) if scaled else np.zeros(values.shape[1])
        self._unit = np.nanstd(values, 0) if scaled else np.ones(values.shape[1])

    def _scaled(self, values: Array) -> Tensor:
        return torch.from_numpy((values - self._centre) / self._unit)

    def _constant(self, values: Array) -> float:
        """What scaling adds to log-densities."""
        return -float((~np.isnan(values) * np.log(self._unit)).sum())

    def said(self, series: SeriesData) -> tuple[Array, Array, float]:
        """The labels and the probabilities of states, (S, K), of other series, and the log-density of these, nats."""
        with seeded(0):
            said = self._path.smoothed(self._parameters, self._scaled(series.values), series.lengths)
        p = np.take_along_axis(said.probabilities.numpy(), self._order[:, None], 2).mean(0)
        log_density = float(said.log_likelihood.logsumexp(0)) - math.log(len(self._parameters))
        return p.argmax(1), p, log_density + self._constant(series.values)

    def table(self, columns: list[str]) -> pd.DataFrame:
        """A row for each regime: share of steps, mean duration, and mean and deviation of columns with 90% intervals.

        Durations are :math:`1 / (1 - A_{kk})` steps, at the median.
        """
        stay = self.transition.diagonal(axis1=1, axis2=2)
        rows: dict[str, Any] = {
            "share of steps": self.probabilities.mean(0),
            "steps it lasts": np.median(1 / (1 - stay).clip(1e-12), 0),
        }
        for d, column in enumerate(columns):
            spread = "scale" if self.emission == "student_t" else "standard deviation"
            for what, values in (("mean", self.means[..., d]), (spread, self.deviations[..., d])):
                low, high = np.quantile(values, [0.05, 0.95], axis=0)
                rows |= {f"{what} of {column}": values.mean(0), f"{what} of {column}, 5%": low}
                rows[f"{what} of {column}, 95%"] = high
        return pd.DataFrame(rows).rename_axis("regime")


def _orders(p: Array, reference: Array) -> Array:
    """Which state of each draw is each state of the reference, (C, K), of probabilities (C, S, K) and (S, K)."""
    return np.stack([linear_sum_assignment(-reference.T @ one)[1] for one in p])
