"""Forecasts of CO2 at Mauna Loa: a trend, seasons and an autoregression, trained on the years to 1991, with its gaps.

Each of the next ten years is forecast from the December before it, and so are all ten from 1991. What is scored was
never trained on. The rival repeats the last year, shifted by the mean growth, with the errors that it made before.
"""

import math

import torch
from torch.distributions import Normal

import pyro_gen as pg
from pyro_gen.models import StateSpace

YEARS = 10


def crps(law: Normal, y: torch.Tensor) -> torch.Tensor:
    """The continuous ranked probability score of normal forecasts (Gneiting & Raftery, 2007), in the unit of y."""
    standard, z = Normal(0.0, 1.0), (y - law.mean) / law.stddev
    density = standard.log_prob(z).exp()
    return law.stddev * (z * (2 * standard.cdf(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


def seasonal_naive(x: torch.Tensor) -> Normal:
    """The year after series (T): the last year, and its mean growth; errors of T - 24 such forecasts as noise."""
    growth = (x[12:] - x[:-12]).nanmean()
    errors = (x[12:] - x[:-12] - growth)[12:]
    return Normal(x[-12:] + growth, errors.square().nanmean().sqrt())


def main() -> dict[str, float]:
    data = pg.data.load("co2")
    co2, first = data.train.double(), data.columns.index("1992-01")
    program = StateSpace(first, trend=True, period=12, order=1)
    pg.fit(program, data.train[:, :first], epochs=300, lr=0.2, schedule="cosine", progress=False)
    program.double()
    ends = [first + 12 * year for year in range(YEARS)]
    truth = co2[0, first:]
    ours = [program.forecast(co2[:, :end], 12) for end in ends]
    yearly = Normal(*(torch.cat([getattr(f, name)[0] for f in ours]) for name in ("mean", "sd")))
    naive = [seasonal_naive(co2[0, :end]) for end in ends]
    rival = Normal(torch.cat([n.mean for n in naive]), torch.cat([n.stddev for n in naive]))
    rows = co2.repeat(YEARS + 1, 1)
    for row, end in enumerate([*ends, co2.shape[1]]):
        rows[row, end:] = torch.nan
    joint = pg.log_likelihood(program, rows).value.diff()  # of a year given those before it, nats
    decade = program.forecast(co2[:, :first], 12 * YEARS)
    low, high = decade.interval(0.9)
    print("picture:", draw(data, first, yearly, decade))
    covered = ((truth - yearly.mean).abs() < 1.6449 * yearly.stddev).double().mean()
    return {
        "crps": crps(yearly, truth).mean().item(),
        "crps_seasonal_naive": crps(rival, truth).mean().item(),
        "log_density": yearly.log_prob(truth).mean().item(),
        "log_density_seasonal_naive": rival.log_prob(truth).mean().item(),
        "joint_log_density": joint.mean().item() / 12,
        "coverage_90": covered.item(),
        "coverage_90_decade": ((truth > low[0]) & (truth < high[0])).double().mean().item(),
    }


def draw(data, first, yearly, decade):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((9, 3.8), layout="constrained")
    laws = {
        "each year from the December before it": yearly,
        "ten years from 1991": Normal(decade.mean[0], decade.sd[0]),
    }
    at, since = 1958 + (torch.arange(len(data.columns)) + 2.5) / 12, first - 60
    for axis, (name, law) in zip(figure.subplots(1, 2, sharey=True), laws.items(), strict=True):
        for width, colour in ((1.6449, "#cfdfeb"), (0.6745, "#a3c3da")):
            low, high = law.mean - width * law.stddev, law.mean + width * law.stddev
            axis.fill_between(at[first:], low, high, color=colour, lw=0, label=f"{0.9 if width > 1 else 0.5:.0%}")
        axis.plot(at[since:], data.train[0, since:], color="#1b1f24", lw=1, label="seen")
        axis.set(title=name, xlabel="year")
    axis.set_xlim(1990, 2002)
    axis.legend(frameon=False, loc="upper left")
    figure.axes[0].set(ylabel="CO2, parts per million", xlim=(1990, 2002))
    return write(figure, "outputs/forecast_co2.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:28}{value:9.3f}")
