"""Missing entries as latent coordinates: integrals and moments over them are the known ones."""

import math
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.density import density, missing_laws
from pyro_gen.observation import MissingLaw

NAN = math.nan
LOC = torch.tensor([1.0, 0.0, -1.0])
FACTOR = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.4, 0.7]])
X = torch.tensor([[NAN, NAN, NAN], [1.0, NAN, 0.2], [1.0, 2.0, -1.0], [0.3, NAN, NAN]])
DRAWS = 20_000


class GaussianFlow(pg.Program):
    """A Gaussian that does not say so: an affine flow of a standard normal."""

    def model(self, x: Tensor) -> Tensor:
        base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        with self.plate(x):
            return pg.observe("x", dist.TransformedDistribution(base, [transforms.LowerCholeskyAffine(LOC, FACTOR)]), x)


class Squashed(pg.Program):
    """The same through a logistic function: its entries lie in (0, 1)."""

    def model(self, x: Tensor) -> Tensor:
        base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        steps = [transforms.LowerCholeskyAffine(LOC, FACTOR), transforms.SigmoidTransform()]
        with self.plate(x):
            return pg.observe("x", dist.TransformedDistribution(base, steps), x)


def marginal(row: Tensor) -> float:
    """The log-density of the seen entries of a row of the Gaussian."""
    seen = (~row.isnan()).nonzero()[:, 0]
    if len(seen) == 0:
        return 0.0
    covariance = (FACTOR @ FACTOR.T)[seen][:, seen]
    return float(dist.MultivariateNormal(LOC[seen], covariance).log_prob(row[seen]))


