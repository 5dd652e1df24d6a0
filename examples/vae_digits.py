"""A VAE of binary digits: train it, measure it by three methods, look at what it draws.

The evidence lower bound trains the VAE, but it is not its likelihood: importance sampling and annealed importance
sampling come closer from below, and the gap of bidirectional Monte Carlo says how close.
"""

import pyro
import torch

import pyro_gen as pg
from pyro_gen.evaluation.baselines import mixture_of_bernoullis
from pyro_gen.pictures import Row, image_rows, write


def main(epochs: int = 60, simulated: int = 30) -> dict[str, float]:
    pyro.set_rng_seed(0)
    digits = pg.data.load("digits", transform=pg.data.Binarize(8))
    train, validation = digits.split(0.1)
    vae = pg.models.VAE(digits.event_shape, latent=10, hidden=(200, 200), activation="relu")
    result = pg.fit(vae, train, validation=validation, epochs=epochs, batch_size=64, lr=2e-3, schedule="cosine")

    test = digits.test
    numbers = {"validation_elbo": -result.history[-1]["validation_loss"]}
    for method in ("elbo", "iwae", "ais"):
        found = pg.log_likelihood(vae, test, method=method)
        print(f"{method:5}{found}")
        numbers[method] = found.mean()
    numbers["bdmc_gap"] = pg.bdmc(vae, simulated).diagnostics["gap"].mean().item()
    numbers["mixture_of_bernoullis"] = mixture_of_bernoullis(digits.train, test).mean().item()

    holes = test[:12].clone()
    holes[:, :, 4:] = torch.nan  # the right half was not seen
    painted = pg.impute(vae, holes, draws=2)
    unseen = holes.isnan()
    rows = [
        Row("test images", test[:12], gap=0.0),
        Row("reconstructions", pg.reconstruct(vae, test[:12]), gap=0.0),
        Row("samples", pg.sample(vae, 12)),
        Row("left half given", holes),
        *(Row(f"painted in, draw {i + 1}", draw, unseen, gap=0.0) for i, draw in enumerate(painted)),
    ]
    print("picture:", write(image_rows(rows, "VAE of binary digits"), "outputs/vae_digits.png"))
    return numbers


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:24}{value:9.3f}")
