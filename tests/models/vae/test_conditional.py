"""Conditional and characteristic-capturing autoencoders of few latent dimensions, against quadrature."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import ELBO
from pyro_gen.models import CCVAE, ConditionalVAE

GRID = torch.linspace(-7, 7, 301)
STEP = math.log(14 / 300)
NAN = math.nan


def shaken(program):
    """Away from the start, where some weights are zero; the guide stays wide."""
    with seeded(5), torch.no_grad():
        for name, p in program.named_parameters():
            p.add_((0.02 if name.startswith("encoder") else 0.3) * torch.randn_like(p))
    return program.eval()


def bernoulli(x, logits):
    """log p of seen entries, summed."""
    return torch.where(x.isnan(), 0.0, x.nan_to_num() * logits - torch.nn.functional.softplus(logits)).sum(-1)


@pytest.mark.parametrize("given", [3, (2,)])
def test_conditional_likelihood_is_that_of_quadrature(given):
    program = shaken(ConditionalVAE(4, given, latent=1, hidden=(5,)))
    x = torch.tensor([[1.0, 0.0, 1.0, NAN], [0.0, 0.0, NAN, NAN], [1.0, 1.0, 0.0, 1.0]])
    c = torch.tensor([0.0, 2.0, 1.0]) if given == 3 else torch.tensor([[0.3, NAN], [1.0, -1.0], [NAN, NAN]])
    with torch.no_grad():
        condition = program.condition(c)
        prior = program.prior(condition)
        loc, scale = prior[:, :1], 1e-4 + torch.nn.functional.softplus(prior[:, 1:])
        z = loc + scale * GRID  # (N, 301)
        h = program.decoder(torch.cat([z[..., None], condition[:, None].expand(-1, 301, -1)], -1))
        terms = bernoulli(x[:, None], h + program.offset)
        exact = (terms + Normal(0.0, 1.0).log_prob(GRID)).logsumexp(1) + STEP
        other = (terms + Normal(loc, scale).log_prob(z / 2)).logsumexp(1) + STEP  # a twin with another prior
    found = pg.log_likelihood(program, x, c, method="ais", start="prior", chains=32)
    assert ((found.value - exact).abs() < 4.5 * found.standard_error + 0.01).all()
    assert ((found.value - other).abs() > 4.5 * found.standard_error + 0.01).any()
    if given == 3:  # another class, another density
        moved = pg.log_likelihood(program, x, (c + 1) % 3, method="ais", start="prior", chains=32).value
        assert (moved - found.value).abs().max() > 0.05


def test_a_part_that_is_given_is_not_scored_and_is_not_changed():
    program = shaken(ConditionalVAE((2, 2), (2, 2), latent=1, hidden=(5,)))
    whole = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    rest, part = whole.clone(), whole.clone()
    rest[:, 0], part[:, 1] = NAN, NAN
    found = pg.impute(program, torch.full_like(whole, NAN), part, draws=20, method="guide")
    assert found.shape == (20, 1, 2, 2) and not found.isnan().any()
    totals = []
    for first in (0.0, 1.0):
        for second in (0.0, 1.0):
            value = rest.clone()
            value[0, 1] = torch.tensor([first, second])
            totals.append(pg.log_likelihood(program, value, part, method="ais", start="prior", chains=32).value)
    assert torch.stack(totals).logsumexp(0).abs() < 0.03  # the rest given the part sums to one


def ccvae():
    program = shaken(CCVAE(3, 3, characteristics=1, style=1, hidden=(5,), activation="tanh"))
    program.means.data.mul_(0.4)
    last = [m for m in program.encoder.modules() if isinstance(m, torch.nn.Linear)][-1]
    last.bias.data[1::2] = 1.5  # scales of 1.7: proposals wider than the clouds, so their weights have a variance
    return program


def by_quadrature(program, x):
    """log p(x, y) of each class, with shape (N, classes), by a sum over a plane."""
    with torch.no_grad():
        c, s = torch.cartesian_prod(GRID[::3], GRID[::3]).unbind(1)  # 101 x 101
        h = program.decoder(torch.stack([c, s], 1)) + program.offset
        log_x = bernoulli(x[:, None], h)  # (N, G)
        scales = 1e-2 + torch.nn.functional.softplus(program.raw_scales)
        log_c = Normal(program.means[:, 0], scales[:, 0]).log_prob(c[:, None])  # (G, classes)
        log_z = log_c + Normal(0.0, 1.0).log_prob(s)[:, None]
        joint = log_x[:, :, None] + log_z + program.logits.log_softmax(-1)
        return joint.logsumexp(1) + 2 * (STEP + math.log(3))


# Mean weights over 40 copies of a datum, of 50 draws each, for 4 numbers: |t| > 6 for one of them has probability 1e-5
# for a correct program. Errors of the probabilities are 0.01 at most. The twin takes all classes for equally likely.
def test_labels_are_scored_where_known_and_summed_out_where_not():
    program, x = ccvae(), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, NAN]])
    exact = by_quadrature(program, x)
    many = x.repeat(40, 1)
    for y, expected in ((torch.tensor([1.0, 2.0]), exact[[0, 1], [1, 2]]), (torch.full((2,), NAN), exact.logsumexp(1))):
        found = pg.log_likelihood(program, {"x": many, "y": y.repeat(40)}, method="iwae", num_particles=50)
        weights = (found.value.view(40, 2) - expected).exp()
        t = (weights.mean(0) - 1) / (weights.std(0) / 40**0.5)
        assert (t.abs() < 6).all(), t
    classes = pg.tasks.classify(program, {"x": many}, label="y", num_particles=100).probabilities.float().view(40, 2, 3)
    torch.testing.assert_close(classes.mean(0), exact.softmax(1).float(), atol=0.04, rtol=0)
    assert (classes.mean(0) - (exact - program.logits.log_softmax(-1)).softmax(1)).abs().max() > 0.08


def terms_by_quadrature(program, data):
    """The ELBO, and E_q[log p(y | c)] of the labels that are known, each summed over the data."""
    bound = told = 0.0
    with torch.no_grad():
        h = program.encoder(program.centre(data["x"]))  # (N, 4)
        h[:, 1::2] = 1e-4 + torch.nn.functional.softplus(h[:, 1::2])
        m, r, n, t = h.unsqueeze(-1).unbind(1)  # mean and scale of c, and of s
        scales = 1e-2 + torch.nn.functional.softplus(program.raw_scales[:, 0])
        for i, y in enumerate(data["y"]):
            c, s = torch.cartesian_prod(m[i] + r[i] * GRID[::3], n[i] + t[i] * GRID[::3]).unbind(1)
            log_q = Normal(m[i], r[i]).log_prob(c) + Normal(n[i], t[i]).log_prob(s)
            weight = log_q.exp() * r[i] * t[i] * math.exp(2 * (STEP + math.log(3)))
            of_classes = Normal(program.means[:, 0], scales).log_prob(c[:, None]) + program.logits.log_softmax(-1)
            log_x = bernoulli(data["x"][i], program.decoder(torch.stack([c, s], 1)) + program.offset)
            of_c = of_classes.logsumexp(1) if y.isnan() else of_classes[:, int(y)]
            bound += (weight * (log_x + of_c + Normal(0.0, 1.0).log_prob(s) - log_q)).sum()
            told += 0.0 if y.isnan() else (weight * of_classes.log_softmax(1)[:, int(y)]).sum()
    return bound, told


def of_equal_classes(self, c):
    """The planted defect: Bayes' rule without the prior of the classes."""
    each = self.class_prior(torch.eye(self.label.levels))
    return each.log_prob(c.unsqueeze(-2)).log_softmax(-1)


