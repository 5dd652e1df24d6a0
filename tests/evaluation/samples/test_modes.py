"""Modes covered and good samples, on samples of which both are known."""

import pytest
import torch

import pyro_gen as pg
from pyro_gen.data.mixtures import MIXTURES
from pyro_gen.evaluation.samples import good_samples, modes, modes_covered

RING = MIXTURES["ring_of_gaussians"]


def test_the_mixture_itself_covers_its_modes() -> None:
    x, _ = RING.draw(20_000, seed=1)
    found = modes(x, RING.centres, RING.scale)
    exact = 1 - torch.tensor(-4.5).exp()  # of a radius of 3 standard deviations in two dimensions
    assert found.covered == 8 and found.good_error == pytest.approx(0.00074, abs=1e-4)
    # Two-sided at 4.5 standard errors: 7e-6.
    assert abs(found.good - exact) < 4.5 * found.good_error
    assert abs(modes(x, RING.centres, 2 * RING.scale).good - exact) > 4.5 * found.good_error


def test_one_sample_of_a_mode_is_no_cover() -> None:
    x = torch.cat([RING.centres[[0] * 90], RING.centres[[1] * 3], RING.centres[[2] * 2], torch.full((5, 2), 9.0)])
    found = modes(x, RING.centres, RING.scale)
    assert found.covered == 2  # a fifth of an eighth of 100 samples is 2.5
    assert found.good == pytest.approx(0.95) and found.size == 100
    assert found.covered_error == pytest.approx(0.68, abs=0.05)  # either of the two small ones may be counted or not


def test_measures_of_a_program() -> None:
    gan = pg.models.GAN((2,), 2, torch.nn.Linear(2, 2))
    with torch.no_grad():
        gan.generator.weight.copy_(0.05 * torch.eye(2))
        gan.generator.bias.copy_(RING.centres[0])
    good, covered = (m(gan, None, of="ring_of_gaussians", draws=2000) for m in (good_samples, modes_covered))
    assert good.value == pytest.approx(0.989, abs=0.01) and covered.value == 1 and covered.standard_error == 0
    with pytest.raises(ValueError, match="no mixture 'iris'"):
        good_samples(gan, None, of="iris")
