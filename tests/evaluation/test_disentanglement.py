"""The mutual information gap on codes for which it is known, and the shapes that it is measured on."""

import math

import pytest
import torch

import pyro_gen as pg
from pyro_gen.data.shapes import FACTORS, draw_shapes
from pyro_gen.evaluation.disentanglement import mutual_information, mutual_information_gap

FACTOR = torch.cartesian_prod(torch.arange(4), torch.arange(2))


def test_codes_of_which_everything_is_known():
    z = FACTOR.double()
    information, entropy = mutual_information(z, FACTOR)
    exact = torch.tensor([[math.log(4), 0.0], [0.0, math.log(2)]], dtype=torch.float64)
    torch.testing.assert_close(information, exact)
    torch.testing.assert_close(entropy, torch.tensor([math.log(4), math.log(2)], dtype=torch.float64))
    assert mutual_information_gap(z, FACTOR) == pytest.approx(1)
    assert mutual_information_gap(torch.cat([z, z], 1), FACTOR) == pytest.approx(0)
    # A dimension that tells both factors and two that tell nothing: the gap is the whole information.
    both = torch.stack([z[:, 0] + 4 * z[:, 1], 0 * z[:, 0], 0 * z[:, 0]], 1)
    assert mutual_information_gap(both, FACTOR) == pytest.approx(1)
    # The first factor twice and the second once: the mean of 0 and 1.
    assert mutual_information_gap(z[:, [0, 0, 1]], FACTOR) == pytest.approx(0.5)


def test_every_shape_is_drawn_once_and_lies_where_its_factors_say():
    images, factors = draw_shapes()
    assert images.shape == (576, 16, 16) and len(images.flatten(1).unique(dim=0)) == 576
    assert factors.max(0).values.tolist() == [n - 1 for n in FACTORS.values()]
    at = torch.arange(16.0)
    rows = (images.sum(2) * at).sum(1) / images.sum((1, 2))
    torch.testing.assert_close(rows, factors[:, 2] + 4.0)
    data = pg.data.load("shapes")
    assert len(data.train) == 460 and data.train_target.shape == (460, 4) and data.levels == 2


def test_one_dimension_has_no_next_and_a_constant_factor_is_refused():
    assert mutual_information_gap(FACTOR[:, :1].double(), FACTOR[:, :1]) == pytest.approx(1)
    with pytest.raises(ValueError, match="factor 1 has one value"):
        mutual_information_gap(FACTOR.double(), FACTOR * torch.tensor([1, 0]))
