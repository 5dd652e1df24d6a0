"""The Wishart distribution against scipy's, and the moments of its draws."""

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

from pyro_gen.density import density
from pyro_gen.distributions import Wishart, wishart

SCALE = torch.tensor([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 0.5]], dtype=torch.float64)
DRAWS = 40_000


@pytest.mark.parametrize("df", [2.5, 3.0, 7.3])
@pytest.mark.parametrize("form", ["scale", "inverse_scale", "scale_tril"])
def test_log_density_is_that_of_scipy(df, form):
    forms = {"scale": SCALE, "inverse_scale": SCALE.inverse(), "scale_tril": torch.linalg.cholesky(SCALE)}
    x = torch.as_tensor(scipy.stats.wishart(7, SCALE.numpy()).rvs(5, random_state=0))
    expected = scipy.stats.wishart(df, SCALE.numpy()).logpdf(x.numpy().transpose(1, 2, 0))
    torch.testing.assert_close(Wishart(df, **{form: forms[form]}).log_prob(x), torch.as_tensor(expected))


def furthest(df: float) -> float:
    """The largest distance of first and second moments of draws from the known ones, in standard errors."""
    d = Wishart(df, scale=SCALE)
    x = d.sample((DRAWS,))
    at = torch.tril_indices(3, 3)
    out = 0.0
    for found, expected in ((x, d.mean), ((x - d.mean).square(), d.variance)):
        error = found.std(0) / DRAWS**0.5
        out = max(out, float(((found.mean(0) - expected) / error)[at[0], at[1]].abs().max()))
    return out


@pytest.mark.parametrize("df", [2.5, 7.3])
def test_moments_of_draws(df, monkeypatch):
    # 12 moments; each is 5.1 standard errors off with probability 3.4e-7: a false alarm in 4e-6 of all runs.
    assert furthest(df) < 5.1
    # The twin: all diagonal entries of Bartlett's factor with as many degrees of freedom.
    honest = wishart.standard_gamma
    monkeypatch.setattr(wishart, "standard_gamma", lambda shape: honest(shape[..., :1].expand_as(shape)))
    assert furthest(df) > 5.1


def test_draws_move_with_the_degrees_of_freedom():
    df = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
    total = Wishart(df, scale=SCALE).rsample((DRAWS,))
    (slope,) = torch.autograd.grad(total[:, 0, 0].mean(), df)
    assert float(slope) == pytest.approx(2.0, abs=0.1)  # that of df * V


def test_a_precision_is_a_latent_variable_of_many_chains():
    def model(x):
        precision = pyro.sample("precision", Wishart(4.0, scale=torch.eye(2)))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), precision_matrix=precision), obs=x)

    target = density(model, torch.randn(5, 2))
    z = target.sample_prior(4)
    found = target.log_density(z)
    drawn = target.constrain(z)["precision"]
    torch.testing.assert_close(drawn, drawn.mT)
    prior = torch.stack([Wishart(4.0, scale=torch.eye(2)).log_prob(p) for p in drawn])
    jacobian = [torch.autograd.functional.jacobian(lambda u: lower(target, u), point) for point in z]
    torch.testing.assert_close(target.log_prior(z), prior + torch.stack([j.det().abs().log() for j in jacobian]))
    assert found.isfinite().all() and target.mode == "traced"


def lower(target, u):
    """The three free entries of the matrix at a point."""
    matrix = torch.distributions.biject_to(Wishart.support)(u)
    at = torch.tril_indices(2, 2)
    return matrix[at[0], at[1]]


def test_what_is_refused():
    with pytest.raises(ValueError, match="1 degrees of freedom for matrices of 2 x 2"):
        Wishart(1.0, scale=torch.eye(2), validate_args=True)
    with pytest.raises(ValueError, match="give one of scale"):
        Wishart(3.0)
    batch = Wishart(torch.tensor([3.0, 4.0]), scale=torch.eye(2)).expand([5, 2])
    assert batch.sample((7,)).shape == (7, 5, 2, 2, 2) and batch.log_prob(torch.eye(2)).shape == (5, 2)
