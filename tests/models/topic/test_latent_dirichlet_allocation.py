"""Latent Dirichlet allocation against the sum over the topics of all tokens of a tiny corpus."""

import itertools
import math

import arviz
import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.density import density
from pyro_gen.distributions import NegativeMultinomial
from pyro_gen.inference.objectives import ELBO
from pyro_gen.models import LatentDirichletAllocation
from pyro_gen.models.topic.parts import gibbs

X = torch.tensor([[2.0, 1, 0], [0, 1, 2]], dtype=torch.float64)
ALPHA, ETA = torch.tensor([0.4, 0.9], dtype=torch.float64), 0.6


def tiny() -> LatentDirichletAllocation:
    program = LatentDirichletAllocation(3, 2, hidden=4).double()
    with torch.no_grad():
        program.log_alpha.copy_(ALPHA.log())
        program.log_eta.fill_(math.log(ETA))
        program.log_length.copy_(torch.tensor([2.0, 0.7]).log())
    return program


def dirichlet_multinomial(counts: Tensor, prior: Tensor) -> Tensor:
    """The log-probability of tokens in an order, of rows of counts with shape (*, K)."""
    return (
        (torch.lgamma(counts + prior) - torch.lgamma(prior)).sum(-1)
        + torch.lgamma(prior.sum())
        - torch.lgamma(counts.sum(-1) + prior.sum())
    ).sum(-1)


def enumerated(x: Tensor) -> tuple[float, float, float]:
    """The log-evidence in nats, and the posterior means of the first share of topic 0 and of its square."""
    tokens = [(n, v) for n, row in enumerate(x) for v, count in enumerate(row) for _ in range(int(count))]
    z = torch.tensor(list(itertools.product(range(2), repeat=len(tokens))))  # (Z, T)
    of_documents = torch.zeros(len(z), len(x), 2, dtype=torch.float64)
    of_words = torch.zeros(len(z), 2, 3, dtype=torch.float64)
    every = torch.arange(len(z))
    for t, (n, v) in enumerate(tokens):
        of_documents[every, n, z[:, t]] += 1
        of_words[every, z[:, t], v] += 1
    joint = dirichlet_multinomial(of_documents, ALPHA)
    joint = joint + dirichlet_multinomial(of_words, torch.full((3,), ETA, dtype=torch.float64))
    totals = x.sum(1)
    length = torch.distributions.NegativeBinomial(torch.tensor(2.0).double(), probs=torch.tensor(1 / 1.7).double())
    orders = torch.lgamma(totals + 1) - torch.lgamma(x + 1).sum(1)
    weights = joint.softmax(0)
    a, s = of_documents[:, 0, 0] + ALPHA[0], totals[0] + ALPHA.sum()
    moments = (weights * a / s).sum(), (weights * a * (a + 1) / (s * (s + 1))).sum()
    evidence = joint.logsumexp(0) + (length.log_prob(totals) + orders).sum()
    return float(evidence), float(moments[0]), float(moments[1])


def enumerated_with_hole() -> tuple[float, float]:
    """The same where count (0, 2) is not seen: a sum over what it may have been; of 8 or more 1e-4 is left."""
    parts = [enumerated(X + torch.tensor([[0.0, 0, k], [0, 0, 0]])) for k in range(8)]
    weights = np.exp([p[0] for p in parts])
    return float(np.log(weights.sum())), float(weights @ [p[1] for p in parts] / weights.sum())


def holed() -> Tensor:
    x = X.clone()
    x[0, 2] = torch.nan
    return x


def simulated(program: LatentDirichletAllocation, x: Tensor) -> tuple[float, float]:
    """The log-evidence as the mean likelihood of 100,000 draws of the prior, and its standard error."""
    target = density(program, x)
    with seeded(0):
        likelihoods = target.log_likelihood(target.sample_prior(100_000)).exp()
    mean = likelihoods.mean()
    return float(mean.log()), float(likelihoods.std() / mean / 100_000**0.5)


def test_the_evidence_is_the_sum_over_all_topics_of_tokens() -> None:
    exact = enumerated(X)[0]
    value, error = simulated(tiny(), X)
    assert error < 0.01 and abs(value - exact) < 4.5 * error  # false alarms: 7e-6
    program = tiny()
    with torch.no_grad():
        program.log_alpha.zero_()  # the twin: another prior of shares
    other, error = simulated(program, X)
    assert abs(other - exact) > 4.5 * error
    hole, error = simulated(tiny(), holed())
    assert abs(hole - enumerated_with_hole()[0]) < 4.5 * error + 1e-4


