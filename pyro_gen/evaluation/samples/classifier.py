r"""The features by which samples of images are judged: those of a small classifier trained on the spot.

A convolutional network maps an image to F features, and softmax regression of these, made positive, to its class. It is
trained on real images as they are and with two levels only, so that grey and binary samples go through one network,
each to be compared with real data of its own sort. Features are in standard deviations of the training images. Same
seed, same features; figures by features of different classifiers do not compare.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._random import seeded
from pyro_gen.data.datasets import load
from pyro_gen.nets import ConvEncoder

__all__ = ["ImageClassifier", "digits_classifier"]

DIGIT_LEVELS = 17


class ImageClassifier(nn.Module):
    r"""A classifier of images, whose inner features stand for them.

    Arguments:
        shape: The shape of an image, (H, W) or (C, H, W).
        classes: The number of classes.
        features: The number F of features.

    Attributes:
        accuracy: Its accuracy on held-out images as they are, after :meth:`fit`.
        binary_accuracy: The same of their binarised form.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], classes: int, features: int = 32) -> None:
        super().__init__()
        self.encoder = ConvEncoder(shape, features, channels=(32, 64), dropout=0.25)
        self.head = nn.Linear(features, classes)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.shape = tuple(shape)
        self.accuracy = self.binary_accuracy = float("nan")

    def features(self, x: Tensor) -> Tensor:
        """The features of images with values in [0, 1] and shape (N, *shape), flat ones too: (N, F), float64."""
        with torch.no_grad():
            parts = x.reshape(-1, *self.shape).to(self.mean).split(4096)
            h = torch.cat([self.encoder(part) for part in parts])
            return ((h - self.mean) / self.scale).double().to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes, with shape (N, classes), of images with values in [0, 1] and shape (N, *shape)."""
        return self.head(F.relu(self.encoder(x)))  # type: ignore[no-any-return]

    def classify(self, x: Tensor) -> Tensor:
        """The most likely class of images with values in [0, 1], with shape (N)."""
        with torch.no_grad():
            parts = x.reshape(-1, *self.shape).to(self.mean).split(4096)
            return torch.cat([self(part).argmax(1) for part in parts]).to(x.device)

    @classmethod
    def fit(
        cls, x: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor, epochs: int = 30, seed: int = 0
    ) -> "ImageClassifier":
        """Trains one by cross-entropy, on images as they are and binarised at a half, and measures its accuracy.

        Arguments:
            x: Images with values in [0, 1], with shape (N, *shape).
            labels: Their classes 0, 1, ..., with shape (N).
            held_out: Other images, for the accuracy.
            held_out_labels: Their classes.
            epochs: Passes over the data.
            seed: Of initial weights, order and dropout. The caller's generators are left alone.
        """
        both, classes = torch.cat([x, (x >= 0.5).to(x)]), torch.cat([labels, labels])
        with seeded(seed):
            found = cls(tuple(x.shape[1:]), int(labels.max()) + 1).to(x.device)
            optimiser = torch.optim.AdamW(found.parameters(), lr=3e-3, weight_decay=1e-2)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
            for _ in range(epochs):
                for rows in torch.randperm(len(both)).split(128):
                    optimiser.zero_grad()
                    F.cross_entropy(found(both[rows]), classes[rows]).backward()
                    optimiser.step()
                schedule.step()
        found.eval().requires_grad_(False)
        h = found.encoder(both)
        found.mean, found.scale = h.mean(0), h.std(0)
        found.accuracy = float((found.classify(held_out) == held_out_labels).double().mean())
        binary = (held_out >= 0.5).to(x)
        found.binary_accuracy = float((found.classify(binary) == held_out_labels).double().mean())
        return found


@functools.cache
def digits_classifier() -> ImageClassifier:
    """The classifier of the digits, 8 x 8, trained on first use in a few seconds and kept for the process.

    Example:
        >>> found = digits_classifier()
        >>> found.accuracy >= 0.97, found.features(torch.zeros(2, 8, 8)).shape
        (True, torch.Size([2, 32]))
    """
    data = load("digits")
    assert data.train_target is not None and data.test_target is not None
    top = DIGIT_LEVELS - 1
    return ImageClassifier.fit(data.train / top, data.train_target, data.test / top, data.test_target)
