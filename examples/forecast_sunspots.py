"""Sunspots ten years ahead: an autoregression of order 9 and a WaveNet, judged on the years 1950 to 2008.

Both are trained on the years before. They are scored by the log-density of each held-out year given all before it, and
by how often 80% intervals of forecasts, begun every sixth year, hold what came.
"""

import pyro
import torch
from matplotlib.figure import Figure

import pyro_gen as pg
from pyro_gen.pictures import write

FIRST, AHEAD = 250, 10  # the first held-out year is 1950


def forecasts(program: pg.Program, x: torch.Tensor, origins: list[int]) -> dict[int, torch.Tensor]:
    """Draws of the ten years from each origin on, given those before, (draws, 10)."""
    begun = x.repeat(len(origins), 1)
    for row, at in zip(begun, origins, strict=True):
        row[at:] = torch.nan
    drawn = pg.impute(program, begun, draws=100)
    return {at: drawn[:, i, at : at + AHEAD] for i, at in enumerate(origins)}


def main(epochs: int = 200) -> dict[str, float]:
    pyro.set_rng_seed(0)
    spots = pg.data.load("sunspots").train
    mean, deviation = spots[:, :FIRST].mean(), spots[:, :FIRST].std()
    x = (spots - mean) / deviation
    train, known = x[:, :FIRST], x.clone()
    known[:, FIRST:] = torch.nan
    programs = {
        "autoregression": pg.models.Autoregression(FIRST, 9),
        "WaveNet": pg.models.WaveNet(FIRST, 8, 4, lags=9, scale="entry", dropout=0.1),
    }
    figure = Figure(figsize=(7, 4), layout="constrained")
    origins, numbers = list(range(FIRST, x.shape[1] - AHEAD + 1, 6)), {}
    for (name, model), axes in zip(programs.items(), figure.subplots(2, 1, sharex=True), strict=True):
        pg.fit(model, train, epochs=epochs, lr=0.01, schedule="cosine", weight_decay=0.01, progress=False)
        gain = pg.log_likelihood(model, x).mean() - pg.log_likelihood(model, known).mean()
        numbers[f"nats_per_year_of_{name}"] = gain / (x.shape[1] - FIRST) - float(deviation.log())
        draws = forecasts(model, x, origins)
        inside = []
        for at, drawn in draws.items():
            low, high = drawn.quantile(torch.tensor([0.1, 0.9]), dim=0)
            inside.append((x[0, at : at + AHEAD] >= low) & (x[0, at : at + AHEAD] <= high))
        numbers[f"coverage_of_{name}"] = torch.stack(inside).float().mean().item()
        print(f"{name}: {numbers[f'nats_per_year_of_{name}']:.3f} nats a year; its 80% intervals of 1 to 10 years")
        print(f"    ahead hold {numbers[f'coverage_of_{name}']:.0%} of what came")

        axes.plot(range(1920, 2009), spots[0, 220:], color="black", linewidth=1)
        for at in origins[::2]:
            levels = (draws[at] * deviation + mean).quantile(torch.tensor([0.1, 0.5, 0.9]), dim=0)
            years = range(1700 + at, 1700 + at + AHEAD)
            axes.fill_between(years, levels[0], levels[2], alpha=0.3, color="C0")
            axes.plot(years, levels[1], color="C0")
        axes.set(title=name, ylabel="sunspot number")
    print(f"saved {write(figure, 'outputs/forecast_sunspots.png')}")
    return numbers


if __name__ == "__main__":
    main()
