"""Flows as densities: two half circles, before training and after, by three bijections of normal noise.

A new flow is the density of independent normal entries. Training moves it to the data; an affine flow of few layers
leaves a bridge between the half circles, a spline cuts it. The likelihood is exact, so it integrates to one.
"""

import pyro
import torch

import pyro_gen as pg

CELLS, FROM, TO = 161, -2.5, 3.5
FLOWS = {
    "affine": lambda: pg.models.RealNVP(2, layers=4),
    "spline": lambda: pg.models.NeuralSpline(2, "coupling", layers=3),
    "continuous": lambda: pg.models.ContinuousFlow(2, hidden=32, steps=6),
}


def main(epochs: int = 30) -> dict[str, float]:
    pyro.set_rng_seed(0)
    moons = pg.data.load("moons")
    line = torch.linspace(FROM, TO, CELLS)
    grid = torch.cartesian_prod(line, line)
    numbers, pictures = {}, {}
    for name, make in FLOWS.items():
        flow = make().initialise(moons.train)
        before = pg.log_likelihood(flow, grid).value.exp()
        pg.fit(flow, moons.train, epochs=epochs, batch_size=200, lr=0.01, schedule="cosine")
        after = pg.log_likelihood(flow, grid).value.exp()
        test = pg.log_likelihood(flow, moons.test)
        print(name, test)
        cell = ((TO - FROM) / (CELLS - 1)) ** 2
        numbers |= {name: test.mean(), f"{name}_integral": float(after.sum()) * cell}
        pictures[name] = before.reshape(CELLS, CELLS), after.reshape(CELLS, CELLS)
    gaussian = pg.models.Gaussian(2)
    pg.fit(gaussian, moons.train, epochs=100, batch_size=2000, lr=0.05, schedule="cosine")
    numbers["gaussian"] = pg.log_likelihood(gaussian, moons.test).mean()
    print("picture:", draw(moons.train, pictures))
    return numbers


def draw(data, pictures):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((9, 6), layout="constrained")
    for column, (name, pair) in zip(figure.subplots(2, 3).T, pictures.items(), strict=True):
        for axes, density, when in zip(column, pair, ("before", "after"), strict=True):
            axes.imshow(density.T.sqrt().numpy(), origin="lower", extent=(FROM, TO, FROM, TO), cmap="Greys")
            axes.plot(*data[::20].T, ".", ms=2, color="#b3421f")
            axes.set(title=f"{name}, {when}", xlim=(-1.7, 2.7), ylim=(-1.4, 1.9), xticks=[], yticks=[])
    return write(figure, "outputs/flow_density.png")


if __name__ == "__main__":
    for key, value in main().items():
        print(f"{key:22} {value:.3f}")
