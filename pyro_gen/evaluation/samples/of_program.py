"""How good the samples of a trained program are: figures that a recipe of the zoo can assert, and all of them at once.

Samples are compared with test data; beside stand as many training data in the place of the samples. Features are those
of a classifier (``"digits"``, for images of 8 x 8 in levels 0..16 or 0 and 1) or the values themselves (``"values"``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_gen._random import fork, seeded
from pyro_gen.data.prepared import Prepared, rows_of
from pyro_gen.data.transforms import Transform
from pyro_gen.evaluation.samples.classifier import DIGIT_LEVELS, digits_classifier
from pyro_gen.evaluation.samples.distances import frechet_distance, kernel_distance, relative_frechet_distance
from pyro_gen.evaluation.samples.neighbours import nearest_neighbours
from pyro_gen.evaluation.samples.result import SampleFigure
from pyro_gen.evaluation.samples.two_sample import TwoSampleTest, two_sample_test
from pyro_gen.inference.predictive import sample
from pyro_gen.program import Program
from pyro_gen.registry import Measured, measure

__all__ = ["FEATURES", "SampleQuality", "grey", "program_features", "sample_quality"]

Progress = Callable[[float], None] | None


@dataclass(frozen=True)
class SampleQuality:
    """All figures of samples against real data, each with its error and with that of other real data.

    Attributes:
        frechet: Frechet distance, lower is better.
        kernel: Kernel distance, unbiased, lower is better.
        precision: The share of samples among the real data.
        recall: The share of real data among the samples.
        density: How many of the balls about real data samples are in, 1 of real data.
        coverage: The share of real data with a sample in their ball.
        c2st: The classifier two-sample test, 1/2 where nothing tells the two apart.
    """

    frechet: SampleFigure
    kernel: SampleFigure
    precision: SampleFigure
    recall: SampleFigure
    density: SampleFigure
    coverage: SampleFigure
    c2st: TwoSampleTest

    def __str__(self) -> str:
        return "\n".join(f"{name:10}{found}" for name, found in vars(self).items())


def sample_quality(samples: Tensor, real: Tensor, other: Tensor | None = None, *, seed: int = 0) -> SampleQuality:
    """All figures of samples against real data, by features of either, see :mod:`pyro_gen.evaluation.samples`.

    Arguments:
        samples: Features of the samples, with shape :math:`(N, D)`.
        real: Features of real data, with shape :math:`(N_r, D)`.
        other: Features of other real data, as many as samples, for what real data are at.
        seed: Of the two-sample test.

    Example:
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> found = sample_quality(0.5 * x[:100], x[100:200], x[200:])
        >>> found.frechet.value > found.frechet.real.value, found.coverage.value < found.coverage.real.value
        (True, True)
    """
    return SampleQuality(
        frechet_distance(samples, real, other),
        kernel_distance(samples, real, other),
        *nearest_neighbours(samples, real, other),
        two_sample_test(samples, real, other, seed=seed),
    )


# ----------------------------------------------------------------------------------------------------------------------
# Features


def grey(x: Tensor, transform: Transform | None, levels: int) -> Tensor:
    """Data as a program sees them, or samples of it, as numbers in [0, 1].

    Arguments:
        x: The data, with shape (N, *).
        transform: What they went through; it is undone, or has made zeros and ones.
        levels: The number of levels before.

    Raises:
        ValueError: The transform can neither be undone nor makes zeros and ones.
    """
    try:
        return ((x if transform is None else transform.inverse(x)) / (levels - 1)).clamp(0.0, 1.0)
    except TypeError as error:
        if ((x < 0) | (x > 1)).any():
            raise ValueError(f"{transform} cannot be undone, and its result is not of zeros and ones.") from error
        return x


def _digit_features(x: Tensor, transform: Transform | None) -> Tensor:
    if x[0].numel() != 64:
        raise ValueError(f"features = 'digits' are of images of 8 x 8, and data have shape {tuple(x.shape[1:])}.")
    return digits_classifier().features(grey(x, transform, DIGIT_LEVELS))


#: Features of data, given what they went through, by name.
FEATURES: Mapping[str, Callable[[Tensor, Transform | None], Tensor]] = {
    "digits": _digit_features,
    "values": lambda x, transform: x.reshape(len(x), -1).double(),
}


def program_features(
    program: Program, data: Prepared, features: str = "digits", draws: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of samples of a program, of the test data, and of as many training data as samples.

    Arguments:
        program: The program; what it conditions on is that of the training data drawn.
        data: The data.
        features: A name in :data:`FEATURES`.
        draws: The number of samples, at most that of training data.
        seed: Seeds the draws.

    Raises:
        ValueError: There are no such features, or they are not for these data.
    """
    if features not in FEATURES:
        raise ValueError(f"there are no features {features!r}: choose one of {', '.join(FEATURES)}.")
    train = data.train["x"] if isinstance(data.train, Mapping) else data.train
    test = data.test["x"] if isinstance(data.test, Mapping) else data.test
    n = min(draws, len(train))
    with seeded(fork(seed)):
        chosen = torch.randperm(len(train))[:n]
        other = train[chosen]
        if data.fit_transform is not None and data.transform is not None:  # else it was applied before
            other = data.transform(other)
    device = next(iter((*program.parameters(), *program.buffers()))).device
    context = tuple(part.to(device) for part in rows_of(data.context, chosen))
    drawn = sample(program, n, context=context, seed=seed, progress=False)
    drawn = (drawn["x"] if isinstance(drawn, Mapping) else drawn).cpu()
    of = FEATURES[features]
    return of(drawn, data.transform), of(test, data.transform), of(other, data.transform)


