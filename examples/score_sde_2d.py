"""A score-based SDE in the plane: one network is a density, several samplers, and a way to draw what is missing.

Eight narrow Gaussians on a ring. The density is that of the probability flow; with the score that the network has
learned, samplers lead from noise to data; and of a point of which the first coordinate is seen the second is drawn.
"""

import torch

import pyro_gen as pg
from pyro_gen.data.mixtures import MIXTURES
from pyro_gen.evaluation.samples import modes
from pyro_gen.pictures import write

MIXTURE = MIXTURES["ring_of_gaussians"]
SAMPLERS = ("flow", "euler-maruyama", "predictor-corrector")


def draw(log_density: torch.Tensor, samples: dict[str, torch.Tensor]) -> str:
    from matplotlib.figure import Figure

    figure = Figure((4 * (1 + len(samples)) + 0.5, 4.2), layout="compressed")
    first, *rest = figure.subplots(1, 1 + len(samples))
    square = {"origin": "lower", "extent": (-2.6, 2.6, -2.6, 2.6), "interpolation": "bilinear"}
    shown = first.imshow(log_density.T.numpy(), cmap="magma", vmin=-12, **square)
    figure.colorbar(shown, ax=first, shrink=0.7, extend="min")
    first.set(title="log-density, exact by the flow", xticks=[], yticks=[])
    for axes, (title, points) in zip(rest, samples.items(), strict=True):
        axes.plot(*points.T.numpy(), ".", ms=1.5, alpha=0.4, color="#2a6f97")
        axes.set(title=f"draws: {title}", aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xticks=[], yticks=[])
    return write(figure, "outputs/score_sde_2d.png")


def main(epochs: int = 50, side: int = 60) -> dict[str, float]:
    data = pg.data.load("ring_of_gaussians")
    torch.manual_seed(0)
    program = pg.models.ScoreSDE(2, width=128, waves=5)
    pg.fit(program, data.train, epochs=epochs, batch_size=512, lr=5e-3, schedule="cosine", ema=0.99)
    found = pg.log_likelihood(program, data.test[:1000])
    print("the mixture itself has 1.075 nats:", found)
    numbers, samples = {"log_likelihood": found.mean()}, {}
    for name in SAMPLERS:
        program.sampler = name
        samples[name] = pg.sample(program, 2000)
        numbers[name] = modes(samples[name], MIXTURE.centres, MIXTURE.scale).good
        print(f"{name}: {numbers[name]:.1%} of the samples are within 3 standard deviations of a mode")
    # At x = 0 there are two modes, above and below, with half of the mass each.
    y = pg.impute(program, torch.tensor([[0.0, torch.nan]]), draws=400)[:, 0, 1]
    numbers["above"], numbers["distance"] = float((y > 0).float().mean()), float(y.abs().mean())
    print(f"seen x = 0: {numbers['above']:.0%} of the draws of y are above, at |y| = {numbers['distance']:.2f}")
    axis = torch.linspace(-2.6, 2.6, side)
    log_density = pg.log_likelihood(program, torch.cartesian_prod(axis, axis)).value.view(side, side)
    print("picture:", draw(log_density, samples))
    return numbers


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:26}{value:9.3f}")
