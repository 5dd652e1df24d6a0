"""Programs learnt from one table, scored by entries that were hidden from them, and weighed by these scores."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_gen.data.column import Column
from pyro_gen.imputation.progress import Report
from pyro_gen.imputation.stacking.weights import hide, stacking_weights
from pyro_gen.models.tabular import METHODS, TableProgram

__all__ = ["HIDDEN_SHARE", "Learner", "Weighed", "scored_columns", "weigh"]

HIDDEN_SHARE = 0.15  # of the observed entries, that programs are scored by
SCORED_ENTRIES = 1000  # tables with fewer hidden entries are hidden from more than once,
TABLES = 3  # at most so often
ENTRIES_AT_A_TIME = 10_000  # hidden, about: more say little more, and take their time
RELEARNT_SHARE = 0.04  # of a column's observed entries: programs that learnt without fewer need not learn again
KEPT_WEIGHT = 0.02  # below which a program is left out


class Learner:
    """Learns programs from tables with the same columns, in the time that there is.

    Arguments:
        columns: The columns on the working scale.
        options: What else a program is made with.
        seed: Seeds what programs draw.
        report: Where progress is shown.
        deadline: When to be done, by the monotonic clock.
        notes: What a user should know: more is added to it.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        options: Mapping[str, Any],
        seed: int,
        report: Report,
        deadline: float | None,
        notes: list[str],
    ) -> None:
        self.columns, self.options, self.seed = columns, options, seed
        self.report, self.deadline, self.notes = report, deadline, notes

    def fit(self, name: str, x: Tensor, left: int) -> TableProgram:
        """Makes a program and learns it.

        Arguments:
            name: Of the program.
            x: The table on the working scale, with shape (N, D).
            left: How many are still to be learnt, this one included: they share the time.
        """
        program = METHODS[name](self.columns, **self.options)
        deadline = None
        if self.deadline is not None:
            now = time.monotonic()
            deadline = now + max(0.0, self.deadline - now) / max(1, left)
        with self.report.stage(name) as tick:

            def progress(share: float, words: str) -> None:
                if "out of time" in words:
                    note = f"{name} stopped learning early, at the time limit: draws are made of what it knew by then."
                    self.notes += [note] * (note not in self.notes)
                tick(share, words)

            return program.fit_posterior(x, seed=self.seed, progress=progress, deadline=deadline)


class Weighed(NamedTuple):
    """Programs weighed.

    Attributes:
        scores: The mean log-density that each program gives to a hidden entry, in nats, by name.
        weights: The stacking weights of those that are kept, by name.
        programs: Those that learnt from all but so few entries that they need not learn again, by name.
    """

    scores: dict[str, float]
    weights: dict[str, float]
    programs: dict[str, TableProgram]


def weigh(learner: Learner, names: Sequence[str], x: Tensor, columns: Tensor) -> Weighed:
    """Scores programs by hidden entries, and weighs them.

    Arguments:
        learner: What learns them.
        names: The programs.
        x: The table on the working scale, with shape (N, D).
        columns: Where entries are hidden, a mask with shape (D).

    Raises:
        ValueError: None of the programs gives every hidden entry a density.
    """
    if len(names) == 1:
        return Weighed({}, {names[0]: 1.0}, {})
    observed = (~torch.isnan(x)).sum(0)
    entries = int(hide(x, HIDDEN_SHARE, learner.seed, columns).sum())
    tables = min(TABLES, math.ceil(SCORED_ENTRIES / max(1, entries)))
    scored: dict[str, list[Tensor]] = {name: [] for name in names}
    learnt: dict[str, TableProgram] = {}
    for table in range(tables):
        hidden = hide(x, HIDDEN_SHARE, learner.seed + table, columns)
        if (share := ENTRIES_AT_A_TIME / max(1, int(hidden.sum()))) < 1:
            rng = np.random.default_rng(learner.seed)
            hidden &= torch.from_numpy(rng.random(len(x)) < share).to(x.device).unsqueeze(1)
        lasting = bool((hidden.sum(0) <= RELEARNT_SHARE * observed).all())
        shown, values = x.masked_fill(hidden, torch.nan), x.where(hidden, torch.nan)
        rows = hidden.any(1)
        for i, name in enumerate(names):
            left = (tables - table) * len(names) - i + len(names) * (not lasting)
            program = learner.fit(name, shown, left)
            if lasting:
                learnt[name] = program
            scored[name].append(program.cell_log_prob(shown[rows], values[rows])[hidden[rows]])
    log_prob = torch.stack([torch.cat(parts) for parts in scored.values()])
    if not log_prob.shape[1]:
        learner.notes.append("The table is too small to hide an entry of it: all programs have the same weight.")
    bad = ~log_prob.isfinite().all(1)
    for name in [n for n, b in zip(names, bad.tolist(), strict=True) if b]:
        learner.notes.append(f"{name} gives a hidden entry no density, and is left out.")
    if bool(bad.all()):
        raise ValueError(f"Imputer: none of {', '.join(names)} gives every hidden entry a density.")
    fine = [n for n, b in zip(names, bad.tolist(), strict=True) if not b]
    weights = stacking_weights(log_prob[~bad])
    weights = weights.where(weights >= KEPT_WEIGHT, 0.0)
    weights = weights / weights.sum()
    scores = dict(zip(fine, log_prob[~bad].mean(1).tolist(), strict=True)) if log_prob.shape[1] else {}
    return Weighed(scores, {n: w for n, w in zip(fine, weights.tolist(), strict=True) if w > 0}, learnt)


def scored_columns(x: Tensor, comparable: Tensor) -> Tensor:
    """The columns (D) by which programs are scored: with holes, since there it matters, and densities to compare."""
    holes = torch.isnan(x).any(0)
    masks = (holes & comparable, holes, comparable, torch.ones_like(comparable))
    return next(mask for mask in masks if bool(mask.any()))
