"""The mechanism of a selection model: its posterior given complete rows, by quadrature."""

import pytest
import torch

from pyro_gen._random import seeded
from pyro_gen.models.tabular.parts.mechanism import THRESHOLD_SCALE, Mechanism, signed


def test_logits_are_a_threshold_or_a_share():
    mechanism = Mechanism(torch.tensor([1e4, 0.0]).double(), torch.tensor([0.7, 1.5]).double())
    x = torch.tensor([[0.69, 5.0], [0.71, -5.0]], dtype=torch.float64)
    assert torch.equal(mechanism.logits(x) > 0, torch.tensor([[False, False], [True, False]]))
    assert mechanism.logits(x)[:, 1].tolist() == [-1.5, -1.5]


def test_what_it_did_to_missing_entries():
    mechanism = Mechanism(torch.tensor([2.0, -1.0]).double(), torch.tensor([0.1, 0.4]).double())
    x = torch.tensor([[0.3, -0.2], [1.0, 2.0]], dtype=torch.float64)
    missing, taken = torch.tensor([[True, True], [False, True]]), torch.tensor([[True, False], [False, True]])
    p = mechanism.logits(x).sigmoid()
    expected = torch.stack([p[0, 0].log() + (1 - p[0, 1]).log(), p[1, 1].log()])
    torch.testing.assert_close(mechanism.log_likelihood(missing, taken)(x), expected)
    torch.testing.assert_close(mechanism.log_likelihood(missing, taken)(x.expand(3, -1, -1)), expected.expand(3, -1))


@pytest.mark.parametrize("sign", [0.0, 1.0, -1.0])
def test_metropolis_finds_the_posterior(sign):
    """Means and deviations of both parameters, 500 chains, against a grid: five standard errors, by chance in 1e-5."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 1, generator=generator, dtype=torch.float64)
    taken = torch.rand(12, 1, generator=generator) < torch.sigmoid(1.5 * x - 0.3)
    strength, signs = 2.0, torch.tensor([sign]).double()

    slope, threshold = torch.meshgrid(torch.linspace(-9, 9, 361), torch.linspace(-9, 9, 361), indexing="ij")
    slope, threshold = slope.double(), threshold.double()
    logits = Mechanism(slope.unsqueeze(-1), threshold.unsqueeze(-1)).logits(x[:, 0])
    log_prob = torch.nn.functional.logsigmoid((2.0 * taken[:, 0] - 1) * logits).sum(-1)
    log_prob = log_prob - 0.5 * (slope / strength).square() - 0.5 * (threshold / THRESHOLD_SCALE).square()
    log_prob = torch.where((sign == 0) | (slope * sign >= 0), log_prob, -torch.inf)
    weight = (log_prob - log_prob.logsumexp((0, 1))).exp()

    with seeded(0):
        state = Mechanism(signed(torch.ones(500, 1).double(), signs), torch.zeros(500, 1).double())
        for _ in range(60):
            state = state.moved(x.expand(500, -1, -1), taken, signs, strength)
    for values, found in ((slope, state.slope), (threshold, state.threshold)):
        mean = (weight * values).sum()
        deviation = (weight * (values - mean).square()).sum().sqrt()
        assert abs(found.mean() - mean) < 5 * deviation / 500**0.5
        assert float(found.std() / deviation) == pytest.approx(1.0, abs=0.2)
    if sign:
        assert (state.slope * sign >= 0).all()
        # Chains that know the sign are not those that do not.
        other = state.moved(x.expand(500, -1, -1), taken, -signs, strength).slope
        assert (other * sign < 0).any()
