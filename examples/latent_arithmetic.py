"""Arithmetic in latent space: threes become eights, and a path from one digit to another.

The attribute vector is the mean code of eights less that of threes. Added to the code of a three it closes the loops on
the left; half of it is half-way.
"""

import pyro

import pyro_gen as pg
from pyro_gen.pictures import Row, image_rows, write


def main(epochs: int = 25) -> dict[str, float]:
    pyro.set_rng_seed(0)
    digits = pg.data.load("digits")
    vae = pg.models.VAE(digits.event_shape, latent=10, activation="relu")
    jitter = pg.data.JitteredBinarize(8.0, 1.2)
    options = {"batch_size": 64, "lr": 3e-3, "schedule": "cosine", "transform": jitter, "progress": False}
    pg.fit(vae, digits.train, epochs=epochs, **options)

    train, test = (pg.data.Binarize(8.0)(x) for x in (digits.train, digits.test))
    assert digits.train_target is not None and digits.test_target is not None
    eights, threes = (train[digits.train_target == k] for k in (8, 3))
    amounts = (0.0, 0.5, 1.0, 1.5)
    some = test[digits.test_target == 3]
    moved = pg.arithmetic(vae, some, plus=eights, minus=threes, amounts=amounts)  # (4, N, 8, 8)
    apart = (moved.mean(1) - eights.mean(0)).square().sum((1, 2)).sqrt().tolist()
    print("distance of the mean to that of eights:", "  ".join(f"{value:.2f}" for value in apart))

    path = pg.interpolate(vae, test[:12], test[12:24], steps=5)
    rows = [Row("test images", some[:12])]
    rows += [Row(f"{a:g} (8 - 3)", images[:12], gap=0.0) for a, images in zip(amounts, moved, strict=True)]
    rows += [Row(label, path[i], gap=0.22 if i == 0 else 0.0) for i, label in enumerate(["a path", "", "", "", ""])]
    print("picture:", write(image_rows(rows, "Arithmetic in latent space"), "outputs/latent_arithmetic.png"))
    return {"before": apart[0], "half_way": apart[1], "after": apart[2]}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:24}{value:9.3f}")
