"""Masked latent variables have no density: no estimate may depend on them, and none may be lost by them."""

import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
import pyro_gen.density.api as api
from pyro_gen._random import seeded
from pyro_gen.density import density
from pyro_gen.inference.likelihood.smc import smc

LENGTHS = torch.tensor([3, 1, 2, 0])


class Ragged(pg.Program):
    """Sequences x_t = z_t + noise of a random walk z, of lengths of their own; scales by a log-normal beside it."""

    event_shape = torch.Size([3])

    def model(self, x, lengths):
        with self.plate(x):
            z = torch.zeros(len(x))
            for t in range(3):
                inside = t < lengths
                z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0).mask(inside))
                scale = pyro.sample(f"scale_{t}", dist.LogNormal(0.0, 0.5).mask(inside))
                value = pyro.deterministic(f"ratio_{t}", scale / scale)
                pg.observe(f"x_{t}", dist.Normal(z * value, 0.5).mask(inside), x[:, t])
        return x

    def guide(self, x, lengths):
        with self.plate(x):
            for t in range(3):
                pyro.sample(f"z_{t}", dist.Normal(x[:, t], 1.0).mask(t < lengths))
                pyro.sample(f"scale_{t}", dist.LogNormal(0.0, 0.5).mask(t < lengths))


def sequences():
    with seeded(3):
        return torch.randn(4, 3).cumsum(1)


def exact(x):
    """The log-densities of the Gaussian vectors of each length; 0 for no entry."""
    walk = torch.ones(3, 3).tril() @ torch.ones(3, 3).tril().T + 0.25 * torch.eye(3)
    return torch.tensor(
        [dist.MultivariateNormal(torch.zeros(n), walk[:n, :n]).log_prob(row[:n]).item() if n else 0.0
         for row, n in zip(x, LENGTHS.tolist(), strict=True)]
    )  # fmt: skip


@pytest.mark.parametrize(("method", "start"), [("ais", "prior"), ("ais", "guide"), ("smc", "prior")])
def test_likelihoods_of_ragged_sequences(method, start, monkeypatch):
    x = sequences()
    options = {"chains": 32, "temperatures": 50} if method == "ais" else {"islands": 8}

    def estimate():
        return pg.log_likelihood(Ragged(), x, LENGTHS, method=method, start=start, seed=1, **options)

    found = estimate()
    # False-alarm rate below 1e-5: five standard errors, of four data.
    assert bool(((found.value - exact(x)).abs() < 5 * found.standard_error + 2e-3).all())
    if start == "guide":  # the twin: masked steps are flat, and their integral counts
        monkeypatch.setattr(api, "masked_out", lambda site: None)
        assert float((estimate().value - exact(x)).abs()[1:].min()) > 1


def test_what_the_data_do_not_depend_on_changes_nothing():
    class Beside(pg.Program):
        def model(self, x, mask):
            with self.plate(x):
                pyro.sample("z", dist.Normal(3.0, 1.0).mask(mask))
                with pyro.poutine.mask(mask=mask):
                    pyro.sample("shares", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
                pyro.sample("v", dist.Gamma(2.0, 1.0).expand([len(x), 2]).mask(torch.tensor([True, False])).to_event(1))
                return pg.observe("x", dist.Normal(0.0, 1.0), x)

    program, x, mask = Beside(), torch.zeros(3), torch.tensor([True, False, False])
    found = pg.log_likelihood(program, x, mask, method="ais", start="prior", seed=2)
    assert float((found.value + 0.9189).abs().max()) < 5 * float(found.standard_error.max()) + 1e-3
    idata = pg.posterior(program, x, mask, draws=50, warmup=120, progress=False, seed=0)
    assert bool(np.isfinite(idata.posterior["v"]).all())
    # Of 64 x 50 draws, an effective sample size of a quarter at the least: false-alarm rate 1e-6 at five errors.
    assert abs(float(idata.posterior["z"][..., 0].mean()) - 3.0) < 5 / math.sqrt(800)


def test_the_sandwich_of_masked_variables_holds():
    class Scaled(pg.Program):
        event_shape = torch.Size([])

        def model(self, x, mask):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(20.0, 0.1).mask(mask))  # nowhere near a standard normal
                return pg.observe("x", dist.Normal(torch.where(mask, z, 20.0), 1.0), x)

    mask = torch.arange(200) % 2 == 0
    found = pg.log_likelihood(Scaled(), torch.full((200,), 20.0), mask, method="bdmc", start="prior", seed=0)
    gap = found.diagnostics["gap"]
    # The gap of chains as long as these is a few hundredths; of a backward chain from (20 - 0) / 1 it would be 200.
    assert float(gap.abs().max()) < 3 and -0.02 < float(gap.mean()) < 0.2


