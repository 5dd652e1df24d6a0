"""The variational autoencoder: any head, dense and convolutional, with holes in the data, under vmap and in a graph."""

import math

import pyro
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_gen._random import seeded
from pyro_gen.heads import HEADS, NormalHead
from pyro_gen.inference import fit
from pyro_gen.models import VAE
from pyro_gen.observation import assume_missing, no_completion
from pyro_gen.program import fixed
from pyro_gen.traces import per_datum_log_prob, structure, trace_pair

NAN = torch.nan
OPTIONS = {
    "categorical": {"levels": 5},
    "discretized_logistic": {"levels": 5},
    "discretized_logistic_mixture": {"levels": 5, "components": 2},
}
HIDDEN = {"dense": (16, 12), "conv": (4, 6)}


def vae(architecture="dense", event_shape=(8, 8), likelihood="bernoulli", **options):
    options = OPTIONS.get(likelihood, {}) | options
    return VAE(
        event_shape,
        3,
        HIDDEN[architecture],
        likelihood=likelihood,
        architecture=architecture,
        activation="silu",
        **options,
    )


def images(n=6, event_shape=(8, 8), share=0.4):
    x = torch.randint(0, 2, (n, *event_shape)).float()
    x[torch.rand_like(x) < share] = NAN
    return x


def elbo_terms(program, x):
    """One draw of log p(x, z) - log q(z) per datum, with shape (N,)."""
    model, guide = trace_pair(program, x)
    return sum(per_datum_log_prob(model.nodes[n]) for n in ("z", "x")) - per_datum_log_prob(guide.nodes["z"])


@pytest.mark.parametrize("likelihood", sorted(HEADS))
@pytest.mark.parametrize(
    ("architecture", "event_shape"), [("dense", (8, 8)), ("dense", (5,)), ("conv", (8, 8)), ("conv", (2, 7, 5))]
)
def test_every_head_and_architecture(architecture, event_shape, likelihood):
    program, x = vae(architecture, event_shape, likelihood), images(event_shape=event_shape)
    z = torch.randn(2, 6, 3)  # particles, data
    assert program.decoder(z).shape == (2, 6, *program.likelihood.features)
    terms = elbo_terms(program, x)
    assert terms.shape == (6,)
    terms.sum().backward()
    for name, parameter in program.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name
    generated = program.model(torch.full((4, *event_shape), NAN))
    assert generated.shape == (4, *event_shape) and not generated.isnan().any()
    kind = structure(program, x)
    assert (kind.local, kind.observed, kind.kind) == (("z",), ("x",), "bound")


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [
        *((name, OPTIONS.get(name, {})) for name in sorted(HEADS)),
        ("normal", {"scale": 0.5}),
        ("normal", {"scale": "entry"}),
    ],
)
def test_every_head_starts_at_the_marginals_and_is_fitted(likelihood, options):
    x = images(40)
    program = vae(likelihood=likelihood, **options)
    start = program.likelihood.marginal_features(x)
    assert start.shape == program.likelihood.features and start.isfinite().all()
    # Where the network says nothing, the likelihood is the marginal of each entry: its mean is that of the data seen.
    distribution = program.likelihood(start)
    if likelihood in ("bernoulli", "normal"):
        seen = x.nanmean(0).clamp(1e-3, 1 - 1e-3) if likelihood == "bernoulli" else x.nanmean(0)
        assert torch.allclose(distribution.mean, seen, atol=1e-5)
    result = fit(program, x, epochs=1, batch_size=20, progress=False)
    assert math.isfinite(result.history[0]["train_loss"])


