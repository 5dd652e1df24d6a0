"""Digits as short texts: a code of eight symbols by vector quantisation, then a prior that learns to write them.

The first step trains encoder, book and decoder; in the second the codes are fixed and the autoregressive prior is
trained on them. The bound is a description length: the code by the prior, then the grey levels by the decoder.
"""

import math

import pyro
import torch

import pyro_gen as pg
from pyro_gen.pictures import Row, image_rows, write


def main(epochs: int = 30) -> dict[str, float]:
    pyro.set_rng_seed(0)
    digits = pg.data.load("digits")
    train, validation = digits.split(0.1)
    vq = pg.models.VQVAE(
        digits.event_shape, 8, 16, prior_hidden=64, dropout=0.3, likelihood="discretized_logistic", levels=17
    )
    options = {"batch_size": 64, "schedule": "cosine", "progress": False}
    pg.fit(vq, train, epochs=epochs, lr=3e-3, **options)
    numbers = {}
    codes = vq.codes(digits.train)
    numbers["words_used"] = float((torch.bincount(codes.flatten(), minlength=16) > 0).sum())
    both = [bits(vq, digits.test)]
    second = pg.fit(vq.freeze_codes(), train, validation=validation, epochs=15, lr=1e-3, patience=4, **options)
    both.append(bits(vq, digits.test))
    numbers |= {"bits_after_step_1": both[0], "bits_after_step_2": both[1], "epochs_of_step_2": len(second.history)}
    print(f"bits/dim: {both[0]:.3f} after the first step, {both[1]:.3f} after the second; a uniform level has 4.087")
    print("codes of five images:", *(" ".join(f"{k:x}" for k in code) for code in vq.codes(digits.test[:5]).tolist()))

    grey = digits.test[:12] / 16
    rows = [
        Row("test images", grey),
        Row("from their codes", pg.reconstruct(vq, digits.test[:12]) / 16, gap=0.0),
        Row("written by the prior", pg.sample(vq, 12) / 16),
    ]
    print("picture:", write(image_rows(rows, "Digits by eight symbols of sixteen"), "outputs/vq_digits.png"))
    return numbers


def bits(vq: pg.Program, x: torch.Tensor) -> float:
    """The description length in bits per pixel."""
    return -pg.log_likelihood(vq, x, method="elbo", num_particles=1).mean() / (64 * math.log(2))


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:24}{value:9.3f}")
