"""Linear Gaussian models against dense Gaussians, closed-form maxima and the exact posterior."""

import math

import pyro
import pytest
import torch

from pyro_gen.models import FactorAnalysis, Gaussian, ProbabilisticPCA
from pyro_gen.observation import assume_missing, no_completion
from pyro_gen.program import fixed
from pyro_gen.traces import per_datum_log_prob, structure, trace_pair

NAN = torch.nan
MODELS = [FactorAnalysis, ProbabilisticPCA]


def factors(model, d=7, rank=3, guide="exact", seed=0):
    """A factor model at a random point, in float64."""
    generator = torch.Generator().manual_seed(seed)
    program = model(d, rank, guide=guide).double()
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return program


def table(n=50, d=7, share=0.5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    missing = torch.rand(n, d, generator=generator) < share
    missing[0], missing[1] = True, False
    return torch.where(missing, NAN, x)


def dense_log_prob(x, loc, covariance):
    """The log-density of the seen entries, row by row, with shape (N,)."""
    rows = []
    for row in x:
        o = ~row.isnan()
        d = torch.distributions.MultivariateNormal(loc[o], covariance[o][:, o]) if bool(o.any()) else None
        rows.append(loc.new_zeros(()) if d is None else d.log_prob(row[o]))
    return torch.stack(rows)


def covariance_of(program):
    return program.loadings @ program.loadings.T + (2 * program.log_scale).exp() * torch.eye(len(program.loc)).double()


def elbo_terms(program, x):
    """One draw of log p(x, z) - log q(z) per datum, with shape (N,)."""
    model, guide = trace_pair(program, x)
    return sum(per_datum_log_prob(model.nodes[n]) for n in ("z", "x")) - per_datum_log_prob(guide.nodes["z"])


@pytest.mark.parametrize("model", MODELS)
def test_marginal_is_the_dense_gaussian(model):
    program, x = factors(model), table()
    marginal = program.marginal()
    trace = pyro.poutine.trace(marginal.model).get_trace(x)
    expected = dense_log_prob(x, program.loc, covariance_of(program))
    assert torch.allclose(per_datum_log_prob(trace.nodes["x"]), expected, rtol=1e-10, atol=1e-10)
    assert structure(marginal, x).kind == "exact" and structure(program, x).kind == "bound"
    assert marginal.event_shape == program.event_shape == (7,)


def test_marginal_shares_its_parameters():
    program = factors(FactorAnalysis)
    marginal = program.marginal()
    assert {id(p) for p in marginal.parameters()} == {id(p) for p in program.parameters()}
    program.load_state_dict({n: p + 1 for n, p in program.state_dict().items()})
    assert torch.equal(marginal.loc, program.loc)


@pytest.mark.parametrize("model", MODELS)
def test_exact_guide_makes_the_bound_tight_for_every_draw(model):
    program, x = factors(model), table()
    expected = dense_log_prob(x, program.loc, covariance_of(program))
    for _ in range(3):
        assert torch.allclose(elbo_terms(program, x), expected, rtol=1e-9, atol=1e-9)
    # Elsewhere than at the guide's own draws, too.
    z = 3 * torch.randn(len(x), 3, dtype=torch.float64)
    with fixed({"z": z}):
        assert torch.allclose(elbo_terms(program, x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_its_gradient_is_that_of_the_likelihood(model):
    program, x = factors(model), table()
    theta = list(program.parameters())
    got = torch.autograd.grad(elbo_terms(program, x).sum(), theta)
    expected = torch.autograd.grad(dense_log_prob(x, program.loc, covariance_of(program)).sum(), theta)
    for g, e in zip(got, expected, strict=True):
        assert torch.allclose(g, e, rtol=1e-8, atol=1e-8)


def test_a_posterior_that_forgets_the_holes_is_noticed():
    program, x = factors(FactorAnalysis), table()
    expected = dense_log_prob(x, program.loc, covariance_of(program))
    posterior = program._posterior
    program._posterior = lambda x: posterior(x.nan_to_num())
    gap = (elbo_terms(program, x) - expected).abs()
    complete = ~x.isnan().any(1)
    assert gap[complete].max() < 1e-9 and gap[~complete].min() > 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_amortised_guide_is_a_strict_bound(model):
    program, x = factors(model, guide="amortised"), table()
    exact = dense_log_prob(x, program.loc, covariance_of(program))
    bounds = torch.stack([elbo_terms(program, x) for _ in range(100)])
    # Over 50 data: the mean is below the exact value by many standard errors, and by Jensen never above it.
    gap, error = (exact - bounds.mean(0)).mean(), bounds.mean(1).std() / 100**0.5
    assert gap > 10 * error
    bounds.mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in program.parameters())


@pytest.mark.parametrize("guide", ["exact", "amortised"])
def test_particles_under_vmap_equal_a_loop(guide):
    program, x = factors(FactorAnalysis, guide=guide), table(9)
    z = torch.randn(4, 9, 3, dtype=torch.float64)

    def terms(z):
        with pyro.validation_enabled(False), assume_missing(True), no_completion(), fixed({"z": z}):
            return elbo_terms(program, x)

    assert torch.allclose(torch.vmap(terms)(z), torch.stack([terms(v) for v in z]), rtol=1e-12)


# ----------------------------------------------------------------------------------------------------------------------
# Maxima of the likelihood


def correlated(n=300, d=6, rank=2):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, rank, generator=generator, dtype=torch.float64)
    w = torch.randn(rank, d, generator=generator, dtype=torch.float64)
    return 1 + z @ w + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)


