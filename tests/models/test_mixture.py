"""Mixtures against sums over all components and missing entries, written out row by row."""

import itertools

import pyro
import pytest
import torch

import pyro_gen as pg
from pyro_gen.models import (
    BernoulliMixture,
    CategoricalMixture,
    ClassConditional,
    DirichletProcessMixture,
    GaussianMixture,
    MixtureOfFactorAnalysers,
)
from pyro_gen.models.mixture.dirichlet_process import log_stick_weights
from pyro_gen.program import fixed
from pyro_gen.tasks import classify
from pyro_gen.traces import per_datum_log_prob, structure

NAN = torch.nan


def at_random(program, seed=0):
    """The program at a random point, in float64."""
    generator = torch.Generator().manual_seed(seed)
    program = program.double()
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.copy_(parameter + 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return program


def with_holes(x, share=0.4, seed=1):
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    missing[0], missing[1] = True, False
    return torch.where(missing, NAN, x.double())


def dense_gaussians(program, x):
    """log pi_k N(x_o; mu_ko, Sigma_koo) of each row and component, with shape (N, K)."""
    out = []
    for row in x:
        o = ~row.isnan()
        laws = [
            torch.distributions.MultivariateNormal(loc[o], s[o][:, o]).log_prob(row[o]) if bool(o.any()) else 0 * loc[0]
            for loc, s in zip(program.loc, program.covariances(), strict=True)
        ]
        out.append(torch.stack(laws))
    return torch.stack(out) + program.logits.log_softmax(0)


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal"])
def test_gaussian_mixture_is_the_sum_over_components_of_what_is_seen(covariance):
    program, x = at_random(GaussianMixture(3, 2, covariance)), with_holes(torch.randn(20, 3))
    expected = dense_gaussians(program, x)
    found = pg.log_likelihood(program, x, method="exact")
    assert structure(program, x).kind == "exact"
    assert torch.allclose(found.value, expected.logsumexp(1).detach(), atol=1e-9)
    assert torch.allclose(program.responsibilities(x), expected.softmax(1), atol=1e-9)
    # The twin: missing entries taken for the value 0 are noticed.
    wrong = dense_gaussians(program, x.nan_to_num()).logsumexp(1)
    assert (wrong - expected.logsumexp(1)).abs().max() > 0.1


def bernoulli_sum(program, x, levels):
    """The probability of what is seen as the sum of that of all complete data that agree with it, with shape (N,)."""
    if levels == 2:
        p = program.entry_logits.sigmoid()
        table = torch.stack([1 - p, p], 1)  # (K, L, D)
    else:
        table = program.entry_logits.softmax(1)
    pi = program.logits.softmax(0)
    every = torch.tensor(list(itertools.product(range(levels), repeat=x.shape[1])))
    mass = torch.stack([sum(pi[k] * table[k][v, range(len(v))].prod() for k in range(len(pi))) for v in every])
    assert mass.sum().item() == pytest.approx(1.0)
    agrees = (x.unsqueeze(1).isnan() | (x.unsqueeze(1) == every)).all(2)  # (N, all)
    return (agrees * mass).sum(1)


@pytest.mark.parametrize(("program", "levels"), [(BernoulliMixture(4, 3), 2), (CategoricalMixture(3, 2, levels=3), 3)])
def test_latent_classes_are_the_sum_over_all_complete_data(program, levels):
    program = at_random(program)
    x = with_holes(torch.randint(0, levels, (12, *program.event_shape)))
    expected = bernoulli_sum(program, x, levels).log().detach()
    assert torch.allclose(pg.log_likelihood(program, x, method="exact").value, expected, atol=1e-9)
    twin = bernoulli_sum(program, x.nan_to_num(), levels).log()
    assert (twin - expected).abs().max() > 0.1


def normal_rows(n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def two_kinds(n, d, top):
    """Rows of zeros, and rows of the top level, each entry wrong in one of seven."""
    wrong = torch.arange(n * d).view(n, d) % 7 == 0
    return torch.where(wrong, 1, top * (torch.arange(n) % 2).unsqueeze(1))


@pytest.mark.parametrize(
    ("program", "rows"),
    [
        (GaussianMixture(3, 2), normal_rows(40, 3)),
        (GaussianMixture(3, 2, "tied"), normal_rows(40, 3)),
        (GaussianMixture(3, 2, "diagonal"), normal_rows(40, 3)),
        (BernoulliMixture(4, 2), two_kinds(40, 4, 1)),
        (CategoricalMixture(3, 2, levels=3), two_kinds(40, 3, 2)),
    ],
)
def test_an_m_step_is_where_the_gradient_of_the_expected_likelihood_vanishes(program, rows):
    rows = rows + 4 * (torch.arange(40) % 2).unsqueeze(1) if rows.is_floating_point() else rows
    program, x = at_random(program), with_holes(rows, 0.1)
    for _ in range(60):
        r = program.responsibilities(x)
        with torch.no_grad():
            program.maximise(x, r)
    value = program.log_joint(x).logsumexp(1).sum() + log_prior(program, x)
    theta = [p for name, p in program.named_parameters() if name != "logits"]
    assert max(g.abs().max() for g in torch.autograd.grad(value, theta)) < 1e-3


def log_prior(program, x):
    """The prior of which the M-step has the mode: inverse Wishart, -(log det + tr S_0 Sigma^-1) / 2, or Dirichlet."""
    if not isinstance(program, GaussianMixture):
        return program.pseudo_count * program.log_levels().sum()
    variance = (x - x.nanmean(0)).square().nanmean(0)
    s = program.covariances() - program.min_scale**2 * torch.eye(3).double()
    s = s[:1] if program.covariance == "tied" else s
    if program.covariance == "diagonal":
        s = torch.diag_embed(s.diagonal(dim1=1, dim2=2))
    prior = torch.diag(variance) / program.components ** (2 / 3)
    return -0.5 * (torch.logdet(s) + (torch.linalg.inv(s) @ prior).diagonal(dim1=1, dim2=2).sum(1)).sum()


def test_three_clouds_are_found_with_a_third_of_the_entries_missing():
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(300) % 3
    centres = torch.tensor([[0.0, 0, 0], [5, 5, 0], [0, 5, 5]])
    x = centres[kind] + torch.randn(300, 3, generator=generator)
    program = GaussianMixture(3, 3).double().initialise(with_holes(x, 0.33))
    r = program.responsibilities(x.double()).argmax(1)
    agreement = max((torch.tensor(order)[r] == kind).double().mean() for order in itertools.permutations(range(3)))
    assert agreement > 0.97
    assert torch.allclose(program.loc.sort(0).values, centres.double().sort(0).values, atol=0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianMixture(3, 2, covariance="spherical"), "diagonal"),
        (lambda: BernoulliMixture(3, 0), "at least one"),
    ],
)
def test_misfits_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_factor_analysers_are_gaussians_of_their_covariances():
    program, x = at_random(MixtureOfFactorAnalysers(4, 2, rank=2)), with_holes(torch.randn(20, 4))
    dense = GaussianMixture(4, 2, min_scale=0.0).double()
    with torch.no_grad():
        covariance = program.loadings @ program.loadings.mT + torch.diag_embed(program.noise())
        dense.logits.copy_(program.logits)
        dense.loc.copy_(program.loc)
        dense.scale_tril = torch.linalg.cholesky(covariance)
    expected = dense_gaussians(dense, x).logsumexp(1).detach()
    assert torch.allclose(pg.log_likelihood(program, x, method="exact").value, expected, atol=1e-8)
    assert torch.allclose(program.log_joint(x).logsumexp(1), expected, atol=1e-8)
    # The twin: without the noise on the diagonal.
    dense.scale_tril = torch.linalg.cholesky(covariance.detach() + torch.eye(4).double())
    assert (dense_gaussians(dense, x).logsumexp(1) - expected).abs().max() > 0.1


