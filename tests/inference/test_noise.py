"""The likelihood of a generator under a stated observation noise, against the closed form of a linear one."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal

import pyro_gen as pg
from pyro_gen.inference.noise import with_noise

D, K, NOISE = 5, 3, 0.3
W = torch.randn(D, K, generator=torch.Generator().manual_seed(1))
COVARIANCE = W @ W.T + NOISE**2 * torch.eye(D)
X = torch.randn(20, D, generator=torch.Generator().manual_seed(2)) @ torch.linalg.cholesky(COVARIANCE).T


class Linear(pg.Program):
    """x = W z, by an observe statement or by Pyro's own."""

    event_shape = torch.Size([D])

    def __init__(self, plain=False):
        super().__init__()
        self.w = torch.nn.Parameter(W.clone())
        self.plain = plain

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
            law = dist.Delta(z @ self.w.T, event_dim=1)
            return pyro.sample("x", law, obs=x) if self.plain else pg.observe("x", law, x)


def exact(x):
    """The Gaussian marginals of what is seen."""
    seen = ~x.isnan()
    values = [
        MultivariateNormal(torch.zeros(int(s.sum())), COVARIANCE[s][:, s]).log_prob(v[s])
        if s.any()
        else torch.zeros(())
        for v, s in zip(x, seen, strict=True)
    ]
    return torch.stack(values).double()


def misses(found, x):
    return abs(found.mean() - exact(x).mean().item()) > 0.05


@pytest.mark.parametrize("plain", [False, True])
def test_linear_generator_has_the_likelihood_of_its_gaussian(plain):
    # The standard error of the mean is 0.008: 0.05 is six of them.
    found = pg.log_likelihood(Linear(plain), X, method="ais", noise=NOISE, chains=256)
    assert found.mean_standard_error() < 0.01 and not misses(found, X)


def test_the_check_tells_another_noise_apart():
    assert misses(pg.log_likelihood(Linear(), X, noise=NOISE**2, chains=64), X)


def test_missing_entries_are_left_out():
    x = X.clone()
    x[:10, 0] = x[5:15, 3] = math.nan
    x[0] = math.nan
    found = pg.log_likelihood(Linear(), x, noise=NOISE, chains=256)
    assert not misses(found, x) and found.value[0].abs() < 1e-6
    assert misses(found, x.masked_fill(x.isnan(), 0.0))


def test_sandwich_on_simulated_data():
    entropy = (D * math.log(2 * math.pi * math.e) + COVARIANCE.logdet().item()) / 2
    found = pg.bdmc(with_noise(Linear(), NOISE), 400, chains=16)
    # A two-sided check at 4 standard errors: a correct program fails it once in 15,000 seeds. Data that were simulated
    # without the noise have K / 2 nats in the place of D / 2 for their expected square, 1.0 more.
    assert abs(found.mean() + entropy) < 4 * found.sampling_error() < 0.9
    of_data = pg.log_likelihood(Linear(), X, method="bdmc", noise=NOISE, simulated=20)
    assert 0 <= of_data.diagnostics["gap"].mean() < 0.1


def test_missing_entries_given_the_seen_ones_under_noise():
    x = X[:1].clone()
    x[0, :2] = math.nan
    y = pg.impute(with_noise(Linear(), NOISE), x, draws=2000, method="ais")[:, 0, :2]
    gain = COVARIANCE[:2, 2:] @ COVARIANCE[2:, 2:].inverse()
    mean, variance = gain @ x[0, 2:], (COVARIANCE[:2, :2] - gain @ COVARIANCE[2:, :2]).diagonal()
    # Four standard errors of independent draws, in two entries: 1 in 8,000 seeds.
    assert bool(((y.mean(0) - mean).abs() < 4 * (variance / 2000).sqrt()).all())
    assert bool(((y.var(0) / variance - 1).abs() < 4 * (2 / 2000) ** 0.5).all())
    assert bool((variance > 1.5 * NOISE**2).any())


def test_a_likelihood_is_replaced_by_its_mean():
    class Coin(pg.Program):
        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                return pg.observe("x", dist.Bernoulli(logits=z), x)

    x = torch.tensor([0.0, 1.0, 0.4])
    z = torch.linspace(-8, 8, 4001).double()
    terms = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.sigmoid(), 0.2).log_prob(x[:, None].double())
    expected = torch.trapezoid(terms.exp(), z).log()
    found = pg.log_likelihood(Coin(), x, noise=0.2, chains=512)
    assert bool(((found.value - expected).abs() < 5 * found.standard_error).all())
    assert found.standard_error.max() < 0.03


def test_refusals():
    class Symbols(pg.Program):
        def model(self, x):
            with self.plate(x):
                return pg.observe("x", dist.Categorical(torch.ones(3)), x)

    with pytest.raises(ValueError, match="noise=0: give the standard deviation"):
        pg.log_likelihood(Linear(), X, noise=0)
    with pytest.raises(ValueError, match=r"'x' \(Categorical\) has no mean"):
        pg.log_likelihood(Symbols(), torch.zeros(4), noise=0.1)
    with pytest.raises(TypeError, match="from_functions"):
        with_noise(lambda x: x, 0.1)
