"""Gaps of a time series filled by a Gaussian process of your own: carbon dioxide over Mauna Loa, week by week.

59 of the 2284 weeks were not measured. To see how good the draws are there, 20 times 8 further weeks are hidden. Four
years are one row, to which a trend, an annual cycle and weather are normal together; NaN is marginalised exactly.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoMultivariateNormal

import pyro_gen as pg
from pyro_gen.imputation import scores

WEEKS, YEAR = 208, 365.25 / 7
LAG = (torch.arange(WEEKS) - torch.arange(WEEKS).unsqueeze(-1)).abs() / YEAR


def concentration(x):
    """Rows of 208 weeks; what sizes and lengths the three parts have is the same for all rows, and inferred."""
    slow, fast, noise = (pyro.sample(name, dist.LogNormal(-1.0, 1.0)) for name in ("slow", "fast", "noise"))
    years = pyro.sample("years", dist.LogNormal(0.0, 0.5))
    weeks = pyro.sample("weeks", dist.LogNormal(1.4, 1.0))
    annual = pyro.sample("annual", dist.LogNormal(torch.zeros(3), 1.0).to_event(1))
    change = pyro.sample("change", dist.LogNormal(2.3, 1.0))
    cycle = (annual.square() * torch.cos(2 * torch.pi * LAG.unsqueeze(-1) * torch.arange(1, 4))).sum(-1)
    covariance = (
        slow.square() * torch.exp(-0.5 * (LAG / years).square())
        + cycle * torch.exp(-0.5 * (LAG / change).square())
        + fast.square() * torch.exp(-LAG * YEAR / weeks)
        + noise.square() * torch.eye(WEEKS)
    )
    with pg.plate(x):
        return pg.observe("ppm", dist.MultivariateNormal(torch.zeros(WEEKS), covariance), x)


def main(draws: int = 50) -> dict[str, float]:
    try:
        from statsmodels.datasets import co2
        from statsmodels.tsa.statespace.structural import UnobservedComponents
    except ImportError as error:
        raise SystemExit("This example needs the series of statsmodels: pip install statsmodels") from error
    time, ppm = np.arange(2284), co2.load_pandas().data["co2"].to_numpy()
    blocks = np.random.default_rng(0).choice(np.arange(1, len(ppm) // 8 - 1), 20, replace=False)
    hidden = np.isin(time // 8, blocks) & ~np.isnan(ppm)
    given = np.where(hidden, np.nan, ppm)
    seen = ~np.isnan(given)
    curve = np.polynomial.Polynomial.fit(time[seen], given[seen], 2)(time)
    rows = np.full(-(-len(ppm) // WEEKS) * WEEKS, np.nan)  # the last row ends in weeks that were not measured either
    rows[: len(ppm)] = given - curve
    x = torch.tensor(rows, dtype=torch.float32).reshape(-1, WEEKS)
    program = pg.Program.from_functions(concentration, AutoMultivariateNormal)  # a normal posterior of their logarithms
    pg.fit(program, x, epochs=100, batch_size=len(x), lr=0.05, schedule="cosine")
    filled = pg.impute(program, x, draws=draws).reshape(draws, -1)[:, : len(ppm)].double().numpy() + curve

    structural = UnobservedComponents(given, "local level", freq_seasonal=[{"period": YEAR, "harmonics": 3}])
    kalman = structural.fit(disp=False).get_prediction(information_set="smoothed")
    print("picture:", draw(ppm, hidden, filled))
    linear = np.interp(time[hidden], time[seen], given[seen])
    smoothed, truth, filled = kalman.predicted_mean[hidden], ppm[hidden], filled[:, hidden]
    return {
        "hidden": float(hidden.sum()),
        "rmse": scores.rmse(filled, truth).item(),
        "rmse_linear": float(np.sqrt(np.mean((linear - truth) ** 2))),
        "rmse_kalman": float(np.sqrt(np.mean((smoothed - truth) ** 2))),
        "crps": scores.crps(filled, truth).mean().item(),
        "crps_linear": float(np.abs(linear - truth).mean()),  # of one guess it is the absolute error
        "coverage_90": scores.interval_coverage(filled, truth, 0.9).covered.mean().item(),
        "coverage_90_kalman": float((np.abs(smoothed - truth) < 1.645 * kalman.se_mean[hidden]).mean()),
    }


def draw(ppm, hidden, filled):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((9, 4), layout="constrained")
    for axes, start in zip(figure.subplots(1, 2), (20, 280), strict=True):
        week = np.arange(start, start + 80)
        axes.plot(week, filled[:15, week].T, color="#dcb3a6", lw=0.6)
        axes.scatter(week, ppm[week], s=12, c=np.where(hidden[week], "#b3421f", "#1b1f24"), zorder=3)
        axes.set(xlabel="week (red: hidden; lines: 15 draws)", ylabel="carbon dioxide (ppm)")
    return write(figure, "outputs/impute_time_series.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20}{value:9.3f}")
