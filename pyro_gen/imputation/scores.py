r"""Scores: how good imputations are, as single guesses and as distributions, where the truth is known.

Draws :math:`x_1, \dots, x_m` of an entry are judged against its true value y. A score is *proper* if, on average, no
forecast beats draws from the true conditional distribution; it is *fair* if that holds for every m, so that a forecast
by 5 draws and one by 500 can be compared (Ferro, 2014). All scores here that are expectations are fair: with sample
means in their place, few draws would be punished for being few.

.. math::
    \mathrm{CRPS} &= \frac{1}{m} \sum_i |x_i - y| - \frac{1}{2 m (m - 1)} \sum_{i, j} |x_i - x_j| \\
    \mathrm{ES} &= \frac{1}{m} \sum_i \|x_i - y\| - \frac{1}{2 m (m - 1)} \sum_{i, j} \|x_i - x_j\|
    \quad \text{(for the missing entries of a row jointly)} \\
    \mathrm{VS} &= \sum_{d < e} \Big[ \big(|y_d - y_e|^p - \bar v_{de}\big)^2 - s^2_{de} / m \Big]

with :math:`\bar v_{de}, s^2_{de}` mean and variance of :math:`|x_{id} - x_{ie}|^p` over the draws.

If y comes from the same distribution as the draws, each of the :math:`m + 1` gaps between the sorted draws holds it
with the same probability. Intervals and probability integral transforms are built on that, so that what they promise is
exact for every m, not only in the limit.

References:
    | Strictly proper scoring rules, prediction, and estimation (Gneiting & Raftery, 2007)
    | https://doi.org/10.1198/016214506000001437
    | Fair scores for ensemble forecasts (Ferro, 2014)
    | https://doi.org/10.1002/qj.2270
    | Variogram-based proper scoring rules for probabilistic forecasts of multivariate quantities
      (Scheuerer & Hamill, 2015)
    | https://doi.org/10.1175/MWR-D-14-00269.1
    | Predictive model assessment for count data (Czado, Gneiting & Held, 2009)
    | https://doi.org/10.1111/j.1541-0420.2009.01191.x
    | Sample quantiles in statistical packages (Hyndman & Fan, 1996)
    | https://doi.org/10.2307/2684934
    | A unified approach to measurement error and missing data: overview and applications (Blackwell, Honaker & King,
      2017), for over-imputation
    | https://doi.org/10.1177/0049124115585360
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import torch
from sklearn.base import clone
from torch import Tensor

from pyro_gen._random import fork, seeded
from pyro_gen.data.schema import Column, Schema
from pyro_gen.imputation.amputation import ampute, takes

__all__ = [
    "Evaluation",
    "Intervals",
    "brier",
    "crps",
    "energy_score",
    "evaluate_imputer",
    "interval_coverage",
    "level_shares",
    "log_loss",
    "mae",
    "pit",
    "pit_test",
    "ranked_probability_score",
    "rmse",
    "variogram_score",
]

LEVELS = (50, 80, 95)  # percent, of the intervals that an evaluation reports
CHUNK = 2**23  # numbers that a score holds at a time


def _pair(draws: Any, truth: Any, name: str, fewest: int = 1) -> tuple[Tensor, Tensor]:
    """Draws and truth as float64 tensors of matching shapes."""
    draws, truth = (t if isinstance(t, Tensor) else torch.as_tensor(np.asarray(t)) for t in (draws, truth))
    if draws.shape[1:] != truth.shape or not draws.dim():
        raise ValueError(
            f"{name} got draws of shape {tuple(draws.shape)} and a truth of shape {tuple(truth.shape)}: expected "
            f"draws of shape (m, *{tuple(truth.shape)})."
        )
    if len(draws) < fewest:
        raise ValueError(f"{name} got {len(draws)} draws: give at least {fewest}.")
    return draws.double(), truth.double()


# ----------------------------------------------------------------------------------------------------------------------
# Numbers


def rmse(draws: Any, truth: Any, of: str = "mean") -> Tensor:
    r"""The root mean squared error.

    Arguments:
        draws: Draws of each entry, with shape :math:`(m, *)`.
        truth: The true values, with shape :math:`(*)`; NaN = not scored.
        of: ``"mean"``: of the mean of the draws. ``"draws"``: of single draws, the mean being over them too; that is
            larger, by a factor :math:`\sqrt 2` where the draws are right, and no reason to prefer the mean as a draw.

    Returns:
        One number, over all entries.

    Raises:
        ValueError: If the shapes do not match, or ``of`` is unknown.

    Example:
        >>> float(rmse([[1.0], [3.0]], [2.0])), float(rmse([[1.0], [3.0]], [2.0], of="draws"))
        (0.0, 1.0)
    """
    draws, truth = _pair(draws, truth, "rmse")
    if of not in ("mean", "draws"):
        raise ValueError(f'rmse(of={of!r}): give "mean" or "draws".')
    errors: Tensor = (draws.mean(0) if of == "mean" else draws) - truth
    return errors.square().nanmean().sqrt()


def mae(draws: Any, truth: Any, of: str = "median") -> Tensor:
    """The mean absolute error.

    Arguments:
        draws: As for :func:`rmse`.
        truth: As for :func:`rmse`.
        of: ``"median"``: of the median of the draws. ``"draws"``: of single draws.

    Returns:
        One number, over all entries.

    Raises:
        ValueError: If the shapes do not match, or ``of`` is unknown.

    Example:
        >>> float(mae([[1.0], [2.0], [9.0]], [2.0])), float(mae([[1.0], [2.0], [9.0]], [2.0], of="draws"))
        (0.0, 2.6666666666666665)
    """
    draws, truth = _pair(draws, truth, "mae")
    if of not in ("median", "draws"):
        raise ValueError(f'mae(of={of!r}): give "median" or "draws".')
    errors: Tensor = (_median(draws) if of == "median" else draws) - truth
    return errors.abs().nanmean()


def _median(draws: Tensor) -> Tensor:
    ordered = draws.sort(0).values  # torch.median takes the lower one of two, torch.quantile refuses much data
    return (ordered[(len(draws) - 1) // 2] + ordered[len(draws) // 2]) / 2


def crps(draws: Any, truth: Any) -> Tensor:
    r"""The continuous ranked probability score, in its fair form, by sorting: :math:`O(m \log m)`.

    In the unit of the data, less is better; single estimates can be negative. It is the integral over all thresholds of
    the Brier score, and generalises the absolute error, which is what a point forecast has in its place.

    Arguments:
        draws: Draws of each entry, with shape :math:`(m, *)`, at least two.
        truth: The true values, with shape :math:`(*)`; NaN = not scored.

    Returns:
        The score of each entry, with shape :math:`(*)`; NaN where the truth is.

    Raises:
        ValueError: If the shapes do not match, or there is only one draw.

    Example:
        >>> crps([[0.0], [2.0], [4.0]], [3.0])  # (3 + 1 + 1) / 3 - (2 + 4 + 2) / 6
        tensor([0.3333], dtype=torch.float64)
    """
    draws, truth = _pair(draws, truth, "crps", 2)
    m = len(draws)
    rank = torch.arange(1 - m, m, 2, dtype=draws.dtype, device=draws.device)  # 2 i - m - 1
    spread: Tensor = torch.einsum("i,i...->...", rank, draws.sort(0).values) / (m * (m - 1))
    error: Tensor = (draws - truth).abs().mean(0)
    return error - spread


def energy_score(draws: Any, truth: Any) -> Tensor:
    r"""The energy score of rows, jointly over their entries, in its fair form.

    The CRPS in more than one dimension, with Euclidean distances: put all entries on one scale before. It sees wrong
    means and spreads well, wrong dependence less so: for that see :func:`variogram_score`.

    Arguments:
        draws: Draws of rows, with shape :math:`(m, *, D)`, at least two.
        truth: The true rows, with shape :math:`(*, D)`; NaN = not scored, whatever the draws have there.

    Returns:
        The score of each row, with shape :math:`(*)`; NaN for rows with nothing to score.

    Raises:
        ValueError: If the shapes do not match, or there is only one draw.

    Example:
        >>> energy_score([[0.0, 0.0], [3.0, 4.0]], [0.0, 0.0])  # (0 + 5) / 2 - 5 / 2
        tensor(0., dtype=torch.float64)
    """
    draws, truth = _pair(draws, truth, "energy_score", 2)
    m = len(draws)

    def score(x: Tensor, y: Tensor) -> Tensor:  # (R, m, D), (R, D) -> (R)
        pairs = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2))
        score: Tensor = (x - y.unsqueeze(1)).norm(dim=-1).mean(1) - pairs / (2 * m * (m - 1))
        return score

    return _by_rows(draws, truth, score, m * m, seen=1)


def variogram_score(draws: Any, truth: Any, p: float = 0.5) -> Tensor:
    r"""The variogram score of rows, which sees wrong dependence between their entries, in its fair form.

    Arguments:
        draws: Draws of rows, with shape :math:`(m, *, D)`, at least two.
        truth: The true rows, with shape :math:`(*, D)`; NaN = not scored.
        p: The power of the differences.

    Returns:
        The score of each row, a sum over pairs of entries with weight 1, with shape :math:`(*)`; NaN for rows with less
        than two entries to score. It does not see a shift that all entries share: read it beside the energy score.

    Raises:
        ValueError: If the shapes do not match, or there is only one draw.

    Example:
        >>> variogram_score([[0.0, 1.0], [0.0, 4.0]], [1.0, 1.0], p=1.0)  # (0 - 2.5)^2 - 4.5 / 2
        tensor(4., dtype=torch.float64)
    """
    draws, truth = _pair(draws, truth, "variogram_score", 2)
    m = len(draws)

    def score(x: Tensor, y: Tensor) -> Tensor:  # y has NaN where nothing is to be scored
        a, b = torch.triu_indices(y.shape[1], y.shape[1], 1, device=y.device)
        apart = (x[..., a] - x[..., b]).abs() ** p
        terms = ((y[..., a] - y[..., b]).abs() ** p - apart.mean(1)).square() - apart.var(1) / m
        return terms.nansum(-1)

    return _by_rows(draws, truth, score, m * truth.shape[-1], seen=2)


def _by_rows(draws: Tensor, truth: Tensor, score: Callable[[Tensor, Tensor], Tensor], work: int, seen: int) -> Tensor:
    """Applies a score to rows, as many at a time as memory has room for."""
    if not truth.dim():
        raise ValueError("a row has at least one dimension: expected a truth of shape (*, D), got one number.")
    batch, dim = truth.shape[:-1], truth.shape[-1]
    x, y = draws.reshape(len(draws), -1, dim), truth.reshape(-1, dim)
    scored = ~y.isnan()
    size = max(1, CHUNK // (work * max(dim, 1)))
    parts = [y.new_empty(0)]
    for x_part, y_part, at in zip(x.split(size, 1), y.split(size), scored.split(size), strict=True):
        x_part = x_part.transpose(0, 1).masked_fill(~at.unsqueeze(1), 0.0)
        # The energy score needs zeros for entries that do not count, the variogram score NaN.
        parts.append(score(x_part, y_part if seen > 1 else y_part.nan_to_num()))
    return torch.cat(parts).masked_fill(scored.sum(1) < seen, math.nan).reshape(batch)


class Intervals(NamedTuple):
    """Central intervals of draws, and whether they hold the truth.

    Attributes:
        covered: 1 where the interval holds the truth, 0 where not, NaN where the truth is NaN.
        width: The widths.
        lower: The lower ends.
        upper: The upper ends.
        nominal: The probability that the intervals promise: the level asked for, or less where the draws are too few.
    """

    covered: Tensor
    width: Tensor
    lower: Tensor
    upper: Tensor
    nominal: float


def interval_coverage(draws: Any, truth: Any, level: float = 0.95) -> Intervals:
    r"""Central intervals of draws, and whether they hold the truth.

    With :math:`x_{(1)} \le \dots \le x_{(m)}` the sorted draws, the truth falls below :math:`x_{(k)}` with probability
    :math:`k / (m + 1)` if it comes from the same distribution. So the ends of the interval are order statistics at the
    positions :math:`\frac{1 \mp L}{2} (m + 1)`, between whole positions by interpolation (definition 6 of Hyndman &
    Fan; exact for uniform distributions, off by less than 0.005 for others with 20 draws or more). The usual sample
    quantiles lie further inside and cover less than they say: 95 percent with 20 draws are 87.

    With less than :math:`(1 + L) / (1 - L)` draws (39 for 95 percent) even the range of the draws has too little
    probability. The interval is the range then, and ``nominal`` says what it is worth, :math:`(m - 1) / (m + 1)`.

    Arguments:
        draws: Draws of each entry, with shape :math:`(m, *)`.
        truth: The true values, with shape :math:`(*)`; NaN = not scored.
        level: The probability L.

    Returns:
        Coverage, widths and ends, each with shape :math:`(*)`, and the nominal coverage. Intervals include their ends;
        those of counts hold the truth more often than promised, because values tie.

    Raises:
        ValueError: If the shapes do not match, or the level is not between 0 and 1.

    Example:
        >>> intervals = interval_coverage(torch.arange(1.0, 10.0).reshape(9, 1), [5.5], level=0.8)
        >>> intervals.lower, intervals.upper, intervals.nominal
        (tensor([1.], dtype=torch.float64), tensor([9.], dtype=torch.float64), 0.8)
    """
    draws, truth = _pair(draws, truth, "interval_coverage")
    if not 0 < level < 1:
        raise ValueError(f"interval_coverage(level={level}): give a probability between 0 and 1.")
    m = len(draws)
    position = round((1 - level) / 2 * (m + 1), 9)  # 0.05 / 2 * 40 is not 1 in floating point
    nominal = level
    if position < 1:
        position, nominal = 1.0, (m - 1) / (m + 1)
    ordered = draws.sort(0).values
    k, part = int(position), position - int(position)
    inner = min(k, m - 1)
    lower = torch.lerp(ordered[k - 1], ordered[inner], part)
    upper = torch.lerp(ordered[m - k], ordered[m - 1 - inner], part)
    covered = ((lower <= truth) & (truth <= upper)).double().masked_fill(truth.isnan(), math.nan)
    return Intervals(covered, (upper - lower).masked_fill(truth.isnan(), math.nan), lower, upper, nominal)


def pit(draws: Any, truth: Any, *, seed: int = 0) -> Tensor:
    r"""The probability integral transform of the truth, randomised: where among the draws does it lie?

    .. math:: u = \frac{\#\{x_i < y\} + v \, (\#\{x_i = y\} + 1)}{m + 1}, \qquad v \sim \mathcal{U}(0, 1)

    Uniform on (0, 1), exactly and for every m, if truth and draws come from the same distribution, a discrete one too.
    A histogram with a hump in the middle says that the draws are too wide, one with horns that they are too narrow.

    Arguments:
        draws: Draws of each entry, with shape :math:`(m, *)`: numbers, or codes of ordered levels.
        truth: The true values, with shape :math:`(*)`; NaN = not scored.
        seed: Seeds v; the caller's generators are left alone.

    Returns:
        Numbers between 0 and 1, with shape :math:`(*)`; NaN where the truth is.

    Raises:
        ValueError: If the shapes do not match.
    """
    draws, truth = _pair(draws, truth, "pit")
    with seeded(seed):
        v = torch.rand(truth.shape, dtype=truth.dtype).to(truth.device)
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    u: Tensor = (below + v * (ties + 1)) / (len(draws) + 1)
    return u.masked_fill(truth.isnan(), math.nan)


def pit_test(values: Any) -> float:
    """The p-value of the Kolmogorov-Smirnov test that values of :func:`pit` are uniform.

    Arguments:
        values: Of independent entries: say, of one column. NaN is left out.

    Raises:
        ValueError: If there is none.
    """
    u = torch.as_tensor(values).double().cpu().flatten()
    u = u[~u.isnan()]
    if not len(u):
        raise ValueError("pit_test got no value: give at least one.")
    return float(scipy.stats.kstest(u.numpy(), "uniform").pvalue)


# ----------------------------------------------------------------------------------------------------------------------
# Levels


def _levels(draws: Any, truth: Any, levels: int, name: str, fewest: int = 1) -> tuple[Tensor, Tensor]:
    draws, truth = _pair(draws, truth, name, fewest)
    for values, what in ((draws, "draws"), (truth[~truth.isnan()], "truth")):
        if not bool(((values >= 0) & (values < levels) & (values == values.floor())).all()):
            raise ValueError(
                f"{name}: {what} are not all whole numbers from 0 to {levels - 1}, the codes of the levels."
            )
    return draws, truth


def level_shares(draws: Any, levels: int, pseudo: float = 0.5) -> Tensor:
    r"""The probabilities of levels that draws of them stand for, :math:`(n_l + c) / (m + c L)`.

    Arguments:
        draws: Codes 0, ..., L - 1, with shape :math:`(m, *)`.
        levels: Their number L.
        pseudo: The count c that each level has for a start; 1/2 is Jeffreys' prior.

    Returns:
        Probabilities with shape :math:`(*, L)`.

    Example:
        >>> level_shares([[1], [1], [0]], 2)
        tensor([[0.3750, 0.6250]], dtype=torch.float64)
    """
    draws = (draws if isinstance(draws, Tensor) else torch.as_tensor(np.asarray(draws))).double()
    counts = torch.stack([(draws == level).sum(0) for level in range(levels)], -1)
    return (counts.double() + pseudo) / (len(draws) + pseudo * levels)


def log_loss(draws: Any, truth: Any, levels: int) -> Tensor:
    """The negative log-probability of the true level, by the shares of the levels among the draws.

    With half a pseudo-count for each level: without, a level that no draw has would cost infinitely much. So m draws
    can cost no more than log(2 m + L) nats, and certainty costs about (L - 1) / (2 m).

    Arguments:
        draws: Codes 0, ..., L - 1, with shape :math:`(m, *)`.
        truth: The true codes, with shape :math:`(*)`; NaN = not scored.
        levels: The number L of levels.

    Returns:
        Nats, with shape :math:`(*)`; NaN where the truth is.

    Raises:
        ValueError: If the shapes do not match, or values are no codes.
    """
    draws, truth = _levels(draws, truth, levels, "log_loss")
    share = level_shares(draws, levels).gather(-1, truth.nan_to_num().long().unsqueeze(-1)).squeeze(-1)
    loss: Tensor = -share.log()
    return loss.masked_fill(truth.isnan(), math.nan)


def brier(draws: Any, truth: Any, levels: int) -> Tensor:
    r"""The Brier score of the shares of levels among the draws, in its fair form.

    .. math:: \frac{1}{2} \sum_l \Big[ (f_l - [y = l])^2 - \frac{f_l (1 - f_l)}{m - 1} \Big]

    The factor makes it :math:`(f_1 - y)^2` for two levels, between 0 and 1 in the limit of many draws.

    Arguments:
        draws: Codes 0, ..., L - 1, with shape :math:`(m, *)`, at least two.
        truth: The true codes, with shape :math:`(*)`; NaN = not scored.
        levels: The number L of levels.

    Returns:
        Scores with shape :math:`(*)`; NaN where the truth is.

    Raises:
        ValueError: If the shapes do not match, values are no codes, or there is only one draw.
    """
    draws, truth = _levels(draws, truth, levels, "brier", 2)
    share = level_shares(draws, levels, pseudo=0.0)
    true = truth.unsqueeze(-1) == torch.arange(levels, device=truth.device)
    terms: Tensor = (share - true.double()).square() - share * (1 - share) / (len(draws) - 1)
    return (terms.sum(-1) / 2).masked_fill(truth.isnan(), math.nan)


def ranked_probability_score(draws: Any, truth: Any, levels: int) -> Tensor:
    r"""The ranked probability score of ordered levels, in its fair form: to be far off costs more than to be next.

    .. math::
        \frac{1}{L - 1} \sum_{l < L - 1} \Big[ (F_l - [y \le l])^2 - \frac{F_l (1 - F_l)}{m - 1} \Big]

    with :math:`F_l` the share of draws up to level l. It is the CRPS of the codes over L - 1.

    Arguments:
        draws: Codes 0, ..., L - 1, in order, with shape :math:`(m, *)`, at least two.
        truth: The true codes, with shape :math:`(*)`; NaN = not scored.
        levels: The number L of levels.

    Returns:
        Scores with shape :math:`(*)`; NaN where the truth is.

    Raises:
        ValueError: If the shapes do not match, values are no codes, or there is only one draw.
    """
    draws, truth = _levels(draws, truth, levels, "ranked_probability_score", 2)
    return crps(draws, truth) / max(levels - 1, 1)


# ----------------------------------------------------------------------------------------------------------------------
# An imputer


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """How well an imputer does, column by column and overall. Prints itself.

    Attributes:
        frame: One row a column and one called "overall", see :meth:`to_frame`.
        info: What was done: ``imputer``, ``mechanism``, ``proportion``, ``repeats``, ``draws``, ``seed``, ``cells``,
            ``single`` (whether the imputer gives one imputation only), ``seconds`` (of fitting and imputing) and
            ``nominal``, what intervals promise with so many draws, by level in percent.
    """

    frame: pd.DataFrame
    info: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """The scores, one row a column of the table and last the row "overall".

        ========================== =====================================================================================
        kind, cells                the kind of the column; how many entries were scored, over all repeats
        rmse_mean, mae_median      of columns of numbers, in standard deviations of the column's observed values: the
                                   error of the mean, and of the median, of the draws
        rmse_draws, mae_draws      the average error of a single draw, which has to be larger
        crps                       see :func:`crps`
        coverage_50, width_50, ... of the central 50, 80 and 95% intervals, see :func:`interval_coverage`
        pit_p                      the p-value of :func:`pit_test`, small where the truth does not look like a draw;
                                   overall the smallest one times the number of columns (Bonferroni)
        log_loss, brier, rps       of columns of levels; rps of ordinal ones
        error_mode, error_draws    the share of wrong levels: of the most frequent one among the draws, of single draws
        energy, variogram          overall: see :func:`energy_score` and :func:`variogram_score`, of the missing entries
                                   of a row jointly; numbers and ordinal codes in standard deviations, two levels at
                                   distance 1 (which the variogram score leaves out)
        ========================== =====================================================================================

        Each but pit_p has its standard error as ``..._se``: over the entries, with those of one row, in all repeats,
        taken as one cluster. Errors, crps and widths come in the user's units too, as ``..._units``.
        NaN = does not apply.
        """
        return self.frame.copy()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON: ``info``, ``overall``, and ``columns`` by name, without what is NaN."""

        def plain(row: "pd.Series[Any]") -> dict[str, Any]:
            kinds = {"kind": str, "cells": int}
            return {str(k): kinds.get(str(k), float)(v) for k, v in row.items() if not pd.isna(v)}

        rows = [plain(row) for _, row in self.frame.iterrows()]
        names = [str(name) for name in self.frame.index[:-1]]
        return {"info": dict(self.info), "overall": rows[-1], "columns": dict(zip(names, rows[:-1], strict=True))}

    def __repr__(self) -> str:
        info = self.info
        if info["mechanism"] is None:
            how = "the truth of its missing cells"
        else:
            share = "" if info["proportion"] is None else f" {info['proportion']:.0%} of"
            how = f"{info['repeats']} x{share} the observed cells hidden ({info['mechanism']})"
        number = "one imputation: point scores only" if info["single"] else f"{info['draws']} draws"
        lines = [
            f"{info['imputer']}: {how}, {number}; {info['cells']} cells scored in {info['seconds']:.1f} s",
            "Errors and CRPS in standard deviations of the observed values; after the sign: standard errors.",
        ]
        numeric = self.frame["rmse_mean"].notna()
        levels = self.frame["error_mode"].notna()
        promised = (
            {level: f"in {100 * info['nominal'][str(level)]:.3g}%" for level in LEVELS} if not info["single"] else {}
        )
        lines += _printed(
            self.frame[numeric],
            {
                "rmse_mean": "RMSE" if info["single"] else "RMSE mean",
                "rmse_draws": "RMSE draws",
                "mae_median": "MAE" if info["single"] else "MAE median",
                "crps": "CRPS",
                **{f"coverage_{level}": words for level, words in promised.items()},
                "pit_p": "PIT p",
            },
        )
        lines += _printed(
            self.frame[levels],
            {
                "error_mode": "wrong" if info["single"] else "wrong mode",
                "error_draws": "wrong draws",
                "log_loss": "log-loss",
                "brier": "Brier",
                "rps": "RPS",
                "pit_p": "PIT p",
            },
        )
        overall = self.frame.iloc[-1]
        if not info["single"]:
            lines.append("")
            lines.append(f"Rows jointly: energy score {_with_error(overall, 'energy')}")
            if not pd.isna(overall["variogram"]):
                lines[-1] += f", variogram score {_with_error(overall, 'variogram')}"
        return "\n".join(lines)


def _with_error(row: "pd.Series[Any]", score: str) -> str:
    if pd.isna(row[score]):
        return ""
    if score == "pit_p":
        return f"{row[score]:.2g}" if row[score] > 1e-8 else "<1e-8"
    error = row[f"{score}_se"]
    return f"{row[score]:.3f}" + ("" if pd.isna(error) else f"±{error:.3f}".replace("±0.", "±."))


def _printed(frame: pd.DataFrame, titles: dict[str, str]) -> list[str]:
    """A table, its last row the overall one, as lines of text, without scores that no row has."""
    if frame.empty:
        return []
    scores = [score for score in titles if frame[score].notna().any()]
    head = ["", "kind", "cells", *(titles[score] for score in scores)]
    frame = frame.assign(cells=[*frame["cells"].iloc[:-1], frame["cells"].iloc[:-1].sum()])
    body = [
        [str(name)[:16], row["kind"], str(int(row["cells"])), *(_with_error(row, score) for score in scores)]
        for name, row in frame.iterrows()
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [
        [t.ljust(w) if i < 2 else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))]
        for line in [head, *body]
    ]
    return ["", *("  ".join(line).rstrip() for line in lines)]


