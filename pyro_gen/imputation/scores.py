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
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from pyro_gen._random import seeded

__all__ = [
    "Intervals",
    "brier",
    "crps",
    "energy_score",
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
