"""Digits pixel by pixel: a gated PixelCNN that is told which digit it draws.

Its likelihood is exact, of whole images and of their upper halves, since the lower half comes last in reading order. So
the lower half has its own, log p(image) - log p(upper half), and is drawn given the upper one, without a chain. By
Bayes' rule the model tells digits apart, too: which of ten labels makes an image most likely? Sixteen epochs are few;
recipe pixel-cnn-digits has the figure of a longer training.
"""

import pyro
import torch

import pyro_gen as pg
from pyro_gen.pictures import Row, image_rows, write


def main(epochs: int = 16) -> dict[str, float]:
    digits, binary = pg.data.load("digits"), pg.data.Binarize(8.0)
    one_hot = torch.eye(10)
    test, y = binary(digits.test), digits.test_target.long()
    pyro.set_rng_seed(0)
    program = pg.models.PixelCNN((8, 8), channels=16, layers=3, kernel=5, context=10, dropout=0.2)
    pg.fit(
        program,
        (digits.train, one_hot[digits.train_target.long()]),
        transform=pg.data.JitteredBinarize(8.0, 1.2),
        epochs=epochs,
        lr=5e-3,
        schedule="cosine",
        batch_size=32,
        progress=False,
    )

    lower_missing = test.clone()
    lower_missing[:, 4:] = torch.nan
    whole, upper = (pg.log_likelihood(program, x, one_hot[y]).mean() for x in (test, lower_missing))
    of_label = [pg.log_likelihood(program, test, one_hot[k].expand(len(test), 10)).value for k in range(10)]
    numbers = {
        "log_likelihood": whole,  # nats, given the label
        "lower_half": whole - upper,  # given the upper half and the label
        "accuracy": (torch.stack(of_label).argmax(0) == y).double().mean().item(),
    }

    labels = one_hot[torch.arange(10)]
    drawn = [pg.sample(program, 10, context=(labels,), seed=seed) for seed in range(3)]
    some = torch.stack([(y == k).nonzero()[0, 0] for k in range(10)])
    completed = pg.impute(program, lower_missing[some], labels, draws=2, seed=0)
    hidden = torch.zeros(8, 8, dtype=torch.bool)
    hidden[4:] = True
    rows = [Row("drawn given the digit" if i == 0 else "", x) for i, x in enumerate(drawn)]
    rows += [Row("test images", test[some])]
    rows += [Row("lower half drawn" if i == 0 else "", x, hidden.expand(10, 8, 8)) for i, x in enumerate(completed)]
    print("picture:", write(image_rows(rows, "Digits pixel by pixel"), "outputs/pixel_cnn_digits.png"))
    return numbers


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:16}{value:9.3f}")