# ----------------------------------------------------------------------------------------------------------------------
# Measures


def _measured(found: SampleFigure, draws: int) -> Measured:
    text = f"{draws} samples; real against real {found.real}"
    return Measured(found.value, found.draw_error, found.standard_error, "estimate", text)


@measure("frechet", unit="", better="lower")
def frechet(
    program: Program,
    data: Prepared,
    *,
    features: str = "digits",
    draws: int = 1000,
    relative: bool = False,
    seed: int = 0,
    progress: Progress = None,
) -> Measured:
    """The Frechet distance of samples to test data.

    Arguments:
        program: The program.
        data: The data.
        features: A name in :data:`FEATURES`.
        draws: The number of samples, at most that of training data.
        relative: Whether it is divided by the distance of as many training data, which a perfect model has.
        seed: Seeds the draws.
        progress: Not used.
    """
    parts = program_features(program, data, features, draws, seed)
    return _measured((relative_frechet_distance if relative else frechet_distance)(*parts), len(parts[0]))


@measure("kernel_distance", unit="", better="lower")
def kernel(
    program: Program, data: Prepared, *, features: str = "digits", draws: int = 1000, seed: int = 0,
    progress: Progress = None,
) -> Measured:  # fmt: skip
    """The kernel distance of samples to test data; arguments as of :func:`frechet`."""
    parts = program_features(program, data, features, draws, seed)
    return _measured(kernel_distance(*parts), len(parts[0]))


def _of_neighbours(name: str, title: str) -> None:
    def figure(
        program: Program, data: Prepared, *, features: str = "digits", draws: int = 1000, k: int = 5, seed: int = 0,
        progress: Progress = None,
    ) -> Measured:  # fmt: skip
        parts = program_features(program, data, features, draws, seed)
        return _measured(getattr(nearest_neighbours(*parts, k=k), name), len(parts[0]))

    figure.__doc__ = f"{title}; arguments as of :func:`frechet`, and ``k`` as of :func:`nearest_neighbours`."
    measure(name, unit="", better="higher")(figure)


_of_neighbours("precision", "The share of samples within the balls about test data")
_of_neighbours("recall", "The share of test data within the balls about samples")
_of_neighbours("density", "The mean number of balls about test data that a sample is in, divided by ``k``")
_of_neighbours("coverage", "The share of test data that have a sample within their ball")


@measure("c2st", unit="", better="lower")
def c2st(
    program: Program, data: Prepared, *, features: str = "digits", draws: int = 1000, seed: int = 0,
    progress: Progress = None,
) -> Measured:  # fmt: skip
    """The accuracy of a classifier two-sample test of samples against test data; arguments as of :func:`frechet`."""
    found = two_sample_test(*program_features(program, data, features, draws, seed), seed=seed)
    text = f"{found.size} samples, p = {found.p_value:.2g}; real against real {found.real}"
    return Measured(found.value, found.standard_error, found.standard_error, "estimate", text)
