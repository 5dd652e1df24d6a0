"""Posteriors that are points: of codewords the bound is a description length, of a continuous code there is none."""

import itertools
import math

import pyro
import pytest
import torch

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import ELBO, WassersteinAutoencoder
from pyro_gen.models import VQVAE, Autoencoder
from pyro_gen.models.vae.parts import codebook
from pyro_gen.models.vae.parts.codebook import Codewords, MaskedPredictor, NearestCodeword, nearest


def shaken(program):
    with seeded(5), torch.no_grad():
        for p in program.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return program


def quantised():
    return shaken(VQVAE(4, places=3, words=3, size=2, hidden=(5,), prior_hidden=6)).eval()


def texts(program):
    """All codes, (27, 3), and their probabilities, by going through the places."""
    codes = torch.tensor(list(itertools.product(range(3), repeat=3)))
    z = torch.nn.functional.one_hot(codes, 3).float()
    log_p = torch.zeros(27)
    for place in range(3):
        before = z.clone()
        before[:, place:] = 7.0  # what comes at a place and after is not to be looked at
        log_p += program.prior(before).log_softmax(-1)[torch.arange(27), place, codes[:, place]]
    return codes, log_p


def test_the_prior_is_autoregressive_and_sums_to_one():
    program = quantised()
    codes, log_p = texts(program)
    assert abs(log_p.logsumexp(0)) < 1e-5
    law = Codewords(program.codebook, program.prior, 3)
    torch.testing.assert_close(law.log_prob(program.codebook[codes]), log_p)
    with seeded(0):
        drawn = law.sample((3000,))
    which = (drawn[:, None] - program.codebook[codes]).abs().sum((2, 3)).argmin(1)
    share, p = torch.bincount(which, minlength=27) / 3000, log_p.exp()
    assert ((share - p).abs() < 4.5 * (p * (1 - p) / 3000).sqrt() + 1e-3).all()  # 27 shares: a false alarm in 5000
    assert ((share - 1 / 27).abs() > 4.5 * (p * (1 - p) / 3000).sqrt() + 1e-3).any()


def by_inner_product(u, book):
    """The planted defect: the squares of the vectors are left out."""
    return (u @ book.T).argmax(-1)


def next_to_nearest(u, book):
    return torch.cdist(u, book).topk(2, largest=False).indices[..., 1]


def without_the_prior(self, value):
    return torch.zeros(torch.broadcast_shapes(value.shape[:-2], self.batch_shape))


DEFECTS = {
    "right": None,
    "inner product": (codebook, "nearest", by_inner_product),
    "next to nearest": (codebook, "nearest", next_to_nearest),
    "no prior": (Codewords, "log_prob", without_the_prior),
}


# Sums over all 27 codes; nothing is random.
@pytest.mark.parametrize("defect", DEFECTS)
def test_the_bound_is_the_length_of_code_and_data_and_below_the_likelihood(defect, monkeypatch):
    program, x = quantised(), torch.rand(5, 4).round()
    codes, log_p = texts(program)
    logits = program.decoder(program.codebook[codes]) + program.offset
    log_x = (x[:, None] * logits - torch.nn.functional.softplus(logits)).sum(-1)  # (5, 27)
    outputs = program.encoder(program.centre(x))
    own = (torch.cdist(outputs, program.codebook).argmin(-1)[:, None] == codes).all(-1)  # (5, 27)
    expected, exact = (log_x + log_p)[own].detach(), (log_x + log_p).logsumexp(1)
    if planted := DEFECTS[defect]:
        monkeypatch.setattr(*planted)
    found = pg.log_likelihood(program, x, method="elbo", num_particles=2).value.float()
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5) is (planted is None)
    if planted is None:
        assert (found < exact).all() and torch.equal(program.codes(x), codes[own.int().argmax(1)])
        x[0, 1:] = math.nan  # what is missing is coded as such and not scored
        assert pg.log_likelihood(program, x, method="elbo").value[0] > -8


def straight(self, u, book):
    """The planted defect: without its stop, the gradient goes to the book."""
    self.u, self.book = u, book
    super(NearestCodeword, self).__init__(book[nearest(u, book)], event_dim=2, validate_args=False)


def guide_by(apart):
    """With another loss of the codebook, of other stops: its value is the same, and its gradient is not."""

    def guide(self, x):
        with self.plate(x):
            u = self.encoder(self.centre(x))
            pyro.sample("z", NearestCodeword(u, self.codebook))
            pyro.factor("apart", apart(u, self.codebook[nearest(u, self.codebook)]).sum((-1, -2)), has_rsample=True)

    return guide


STOPS = {
    "right": None,
    "not straight through": None,
    "no stops": lambda u, e: 1.25 * (u - e).square(),
    "stops swapped": lambda u, e: (u - e.detach()).square() + 0.25 * (u.detach() - e).square(),
}


