"""What stands around a distribution is taken off, what it is made of is not."""

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution

from pyro_gen.distributions import Censored, elements, innermost

LOGNORMAL = dist.LogNormal(torch.zeros(3), 1.0)
INFLATED = dist.ZeroInflatedPoisson(torch.ones(3), gate=torch.tensor(0.5))
CENSORED = Censored(dist.Normal(torch.zeros(3), 1.0), low=0.0)
FOLDED = dist.FoldedDistribution(dist.Normal(torch.zeros(3), 1.0))


@pytest.mark.parametrize("law", [LOGNORMAL, INFLATED, CENSORED, FOLDED], ids=lambda d: type(d).__name__)
def test_a_law_with_a_base_is_itself(law):
    wrapped = law.mask(torch.tensor([True, False, True])).to_event(1)
    assert innermost(wrapped) is law and elements(wrapped) is law


def test_expand_is_seen_through_unless_the_shape_matters():
    expanded = ExpandedDistribution(LOGNORMAL, torch.Size([2, 3]))
    assert innermost(expanded.to_event(1)) is LOGNORMAL
    assert elements(expanded.to_event(1)).batch_shape == (2, 3)
