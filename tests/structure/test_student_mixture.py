"""The Bayesian mixture against sums over all partitions, with its continuous variables integrated out."""

import itertools
import math

import numpy as np
import torch

from pyro_gen.structure.partitions import co_assignment
from pyro_gen.structure.student_mixture import (
    MEAN_PRECISION,
    SCALE,
    Categories,
    Setting,
    ascend,
    gibbs,
    log_joint,
)

NAN = torch.nan
X = torch.tensor([[-1.3], [-0.9], [-1.1], [0.8], [1.2], [NAN]]).double()
SETTING = Setting(2, 5.0, 1e6)  # tails as good as normal


CODES = torch.tensor([0, -1, 1, 2, 2, 2])  # of which the last tells most, since its number is missing
CATEGORIES = Categories((CODES[:, None] == torch.arange(3)).double(), (3,))


def log_category_evidence(labels):
    """The log-probability of CODES given a partition, phi integrated out: Dirichlet-multinomial, one each cluster."""
    value = 0.0
    for k in (0, 1):
        counts = [sum(1 for c, code in zip(labels, CODES, strict=True) if c == k and code == v) for v in range(3)]
        value += math.lgamma(3) - math.lgamma(3 + sum(counts)) + sum(math.lgamma(1 + n) for n in counts)
    return value


def exact(kappa=MEAN_PRECISION, categories=False):
    """Log-evidence, and the probability that two rows are together (6, 6), by enumeration and quadrature over Psi."""
    eta, nu0 = 3.0, SETTING.likeness
    t = torch.linspace(-14, 6, 4001).double()  # log Psi
    psi = t.exp()
    log_prior = eta / 2 * math.log(eta / 2 / SCALE) - math.lgamma(eta / 2) + eta / 2 * t - eta / 2 / SCALE * psi
    terms, together = [], []
    for labels in itertools.product((0, 1), repeat=len(X)):
        c, value = torch.tensor(labels), log_prior
        sizes = [int((c == k).sum()) for k in (0, 1)]
        value = value + math.lgamma(2) - math.lgamma(2 + len(X)) + sum(math.lgamma(1 + n) for n in sizes)
        for k in (0, 1):
            x = X[(c == k) & ~X[:, 0].isnan(), 0]
            n = len(x)
            s = x.square().sum() - x.sum() ** 2 / (kappa + n)
            a = (nu0 + n) / 2
            value = value - n / 2 * math.log(2 * math.pi) + 0.5 * math.log(kappa / (kappa + n))
            value = value + nu0 / 2 * (nu0 * psi / 2).log() - math.lgamma(nu0 / 2)
            value = value + math.lgamma(a) - a * ((nu0 * psi + s) / 2).log()
        if categories:
            value = value + log_category_evidence(labels)
        terms.append(torch.logsumexp(value, 0) + math.log(t[1] - t[0]))
        together.append(c.unsqueeze(0) == c.unsqueeze(1))
    log_p = torch.stack(terms)
    weight = log_p.softmax(0).view(-1, 1, 1)
    return log_p.logsumexp(0).item(), (weight * torch.stack(together)).sum(0).numpy()


def start():
    return torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 1, 1, 1]), 2).double()


def test_the_bound_is_below_the_evidence_and_near():
    q, _ = ascend(X, start(), SETTING)
    log_evidence, _ = exact()
    # log K! counts the modes apart that the bound cannot see; they overlap a little, so it may be less than that above.
    assert log_evidence - 1.5 < q.bound < log_evidence + 0.1
    assert q.bound - math.log(2) < log_evidence


def test_gibbs_draws_the_posterior_of_partitions():
    q, _ = ascend(X, start(), SETTING)
    torch.manual_seed(0)
    labels = gibbs(X, q, 3000, 100)[0].numpy()
    found = np.stack([co_assignment(part) for part in labels.reshape(20, 150, -1)])
    error = found.std(0, ddof=1) / math.sqrt(len(found)) + 1e-3
    # 15 pairs, 20 batches: |t| > 6.5 with 19 degrees of freedom has probability 3e-6, over all pairs below 1e-4.
    assert (np.abs(found.mean(0) - exact()[1]) / error).max() < 6.5
    # The twin: means with another prior.
    assert (np.abs(found.mean(0) - exact(kappa=5.0)[1]) / error).max() > 10


def test_categories_are_part_of_the_posterior_of_partitions():
    q, _ = ascend(X, start(), SETTING, CATEGORIES)
    log_evidence, together = exact(categories=True)
    assert log_evidence - 2.5 < q.bound < log_evidence + 0.1
    torch.manual_seed(0)
    labels = gibbs(X, q, 3000, 100, CATEGORIES)[0].numpy()
    found = np.stack([co_assignment(part) for part in labels.reshape(20, 150, -1)])
    error = found.std(0, ddof=1) / math.sqrt(len(found)) + 1e-3
    assert (np.abs(found.mean(0) - together) / error).max() < 6.5  # as above
    # The twin: the categories left out.
    assert (np.abs(found.mean(0) - exact()[1]) / error).max() > 8


def test_the_density_given_what_is_seen_is_a_student_t_of_it():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=generator).double()
    q, _ = ascend(x, torch.ones(12, 1).double(), Setting(1, 5.0, 4.0))
    row = torch.tensor([[0.3, NAN, -1.0]]).double()
    o = torch.tensor([0, 2])
    sigma = torch.linalg.inv(q.nu[0] * q.scale[0])[o][:, o]
    d = row[0, o] - q.loc[0, o]
    delta = d @ torch.linalg.solve(sigma, d)
    expected = math.lgamma(3) - math.lgamma(2) - math.log(4 * math.pi) - torch.logdet(sigma) / 2
    expected = expected - 3 * torch.log1p(delta / 4)
    assert torch.allclose(log_joint(row, q)[0, 0], expected, atol=1e-10)
    assert (log_joint(row.nan_to_num(), q)[0, 0] - expected).abs() > 0.1