def evaluate_imputer(
    imputer: Any,
    table: Any,
    *,
    mechanism: str | Callable[..., Any] = "mcar",
    proportion: float | None = None,
    repeats: int | None = None,
    draws: int = 100,
    seed: int = 0,
    truth: Any = None,
    schema: Mapping[str, str | Column] | Schema | None = None,
) -> Evaluation:
    r"""Judges an imputer: hides observed entries, has them imputed, and scores what comes back.

    Over-imputation needs no truth: the entries that are hidden are the user's own. It measures how the imputer does on
    values that could have been observed; what is really missing may be different. The imputer is cloned, fitted on the
    table with the hidden entries missing, and imputes that same table.

    An imputer with a method ``impute(table, draws=...)``, which returns completed tables by index, such as
    :class:`pyro_gen.Imputer`, gets all scores. One without, such as scikit-learn's, imputes once by
    ``fit_transform``, and gets the scores of points only: a single imputation says nothing of its uncertainty. Numbers
    that it puts in columns of numeric levels are taken to the next level.

    Arguments:
        imputer: An estimator in scikit-learn's manner: cloned, where it has parameters, or copied. A ``random_state``
            of None, also inside a pipeline, is set from ``seed``.
        table: A data frame or an array with shape :math:`(N, D)`; NaN, None and pandas' NA are missing.
        mechanism: How entries are hidden: a mechanism of :func:`pyro_gen.imputation.ampute`, or a function that takes a
            table and ``seed=`` and returns it with more holes. Not used with a ``truth``.
        proportion: The share of the observed cells to hide, 0.2 if not given. Only for mechanisms that take one.
        repeats: How many times it is done, with other entries hidden; 3 if not given. Only without a ``truth``.
        draws: The number m of imputations.
        seed: Seeds what is hidden and what is random in the scores; the caller's generators are left alone.
        truth: The complete table, where it is known: the missing cells of ``table`` are scored, and none is hidden.
        schema: The kinds of columns by name, where they are not to be read off the table; or a whole schema.

    Returns:
        An :class:`Evaluation`: scores by column and overall, with standard errors.

    Raises:
        TypeError: If the imputer has neither ``impute`` nor ``fit_transform``.
        ValueError: If nothing can be scored, the imputer returns another shape or leaves cells missing, or options do
            not go together.

    Example:
        >>> from sklearn.impute import SimpleImputer
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> evaluation = evaluate_imputer(SimpleImputer(), x)
        >>> 0.9 < evaluation.to_dict()["overall"]["rmse_mean"] < 1.1
        True
    """
    if truth is not None and (proportion is not None or repeats is not None or mechanism != "mcar"):
        raise ValueError(
            "evaluate_imputer: with a truth nothing is hidden; leave mechanism, proportion and repeats out."
        )
    repeats = 1 if truth is not None else 3 if repeats is None else repeats
    if repeats < 1 or draws < 1:
        raise ValueError(f"evaluate_imputer(repeats={repeats}, draws={draws}): give positive numbers.")
    if truth is not None:
        shares = None
    elif callable(mechanism):
        if proportion is not None:
            raise ValueError("evaluate_imputer: a mechanism that is a function has a share of its own; no proportion.")
        shares = None
    else:
        shares = 0.2 if proportion is None and "proportion" in takes(mechanism) else proportion
    known = table if truth is None else truth
    if not isinstance(schema, Schema):
        schema = Schema.infer(known, schema)
    values, observed = schema.encode(known), _in_order(schema, table).notna().to_numpy()
    if values.shape != observed.shape:
        raise ValueError(f"truth: expected the shape of the table, {observed.shape}, got {tuple(values.shape)}.")
    tries = []
    seconds = 0.0
    state = seed
    for _ in range(repeats):
        state = fork(state)
        if truth is not None:
            masked = table
        elif callable(mechanism):
            masked = mechanism(table, seed=state)
        else:
            masked = ampute(table, mechanism, shares, seed=state)
        # Of a truth all that is missing in the table, of the table itself what was not missing before.
        hidden = torch.tensor(_in_order(schema, masked).isna().to_numpy()) & ~values.isnan()
        if not bool(hidden.any()):
            raise ValueError("evaluate_imputer: no cell with a known value is missing, so nothing can be scored.")
        began = time.monotonic()
        cells, single = _impute(imputer, masked, schema, hidden, draws, fork(state))
        seconds += time.monotonic() - began
        tries.append((hidden, cells))
    scale = _scales(schema, values.masked_fill(torch.tensor(~observed), math.nan))
    frame = _scored(schema, values, scale, tries, single, fork(state))
    m = len(tries[0][1])
    info = {
        "imputer": type(imputer).__name__,
        "mechanism": None if truth is not None else mechanism if isinstance(mechanism, str) else _name(mechanism),
        "proportion": shares,
        "repeats": repeats,
        "draws": m,
        "seed": seed,
        "cells": sum(int(hidden.sum()) for hidden, _ in tries),
        "single": single,
        "seconds": seconds,
        "nominal": {str(level): min(level / 100, (m - 1) / (m + 1)) for level in LEVELS},
    }
    return Evaluation(frame, info)