def test_entries_that_were_observed_are_left_out_of_the_target():
    with seeded(0):
        y = torch.randn(6, 2)
    known = torch.tensor([True, True, False, True, True, False])
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]])

    def model(y):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.MultivariateNormal(mu, covariance), obs=y, obs_mask=known)

    target = density(model, y)
    assert target.dim == 2 + 2 * 2  # mu, and two rows of two
    z = torch.randn(3, target.dim)
    values = target.constrain(z)
    torch.testing.assert_close(target.unconstrain(values), z)
    torch.testing.assert_close(values["y_unobserved"][:, ~known].flatten(1), z[:, 2:])
    precision = 4 * covariance.inverse() + torch.eye(2) / 9
    mean = torch.linalg.solve(precision, 4 * covariance.inverse() @ y[known].mean(0))
    spread = precision.inverse().diagonal().sqrt()
    draws = torch.as_tensor(pg.posterior(model, y, progress=False, seed=0).posterior["mu"].values).flatten(0, 1)
    # 12,800 draws, whose effective size is 2,000 at the least: false-alarm rate 1e-6 at five standard errors.
    assert bool(((draws.mean(0) - mean).abs() < 5 * spread / math.sqrt(2000)).all())
    assert bool((draws.std(0) / spread - 1).abs().max() < 5 / math.sqrt(2 * 2000))
    marginal = dist.MultivariateNormal(
        torch.zeros(8), torch.kron(torch.eye(4), covariance) + torch.kron(torch.ones(4, 4), 9 * torch.eye(2))
    ).log_prob(y[known].flatten())
    evidence = smc(target, seed=0).evidence
    assert abs(evidence.mean() - float(marginal)) < 5 * float(evidence.standard_error) + 1e-3


def test_a_masked_variable_that_something_depends_on_is_an_improper_prior():
    def model(x):
        with pyro.poutine.mask(mask=False):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.tensor([4.0, 6.0])
    target = density(model, x)
    z = torch.tensor([[5.0], [1.0]])
    expected = dist.Normal(z, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(target.log_density(z), expected)
    for run in (pg.log_evidence, smc):
        with pytest.raises(ValueError, match="prior of 'z' is improper"):
            run(model, x)

    class Local(pg.Program):
        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(x < 1))
                return pg.observe("x", dist.Normal(z, 1.0), x)

    with pytest.raises(ValueError, match="prior of 'z' is improper"):
        pg.log_likelihood(Local(), torch.tensor([0.0, 2.0]), method="ais", start="prior")


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_masked_discrete_variable_is_no_constant_either(one_hot):
    weights = torch.tensor([0.2, 0.3, 0.5])
    means = torch.tensor([-2.0, 0.0, 2.0])
    family = dist.OneHotCategorical if one_hot else dist.Categorical

    class Labelled(pg.Program):
        def model(self, x, mask):
            with self.plate(x):
                k = pyro.sample("k", family(weights).mask(mask))
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                mean = (k * means).sum(-1) if one_hot else means[k]
                return pg.observe("x", dist.Normal(z + torch.where(mask, mean, 0.0), 1.0), x)

    x, mask = torch.tensor([0.5, 0.5, -1.0]), torch.tensor([True, False, False])
    z = torch.tensor([[0.3, 0.1, -0.4]])
    mixture = dist.Normal(z[..., None] + means, 1.0).log_prob(x[:, None]).add(weights.log()).logsumexp(-1)
    expected = torch.where(mask, mixture, dist.Normal(z, 1.0).log_prob(x))
    found = density(Labelled(), x, mask).log_likelihood(z[..., None])
    torch.testing.assert_close(found, expected)


def test_stacked_sets_with_masks_of_their_own():
    def model(x, mask):
        z = pyro.sample("z", dist.Normal(1.0, 1.0).expand([2]).mask(mask).to_event(1))
        pyro.sample("x", dist.Normal(torch.where(mask, z, 0.0), 1.0).to_event(1), obs=x)

    x = torch.tensor([[0.5, 1.0], [2.0, -1.0]])
    mask = torch.tensor([[True, False], [True, True]])
    target = density(model, x, mask, stacked=True)
    exact = torch.where(mask, dist.Normal(1.0, 2**0.5).log_prob(x), dist.Normal(0.0, 1.0).log_prob(x)).sum(1)
    evidence = smc(target, seed=0).evidence
    assert bool(((evidence.value - exact).abs() < 5 * evidence.standard_error + 2e-3).all())


def _coded(kind: str, fill: float) -> Callable[[torch.Tensor], None]:
    """Four lengths and two codes, masked in one of Pyro's ways."""

    def model(y: torch.Tensor) -> None:
        seen = y > 0
        y = torch.where(seen, y, fill)
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        law = dist.Gamma(loc.exp(), scale) if kind == "gamma" else dist.LogNormal(loc, scale)
        with pyro.plate("data", len(y)):
            if kind == "distribution":
                pyro.sample("y", law.mask(seen), obs=y)
            else:
                with pyro.poutine.mask(mask=seen):
                    pyro.sample("y", law, obs=y)

    return model


@pytest.mark.parametrize("kind", ["handler", "distribution", "gamma"])
@pytest.mark.parametrize("fill", [-999.0, math.nan, 0.0])
def test_masked_codes_leave_gradients(kind: str, fill: float) -> None:
    """The density of the others, and its gradient, as without the codes; filled at the codes they would be NaN."""
    y = torch.tensor([1.0, 2.0, -1.0, 4.0, -1.0, 1.5])
    z = torch.tensor([[0.3, -0.2], [1.0, 0.5]])
    value, grad = density(_coded(kind, fill), y).log_density_and_grad(z)
    exact, exact_grad = density(_coded(kind, 1.0), y[y > 0]).log_density_and_grad(z)
    torch.testing.assert_close(value, exact)
    torch.testing.assert_close(grad, exact_grad)
