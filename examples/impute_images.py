"""Pixels that nobody saw: a VAE paints them in, and says how sure it is.

Half of the pixels are hidden, at random or the lower half of the image. Scattered pixels are told by their neighbours;
what an upper half goes on to be is open, so that its draws differ more. A pixel that is ink in 7 of 10 draws should be
ink in 7 of 10 images, in both cases: the draws are of p(missing | seen), not reconstructions.
"""

import pyro
import torch

import pyro_gen as pg
from pyro_gen.imputation.scores import brier, level_shares, log_loss
from pyro_gen.pictures import Row, image_rows, write


def main(epochs: int = 40, images: int = 60, draws: int = 50) -> dict[str, float]:
    pyro.set_rng_seed(0)
    digits = pg.data.load("digits", transform=pg.data.Binarize(8))
    vae = pg.models.VAE(digits.event_shape, latent=10, hidden=(200, 200), activation="relu")
    pg.fit(vae, digits.train, epochs=epochs, batch_size=64, lr=2e-3, schedule="cosine")

    truth, ink = digits.test[:images], digits.train.mean(0)
    lower = torch.zeros(truth.shape, dtype=torch.bool)
    lower[:, 4:] = True
    rows, numbers = [Row("test images", truth[:12], gap=0.0)], {}
    for name, hidden in {"half": torch.rand(truth.shape) < 0.5, "lower": lower}.items():
        holes = truth.masked_fill(hidden, torch.nan)
        painted = pg.impute(vae, holes, draws=draws)
        drawn, pixels = painted[:, hidden], truth[hidden]
        frequent = torch.bernoulli(ink.expand(draws, *truth.shape))[:, hidden]  # pixels by how often they are ink
        numbers |= {
            f"{name}_log_loss": log_loss(drawn, pixels, 2).mean().item(),
            f"{name}_log_loss_of_frequencies": log_loss(frequent, pixels, 2).mean().item(),
            f"{name}_brier": brier(drawn, pixels, 2).mean().item(),
            f"{name}_brier_of_frequencies": brier(frequent, pixels, 2).mean().item(),
            f"{name}_calibration_error": calibration_error(level_shares(drawn, 2)[..., 1], pixels),
            f"{name}_spread": drawn.var(0).mean().item(),
        }
        rows += [
            Row(f"seen: {name}" if name == "half" else "seen: upper half", holes[:12]),
            *(Row(f"draw {i + 1}", painted[i, :12], hidden[:12], gap=0.0) for i in range(3)),
            Row(f"mean of {draws}", painted[:, :12].mean(0), hidden[:12], gap=0.0),
        ]
    print("picture:", write(image_rows(rows, "Painted in by a VAE"), "outputs/impute_images.png"))
    return numbers


def calibration_error(chance: torch.Tensor, ink: torch.Tensor) -> float:
    """How far ten groups of pixels, by their chance of ink, are from having as much ink as they should."""
    group = (10 * chance).long().clamp(max=9)
    off = torch.zeros(10, dtype=torch.float64).index_add_(0, group, chance.double() - ink.double())
    return off.abs().sum().item() / len(ink)


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:30}{value:9.3f}")