def _name(mechanism: Any) -> str:
    return str(getattr(mechanism, "__name__", type(mechanism).__name__))


def _impute(imputer: Any, masked: Any, schema: Schema, hidden: Tensor, draws: int, seed: int) -> tuple[Tensor, bool]:
    """Draws of the hidden cells on the encoded scale, with shape (m, cells), and whether there can be one only."""
    if not (hasattr(imputer, "impute") or hasattr(imputer, "fit_transform")):
        raise TypeError(f"{type(imputer).__name__} has neither impute(table, draws=...) nor fit_transform: no imputer.")
    if hasattr(imputer, "get_params"):
        imputer = clone(imputer)
        free = [k for k, v in imputer.get_params().items() if k.split("__")[-1] == "random_state" and v is None]
        imputer.set_params(**dict.fromkeys(free, seed))
    else:
        imputer = copy.deepcopy(imputer)
    single = not hasattr(imputer, "impute")
    if single:
        completed = [imputer.fit_transform(masked)]
    else:
        imputer.fit(masked)
        completed = imputer.impute(masked, draws=draws)
    cells = torch.stack([_read(schema, completed[k], hidden) for k in range(len(completed))])
    if bool(cells.isnan().any()):
        raise ValueError(f"{type(imputer).__name__} left {int(cells.isnan().any(0).sum())} hidden cells missing.")
    return cells, single or len(cells) == 1