@pytest.mark.parametrize("defect", STOPS)
def test_gradients_are_those_of_the_paper(defect, monkeypatch):
    """By hand, with g the gradient of -log p(x | z) at the code: u gets g + 2 beta (u - e), the book 2 (e - u)."""
    program, x = quantised(), torch.rand(6, 4).round()
    u = program.encoder(program.centre(x))
    k = torch.cdist(u, program.codebook).argmin(-1)
    z = program.codebook.detach()[k].requires_grad_()
    (g,) = torch.autograd.grad(-program.decode(z).log_prob(x).sum(), z)
    weights = list(program.encoder.parameters())
    of_encoder = torch.autograd.grad(u, weights, g + 0.5 * (u - z).detach())
    of_book = torch.zeros_like(program.codebook).index_add(0, k.flatten(), 2 * (z - u).flatten(0, 1)).detach()
    if STOPS[defect]:
        monkeypatch.setattr(VQVAE, "guide", guide_by(STOPS[defect]))
    if defect == "not straight through":
        monkeypatch.setattr(NearestCodeword, "__init__", straight)
    loss = ELBO().loss(program, x)
    found = torch.autograd.grad(loss, [program.codebook, *weights])
    same = [torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, [of_book, *of_encoder], strict=True)]
    assert all(same) is (defect == "right")
    bound = pg.log_likelihood(program, x, method="elbo").value.sum().float()
    torch.testing.assert_close(loss + bound, 1.25 * (u - z).square().sum(), rtol=1e-4, atol=1e-4)


# Full batches; nothing is random but where training starts. The twin's symbols do not know of each other.
@pytest.mark.parametrize("blind", [False, True])
def test_after_the_second_step_the_prior_is_the_law_of_the_codes(blind):
    program, x = VQVAE(6, 2, 3, 2, hidden=(8,), prior_hidden=16), torch.rand(60, 6).round()
    program.initialise(x).freeze_codes()
    codes = program.codes(x) @ torch.tensor([3, 1])
    if blind:
        program.prior.after.zero_()
        program.prior.direct.zero_()
    pg.fit(program, x, epochs=80, lr=0.1, schedule="cosine", progress=False)
    program.eval()
    share = torch.bincount(codes, minlength=9) / 60
    entropy = -torch.special.xlogy(share, share).sum()
    z = program.codebook[program.codes(x)]
    length = -Codewords(program.codebook, program.prior, 2).log_prob(z).mean()
    assert ((length - entropy).abs() < 1e-3).item() is not blind


def test_the_second_step_trains_the_prior_alone():
    program, x = VQVAE(6, 3, 4, hidden=(8,), prior_hidden=6), torch.rand(60, 6).round()
    first = pg.fit(program, x, epochs=3, batch_size=20, progress=False)
    before = {n: p.clone() for n, p in program.named_parameters()}
    second = pg.fit(program.freeze_codes(), x, epochs=10, batch_size=20, lr=1e-2, progress=False)
    moved = {n for n, p in program.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(n.startswith("prior.") for n in moved)
    assert second.history[-1]["train_loss"] < second.history[0]["train_loss"]
    assert first.mode == second.mode == "traced"
    with pytest.raises(ValueError, match=r"VQVAE takes data of shape \(N, 6\), and was given \(60, 4\)"):
        program.codes(x[:, :4])


def test_of_a_continuous_point_there_is_no_density_and_errors_say_what_applies():
    program, x = Autoencoder(4, 2, (5,)).eval(), torch.rand(6, 4).round()
    for refused in (
        lambda: pg.log_likelihood(program, x, method="elbo"),
        lambda: pg.log_likelihood(program, x, method="iwae"),
        lambda: pg.impute(program, x.masked_fill(x == 1, math.nan), method="guide"),
    ):
        with pytest.raises(ValueError, match=r'is a point at \'z\'.*method="ais", start="prior"'):
            refused()
    assert pg.reconstruct(program, x).shape == x.shape and pg.interpolate(program, x, x.flip(0), steps=3).shape[0] == 3
    found = pg.log_likelihood(program, x[:2], method="ais", start="prior", chains=64)
    z = torch.cartesian_prod(torch.linspace(-6, 6, 121), torch.linspace(-6, 6, 121))
    with torch.no_grad():
        logits = program.decoder(z) + program.offset
        terms = (x[:2, None] * logits - torch.nn.functional.softplus(logits)).sum(-1) - z.square().sum(1) / 2
        exact = terms.logsumexp(1) - math.log(2 * math.pi) + 2 * math.log(0.1)
    assert ((found.value - exact).abs() < 4.5 * found.standard_error + 0.02).all()


def test_noise_is_for_training_and_is_undone():
    x = torch.rand(8, 1).round().expand(8, 6).repeat(30, 1)  # six entries that are all alike
    program = Autoencoder(6, 2, (16,), hide=0.5)
    pg.fit(program, x, epochs=20, batch_size=40, lr=1e-2, progress=False)
    program.eval()
    holed = x[:8].clone()
    holed[:, 1:] = math.nan
    assert (pg.reconstruct(program, holed).round() == x[:8]).all()
    assert torch.equal(pg.reconstruct(program, x[:8]), pg.reconstruct(program, x[:8]))
    result = pg.fit(program, x, objective=WassersteinAutoencoder(1.0), epochs=1, progress=False)
    assert math.isfinite(result.history[0]["train_loss"])
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        Autoencoder(4, hide=1.0)


def test_masked_predictor_of_one_place_is_a_categorical():
    net = MaskedPredictor(1, 3, 4)
    assert torch.equal(net(torch.eye(3).unsqueeze(1))[0], net(torch.eye(3).unsqueeze(1))[2])
