"""Digits out of noise: variational diffusion of grey levels, drawn in 100 steps, or in 20 without noise on the way.

The network is small, and trained for a few seconds; the recipe vdm-digits has a convolutional one and 1.89 bits/dim.
"""

import math

import pyro

import pyro_gen as pg
from pyro_gen.pictures import Row, image_rows, write


def main(epochs: int = 40) -> dict[str, float]:
    pyro.set_rng_seed(0)
    digits = pg.data.load("digits")
    vdm = pg.models.VDM(digits.event_shape, levels=17, steps=10, width=256, dropout=0.1)
    pg.fit(vdm, digits.train, epochs=epochs, batch_size=64, lr=2e-3, schedule="cosine", ema=0.99, progress=False)

    found = pg.log_likelihood(vdm, digits.test)  # the bound of infinitely many steps
    independent = vdm.likelihoods(vdm.frequencies).log_prob(digits.test).mean().item()
    numbers = {"bits_per_dim": found.bits_per_dim(), "bits_of_independent": -independent / (64 * math.log(2))}
    print("the bound:", found)

    vdm.steps = 100  # of the chain that draws
    ancestral, implicit = pg.sample(vdm, 12), pg.sample(pg.models.DDIM(vdm, 20), 12)

    rows = [
        Row("drawn in 100 steps", ancestral / 16),
        Row("20 steps of DDIM", implicit / 16),
        Row("test images", digits.test[:12] / 16),
    ]
    print("picture:", write(image_rows(rows, "Digits out of noise"), "outputs/diffusion_digits.png"))
    return numbers


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:24}{value:9.3f}")