def _in_order(schema: Schema, table: Any) -> pd.DataFrame:
    """A table with the columns in the order of the schema, where it has them by name."""
    if not isinstance(table, pd.DataFrame):
        return pd.DataFrame(np.asarray(table))
    names = [str(name) for name in table.columns]
    return table.iloc[:, [names.index(name) for name in schema.names]] if set(names) == set(schema.names) else table


def _read(schema: Schema, completed: Any, hidden: Tensor) -> Tensor:
    """The hidden cells of a completed table, on the encoded scale; numbers in a column of levels go to the next level.

    The schema's own encoding would refuse what an imputer may well return: a negative number in a positive column.
    """
    frame = _in_order(schema, completed)
    if frame.shape != tuple(hidden.shape):
        raise ValueError(f"the imputer returned a table of shape {frame.shape}, expected {tuple(hidden.shape)}.")
    encoded = torch.full(hidden.shape, math.nan, dtype=torch.float64)
    for d, column in enumerate(schema.columns):
        series = frame.iloc[hidden[:, d].numpy(), d]
        if column.discrete and not all(isinstance(level, int | float) for level in column.levels):
            codes = {level: float(code) for code, level in enumerate(column.levels)}
            numbers = np.array([codes.get(value, math.nan) for value in series])
        else:
            numbers = pd.to_numeric(series).to_numpy(dtype=float, na_value=np.nan)
            if column.discrete:
                apart = np.abs(numbers[:, None] - np.array(column.levels, dtype=float))
                numbers = np.where(np.isnan(numbers), np.nan, apart.argmin(1))
        encoded[hidden[:, d], d] = torch.from_numpy(numbers.astype(float))
    return encoded[hidden]


