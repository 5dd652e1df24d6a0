"""An energy-based model of two half circles: trained by contrastive divergence, judged by its likelihood.

The density is known up to log Z, which annealed importance sampling estimates from the base, a Gaussian; in two
dimensions a sum over a grid knows it too. Draws, and one coordinate given the other, come from Markov chains.
"""

import math

import pyro
import torch

import pyro_gen as pg
from pyro_gen.density.energy import unnormalised_log_prob

CELLS, FROM, TO = 241, -2.5, 3.5
AT = 0.5  # where the second coordinate is drawn given the first


def main(epochs: int = 100) -> dict[str, float]:
    pyro.set_rng_seed(0)
    moons = pg.data.load("moons")
    model = pg.models.EnergyBased(2, hidden=(64, 64))
    pg.fit(model, moons.train, epochs=epochs, batch_size=200, lr=0.02, schedule="cosine")
    gaussian = pg.models.Gaussian(2)
    pg.fit(gaussian, moons.train, epochs=200, batch_size=2000, lr=0.05, schedule="cosine")

    test = pg.log_likelihood(model, moons.test, method="ais")
    log_z = pg.log_partition(model)
    print(test, log_z, sep="\n")
    line = torch.linspace(FROM, TO, CELLS)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        log_p = unnormalised_log_prob(model, grid).double()
    by_grid = log_p.logsumexp(0).item() + 2 * math.log((TO - FROM) / (CELLS - 1))

    draws = pg.sample(model, 2000, seed=0)
    column = pg.impute(model, torch.tensor([[AT, torch.nan]]), draws=2000, seed=0)[:, 0, 1]
    density = (log_p - by_grid).exp().reshape(CELLS, CELLS)
    conditional = density[int((line - AT).abs().argmin())]
    conditional = conditional / conditional.sum()
    numbers = {
        "energy_based": test.mean(),
        "standard_error": test.mean_standard_error(),
        "gaussian": pg.log_likelihood(gaussian, moons.test).mean(),
        "log_z_off": log_z.mean() - by_grid,
        "log_z_error": float(log_z.standard_error),
        "gap": float(log_z.diagnostics["gap"]),
        "mean_off": (draws.mean(0) - moons.train.mean(0)).abs().max().item(),
        "upper_share": (column > 0.25).float().mean().item(),
        "upper_share_of_grid": conditional[line > 0.25].sum().item(),
    }
    print("picture:", draw(moons.train, density, draws, column, line, conditional))
    return numbers


def draw(data, density, draws, column, line, conditional):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.imshow(density.T.numpy(), origin="lower", extent=(FROM, TO, FROM, TO), cmap="Greys")
    left.plot(*data[::10].T, ".", ms=3, color="#b3421f")
    left.set(title="density, and a tenth of the data", xlim=(-1.7, 2.7), ylim=(-1.2, 1.7))
    middle.plot(*draws.T, ".", ms=2, color="#1b1f24")
    middle.set(title="draws of the model", xlim=(-1.7, 2.7), ylim=(-1.2, 1.7), aspect="equal")
    right.hist(column, 60, density=True, color="#dcb3a6")
    right.plot(line, conditional / (line[1] - line[0]), color="#1b1f24", lw=1)
    right.set(title=f"x2 given x1 = {AT}: draws, and the grid", xlim=(-1.2, 1.7), yticks=[])
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    return write(figure, "outputs/energy_2d.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:22}{value:9.3f}")
