"""Digits out of noise: variational diffusion of grey levels, drawn in 100 steps or 20, and completed from above.

The network is small, and trained for a few seconds; the recipe vdm-digits has a convolutional one and 1.89 bits/dim.
"""

import math
import warnings

import pyro
import torch

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

    images = digits.test[:12]
    lower = torch.arange(8).view(8, 1) >= 4
    holed = torch.where(lower, torch.nan, images)
    vdm.steps = 25
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        drawn = pg.impute(vdm, holed, draws=8, progress=False)  # (8, 12, 8, 8), by twisted sequential Monte Carlo
    print(*(warning.message for warning in told))  # 256 particles are few: completions of an image are much alike

    def right(x: torch.Tensor) -> float:
        """How often a pixel of the lower half is on the right side of the middle level."""
        return ((x >= 8) == (images >= 8))[..., 4:, :].float().mean().item()

    numbers |= {"pixels_right": right(drawn), "pixels_right_by_chance": right(ancestral.unsqueeze(1))}

    rows = [
        Row("drawn in 100 steps", ancestral / 16),
        Row("20 steps of DDIM", implicit / 16),
        Row("test images", images / 16),
        Row("their upper half", holed / 16, gap=0.0),
        *(Row(f"completed, {k + 1}", drawn[k] / 16, holed.isnan(), gap=0.0) for k in range(3)),
    ]
    print("picture:", write(image_rows(rows, "Digits out of noise"), "outputs/diffusion_digits.png"))
    return numbers


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:24}{value:9.3f}")
