"""Conditional and characteristic-capturing autoencoders of few latent dimensions, against quadrature."""

import math

import pyro
import pytest
import torch
from torch.distributions import Normal

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import ELBO, IWAE
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


def test_labels_are_scored_where_known_and_summed_out_where_not():
    program, x = ccvae(), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, NAN]])
    exact = by_quadrature(program, x)
    for y, expected in ((torch.tensor([1.0, 2.0]), exact[[0, 1], [1, 2]]), (torch.full((2,), NAN), exact.logsumexp(1))):
        found = pg.log_likelihood(program, {"x": x, "y": y}, method="iwae", num_particles=1000)
        assert ((found.value - expected).abs() < 4.5 * found.standard_error + 0.02).all()
    classes = pg.tasks.classify(program, {"x": x}, label="y", num_particles=1000)
    torch.testing.assert_close(classes.probabilities.float(), exact.softmax(1).float(), atol=0.04, rtol=0)


def test_telling_the_labels_has_its_weight_in_the_loss():
    program, y = ccvae(), torch.tensor([1.0, NAN, 0.0])
    data = {"x": torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]), "y": y}
    losses = {}
    for alpha in (0.0, 7.0):
        program.alpha = alpha
        with seeded(1), torch.no_grad():
            losses[alpha] = ELBO().loss(program, data)
    with seeded(1), torch.no_grad():
        c = pyro.poutine.trace(program.guide).get_trace(data).nodes["c"]["value"]
        told = program.label_given(c)[[0, 2], [1, 0]].sum()
    torch.testing.assert_close(losses[7.0] - losses[0.0], -7 * told, rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # Bayes' rule on the characteristics alone
        scales = 1e-2 + torch.nn.functional.softplus(program.raw_scales[:, 0])
        joint = Normal(program.means[:, 0], scales).log_prob(c) + program.logits.log_softmax(-1)
        torch.testing.assert_close(program.label_given(c), joint.log_softmax(-1))
    program.alpha = 0.0  # the bound
    found = torch.stack([IWAE(5).loss(program, data).detach() for _ in range(50)])
    bound = by_quadrature(program, data["x"])
    expected = -(bound[0, 1] + bound[1].logsumexp(0) + bound[2, 0])
    assert found.mean() > expected - 4.5 * found.std() / 50**0.5


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