@pytest.mark.parametrize("architecture", ["dense", "conv"])
def test_particles_under_vmap_equal_a_loop(architecture):
    program, x = vae(architecture), images()
    z = torch.randn(4, 6, 3)

    def terms(z):
        with pyro.validation_enabled(False), assume_missing(True), no_completion(), fixed({"z": z}):
            return elbo_terms(program, x)

    assert torch.allclose(torch.vmap(terms)(z), torch.stack([terms(v) for v in z]), rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical", "normal"])
@pytest.mark.parametrize("architecture", ["dense", "conv"])
def test_graph_equals_the_program_on_other_data(architecture, likelihood):
    program = vae(architecture, likelihood=likelihood)

    def loss(x):
        with pyro.validation_enabled(False), assume_missing(True), no_completion():
            return -elbo_terms(program, x).sum()

    with seeded(0):
        graph = make_fx(loss)(images(share=0.0))
    x = images()
    with seeded(1):
        expected = loss(x)
    with seeded(1):
        assert torch.allclose(graph(x), expected, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["dense", "conv"])
def test_missing_entries_do_not_reach_the_bound_and_are_no_zeros(architecture):
    program = vae(architecture)
    first = next(m for m in program.encoder.modules() if hasattr(m, "missing"))
    nn.init.normal_(first.missing.weight)
    x = images()
    q, q0 = (pyro.poutine.trace(program.guide).get_trace(v).nodes["z"]["fn"] for v in (x, x.nan_to_num(0.0)))
    assert not torch.isclose(q.mean, q0.mean).any()
    with fixed({"z": torch.randn(6, 3)}):
        a, b = (trace_pair(program, v)[0].nodes["x"] for v in (x, x.nan_to_num(0.0)))
    d = b["fn"].base_dist
    expected = torch.where(x.isnan(), 0.0, d.log_prob(x.nan_to_num(0.0))).sum((1, 2))
    assert torch.allclose(per_datum_log_prob(a), expected, rtol=1e-5)


def test_nothing_seen_and_zero_mask_weights_give_the_same_posterior_for_all():
    program = vae()
    scale = pyro.poutine.trace(program.guide).get_trace(torch.full((4, 8, 8), NAN)).nodes["z"]["fn"].base_dist.scale
    assert torch.allclose(scale, scale[:1].expand_as(scale)) and scale.min() > 0


def test_the_network_of_burda_et_al():
    program = VAE((28, 28), latent=50, hidden=(200, 200), likelihood="bernoulli", activation="tanh")
    layers = [m for m in program.modules() if isinstance(m, nn.Linear)]
    shapes = [(m.in_features, m.out_features) for m in layers if m.bias is not None]
    assert shapes == [(784, 200), (200, 200), (200, 100), (50, 200), (200, 200), (200, 784)]
    assert sum(isinstance(m, nn.Tanh) for m in program.modules()) == 4


def test_networks_and_heads_of_ones_own():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    decoder = nn.Sequential(nn.Linear(3, 64), nn.Unflatten(-1, (8, 8)))
    head = NormalHead((8, 8), scale=0.5)
    program = VAE((8, 8), 3, likelihood=head, encoder=encoder, decoder=decoder)
    assert program.encoder is encoder and program.decoder is decoder and program.likelihood is head
    assert elbo_terms(program, torch.rand(5, 8, 8)).shape == (5,)
    assert VAE(64, 3, hidden=()).event_shape == (64,)


def test_dropout_is_for_training():
    program = vae(dropout=0.5)
    x, z = images(share=0.0), torch.randn(6, 3)
    with fixed({"z": z}):
        assert not torch.equal(elbo_terms(program, x), elbo_terms(program, x))
        program.eval()
        assert torch.equal(elbo_terms(program, x), elbo_terms(program, x))


def test_a_vae_learns_two_patterns():
    # Two images, equally often, which leave log 2 nats per image to the best of models; independent pixels 64 log 2.
    pattern = (torch.rand(8, 8) < 0.5).float()
    x = torch.stack([pattern, 1 - pattern]).repeat(32, 1, 1)
    program = VAE((8, 8), latent=1, hidden=(32,))
    optimiser = torch.optim.Adam(program.parameters(), 1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        loss = -elbo_terms(program, x).mean()
        loss.backward()
        optimiser.step()
    assert loss < 3.0
    lower = x.clone()
    lower[:, 4:] = NAN
    assert (program.model(x).shape == x.shape) and (elbo_terms(program, lower).mean() > -3.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VAE((8, 8), architecture="transformer"), "conv"),
        (lambda: VAE((64,), architecture="conv"), r"\(H, W\)"),
        (lambda: VAE((8, 8), likelihood="gauss"), "choose one of"),
        (lambda: VAE((8, 8), activation="swish"), "choose one of"),
        (lambda: VAE((8, 8), likelihood=NormalHead((3,))), r"\(3,\)"),
        (lambda: VAE(4, latent=0), r"VAE\(latent=0\)"),
        (lambda: VAE(4, latent=2.5), r"VAE\(latent=2.5\)"),
        (lambda: VAE(4, hidden=3), r"VAE\(hidden=3\): give a sequence"),
        (lambda: VAE(4, hidden="20"), r"VAE\(hidden='20'\): give a sequence"),
        (lambda: VAE(4, hidden=(20, 0)), r"VAE\(hidden=\(20, 0\)\)"),
        (lambda: VAE(4, hidden=["a"]), r"VAE\(hidden=\['a'\]\)"),
        (lambda: VAE((8, 8), hidden=(), architecture="conv"), "at least one stage"),
    ],
)
def test_misfits_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()