def test_em_of_factor_analysers_are_as_likely_as_the_truth():
    generator = torch.Generator().manual_seed(0)
    w = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-1.0, 1.0]]).double()
    noise = 0.3 * torch.randn(600, 4, generator=generator).double()
    x = torch.randn(600, 2, generator=generator).double() @ w.T + noise + 1
    x = with_holes(x, 0.2)
    truth = MixtureOfFactorAnalysers(4, 1, rank=2, min_scale=0.0).double()
    with torch.no_grad():
        truth.loc.copy_(torch.ones(1, 4))
        truth.loadings.copy_(w)
        truth.scale = torch.full((1, 4), 0.3).double()

    def lost(rank):
        """How far the estimate's log-likelihood per datum is below that of what generated the data."""
        program = MixtureOfFactorAnalysers(4, 1, rank).double().initialise(x)
        return (truth.log_joint(x).mean() - program.log_joint(x).mean()).item()

    assert lost(2) < 0.02 and lost(1) > 0.2


@pytest.mark.parametrize(
    "mixture", [GaussianMixture(3, 2), MixtureOfFactorAnalysers(3, 2, 1), GaussianMixture(3, 2, "diagonal")]
)
def test_classes_by_bayes_rule_with_holes(mixture):
    program, x = at_random(ClassConditional(mixture)), with_holes(torch.randn(9, 3))
    found = classify(program, {"x": x}, label="y")
    assert torch.allclose(found.probabilities, mixture.responsibilities(x), atol=1e-8)
    assert found.kind == "exact"
    twin = mixture.responsibilities(x.nan_to_num())  # missing entries taken for 0
    assert (found.probabilities - twin).abs().max() > 0.01