def sampled(x: Tensor) -> tuple[float, float, float]:
    """The mean of the first share of topic 0, its standard error, and the mean of its square, by Gibbs sampling."""
    program = tiny()
    update = program.blocks()["topics", "shares"]
    with seeded(0):
        values = {"topics": torch.full((3, 2, 3), 1 / 3).double(), "shares": torch.full((3, 2, 2), 0.5).double()}
        draws = []
        for _ in range(2200):
            values = dict(update(values, x))
            draws.append(values["shares"][:, 0, 0])
    share = torch.stack(draws[200:], 1).numpy()  # (chains, draws)
    error = float(share.std() / np.sqrt(float(arviz.ess(share))))
    return float(share.mean()), error, float((share**2).mean())


def test_gibbs_sampling_has_the_posterior_of_the_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    _, exact, square = enumerated(X)
    mean, error, found_square = sampled(X)
    assert error < 0.015 and abs(mean - exact) < 4.5 * error  # false alarms: 7e-6
    assert abs(found_square - square) < 4.5 * error  # the square varies less than the share does
    split = gibbs.split
    monkeypatch.setattr(gibbs, "split", lambda corpus, shares, topics: split(corpus, torch.ones_like(shares), topics))
    mean, error, _ = sampled(X)  # the twin: tokens that do not look at the shares
    assert abs(mean - exact) > 4.5 * error


def test_gibbs_sampling_draws_counts_that_were_not_seen() -> None:
    x = torch.tensor([[2.0, 0, torch.nan], [0, torch.nan, 3]], dtype=torch.float64)
    grid = list(itertools.product(range(6), repeat=2))
    parts = [enumerated(torch.tensor([[2.0, 0, j], [0, k, 3]], dtype=torch.float64)) for j, k in grid if j + k < 7]
    weights = np.exp([p[0] for p in parts])
    exact = float(weights @ [p[1] for p in parts] / weights.sum())
    mean, error, _ = sampled(x)
    assert abs(mean - exact) < 4.5 * error + 1e-3  # which is left out of the sum
    p = torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3]], dtype=torch.float64)  # of one topic
    x = x.repeat(20_000, 1)
    corpus = gibbs.corpus_of(x, tiny().log_length.detach().exp())
    one = torch.ones(len(x), 1, dtype=torch.float64)
    state = gibbs.State(one, p[:1], ALPHA, torch.tensor(ETA), one)
    with seeded(0):
        drawn = gibbs.completed(corpus, state).counts[-40_000:][1::2].double()
    error = float(drawn.std() / 20_000**0.5)
    expected = (2 + 3) / (0.7 + 0.5) * 0.5  # (a + n_o) / (b + P_o) times the probability of the word
    assert abs(float(drawn.mean()) - expected) < 4.5 * error
    assert abs(float(drawn.mean()) - 2 / 0.7 * 0.5) > 9 * error  # the twin: without a look at what was seen


def test_posterior_samples_by_its_blocks() -> None:
    program = tiny()
    options = {"chains": 2, "warmup": 5, "draws": 20, "log_likelihood": False, "predictive": False}
    idata = pg.posterior(program, holed(), method="gibbs", blocks=program.blocks(), progress=False, **options)
    assert idata.posterior["topics"].shape == (2, 20, 2, 3) and idata.posterior["shares"].shape == (2, 20, 2, 2)
    assert np.allclose(idata.posterior["topics"].values.sum(-1), 1)


def test_with_one_topic_the_guide_is_exact() -> None:
    program = LatentDirichletAllocation(3, 1, alpha=1.0, eta=ETA).double()
    with torch.no_grad():
        program.log_topics.copy_((X.sum(0) + program.log_eta.exp()).log())
    elbo = -ELBO(analytic_kl=False).loss(program, X).item()
    coefficient = NegativeMultinomial(*program.log_length.exp(), torch.ones(3).double() / 3).log_prob(X).sum()
    exact = coefficient + X.sum() * math.log(3) + dirichlet_multinomial(X.sum(0)[None], torch.full((3,), ETA).double())
    assert elbo == pytest.approx(exact.item(), abs=1e-6)  # whatever topics were drawn


