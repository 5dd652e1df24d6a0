"""Figures of the samples of programs, as a recipe asserts them, and the classifier that makes their features."""

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.data import Binarize, Compose, Dequantize, Flatten, Standardize
from pyro_gen.data.prepared import Prepared
from pyro_gen.evaluation.samples import ImageClassifier, digits_classifier
from pyro_gen.evaluation.samples.of_program import grey
from pyro_gen.registry import MEASURES

DIGITS = pg.data.load("digits")
NAMES = ("frechet", "kernel_distance", "precision", "recall", "density", "coverage", "c2st")


class Images(pg.Program):
    """Independent pixels; with ``real``, one of these images instead."""

    def __init__(self, mean: Tensor, real: Tensor | None = None) -> None:
        super().__init__()
        self.event_shape = mean.shape
        self.register_buffer("mean", mean)
        self.register_buffer("real", real)

    def model(self, x: Tensor) -> Any:
        with self.plate(x):
            if self.real is None:
                return pg.observe("x", dist.Bernoulli(self.mean).to_event(2), x)
            rows = torch.randint(len(self.real), (len(x),))
            return pg.observe("x", dist.Delta(self.real[rows], event_dim=2), x)


def binary() -> Prepared:
    b = Binarize(8.0)
    return Prepared(DIGITS.train, None, b(DIGITS.test), b, b, None, None)


def test_independent_pixels_are_told_from_digits_and_digits_are_not() -> None:
    data = binary()
    train = Binarize(8.0)(DIGITS.train)
    poor, good = Images(train.mean(0)), Images(train.mean(0), train)
    for name in NAMES:
        card = MEASURES[name]
        bad, fine = (card.function(p, data, draws=300) for p in (poor, good))
        gap = (bad.value - fine.value) * (1 if card.better == "lower" else -1)
        assert gap > 3 * (bad.standard_error**2 + fine.standard_error**2) ** 0.5, name
        assert "real against real" in bad.method
    relative = MEASURES["frechet"].function(good, data, relative=True)
    assert relative.value == pytest.approx(1.0, abs=0.4)
    with pytest.raises(ValueError, match="no features 'inception'"):
        MEASURES["frechet"].function(poor, data, features="inception")


def test_figures_of_rows_of_numbers() -> None:
    x = torch.randn(500, 3)
    data = Prepared(x[:300], None, x[300:], None, None, torch.zeros(200), None)
    gaussian = pg.models.Gaussian(3)
    found = MEASURES["coverage"].function(gaussian, data, features="values", draws=200)
    assert found.value > 0.8
    with pytest.raises(ValueError, match="images of 8 x 8, and data have shape"):
        MEASURES["coverage"].function(gaussian, data)


def test_images_on_the_scale_of_the_classifier() -> None:
    x = DIGITS.test[:5]
    exact = x / 16
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(grey(x, None, 17), exact)
    assert torch.equal(grey(Dequantize(17)(x, generator), Dequantize(17), 17), exact)
    flat = Compose([Binarize(8.0), Flatten((8, 8))])
    assert torch.equal(grey(flat(x), flat, 17), (x >= 8).float().flatten(1))
    with pytest.raises(ValueError, match="not of zeros and ones"):
        grey(x, Binarize(8.0), 17)
    middle = DIGITS.test[:, 2:6, 2:6]
    scaled = Standardize.fit(middle)
    assert torch.allclose(grey(scaled(middle), scaled, 17), middle / 16, atol=1e-6)


def test_the_classifier_knows_digits_and_is_the_same_again(untouched_rng: None) -> None:
    found = digits_classifier()
    assert found.accuracy >= 0.97 and found.binary_accuracy >= 0.93
    x, y = DIGITS.train / 16, DIGITS.train_target
    assert y is not None
    again = [ImageClassifier.fit(x[:200], y[:200], x[200:], y[200:], epochs=1) for _ in range(2)]
    assert torch.equal(again[0].features(x), again[1].features(x)) and again[0].accuracy == again[1].accuracy
    spread = found.features(torch.cat([x, (x >= 0.5).float()])).std(0)
    assert spread.numpy() == pytest.approx(1.0, abs=1e-3)
