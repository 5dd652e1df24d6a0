"""The two-sample test: p-values under equal laws are uniform, and what differs is told apart."""

import pytest
import torch
from scipy.stats import kstest

from pyro_gen.evaluation.samples import two_sample, two_sample_test
from pyro_gen.evaluation.samples.two_sample import TwoSampleTest


def of_equal_laws(repeats: int = 300) -> list[TwoSampleTest]:
    return [two_sample_test(torch.randn(30, 2), torch.randn(30, 2), seed=i) for i in range(repeats)]


def test_equal_laws_have_uniform_p_values_and_half_of_the_answers_right() -> None:
    found = of_equal_laws()
    # False alarms: 1e-4 by the Kolmogorov-Smirnov test, 7e-6 by 4.5 standard errors.
    assert kstest([f.p_value for f in found], "uniform").pvalue > 1e-4
    accuracy = torch.tensor([f.value for f in found])
    assert abs(accuracy.mean() - 0.5) < 4.5 * accuracy.std() / 300**0.5


def test_planted_defect_of_a_classifier_that_has_seen_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = two_sample._answers

    def seen(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        doubled = torch.cat([x, x]), torch.cat([y, y], 1)  # each datum in another fold, too
        return honest(*doubled)[:, : len(x)]

    monkeypatch.setattr(two_sample, "_answers", seen)
    accuracy = torch.tensor([f.value for f in of_equal_laws(30)])
    assert accuracy.mean() - 0.5 > 4.5 * accuracy.std() / 30**0.5


def test_planted_defect_of_a_p_value_of_independent_answers() -> None:
    found = of_equal_laws(100)
    one_sided = [
        1 - torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor((f.value - 0.5) / 0.03)).item() for f in found
    ]
    assert kstest(one_sided, "uniform").pvalue < 1e-4  # 0.03 is half of the error of 60 answers


def test_laws_that_differ_are_told_apart() -> None:
    x, y = torch.randn(200, 3), torch.randn(200, 3)
    shifted, wider = two_sample_test(x + 1.0, y, torch.randn(200, 3)), two_sample_test(2.5 * x, y)
    assert shifted.value > 0.7 and shifted.p_value <= 1e-3
    assert wider.value > 0.65 and wider.p_value <= 1e-3  # no straight line tells these
    assert shifted.real is not None and shifted.real.value < 0.6 and "real against real" in str(shifted)


def test_unequal_numbers_copies_and_seeds(untouched_rng: None) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(150, 2, generator=generator), torch.randn(60, 2, generator=generator)
    found = two_sample_test(x, y, seed=1)
    assert found.size == 60 and found == two_sample_test(x, y, seed=1) != two_sample_test(x, y, seed=2)
    assert two_sample_test(torch.ones(40, 2), torch.ones(40, 2)).value == 0.5
