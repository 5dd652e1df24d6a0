"""Discrete latent variables summed out, in plates of any size, one too."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen.density import density, elimination, enumeration

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


class Labelled(pg.Program):
    """Two labels of each datum, of which the second depends on the first, and nothing else."""

    def model(self, x):
        with self.plate(x):
            k = pyro.sample("k", dist.Categorical(SHARES))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor([0.1, 0.5, 0.8])[k]))
            pyro.deterministic("mean", MEANS[k] + b)
            return pg.observe("x", dist.Normal(MEANS[k] + b, 1.0), x)


def label_weights(x):
    """P(k, b | x) with shape (N, 3, 2)."""
    second = torch.tensor([0.1, 0.5, 0.8])
    prior = SHARES.log().unsqueeze(1) + torch.stack([1 - second, second], 1).log()
    mean = MEANS.unsqueeze(1) + torch.arange(2.0)
    return (prior + normal(x[:, None, None], mean)).flatten(1).softmax(1).reshape(-1, 3, 2)


@pytest.mark.parametrize("n", [1, 4])
def test_labels_alone_have_exact_draws(n):
    x = torch.tensor([-1.5, 0.4, 2.0, torch.nan])[-n:]
    idata = pg.posterior(Labelled(), x, draws=2000, progress=False, seed=0)
    k, b = (torch.as_tensor(idata.posterior[name].values).flatten(0, 1) for name in ("k", "b"))
    assert k.shape == (8000, n) and idata.posterior["k"].dims == ("chain", "draw", "data")
    weights = label_weights(x.nan_to_num())
    weights[x.isnan()] = label_weights(torch.zeros(1))[0] * 0 + SHARES[:, None] * torch.tensor(
        [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]
    )
    for i in range(3):
        for j in range(2):
            found, p = ((k == i) & (b == j)).float().mean(0), weights[:, i, j]
            # 24 frequencies of 8000 independent draws: false-alarm rate 2e-5 at five standard errors.
            assert bool(((found - p).abs() < 5 * (p * (1 - p) / 8000).sqrt() + 1e-6).all())
    expected = normal(x.nan_to_num(), MEANS[k.long()] + b) * (~x.isnan())
    found = torch.as_tensor(idata.log_likelihood["x"].values).flatten(0, 1)
    torch.testing.assert_close(found, expected)
    again = pg.posterior(Labelled(), x, draws=2000, progress=False, seed=0)
    assert bool((again.posterior["k"] == idata.posterior["k"]).all())
    with pytest.raises(ValueError, match="does not take warmup"):
        pg.posterior(Labelled(), x, warmup=10, progress=False)


@pytest.mark.parametrize("method", ["hmc", "smc"])
def test_labels_beside_a_normal_variable(method):
    x = torch.tensor([-1.5, 0.4])
    options = {"chains": 64, "draws": 100} if method == "hmc" else {}
    idata = pg.posterior(Mixed(), x, method=method, progress=False, seed=1, **options)
    k, z = (torch.as_tensor(idata.posterior[name].values) for name in ("k", "z"))
    if method == "hmc":  # of each pair (k, z): the label given z and its joint with z
        joint = (normal(z.unsqueeze(-1), MEANS) + SHARES.log()).softmax(-1)
        residual = torch.nn.functional.one_hot(k.long(), 3) - joint
        # Labels are independent given z: false-alarm rate 4e-6 at five standard errors, of six.
        error = (joint * (1 - joint)).mean((0, 1)).sqrt() / (k.shape[0] * k.shape[1]) ** 0.5
        assert bool((residual.mean((0, 1)).abs() < 5 * error + 1e-6).all())
        product = (residual * z.unsqueeze(-1)).mean((0, 1)).abs()
        assert bool((product < 5 * error * z.abs().amax((0, 1)).unsqueeze(-1) + 1e-6).all())
    assert k.shape == z.shape and bool(((k >= 0) & (k <= 2)).all())
    with pytest.raises(ValueError, match='method="exact"'):
        pg.posterior(Mixed(), x, method="exact", progress=False)


FAR = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])


def mixture_of_far_data(x):
    """As in Pyro's tutorial; where it is first looked at, data are hundreds of nats nearer to one component."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("data", len(x)):
        label = pyro.sample("label", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[label], scale), obs=x)


def far_from_what_is_allowed(x):
    """A forbidden value is the only one that the data favour, by 800 nats; the allowed one has a small density."""
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        label = pyro.sample("label", dist.Categorical(logits=torch.tensor([0.0, -torch.inf])))
        pyro.sample("x", dist.Normal(shift + 40.0 * label, 1.0), obs=x)


def test_sums_of_far_data_lose_nothing(monkeypatch):
    density(mixture_of_far_data, FAR)  # once refused: "log p is -1311.92 at one assignment, and -inf in the sum"
    x = torch.tensor([40.0, 38.0])
    target = density(far_from_what_is_allowed, x)
    value = target.log_density(torch.tensor([[0.5]]))
    exact = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)) + dist.Normal(0.5, 1.0).log_prob(x).sum()
    torch.testing.assert_close(value, exact.reshape(1), rtol=1e-5, atol=0)
    # The twin: factor by factor, as Pyro does, 0 is left of the product.
    monkeypatch.setattr(elimination, "_merged", lambda terms: terms)
    with pytest.raises(enumeration.NotSummableError, match="-inf in the sum"):
        density(mixture_of_far_data, FAR)
