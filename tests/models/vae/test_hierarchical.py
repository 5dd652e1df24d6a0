"""The hierarchical VAE: both ways of inference, and exact answers where everything is linear and Gaussian."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.data.small import binary_rows
from pyro_gen.inference import ELBO, DReG
from pyro_gen.models import HierarchicalVAE
from pyro_gen.models.vae import hierarchical
from pyro_gen.models.vae.parts.priors import MIN_SCALE, MixturePrior
from pyro_gen.traces import sample_sites, trace_pair

W, A, S, NOISE = 1.3, 0.7, 0.6, 0.5  # z1 = A z2 + S noise, x = W z1 + NOISE noise


def raw(scale: float) -> float:
    """What becomes this scale."""
    return math.log(math.expm1(scale - hierarchical.SCALE_FLOOR))


def line(slope: float, scale: float) -> nn.Linear:
    """A layer to the mean, slope times the input, and the raw scale."""
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[slope], [0.0]]))
        layer.bias.copy_(torch.tensor([0.0, raw(scale)]))
    return layer


def linear(prior: str | nn.Module = "standard") -> HierarchicalVAE:
    """Two layers of one dimension, linear, with what the data say of each layer in closed form."""
    vae = HierarchicalVAE(1, (1, 1), (1, 1), "normal", prior=prior, scale=NOISE)
    vae.decoder = nn.Linear(1, 1, bias=False)
    nn.init.constant_(vae.decoder.weight, W)
    vae.priors[0] = line(A, S)
    vae.upwards = nn.ModuleList([nn.Identity(), nn.Identity()])
    vae.readings = nn.ModuleList(
        [line(1 / W, NOISE / W), line(1 / (W * A), math.sqrt((W * S) ** 2 + NOISE**2) / (W * A))]
    )
    return vae


def exact(x: Tensor, noise: float = NOISE) -> Tensor:
    law = torch.distributions.Normal(0.0, math.sqrt(W**2 * (A**2 + S**2) + noise**2))
    return law.log_prob(x).sum(-1)  # type: ignore[no-any-return]


def test_top_down_is_exact_where_everything_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw has the weight log p(x): no statistics."""
    x = torch.randn(6, 1)
    found = pg.log_likelihood(linear(), x, method="elbo", num_particles=1)
    assert torch.allclose(found.value, exact(x).double(), atol=1e-4)
    # The twin: a posterior of the data alone, without the product with the prior.
    monkeypatch.setattr(hierarchical, "product", lambda a, b: a.to_event(1))
    found = pg.log_likelihood(linear(), x, method="elbo", num_particles=200)
    assert (exact(x) - found.value).mean() > 0.1


@pytest.mark.parametrize("inference", hierarchical.INFERENCE)
def test_ais_has_the_exact_likelihood(inference: str) -> None:
    """The squared z-scores of 8 data, chi-squared, are beyond 32 once in 10^4 seeds."""
    x = 2 * torch.randn(8, 1)
    vae = linear()
    if inference == "bottom up":
        vae.inference, vae.upwards = inference, nn.ModuleList([line(0.5, 0.6), line(0.5, 0.8)])
    found = pg.log_likelihood(vae, x, method="ais", seed=3, spread=0.2)
    assert ((found.value - exact(x)) / found.standard_error).square().sum() < 32
    assert ((found.value - exact(x, noise=1.0)) / found.standard_error).square().sum() > 100  # the twin


def test_a_learned_law_of_the_highest_layer() -> None:
    """A mixture of two normal laws in closed form; the squared z-scores of 8 data, as above."""
    x = 3 * torch.randn(8, 1)
    prior = MixturePrior(1, components=2)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.3, 0.7]).log())
        prior.loc.copy_(torch.tensor([[-2.0], [1.0]]))
    scale = MIN_SCALE + math.log(2)
    found = pg.log_likelihood(linear(prior), x, method="ais", seed=3, spread=0.2)

    def score(shares: Tensor) -> Tensor:
        law = torch.distributions.Normal(
            W * A * prior.loc.detach()[:, 0], math.sqrt(W**2 * (A**2 * scale**2 + S**2) + NOISE**2)
        )
        exact = (law.log_prob(x) + shares.log()).logsumexp(-1)
        return ((found.value - exact) / found.standard_error).square().sum()

    assert score(torch.tensor([0.3, 0.7])) < 32
    assert score(torch.tensor([0.7, 0.3])) > 100  # the twin


def test_the_mean_of_a_layer_depends_on_the_one_above_from_the_start() -> None:
    """Inferred bottom up its spread over draws of that layer is about one; without the gain it is a tenth."""
    with seeded(0):
        vae = HierarchicalVAE(64, (10, 5), (200, 100), inference="bottom up")
        spread = vae.prior(0, torch.randn(500, 5)).mean.std(0)
    assert 0.5 < spread.mean() < 2 and (spread / hierarchical.MEAN_GAIN).mean() < 0.25


@pytest.mark.parametrize("inference", hierarchical.INFERENCE)
def test_the_posterior_has_the_order_that_is_said(inference: str) -> None:
    with seeded(0):
        vae = HierarchicalVAE(6, (3, 2, 1), (5, 4, 3), inference=inference)
    model: Any
    guide: Any
    model, guide = trace_pair(vae, binary_rows(4, 6))
    assert list(sample_sites(model)) == ["z3", "z2", "z1", "x"]
    assert list(sample_sites(guide)) == (["z1", "z2", "z3"] if inference == "bottom up" else ["z3", "z2", "z1"])
    assert [model.nodes[f"z{i}"]["value"].shape for i in (1, 2, 3)] == [(4, 3), (4, 2), (4, 1)]


@pytest.mark.filterwarnings("ignore:.*the guide misses")
@pytest.mark.parametrize("objective", [ELBO(free_bits=0.01), DReG(2)], ids=["free bits", "DReG"])
@pytest.mark.parametrize("inference", hierarchical.INFERENCE)
def test_every_tool_takes_it(inference: str, objective: Any) -> None:
    with seeded(0):
        vae = HierarchicalVAE(6, (2, 2), (6, 6), inference=inference)
    x = binary_rows(20, 6)
    before = [p.clone() for p in vae.parameters()]
    pg.fit(vae, x, epochs=2, batch_size=10, objective=objective, progress=False)
    moved = [not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True)]
    assert sum(moved) == len(moved) - 1  # all but the weights for missing entries, of which there are none
    holes = x[:3].clone()
    holes[:, 3:] = torch.nan
    painted = pg.impute(vae, holes, draws=2, method="guide", num_proposals=50)
    assert painted.shape == (2, 3, 6) and not painted.isnan().any()
    assert pg.latents(vae, x[:3], method="guide", num_proposals=50)["z2"].mean.shape == (3, 2)
    assert pg.interpolate(vae, x[:1], x[1:2], steps=3).shape == (3, 1, 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inference": "sideways"}, "bottom up"),
        ({"latent": (3, 2), "hidden": (5,)}, "one width for each"),
        ({"latent": (), "hidden": ()}, "one number of dimensions"),
        ({"prior": "vamp"}, "inferred from draws of those below"),
        ({"latent": (0,), "hidden": (5,)}, r"latent=\(0,\)\): give a sequence of positive integers"),
    ],
)
def test_misfits_are_explained(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HierarchicalVAE(6, **options)
