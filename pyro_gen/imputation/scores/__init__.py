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

from pyro_gen.imputation.scores.calibration import Intervals, interval_coverage, pit, pit_test
from pyro_gen.imputation.scores.levels import brier, level_shares, log_loss, ranked_probability_score
from pyro_gen.imputation.scores.numbers import crps, mae, rmse
from pyro_gen.imputation.scores.rows import energy_score, variogram_score

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
