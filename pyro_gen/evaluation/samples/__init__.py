"""What samples of a program are like, judged by the samples alone: beside real data, or against known modes.

No figure says all: a model that repeats its training data has the best of them (of a likelihood it has not).
"""

from pyro_gen.evaluation.samples.classifier import ImageClassifier, digits_classifier
from pyro_gen.evaluation.samples.distances import frechet_distance, kernel_distance
from pyro_gen.evaluation.samples.modes import Modes, good_samples, modes, modes_covered
from pyro_gen.evaluation.samples.neighbours import Neighbours, nearest_neighbours
from pyro_gen.evaluation.samples.of_program import FEATURES, SampleQuality, program_features, sample_quality
from pyro_gen.evaluation.samples.result import SampleFigure
from pyro_gen.evaluation.samples.two_sample import TwoSampleTest, two_sample_test

__all__ = [
    "FEATURES",
    "ImageClassifier",
    "Modes",
    "Neighbours",
    "SampleFigure",
    "SampleQuality",
    "TwoSampleTest",
    "digits_classifier",
    "frechet_distance",
    "good_samples",
    "kernel_distance",
    "modes",
    "modes_covered",
    "nearest_neighbours",
    "program_features",
    "sample_quality",
    "two_sample_test",
]