def test_labels_teach_which_class_is_which_and_data_without_labels_what_it_is_like():
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(200) % 2
    x = 4.0 * kind.unsqueeze(1) + torch.randn(200, 2, generator=generator)
    y = torch.where(torch.arange(200) < 6, kind.float(), NAN)
    program = ClassConditional(GaussianMixture(2, 2)).initialise({"x": x, "y": y})
    assert torch.allclose(program.mixture.loc, torch.tensor([[0.0, 0], [4, 4]]), atol=0.4)
    few = ClassConditional(GaussianMixture(2, 2)).initialise({"x": x[:6], "y": y[:6]})
    assert (few.mixture.loc - program.mixture.loc).abs().max() > 0.3


def test_sticks_are_the_weights_of_sethuraman():
    v = torch.rand(4, 5, dtype=torch.float64)
    pi = log_stick_weights(v).exp()
    expected = torch.stack([v[:, k] * (1 - v[:, :k]).prod(1) for k in range(5)], 1)
    assert torch.allclose(pi[:, :5], expected) and torch.allclose(pi.sum(1), torch.ones(4).double())


def test_dirichlet_process_mixture_given_its_globals_is_the_sum_over_components():
    program, x = DirichletProcessMixture(2, 3), with_holes(torch.randn(9, 2))
    v, loc = torch.tensor([0.6, 0.3]).double(), torch.randn(3, 2).double()
    scale = torch.rand(3, 2).double() + 0.5
    values = {"alpha": torch.tensor(1.3).double(), "v": v, "loc": loc, "scale": scale}
    with fixed(values):
        trace = pyro.poutine.trace(program.model).get_trace(x)
    found = per_datum_log_prob(trace.nodes["x"])
    law = torch.distributions.Normal(loc, scale)
    each = torch.where(x.unsqueeze(1).isnan(), 0.0, law.log_prob(x.nan_to_num().unsqueeze(1))).sum(2)
    pi = torch.tensor([0.6, 0.4 * 0.3, 0.4 * 0.7]).double()
    assert torch.allclose(found, (each + pi.log()).logsumexp(1), atol=1e-6)
    # The twin: the sticks taken for weights.
    assert (found - (each + torch.tensor([0.6, 0.3, 0.1]).double().log()).logsumexp(1)).abs().max() > 0.05