def of_no_class(self, weights):
    """The planted defect: characteristics that know nothing of the label."""
    return dist.Normal(torch.zeros((*weights.shape[:-1], 1)), 1.0).to_event(1)


# 15 means of 200 draws: |t| > 8 has probability 2e-6 for a correct program.
@pytest.mark.parametrize(
    ("alpha", "defect"),
    [
        (0.0, {}),
        (0.0, {"class_prior": of_no_class}),
        (7.0, {}),
        (7.0, {"label_given": of_equal_classes}),
        (7.0, {"alpha": -7.0}),
    ],
    ids=["right", "characteristics of no class", "right, classifier", "Bayes without its prior", "another sign"],
)
def test_the_loss_is_the_bound_and_the_weighed_classifier(alpha, defect, monkeypatch):
    program = ccvae()
    program.alpha = alpha
    program.logits.data.copy_(torch.tensor([-1.0, -1.5, 2.0]))
    data = {
        "x": torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, NAN], [1.0, 1.0, 1.0]]),
        "y": torch.tensor([1.0, NAN, 0.0]),
    }
    bound, told = terms_by_quadrature(program, data)
    for name, value in defect.items():
        monkeypatch.setattr(program if name == "alpha" else CCVAE, name, value)
    many = {name: value.repeat(200, *(1,) * (value.dim() - 1)) for name, value in data.items()}
    with seeded(1), torch.no_grad():
        found = torch.stack([ELBO().loss(program, many) for _ in range(15)]).double() / 200
    t = (found.mean() + bound + alpha * told) / (found.std() / 15**0.5)
    assert (abs(t.item()) < 8) is not bool(defect), t


def test_relabelling_keeps_the_style():
    program = ccvae()
    x = torch.tensor([[1.0, 0.0, 1.0]])
    as_is, other = (program.relabel(x, torch.tensor([k])) for k in (0.0, 2.0))
    assert not torch.allclose(as_is, other) and torch.equal(as_is, program.relabel(x, torch.tensor([0.0])))
    assert not torch.equal(program.relabel(x, torch.tensor([0.0]), seed=1), as_is)
    with pytest.raises(ValueError, match="0 or more"):
        CCVAE(3, 3, alpha=-1.0)
    with pytest.raises(ValueError, match=r"classes 0, \.\.\., 2, and was given the label 3"):
        program.relabel(x, torch.tensor([3.0]))
    with pytest.raises(ValueError, match=r"shape \(N, 3\) and a label for each"):
        program.relabel(x, torch.tensor([1.0, 2.0]))
