"""Whether draws are of the class that was asked for, and translations of the class of what was translated.

A classifier of real digits says what they are (:func:`pyro_gen.evaluation.samples.digits_classifier`); it errs itself,
for about one real digit in fifty.
"""

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from pyro_gen.data.prepared import Prepared
from pyro_gen.evaluation.samples.classifier import DIGIT_LEVELS, digits_classifier
from pyro_gen.evaluation.samples.of_program import grey
from pyro_gen.inference.predictive import sample
from pyro_gen.program import Program
from pyro_gen.registry import Measured, measure

__all__ = ["label_agreement", "translation_agreement"]

Progress = Callable[[float], None] | None


def _share(agrees: Tensor, method: str) -> Measured:
    p = agrees.double().mean().item()
    error = sqrt(p * (1 - p) / len(agrees))
    return Measured(p, error, error, "estimate", method)


@measure("label_agreement", unit="", better="higher")
def label_agreement(
    program: Program, data: Prepared, *, draws: int = 1000, seed: int = 0, progress: Progress = None
) -> Measured:
    """The share of drawn digits that a classifier takes for the label that was asked for, each label as often.

    Arguments:
        program: A program of digits, 8 x 8, whose context is a label.
        data: The data, in the form ``"given_label"``.
        draws: The number of digits.
        seed: Seeds them.
        progress: Not used.

    Raises:
        ValueError: The context is no label.
    """
    if len(data.test_context) != 1 or data.test_context[0].dim() != 1:
        raise ValueError('label_agreement is of a program given a label: give the data the form "given_label".')
    labels = torch.arange(draws) % 10
    drawn = sample(program, draws, context=(labels.to(data.test_context[0]),), seed=seed, progress=False)
    classifier = digits_classifier()
    found = classifier.classify(grey(drawn.cpu(), data.transform, DIGIT_LEVELS))
    return _share(found == labels, f"{draws} draws; real digits {classifier.accuracy:.3f}")


@measure("translation_agreement", unit="", better="higher")
def translation_agreement(program: Program, data: Prepared, *, seed: int = 0, progress: Progress = None) -> Measured:
    """The share of translated test digits that are taken for what their true translations are taken for.

    Both ways; of the second domain, negatives turned by a right angle, the way back to a digit is undone exactly.

    Arguments:
        program: A program that translates ``digits_negatives``.
        data: The data, in the form ``"given_rows"``.
        seed: Seeds what a program draws beside the translation.
        progress: Not used.
    """
    drawn = sample(program, len(data.test), context=data.test_context, seed=seed, progress=False).cpu()
    classes = []
    for rows in (drawn, data.test):
        upright = torch.cat([rows[:, 0], 1 - torch.rot90(rows[:, 1], -1, (1, 2))])
        classes.append(digits_classifier().classify(upright.clamp(0.0, 1.0)))
    agrees = (classes[0] == classes[1]).double()
    back, there = agrees.chunk(2)
    return _share(agrees, f"to negatives {there.mean():.3f}, to digits {back.mean():.3f}")
