"""Linear regressions against closed forms and quadrature; laws of outcomes against scipy's."""

import math

import numpy as np
import pyro
import pytest
import scipy.stats
import torch

import pyro_gen as pg
from pyro_gen.density import density
from pyro_gen.models import ConjugateRegression, Regression
from pyro_gen.models.regression.parts.covariates import integrated
from pyro_gen.models.regression.parts.likelihoods import ordinal_logits, sample_law
from pyro_gen.program import fixed
from pyro_gen.traces import trace_pair

F64 = torch.float64


def data(n=30, p=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(n, p, generator=generator, dtype=F64)
    y = 0.5 + u @ torch.linspace(1.0, -1.0, p, dtype=F64) + 0.4 * torch.randn(n, generator=generator, dtype=F64)
    y[:3] = torch.nan
    return y, u


def dense_evidence(program, y, u):
    """log p(y) as that of a multivariate t, its scale matrix with N x N numbers."""
    seen = ~y.isnan()
    h = torch.cat([torch.ones(int(seen.sum()), 1, dtype=F64), u[seen]], 1)
    scale = program.rate / program.shape * (torch.eye(len(h), dtype=F64) + program.scale**2 * h @ h.T)
    return scipy.stats.multivariate_t(np.zeros(len(h)), scale.numpy(), 2 * program.shape).logpdf(y[seen].numpy())


def test_conjugate_evidence_is_the_dense_one_and_every_draw_says_so():
    y, u = data()
    program = ConjugateRegression(2, scale=3.0).double().fit_posterior(y, u)
    exact = dense_evidence(program, y, u)
    assert program.log_evidence(y, u).item() == pytest.approx(exact, abs=1e-9)
    for _ in range(3):
        model, guide = trace_pair(program, y, u)
        assert (model.log_prob_sum() - guide.log_prob_sum()).item() == pytest.approx(exact, abs=1e-9)
    estimate = pg.log_evidence(program, y, u, method="importance", num_particles=5)
    assert estimate.value.item() == pytest.approx(exact, abs=1e-9)


def test_a_posterior_that_forgets_the_prior_is_noticed():
    y, u = data()
    program = ConjugateRegression(2, scale=3.0).double().fit_posterior(y, u)
    program.precision -= torch.eye(3) / 9
    gaps = []
    for _ in range(5):
        model, guide = trace_pair(program, y, u)
        gaps.append(abs((model.log_prob_sum() - guide.log_prob_sum()).item() - dense_evidence(program, y, u)))
    assert max(gaps) > 1e-3


def test_conjugate_predictive_is_student_t():
    # 4000 draws; Kolmogorov-Smirnov at 1e-4.
    y, u = data()
    program = ConjugateRegression(2).double().fit_posterior(y, u)
    new = torch.tensor([[0.5, -2.0]], dtype=F64)
    drawn = pg.predict(program, None, new, draws=4000)[:, 0].numpy()
    h = torch.tensor([1.0, 0.5, -2.0], dtype=F64)
    a, b = program.noise_shape.item(), program.noise_rate.item()
    scale = math.sqrt(b / a * (1 + h @ torch.linalg.solve(program.precision, h)).item())
    law = scipy.stats.t(2 * a, (h @ program.mean).item(), scale)
    assert scipy.stats.kstest(drawn, law.cdf).pvalue > 1e-4
    assert scipy.stats.kstest(drawn, scipy.stats.t(2 * a, law.mean(), 1.2 * scale).cdf).pvalue < 1e-4  # has teeth


def test_sampled_posterior_of_a_linear_regression_is_that_by_quadrature():
    # Given sigma the posterior is normal; sigma by a grid. ESS is at least 1000: 5 standard errors, 6e-7 a number.
    y, u = data()
    seen = ~y.isnan()
    h = torch.cat([torch.ones(int(seen.sum()), 1, dtype=F64), u[seen]], 1)
    sigma = torch.linspace(0.2, 1.2, 1000, dtype=F64)
    noise = sigma.square()[:, None, None] * torch.eye(len(h), dtype=F64)
    marginal = torch.distributions.MultivariateNormal(torch.zeros(len(h), dtype=F64), 2.5**2 * h @ h.T + noise)
    weight = (marginal.log_prob(y[seen]) - sigma.square() / (2 * 2.5**2)).softmax(0)
    precision = h.T @ h / sigma.square()[:, None, None] + torch.eye(3, dtype=F64) / 2.5**2
    covariance = torch.linalg.inv(precision)
    means = (covariance @ (h.T @ y[seen])) / sigma.square()[:, None]
    mean = weight @ means
    spread = (weight @ (covariance.diagonal(dim1=-2, dim2=-1) + means.square()) - mean.square()).sqrt()
    settings = {"chains": 32, "draws": 100, "predictive": False, "log_likelihood": False, "compile": "off"}
    idata = pg.posterior(Regression(2).double(), y, u, progress=False, **settings)
    alpha, beta = idata.posterior["alpha"].values[..., None], idata.posterior["beta"].values
    drawn = torch.from_numpy(np.concatenate([alpha, beta], -1)).flatten(0, 1)
    assert ((drawn.mean(0) - mean).abs() < 5 * spread / 1000**0.5).all()
    assert ((drawn.mean(0) - mean * 1.1).abs() > 5 * spread / 1000**0.5).any()  # has teeth
    assert (drawn.std(0) / spread - 1).abs().max() < 0.15


# ----------------------------------------------------------------------------------------------------------------------
# Laws of outcomes


ETA = torch.tensor([-1.2, 0.3, 2.0], dtype=F64)
ETA_N = ETA.numpy()
LAWS = {
    "normal": ({"sigma": 0.7}, [0.5, -1.0, 2.0], lambda y: scipy.stats.norm(ETA_N, 0.7).logpdf(y)),
    "student_t": ({"sigma": 0.7, "nu": 3.0}, [0.5, -1, 2], lambda y: scipy.stats.t(3, ETA_N, 0.7).logpdf(y)),
    "bernoulli": ({}, [0.0, 1.0, 1.0], lambda y: scipy.stats.bernoulli(1 / (1 + np.exp(-ETA_N))).logpmf(y)),
    "poisson": ({}, [0.0, 3.0, 7.0], lambda y: scipy.stats.poisson(np.exp(ETA_N)).logpmf(y)),
    "negative_binomial": (
        {"phi": 2.5},
        [0.0, 3.0, 7.0],
        lambda y: scipy.stats.nbinom(2.5, 2.5 / (2.5 + np.exp(ETA_N))).logpmf(y),
    ),
}


@pytest.mark.parametrize("likelihood", LAWS)
def test_law_of_an_outcome(likelihood):
    parameters, y, expected = LAWS[likelihood]
    with fixed({n: torch.tensor(v, dtype=F64) for n, v in parameters.items()}):
        law = sample_law(likelihood, torch.tensor(2.5, dtype=F64))(ETA)
    assert np.allclose(law.log_prob(torch.tensor(y, dtype=F64)), expected(np.array(y)), rtol=1e-10)


def test_ordinal_law_is_the_difference_of_logistic_functions():
    shares = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    with fixed({"shares": shares}):
        law = sample_law("ordinal", torch.tensor(2.5, dtype=F64), 3)(ETA)
    cut = np.array([0.2, 0.7])
    below = np.concatenate([np.zeros((3, 1)), scipy.special.expit(np.log(cut / (1 - cut)) - ETA_N[:, None])], 1)
    assert np.allclose(law.probs, np.diff(np.concatenate([below, np.ones((3, 1))], 1)), rtol=1e-10)
    assert np.allclose(ordinal_logits(torch.zeros(1).double(), torch.tensor(cut).logit()).exp(), shares)
    tail = ordinal_logits(torch.tensor([-60.0]), torch.tensor([-1.0, 1.0]))  # in single precision
    assert tail[0].tolist() == pytest.approx([-math.exp(-59), -59 + math.log1p(-math.exp(-2)), -61.0], abs=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# Missing covariates


def test_missing_covariates_of_a_normal_outcome_are_integrated_out():
    y, u = data(8, 2)
    u[4, 0], u[5, 1], u[6] = torch.nan, torch.nan, torch.nan
    mean, scale = torch.tensor([0.2, -0.1], dtype=F64), torch.tensor([1.0, 1.5], dtype=F64)
    factor = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=F64)
    beta, sigma = torch.tensor([0.7, -0.4], dtype=F64), torch.tensor(0.5, dtype=F64)
    values = {"covariate_mean": mean, "covariate_scale": scale, "covariate_correlation": factor}
    values |= {"beta": beta, "alpha": torch.tensor(0.3, dtype=F64), "sigma": sigma}
    with fixed(values):
        trace = pyro.poutine.trace(Regression(2, missing=True).double().model).get_trace(y, u)
    trace.compute_log_prob()
    got = trace.nodes["u"]["log_prob"] + trace.nodes["y"]["log_prob"]
    tril = scale[:, None] * factor
    joint = torch.cat([torch.cat([tril, torch.zeros(2, 1, dtype=F64)], 1), torch.cat([beta @ tril, sigma[None]])[None]])
    loc, rows = torch.cat([mean, (0.3 + beta @ mean)[None]]), torch.cat([u, y[:, None]], 1)
    for row, value in zip(rows, got, strict=True):
        o = ~row.isnan()
        law = torch.distributions.MultivariateNormal(loc[o], (joint @ joint.T)[o][:, o])
        assert value.item() == pytest.approx(law.log_prob(row[o]).item(), abs=1e-9)
    law = torch.distributions.MultivariateNormal(mean, scale_tril=tril)
    assert integrated(u, law, beta)[1][4:7].min() > 0.01  # what filling in the mean would leave out


def test_missing_covariates_of_a_count_are_latent():
    y, u = torch.tensor([0.0, 3.0, 2.0, 1.0]).double(), data(4, 1)[1]
    u[1] = torch.nan
    target = density(Regression(1, "poisson", missing=True).double(), y, u)
    assert "u.missing" in target.prototype.nodes and torch.isfinite(target.log_density(target.sample_prior(3))).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Regression(2, "gamma"), "choose one of normal"),
        (lambda: Regression(2, "ordinal"), "number of levels"),
        (lambda: Regression(2, levels=3), "others have none"),
        (lambda: Regression(2, scale=-1.0), "positive"),
        (lambda: ConjugateRegression(2, rate=0.0), "positive"),
        (lambda: Regression(2).model(torch.zeros(3), torch.zeros(3, 4)), r"\(N, 2\)"),
    ],
)
def test_misfits_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_expectations_where_a_covariate_is_missing_too():
    # E[exp(u / 2)] of a standard normal covariate u is exp(1 / 8); by 4000 draws, 5 standard errors.
    program = Regression(1, "poisson", missing=True).double()
    one = torch.ones(4000, 1, dtype=F64)
    draws = {"beta": 0.5 * one, "alpha": 0 * one[:, 0], "covariate_mean": 0 * one, "covariate_scale": one}
    unknown = torch.full((1, 1), torch.nan, dtype=F64)
    mean = pg.predict(program, None, unknown, posterior=draws, draws=4000, returns="mean")
    assert abs(mean.item() - math.exp(0.125)) < 5 * math.sqrt((math.exp(0.5) - math.exp(0.25) + 1.2) / 4000)