def importance(program: pg.Program, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the mean likelihood at draws of the prior, its standard error, each (N,), and the error itself."""
    target = density(program, x, missing="latent")
    torch.manual_seed(0)
    log_w = target.log_likelihood(target.sample_prior(DRAWS)).double()
    share = (log_w - log_w.logsumexp(0)).exp() * DRAWS
    return log_w.logsumexp(0) - math.log(DRAWS), share.std(0) / DRAWS**0.5, log_w


def test_the_integral_over_missing_entries_of_a_flow_is_the_marginal_likelihood() -> None:
    value, error, _ = importance(GaussianFlow(), X)
    expected = torch.tensor([marginal(row) for row in X], dtype=torch.float64)
    assert bool(((value - expected).abs() < 4.5 * error + 1e-5).all())  # false alarms: 3e-5
    assert bool((error < 0.01).all())


def test_a_bounded_support_is_mapped_to_unconstrained_space() -> None:
    inner = torch.sigmoid(X)
    value, error, _ = importance(Squashed(), inner)
    jacobian = torch.where(X.isnan(), 0.0, (inner * (1 - inner)).log()).sum(1)
    expected = torch.tensor([marginal(row) for row in X]) - jacobian
    assert bool(((value - expected).abs() < 4.5 * error + 1e-5).all())  # false alarms: 3e-5
    completed = density(Squashed(), inner, missing="latent").complete(torch.randn(5, 4, 3))
    assert bool(constraints.unit_interval.check(completed).all())


def test_twin_without_the_correction_for_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    law = missing_laws.law_of_missing

    def uncorrected(name: str, d: Any, value: Tensor, *rest: Any) -> MissingLaw:
        return law(name, d, value, *rest)._replace(scored=d)

    monkeypatch.setattr("pyro_gen.density.missing.law_of_missing", uncorrected)
    value, error, _ = importance(GaussianFlow(), X)
    expected = torch.tensor([marginal(row) for row in X], dtype=torch.float64)
    assert bool(((value - expected).abs() > 4.5 * error + 1e-5)[[0, 1, 3]].all())


def test_weighted_draws_have_the_conditional_moments() -> None:
    target = density(GaussianFlow(), X, missing="latent")
    torch.manual_seed(0)
    z = target.sample_prior(DRAWS)
    w = target.log_likelihood(z).double().softmax(0)
    middle = target.complete(z)[:, 1, 1].double()
    covariance = FACTOR @ FACTOR.T
    seen = torch.tensor([0, 2])
    gain = covariance[1, seen] @ torch.linalg.inv(covariance[seen][:, seen])
    mean = float(LOC[1] + gain @ (X[1, seen] - LOC[seen]))
    spread = float(covariance[1, 1] - gain @ covariance[seen, 1])
    found = float((w[:, 1] * middle).sum())
    effective = float(1 / w[:, 1].square().sum())
    assert abs(found - mean) < 4.5 * (spread / effective) ** 0.5  # false alarms: 7e-6
    assert abs(float((w[:, 1] * (middle - mean) ** 2).sum()) - spread) < 4.5 * spread * (2 / effective) ** 0.5
    assert bool((target.complete(z)[:, 2] == X[2]).all())


class Tilted(pg.Program):
    """N(0, I) weighed by exp(3 (x_1 + x_2)); its factor reads the argument of the observe statement."""

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            pg.observe("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), x)
            pyro.factor("tilt", 3 * x.sum(-1))
            return x


class Returned(pg.Program):
    """The same with a factor that reads what the statement returns."""

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            x = pg.observe("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), x)
            pyro.factor("tilt", 3 * x.sum(-1))
            return x


@pytest.mark.parametrize("program", [Tilted, Returned])
def test_factors_read_the_completed_data(program: type[pg.Program]) -> None:
    x = torch.tensor([[NAN, NAN], [1.0, NAN], [1.0, 2.0]])
    target = density(program(), x, missing="latent")
    assert target.batch_shape == (3,) and target.names == ("x.missing",)
    z = torch.randn(7, 3, 2)
    whole = target.complete(z)
    terms = target.value_and_grad(z)
    of_seen = torch.where(x.isnan(), 0.0, dist.Normal(0.0, 1.0).log_prob(x.nan_to_num())).sum(-1)
    assert torch.allclose(terms.log_likelihood, of_seen + 3 * whole.sum(-1), atol=1e-5)
    assert torch.allclose(terms.grad_likelihood, 3.0 * x.isnan().expand(7, 3, 2), atol=1e-5)
    assert target.mode == "traced"


class Chain(pg.Program):
    """Observed in parts, which the model does not put together again."""

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            a = pg.observe("a", dist.Normal(0.0, 1.0), x[:, 0])
            pg.observe("b", dist.Normal(a, 1.0), x[:, 1])
            return x


def test_data_in_parts_that_are_not_returned_completed() -> None:
    x = torch.tensor([[NAN, NAN], [1.0, NAN]])
    target = density(Chain(), x, missing="latent")
    assert target.names == ("a.missing", "b.missing")
    completed = target.complete(torch.zeros(2, 2, 2))
    assert bool(completed.isnan().any())  # the model returns its argument
    with pytest.raises(ValueError, match=r'choose "marginal" or "latent"'):
        density(Chain(), x, missing="drawn")


class Spins(dist.TorchDistribution):  # type: ignore[misc]
    """Two coins that like to agree, of which no marginal is offered."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self) -> None:
        super().__init__(torch.Size(), torch.Size([2]))

    def log_prob(self, value: Tensor) -> Tensor:
        agree = (value[..., 0] == value[..., 1]).to(value.dtype)
        return torch.log(0.1 + 0.3 * agree)


class Coins(pg.Program):
    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            return pg.observe("x", Spins(), x)


def test_discrete_entries_are_held_and_uniform_beforehand() -> None:
    x = torch.tensor([[1.0, NAN], [NAN, NAN]])
    target = density(Coins(), x, missing="latent", hold=("x.missing",))
    pairs = torch.tensor([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
    held = {"x.missing": pairs.unsqueeze(1).expand(4, 2, 2)}
    z = torch.zeros(4, 0)
    per_site = target.site_log_probs(z, held=held)
    total = (per_site["x"] + per_site["x.missing"]).logsumexp(0)
    assert torch.allclose(total.exp(), torch.tensor([0.5, 1.0]))  # p(x_1 = 1), and all of it


class Tied(pg.Program):
    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            return pg.observe("x", dist.Dirichlet(torch.ones(3)), x)


def test_entries_that_are_tied_to_each_other_are_refused_in_part() -> None:
    with pytest.raises(ValueError, match="tied to each other"):
        density(Tied(), torch.tensor([[0.2, NAN, NAN]]), missing="latent")
    assert density(Tied(), torch.full((1, 3), NAN), missing="latent").dim == 2


class Mixed(dist.MultivariateNormal):
    """A share of the draws of a standard normal law are so many times as large."""

    share, times = 0.01, 1e12

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        x = super().rsample(sample_shape)
        return torch.where(torch.rand(x.shape[:-1]).unsqueeze(-1) < self.share, self.times * x, x)


@pytest.mark.parametrize(
    ("share", "times", "low", "high"), [(0.01, 1e12, 0.9, 1.1), (0.1, 100.0, 800.0, 1200.0)], ids=["far", "slab"]
)
@pytest.mark.parametrize("far", [None, 1e30])
def test_moments_leave_out_what_lies_far(
    monkeypatch: pytest.MonkeyPatch, share: float, times: float, low: float, high: float, far: float | None
) -> None:
    """A hundredth of the draws would be all that the moments tell of, as they are of the twin; a tenth is kept."""
    monkeypatch.setattr(Mixed, "share", share)
    monkeypatch.setattr(Mixed, "times", times)
    if far is not None:
        monkeypatch.setattr(missing_laws, "FAR", far)
    with seeded(0):
        moments = missing_laws.moments_of(Mixed(torch.zeros(2), torch.eye(2)), 20_000)
    assert moments is not None
    mean = float(moments.covariance.diagonal().mean()) / missing_laws.INFLATION**2
    assert (low < mean < high) is (far is None or share > 0.02)