def test_minkas_updates_climb_to_the_maximum() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.distributions.Dirichlet(torch.tensor([0.3, 2.0, 0.8])).sample((400,))
    counts = torch.stack([torch.multinomial(p, 30, True, generator=generator).bincount(minlength=3) for p in shares])
    prior = torch.ones(3)
    for _ in range(500):
        prior = gibbs.minka(counts.float(), prior)
    at = prior.double().requires_grad_()
    (gradient,) = torch.autograd.grad(dirichlet_multinomial(counts.double(), at) / 400, at)
    assert gradient.abs().max() < 1e-3
    assert torch.allclose(prior, torch.tensor([0.3, 2.0, 0.8]), rtol=0.25)


def test_shares_given_topics_are_the_best_dirichlet_law() -> None:
    """The parameters are a stationary point of the bound of the page's mean field, whose gradient is autograd's."""
    topics = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    corpus = gibbs.corpus_of(X, torch.ones(2).double())
    gamma = gibbs.fold_in(corpus, topics, ALPHA, steps=300).requires_grad_()
    expected = torch.digamma(gamma) - torch.digamma(gamma.sum(1, keepdim=True))  # of log theta, (N, K)
    words = (X * (expected.exp() @ topics).log()).sum()
    prior, law = (torch.distributions.Dirichlet(c, validate_args=False) for c in (ALPHA, gamma))
    bound = words - torch.distributions.kl_divergence(law, prior).sum()
    assert bool((torch.autograd.grad(bound, gamma)[0].abs() < 1e-6).all())
    one = gibbs.fold_in(gibbs.corpus_of(X[1:], torch.ones(2).double()), topics, ALPHA, steps=300)
    assert torch.allclose(one[0], gamma[1], atol=1e-12)  # whatever documents come with it
    x = torch.tensor([[2.0, torch.nan, 0.0]], dtype=torch.float64)
    length = torch.tensor([3.0, 0.4]).double()
    found = gibbs.fold_in(gibbs.corpus_of(x, length), topics, ALPHA, steps=300)
    p = (found / found.sum() @ topics)[0, 1]
    filled = torch.tensor([[2.0, (3 + 2) / (0.4 + 1 - p) * p, 0.0]], dtype=torch.float64)  # its expectation
    weights = torch.digamma(found).exp()
    assert torch.allclose(found, ALPHA + weights * ((filled / (weights @ topics)) @ topics.T), atol=1e-9)


def test_topics_of_documents_are_found_and_holes_do_not_matter() -> None:
    generator = np.random.default_rng(0)
    topics = np.kron(np.eye(3), np.full(4, 0.25))  # (3, 12): four words each
    shares = generator.dirichlet(np.full(3, 0.3), size=150)
    x = torch.tensor(np.stack([generator.multinomial(40, p) for p in shares @ topics])).float()
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.15] = torch.nan
    program = LatentDirichletAllocation(12, 3).initialise(x)
    found = program.log_topics.detach().exp()
    found = found / found.sum(1, keepdim=True)
    order = found.matmul(torch.tensor(topics).float().T).argmax(0)
    assert sorted(order.tolist()) == [0, 1, 2]
    assert bool((found[order] - torch.tensor(topics)).abs().max() < 0.06)
    p = program.word_probabilities(x[:10])
    assert torch.allclose(p.sum(1), torch.ones(10), atol=1e-5)
    assert bool(((p - torch.tensor(shares @ topics)[:10]).abs().sum(1) < 0.6).all())


@pytest.mark.parametrize(("wrong", "words"), [(-1.0, "-1 is no count"), (0.5, "0.5 is no count")])
def test_what_is_no_count_gets_one_line(wrong: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LatentDirichletAllocation(3, 2).initialise(torch.tensor([[1.0, 2.0, wrong]]))
    with pytest.raises(ValueError, match="2 words and 1 topic"):
        LatentDirichletAllocation(1, 2)


@pytest.mark.parametrize("k", range(1, 10))
def test_tokens_are_found_by_halving(k: int) -> None:
    weights = torch.rand(6, k)
    weights[0, :] = 0.0
    weights[1, k // 2 :] = 0.0
    upto, row = weights.cumsum(1), torch.arange(6).repeat_interleave(50)
    level = torch.rand(300) * upto[:, -1][row] * 1.01  # a few above all
    found = gibbs._steps_up_to(upto, row, level).clamp(max=k - 1)
    assert torch.equal(found, (upto[row] <= level.unsqueeze(1)).sum(1).clamp(max=k - 1))
