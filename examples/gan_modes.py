"""A generator without a density: it is trained against a critic, and judged by where its draws lie.

Narrow modes in the plane, 8 on a ring and 25 on a grid. A mode counts as covered when a fifth of its fair share of the
draws are good ones of it: within 3 standard deviations.
"""

import torch

import pyro_gen as pg
from pyro_gen.data.mixtures import MIXTURES
from pyro_gen.evaluation.samples import modes
from pyro_gen.inference import Adversarial
from pyro_gen.pictures import write

NOISE = 0.05  # of observation, under which a generator has a likelihood


def train(name: str, epochs: int) -> pg.models.GAN:
    torch.manual_seed(0)
    gan = pg.models.GAN((2,), latent=2, generator=(128, 128))
    game = Adversarial(critic=(128, 128), loss="non_saturating", r1=0.2)
    x = pg.data.load(name).train
    pg.fit(gan, x, objective=game, epochs=epochs, batch_size=256, lr=2e-3, schedule="cosine")
    return gan


def draw(panels: dict[str, torch.Tensor]) -> str:
    from matplotlib.figure import Figure

    figure = Figure((4 * len(panels), 4.2), layout="compressed")
    for axes, (title, points) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        mixture = MIXTURES[title.split(":")[0] + "_of_gaussians"]
        end = 1.2 * float(mixture.centres.abs().max())  # of data and draws alike
        axes.plot(*points[:3000].T, ".", ms=1.5, alpha=0.4, color="#b3421f" if "data" in title else "#2a6f97")
        axes.set(title=title, aspect="equal", xlim=(-end, end), ylim=(-end, end), xticks=[], yticks=[])
    return write(figure, "outputs/gan_modes.png")


def main(epochs: tuple[int, int] = (40, 100)) -> dict[str, float]:
    numbers: dict[str, float] = {}
    panels: dict[str, torch.Tensor] = {}
    for short, n in zip(("ring", "grid"), epochs, strict=True):
        name = f"{short}_of_gaussians"
        gan, data, mixture = train(name, n), pg.data.load(name), MIXTURES[name]
        samples = pg.sample(gan, 10_000)
        found = modes(samples, mixture.centres, mixture.scale)
        print(f"{short}: {found.covered} of {len(mixture.centres)} modes covered, {found.good:.1%} good samples")
        panels |= {f"{short}: data": data.test, f"{short}: draws": samples}
        numbers |= {f"{short}_modes": found.covered, f"{short}_good": found.good}
    likelihood = pg.log_likelihood(gan, data.test[:50], noise=NOISE, method="ais")  # of the grid
    print(f"under observation noise of {NOISE}:", likelihood)
    print("picture:", draw(panels))
    return numbers | {"grid_log_likelihood": likelihood.mean()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:26}{value:9.3f}")
