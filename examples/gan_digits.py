"""Generators of digits: of the class that is asked for, and translations to turned negatives that were never paired.

A classifier of real digits judges both: whether a drawn digit is the one that was asked for, and whether a translated
one is still what it was. It agrees with the labels of real digits for 98% of them.
"""

from typing import Any

import torch

import pyro_gen as pg
from pyro_gen.data import Dequantize
from pyro_gen.evaluation.samples import digits_classifier
from pyro_gen.inference import Adversarial, CycleConsistent
from pyro_gen.pictures import Row, image_rows, write


def of_a_class(epochs: int) -> pg.models.DCGAN:
    torch.manual_seed(0)
    data = pg.data.load("digits")
    assert data.train_target is not None
    gan = pg.models.DCGAN((8, 8), latent=32, channels=(64, 32), classes=10)
    game = Adversarial(critic=(64,), channels=(32, 64), classes=10, r1=1.0)
    options: dict[str, Any] = {"batch_size": 64, "lr": 1e-3, "schedule": "cosine", "ema": 0.99}
    labelled = (data.train, data.train_target.float())
    pg.fit(gan, labelled, objective=game, epochs=epochs, transform=Dequantize(17), **options)
    return gan


def translation(epochs: int) -> pg.models.CycleGAN:
    torch.manual_seed(0)
    x = pg.data.load("digits_negatives").train
    cycle = pg.models.CycleGAN((2, 8, 8), generators=(16,))
    game = CycleConsistent(cycle=1.0, critic=(128, 128), r1=0.1)
    pg.fit(cycle, (x, x), objective=game, epochs=epochs, batch_size=64, lr=2e-3, schedule="cosine")
    return cycle


def main(epochs: tuple[int, int] = (60, 60)) -> dict[str, float]:
    classify = digits_classifier().classify
    gan, cycle = of_a_class(epochs[0]), translation(epochs[1])
    asked = torch.arange(500) % 10
    drawn = pg.sample(gan, 500, context=(asked.float(),))
    agree = (classify(drawn) == asked).double().mean().item()
    print(f"drawn digits that are what was asked for: {agree:.1%}")
    x = pg.data.load("digits_negatives").test
    translated = pg.sample(cycle, len(x), context=(x,))
    digits = 1 - torch.rot90(translated[:, 1], -1, (1, 2))  # the way back, by hand
    still = (classify(digits.clamp(0, 1)) == classify(x[:, 0])).double().mean().item()
    print(f"digits that are still what they were, in the other domain: {still:.1%}")
    back = pg.sample(cycle, len(x), context=(translated,))
    rows = [Row("0 to 9 were asked for", drawn[:10]), Row("", drawn[10:20])]
    rows += [Row("real digits", x[:10, 0]), Row("translated", translated[:10, 1]), Row("and back", back[:10, 0])]
    print("picture:", write(image_rows(rows, "Digits by generators"), "outputs/gan_digits.png"))
    return {"as_asked": agree, "translated": still}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:26}{value:9.3f}")
