"""Discrete latent variables summed out, in plates of any size, one too."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen.density import density

SHARES = torch.tensor([0.2, 0.3, 0.5])
MEANS = torch.tensor([-3.0, 0.0, 3.0])


class Mixed(pg.Program):
    """A label and a normal variable for each datum."""

    event_shape = torch.Size([])

    def model(self, x):
        with self.plate(x):
            k = pyro.sample("k", dist.Categorical(SHARES))
            z = pyro.sample("z", dist.Normal(MEANS[k], 1.0))
            return pg.observe("x", dist.Normal(z, 1.0), x)


def exact(x):
    return (dist.Normal(MEANS, 2**0.5).log_prob(x[..., None]) + SHARES.log()).logsumexp(-1)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("method", ["ais", "smc", "bdmc"])
def test_likelihoods_of_a_label_and_a_normal_variable(n, method):
    x = torch.linspace(-2, 3, 5)[:n]
    options = {"islands": 8} if method == "smc" else {"start": "prior", "chains": 64}
    found = pg.log_likelihood(Mixed(), x, method=method, seed=0, **options)
    # False-alarm rate below 1e-5: five standard errors, of five data.
    assert bool(((found.value - exact(x)).abs() < 5 * found.standard_error + 1e-3).all())


def normal(x, z):
    return dist.Normal(z, 1.0).log_prob(x)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("data", [1, 2])
def test_terms_in_plates_of_any_sizes(groups, data):
    y = torch.arange(1.0, 1.0 + groups * data).reshape(groups, data)

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("group", groups, dim=-2):
            k = pyro.sample("k", dist.Categorical(SHARES))
            with pyro.plate("row", data, dim=-1):
                b = pyro.sample("b", dist.Bernoulli(0.3))
                pyro.sample("y", dist.Normal(mu + MEANS[k] + b, 1.0), obs=y)

    target = density(model, y)
    z = torch.tensor([[0.5], [-1.0]])
    mean = z[:, :, None, None] + MEANS  # (chain, 1, 1, k)
    terms = torch.stack([normal(y[..., None], mean + b) + torch.tensor(p).log() for b, p in ((0, 0.7), (1, 0.3))])
    expected = (terms.logsumexp(0).sum(2) + SHARES.log()).logsumexp(-1)  # of each group
    torch.testing.assert_close(target.log_likelihood(z), expected.sum(1))
    pointwise = target.pointwise_log_likelihood(z)["y"]
    torch.testing.assert_close(pointwise.reshape(2, groups), expected)


def test_the_posterior_of_one_datum():
    x = torch.tensor([1.0])
    idata = pg.posterior(Mixed(), x, progress=False, seed=0)
    weight = (dist.Normal(MEANS, 2**0.5).log_prob(x) + SHARES.log()).softmax(0)
    mean = float((weight * (MEANS + x) / 2).sum())
    # 64 chains of 200 draws that cross between modes, an effective size of 500 at the least of a spread of about 1.2:
    # false-alarm rate 1e-6 at five standard errors.
    assert abs(float(idata.posterior["z"].mean()) - mean) < 5 * 1.2 / 500**0.5
