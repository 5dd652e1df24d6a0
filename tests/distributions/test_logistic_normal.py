"""The logistic normal distribution: its integral, its log-ratios, and a twin without the Jacobian."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import torch

from pyro_gen.density import density
from pyro_gen.distributions import LogisticNormal
from pyro_gen.distributions.logistic_normal import AdditiveLogRatio

LOC = torch.tensor([0.4, -0.7], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.6, 0.25], [0.25, 0.3]], dtype=torch.float64)
LAW = dist.MultivariateNormal(LOC, COVARIANCE)


def integral(power: float = 0.0) -> float:
    """Of x_1 ** power over the simplex of three shares."""
    at, weights = np.polynomial.legendre.leggauss(120)
    at, weights = torch.as_tensor(at + 1) / 2, torch.as_tensor(weights) / 2
    first, part = at.unsqueeze(1), at.unsqueeze(0)  # the first share, and the part of the rest that is the second
    second = (1 - first) * part
    x = torch.stack([first.expand_as(second), second, 1 - first - second], -1)
    area = weights.unsqueeze(1) * weights.unsqueeze(0) * (1 - first)
    return float((LogisticNormal(LAW).log_prob(x).exp() * x[..., 0] ** power * area).sum())


def test_it_integrates_to_one(monkeypatch):
    assert integral() == pytest.approx(1, abs=1e-9)
    monkeypatch.setattr(AdditiveLogRatio, "log_abs_det_jacobian", lambda self, x, y: torch.zeros(x.shape[:-1]))
    assert abs(integral() - 1) > 0.1  # the twin


def test_two_shares_are_logit_normal():
    d = LogisticNormal(dist.Normal(torch.tensor([0.3]), 0.8).to_event(1))

    def density_of(share: float) -> float:
        z = np.log(share / (1 - share))
        return float(np.exp(-0.5 * ((z - 0.3) / 0.8) ** 2) / (0.8 * np.sqrt(2 * np.pi)) / (share * (1 - share)))

    for share in (0.01, 0.4, 0.97):
        assert float(d.log_prob(torch.tensor([share, 1 - share])).exp()) == pytest.approx(density_of(share), rel=1e-4)
    assert scipy.integrate.quad(density_of, 0, 1)[0] == pytest.approx(1)


def test_moments_of_draws():
    # 5 moments of log-ratios and a mean; each is 5 standard errors off with probability 6e-7: 4e-6 of all runs.
    count = 40_000
    x = LogisticNormal(LAW).sample((count,))
    assert torch.allclose(x.sum(-1), torch.ones(count, dtype=torch.float64)) and bool((x > 0).all())
    z = (x[:, :2] / x[:, 2:]).log()
    first, second = (z - LOC).T
    found = torch.stack([first, second, first.square(), first * second, second.square()])
    expected = torch.stack([torch.zeros_like(LOC[0])] * 2 + [COVARIANCE[0, 0], COVARIANCE[0, 1], COVARIANCE[1, 1]])
    assert bool(((found.mean(1) - expected).abs() < 5 * found.std(1) / count**0.5).all())
    assert abs(float(x[:, 0].mean()) - integral(1)) < 5 * float(x[:, 0].std()) / count**0.5


def test_shares_are_a_latent_variable_of_many_chains():
    def model(counts):
        shares = pyro.sample("shares", LogisticNormal(dist.MultivariateNormal(LOC.float(), COVARIANCE.float())))
        pyro.sample("counts", dist.Multinomial(int(counts.sum()), shares), obs=counts)

    target = density(model, torch.tensor([3.0, 1.0, 2.0]))
    z = target.sample_prior(5)
    shares = target.constrain(z)["shares"]
    expected = torch.stack([dist.Multinomial(6, s).log_prob(torch.tensor([3.0, 1.0, 2.0])) for s in shares])
    torch.testing.assert_close(target.log_likelihood(z), expected)
    assert target.mode == "traced"


def test_shapes_and_what_is_refused():
    d = LogisticNormal(dist.Normal(torch.zeros(4, 2), 1.0).to_event(1)).expand([5, 4])
    assert isinstance(d, LogisticNormal) and d.rsample((3,)).shape == (3, 5, 4, 3)
    with pytest.raises(ValueError, match="give a law of vectors"):
        LogisticNormal(dist.Normal(torch.zeros(2), 1.0))