def likelihood_gradient(program, x):
    loss = per_datum_log_prob(pyro.poutine.trace(program.model).get_trace(x).nodes["x"]).mean()
    return max(g.abs().max().item() for g in torch.autograd.grad(loss, list(program.parameters())))


def test_ppca_from_data_is_the_maximum():
    x = correlated()
    ppca = ProbabilisticPCA.from_data(x, rank=2)
    assert ppca.loc.dtype == torch.float64
    assert likelihood_gradient(ppca.marginal(), x) < 1e-9
    # The closed form of the maximum (Tipping & Bishop, 1999, equation 4 with 7 and 8).
    eigenvalues = torch.linalg.eigvalsh(x.T.cov(correction=0))
    logdet = eigenvalues[-2:].log().sum() + 4 * eigenvalues[:-2].mean().log()
    expected = -0.5 * (6 * math.log(2 * math.pi) + logdet + 6)
    marginal = pyro.poutine.trace(ppca.marginal().model).get_trace(x)
    assert per_datum_log_prob(marginal.nodes["x"]).mean().item() == pytest.approx(expected.item(), rel=1e-10)
    # Any other loadings of that size are no stationary point: the check has teeth.
    with torch.no_grad():
        ppca.loadings[:, 0] *= 1.05
    assert likelihood_gradient(ppca.marginal(), x) > 1e-3


def test_em_step_of_ppca_has_the_closed_form_as_its_fixed_point():
    # Through the guide's own moments: one EM step (Tipping & Bishop, 1999, equations 27 and 28) changes nothing.
    x = correlated()
    ppca = ProbabilisticPCA.from_data(x, rank=2)
    q = ppca._posterior(x)
    ezz = q.covariance_matrix + q.mean.unsqueeze(-1) * q.mean.unsqueeze(-2)
    centred = x - ppca.loc
    assert torch.allclose(centred.T @ q.mean @ torch.linalg.inv(ezz.sum(0)), ppca.loadings, atol=1e-9)


@pytest.mark.parametrize(
    ("x", "rank", "words"),
    [
        (torch.tensor([[1.0, NAN], [0.0, 1.0]]), 1, "complete"),
        (torch.zeros(4), 1, r"\(N, D\)"),
        (torch.randn(10, 3), 3, "lower the rank"),
        (torch.randn(3, 8), 2, "lower the rank"),
    ],
)
def test_from_data_explains_what_it_needs(x, rank, words):
    with pytest.raises(ValueError, match=words):
        ProbabilisticPCA.from_data(x, rank)


def maximise(program, x):
    """Follows the gradients of one-draw ELBOs; they are free of noise for exact densities and exact guides."""
    optimiser = torch.optim.LBFGS(program.parameters(), max_iter=300, tolerance_change=0, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        model, guide = trace_pair(program, x)
        value = (guide.log_prob_sum() - model.log_prob_sum()) / len(x)
        value.backward()
        return value

    optimiser.step(loss)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_training_a_gaussian_lands_on_the_closed_form(covariance):
    x = correlated(d=3)
    program = Gaussian(3, covariance).double()
    maximise(program, x)
    s = x.T.cov(correction=0)
    fitted = program.scale_tril @ program.scale_tril.T if covariance == "full" else (program.scale**2).diag()
    assert torch.allclose(program.loc, x.mean(0), atol=1e-5)
    assert torch.allclose(fitted, s if covariance == "full" else s.diagonal().diag(), atol=1e-5)


def test_training_ppca_with_its_exact_guide_lands_on_the_closed_form():
    x = correlated()
    program, best = factors(ProbabilisticPCA, d=6, rank=2), ProbabilisticPCA.from_data(x, rank=2)
    maximise(program, x)
    assert torch.allclose(covariance_of(program), covariance_of(best), atol=1e-5)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_gaussian_of_images_with_holes(covariance):
    program = Gaussian((3, 4), covariance).double()
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = table(20, 12)
    trace = pyro.poutine.trace(program.model).get_trace(x.reshape(20, 3, 4))
    scale = program.scale_tril if covariance == "full" else program.scale.diag()
    expected = dense_log_prob(x, program.loc, scale @ scale.T)
    assert torch.allclose(per_datum_log_prob(trace.nodes["x"]), expected, rtol=1e-10, atol=1e-10)
    completed = trace.nodes["_RETURN"]["value"].flatten(1)
    assert torch.equal(completed[~x.isnan()], x[~x.isnan()]) and not completed.isnan().any()
    assert structure(program, x.reshape(20, 3, 4)).kind == "exact" and program.event_shape == (3, 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gaussian(3, covariance="spherical"), "diagonal"),
        (lambda: FactorAnalysis(3, 0), "at least one"),
        (lambda: ProbabilisticPCA(3, 1, guide="laplace"), "amortised"),
    ],
)
def test_misfits_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()
