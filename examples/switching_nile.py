"""Regimes of the Nile's flow, 1871 to 1970, by models whose parameters switch, and how far back a year depends.

An autoregression with two means sums its regimes out exactly. A level that moves in some regimes and rests in others
has 2^100 paths of regimes: Kim's filter proposes some, and their weights make the likelihood an unbiased estimate with
an error. A third of the years is then left out, which is integrated out given each path.
"""

import torch

import pyro_gen as pg
from pyro_gen.models import Autoregression, SwitchingAutoregression, SwitchingStateSpace
from pyro_gen.models.sequence.autoregression import order_probabilities


def main() -> dict[str, float]:
    nile = pg.data.load("nile").train
    how = {"lr": 0.05, "schedule": "cosine", "progress": False}
    order = order_probabilities(nile, 4)
    single = Autoregression(100, 1)
    pg.fit(single, nile, epochs=300, **how)
    means = SwitchingAutoregression(100, 2, 1, switching=("loc",))
    pg.fit(means, nile, epochs=300, **how)
    level = SwitchingStateSpace(100, 2, ("level",))
    pg.fit(level, nile, epochs=80, **how)
    estimate = pg.log_likelihood(level, nile, method="iwae", num_particles=2000)
    holed = torch.where(torch.rand(100, generator=torch.Generator().manual_seed(0)) < 1 / 3, torch.nan, nile)
    moving = {"all": level.probabilities(nile)[0, :, 1], "holed": level.probabilities(holed)[0, :, 1]}
    dry = means.probabilities(nile)[0, :, 0]
    ahead = torch.cat([nile, torch.full((1, 5), torch.nan)], 1)
    forecast = pg.predict(means, ahead, draws=2000)[:, 0, 100:]
    print(
        "picture:", draw(nile[0], {"dry": dry, "level moves": moving["all"], "the same, with holes": moving["holed"]})
    )
    return {
        "order_1": order[1].item(),
        "single": pg.log_likelihood(single, nile).value.item(),
        "two_means": pg.log_likelihood(means, nile).value.item(),
        "first_dry_year": 1871 + int((dry > 0.5).double().argmax()),
        "moving_level": estimate.value.item(),
        "its_error": estimate.standard_error.item(),
        "effective_paths": estimate.diagnostics["ess"].item(),
        "move_in_1899": moving["all"][28].item(),
        "move_in_1899_with_holes": moving["holed"][28].item(),
        "forecast_of_1975": forecast[:, -1].mean().item(),
        "its_deviation": forecast[:, -1].std().item(),
    }


def draw(nile, regimes):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure, years = Figure((9, 5), layout="constrained"), torch.arange(1871, 1971)
    axes = figure.subplots(1 + len(regimes), 1, sharex=True, height_ratios=[2] + [1] * len(regimes))
    axes[0].plot(years, nile, color="#2a6f97", lw=1)
    axes[0].set(ylabel="flow", xlim=(1871, 1970))
    for axis, (name, probability) in zip(axes[1:], regimes.items(), strict=True):
        axis.fill_between(years, probability, color="#a3c3da", lw=0, step="mid")
        axis.set(ylim=(0, 1), yticks=[0, 1], title=f"probability: {name}")
        axis.title.set_size(9)
    return write(figure, "outputs/switching_nile.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:26}{value:9.3f}")