def _scales(schema: Schema, observed: Tensor) -> Tensor:
    """Standard deviations of the observed values (of codes, for levels), 1 for constants, with shape (D)."""
    scales = []
    for column in observed.unbind(1):
        present = column[~column.isnan()]
        varies = len(present) > 1 and bool(present.min() < present.max())
        scales.append(present.std(correction=0) if varies else present.new_ones(()))
    return torch.stack(scales)


Cells = dict[str, Tensor]  # a score of each cell, by name; roots of means are named rmse_...


def _scored(
    schema: Schema, values: Tensor, scale: Tensor, tries: list[tuple[Tensor, Tensor]], single: bool, seed: int
) -> pd.DataFrame:
    rows = []
    pooled: list[tuple[Cells, Tensor]] = []
    p_values = []
    for d, column in enumerate(schema.columns):
        draws = torch.cat([cells[:, hidden.nonzero()[:, 1] == d] for hidden, cells in tries], 1)
        owner = torch.cat([hidden[:, d].nonzero()[:, 0] for hidden, _ in tries])
        if not len(owner):
            continue
        truth = values[owner, d]
        unit = float(scale[d])
        cells = (
            _levels_scores(column, draws, truth, single)
            if column.discrete
            else _number_scores(draws / unit, truth / unit, single)
        )
        row: dict[str, Any] = {"kind": column.kind, "cells": len(owner), **_summary(cells, owner)}
        if not column.discrete:
            names = [
                name for name in row if name.split("_")[0] in ("rmse", "mae", "crps", "width") and "_se" not in name
            ]
            row |= {f"{name}_units": row[name] * unit for name in names}
            row |= {f"{name}_units_se": row[f"{name}_se"] * unit for name in names}
        if not single and column.kind != "nominal":
            # A cell that was hidden twice counts once: the test is for independent values.
            once = torch.from_numpy(np.unique(owner.numpy(), return_index=True)[1])
            row["pit_p"] = pit_test(pit(draws[:, once], truth[once], seed=seed + d))
            p_values.append(row["pit_p"])
        rows.append((column.name, row))
        pooled.append((cells, owner))
    overall: dict[str, Any] = {"kind": "", "cells": sum(row["cells"] for _, row in rows)}
    for name in _PLAIN:
        parts = [(cells[name], owner) for cells, owner in pooled if name in cells]
        if parts:
            overall |= _summary({name: torch.cat([part for part, _ in parts])}, torch.cat([o for _, o in parts]))
    if p_values:
        overall["pit_p"] = min(1.0, min(p_values) * len(p_values))
    if not single:
        overall |= _joint_scores(schema, values, scale, tries)
    frame = pd.DataFrame([row for _, row in rows] + [overall], index=[name for name, _ in rows] + ["overall"])
    order = ["kind", "cells", *_NAMES]
    return frame.reindex(columns=order)


_POINTS = ["rmse_mean", "rmse_draws", "mae_median", "mae_draws", "crps"]
_WIDTHS = [f"width_{level}" for level in LEVELS]
_PLAIN = [
    *_POINTS,
    *(f"coverage_{level}" for level in LEVELS),
    *_WIDTHS,
    "error_mode",
    "error_draws",
    "log_loss",
    "brier",
    "rps",
    "energy",
    "variogram",
]
_UNITS = [f"{name}_units" for name in (*_POINTS, *_WIDTHS)]
_NAMES = [*(name + end for name in (*_PLAIN, *_UNITS) for end in ("", "_se")), "pit_p"]


def _number_scores(draws: Tensor, truth: Tensor, single: bool) -> Cells:
    cells = {"rmse_mean": (draws.mean(0) - truth).square(), "mae_median": (_median(draws) - truth).abs()}
    if single:
        return cells
    cells |= {
        "rmse_draws": (draws - truth).square().mean(0),
        "mae_draws": (draws - truth).abs().mean(0),
        "crps": crps(draws, truth),
    }
    for level in LEVELS:
        intervals = interval_coverage(draws, truth, level / 100)
        cells |= {f"coverage_{level}": intervals.covered, f"width_{level}": intervals.width}
    return cells


def _levels_scores(column: Column, draws: Tensor, truth: Tensor, single: bool) -> Cells:
    levels = len(column.levels)
    cells = {"error_mode": (level_shares(draws, levels).argmax(-1) != truth).double()}
    if single:
        return cells
    cells |= {
        "error_draws": (draws != truth).double().mean(0),
        "log_loss": log_loss(draws, truth, levels),
        "brier": brier(draws, truth, levels),
    }
    if column.kind == "ordinal":
        cells["rps"] = ranked_probability_score(draws, truth, levels)
    return cells


def _joint_scores(
    schema: Schema, values: Tensor, scale: Tensor, tries: list[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Energy and variogram scores of rows, all columns on one scale."""
    numbers = [d for d, column in enumerate(schema.columns) if column.kind not in ("binary", "nominal")]
    scores: dict[str, list[Tensor]] = {"energy": [], "variogram": []}
    owners = []
    for hidden, cells in tries:
        rows = hidden.any(1).nonzero()[:, 0]
        where = torch.full(hidden.shape, -1)
        where[hidden] = torch.arange(cells.shape[1])
        for part in rows.split(max(1, CHUNK // (len(cells) * hidden.shape[1]))):
            at = where[part]
            draws = cells[:, at.clamp(min=0)].masked_fill(at < 0, math.nan)
            truth = values[part].masked_fill(at < 0, math.nan)
            x, y = _on_one_scale(schema, draws, scale), _on_one_scale(schema, truth, scale)
            scores["energy"].append(energy_score(x, y))
            if len(numbers) > 1:
                x, y = (draws / scale)[..., numbers], (truth / scale)[..., numbers]
                scores["variogram"].append(variogram_score(x, y))
        owners.append(rows)
    owner = torch.cat(owners)
    summary: dict[str, float] = {}
    for name, parts in scores.items():
        found = torch.cat(parts) if parts else values.new_full((len(owner),), math.nan)
        kept = ~found.isnan()
        if bool(kept.any()):
            summary |= _summary({name: found[kept]}, owner[kept])
    return summary


def _on_one_scale(schema: Schema, encoded: Tensor, scale: Tensor) -> Tensor:
    r"""Numbers and ordinal codes in standard deviations, levels as indicators over :math:`\sqrt 2`, side by side."""
    parts = []
    for d, column in enumerate(schema.columns):
        values = encoded[..., d]
        if column.kind in ("binary", "nominal"):
            shown = values.unsqueeze(-1) == torch.arange(len(column.levels))
            parts.append(shown.double().masked_fill(values.isnan().unsqueeze(-1), math.nan) / math.sqrt(2))
        else:
            parts.append((values / scale[d]).unsqueeze(-1))
    return torch.cat(parts, -1)


def _summary(cells: Cells, owner: Tensor) -> dict[str, float]:
    """Means of scores of cells and their standard errors; cells of one row are a cluster."""
    summary: dict[str, float] = {}
    for name, score in cells.items():
        mean = float(score.mean())
        which = owner.unique(return_inverse=True)[1]
        sums = torch.zeros(int(which.max()) + 1, dtype=score.dtype).index_add(0, which, score - mean)
        k = len(sums)
        error = math.sqrt(k / (k - 1) * float(sums.square().sum())) / len(score) if k > 1 else math.nan
        if name.startswith("rmse"):
            mean = math.sqrt(mean)
            error = error / (2 * mean) if mean > 0 else 0.0
        summary |= {name: mean, f"{name}_se": error}
    return summary
