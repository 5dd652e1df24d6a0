"""Generators of images, and translations: arithmetic that is known, and games that end where they must."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.evaluation.samples import digits_classifier, nearest_neighbours
from pyro_gen.inference import Adversarial, CycleConsistent
from pyro_gen.models import DCGAN, CycleGAN, StyleGAN
from pyro_gen.models.adversarial.cycle import TurnedPixels
from pyro_gen.models.adversarial.style import StyledConvolution

# ----------------------------------------------------------------------------------------------------------------------
# DCGAN


def test_a_class_moves_an_image_and_noise_of_no_weight_does_not() -> None:
    """With the weights of the noise at 0 images are functions of the class alone."""
    gan = DCGAN((5, 6), latent=3, channels=(4, 3), classes=4)
    with torch.no_grad():
        gan.generator.linear[0].weight[:, :3] = 0  # type: ignore[operator]
    y = torch.tensor([0.0, 1.0, 1.0, 3.0])
    x = pg.sample(gan, 4, context=(y,))
    assert torch.equal(x[1], x[2]) and not torch.allclose(x[0], x[1]) and not torch.allclose(x[0], x[3])
    plain = DCGAN((5, 6), latent=3, channels=(4, 3))
    assert not torch.allclose(*pg.sample(plain, 2))


def test_a_linear_game_learns_the_mean_of_each_class() -> None:
    """Images of one grey value of each class: the conditional game finds it, and the other classes' it does not."""
    torch.manual_seed(0)
    y = torch.arange(600.0) % 3
    levels = torch.tensor([0.2, 0.5, 0.8])
    x = levels[y.long()].reshape(-1, 1, 1) + 0.02 * torch.randn(600, 2, 2)
    gan = DCGAN((2, 2), latent=2, channels=(8,), classes=3)
    game = Adversarial(critic=(16,), channels=(8,), classes=3, r1=0.1)
    pg.fit(gan, (x, y), objective=game, epochs=20, batch_size=100, lr=0.01, schedule="cosine", progress=False)
    asked = torch.arange(300.0) % 3
    found = torch.stack([pg.sample(gan, 300, context=(asked,))[asked == k].mean() for k in range(3)])
    assert (found - levels).abs().max() < 0.1
    assert (found - levels.flip(0)).abs().max() > 0.3


# ----------------------------------------------------------------------------------------------------------------------
# StyleGAN


def by_the_kernels(layer: StyledConvolution, h: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """Each datum by a convolution with a kernel of its own, modulated and then normalised (Karras et al., 2020)."""
    out = []
    for n in range(len(h)):
        kernel = layer.weight * layer.scale(w[n]).reshape(1, -1, 1, 1)
        kernel = kernel / kernel.square().sum((1, 2, 3), keepdim=True).add(1e-8).sqrt()
        out.append(nn.functional.conv2d(h[n : n + 1], kernel, padding=1)[0] + layer.strength * noise[n] + layer.bias)
    return nn.functional.leaky_relu(torch.stack(out), 0.2)


@pytest.mark.parametrize("twin", [False, True])
def test_scaled_maps_are_modulated_kernels(twin: bool) -> None:
    layer = StyledConvolution(4, 3, 5)
    with torch.no_grad():
        layer.strength.normal_()
        layer.bias.normal_()
    h, w, noise = torch.randn(6, 3, 4, 5), torch.randn(6, 4), torch.randn(6, 1, 4, 5)
    expected = by_the_kernels(layer, h, w.flip(0) if twin else w, noise)  # the twin: another datum's style
    with torch.no_grad():
        assert torch.allclose(layer(h, w, noise), expected, atol=1e-5) != twin


def test_outputs_have_variance_one_of_independent_inputs_whatever_the_style() -> None:
    layer = StyledConvolution(4, 30, 1)
    w = 5 * torch.randn(1, 4).expand(4000, 4)
    with torch.no_grad():
        out = layer(torch.randn(4000, 30, 3, 3), w, torch.zeros(4000, 1, 3, 3))[:, 0, 1, 1]  # the middle: no padding
    out = torch.where(out < 0, 5 * out, out)
    # The standard error of a variance of 4,000 normal numbers is 0.022: 4.5 of them.
    assert abs(out.var().item() - 1) < 0.1


def test_truncation_is_linear_in_styles() -> None:
    gan = StyleGAN((5, 6), latent=3, style=4, channels=(4, 3))
    z = torch.randn(7, 3)
    whole, half, none = (gan.truncated(psi).styles(z) for psi in (1.0, 0.5, 0.0))
    assert torch.allclose(whole, gan.styles(z), atol=1e-6)
    assert torch.allclose(half, (whole + none) / 2, atol=1e-6) and torch.equal(none[0], none[1])
    # 10,000 draws against 20,000 others: within 4.5 standard errors of the difference, 4 numbers, 3e-5.
    more = gan.styles(torch.randn(20_000, 3))
    error = more.std(0) * (1 / 10_000 + 1 / 20_000) ** 0.5
    assert bool(((none[0] - more.mean(0)).abs() < 4.5 * error).all())
    assert not bool(((whole[0] - more.mean(0)).abs() < 4.5 * error).all())
    assert torch.allclose(gan.truncated(0.5).truncated(1.0).styles(z), whole, atol=1e-6)
    of_class = StyleGAN((4, 4), latent=3, style=4, channels=(4,), classes=2)
    one, other = (of_class.truncated(0.0).styles(z, torch.full((7,), y)) for y in (0.0, 1.0))
    assert torch.equal(one[0], one[1]) and not torch.allclose(one[0], other[0], atol=0.01)
    with pytest.raises(ValueError, match="between 0 and 1"):
        gan.truncated(1.5)
    with pytest.raises(ValueError, match="shape of an image"):
        StyleGAN((4,))


@pytest.mark.slow
def test_truncation_trades_recall_for_precision() -> None:
    """The recipe style-digits, over five levels: precision rises and recall falls from each to the next."""
    entry = pg.zoo.load("style-digits")
    data = pg.zoo.prepare(entry)
    gan = pg.zoo.train(entry, data, progress=False).program
    of = digits_classifier()
    real = of.features(pg.data.load("digits").test / 16)
    asked, precision, recall = torch.arange(2000.0) % 10, [], []
    for psi in (1.0, 0.8, 0.6, 0.4, 0.2):
        drawn = (17 * pg.sample(gan.truncated(psi), 2000, context=(asked,), seed=0)).floor().clamp(0, 16) / 16
        found = nearest_neighbours(of.features(drawn), real)
        precision.append(found.precision.value)
        recall.append(found.recall.value)
    assert precision == sorted(precision) and recall == sorted(recall, reverse=True)
    assert precision[-1] - precision[0] > 0.05 and recall[0] - recall[-1] > 0.3


# ----------------------------------------------------------------------------------------------------------------------
# CycleGAN


def affine(slope: float, offset: float) -> nn.Linear:
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, slope)
    nn.init.constant_(net.bias, offset)
    return net


def test_translation_and_its_loss_by_hand() -> None:
    """G(a) = 2 a + 1 and F(b) = b / 2: F(G(a)) - a = 1/2 and G(F(b)) - b = 1 for every datum."""
    cycle = CycleGAN((2, 1), (affine(2.0, 1.0), affine(0.5, 0.0)))
    x = torch.tensor([[[1.0], [4.0]], [[-2.0], [6.0]], [[0.0], [1.0]]])
    translated = pg.sample(cycle, 3, context=(x,))
    assert torch.equal(translated, torch.tensor([[[2.0], [3.0]], [[3.0], [-3.0]], [[0.5], [1.0]]]))
    critic = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
    nn.init.constant_(critic[1].weight, 0.5)  # type: ignore[arg-type]

    def loss(weight: float, data: Tensor = x) -> float:
        game = CycleConsistent(weight, critic=critic, loss="wasserstein", r1=0.0)
        return game.loss(cycle, data, data).item()

    assert loss(0.0) == pytest.approx(-0.5 * translated.sum().item())
    assert loss(3.0) - loss(0.0) == pytest.approx(3 * 3 * (0.5 + 1.0) / 2)
    # The twin: domains in each other's place come back off by other numbers.
    assert loss(3.0, x.flip(1)) - loss(0.0, x.flip(1)) == pytest.approx(3 * 3 * (0.5 + 1.0) / 2)
    swapped = CycleGAN((2, 1), (affine(2.0, 1.0), affine(2.0, 0.0)))
    game = CycleConsistent(3.0, critic=critic, loss="wasserstein", r1=0.0)
    assert game.loss(swapped, x, x).item() + 0.5 * pg.sample(swapped, 3, context=(x,)).sum().item() > 10


def test_turned_pixels_can_turn_an_image_and_make_a_negative_of_it() -> None:
    net = TurnedPixels(())
    x = torch.rand(5, 4, 4)
    negatives = 1 - torch.rot90(x, 1, (1, 2))
    with torch.no_grad():
        weight, bias = net.net.parameters()
        weight.copy_(torch.tensor([[0.0, -1, 0, 0, 0, 0, 0, 0]]))
        bias.fill_(1.0)
        assert torch.allclose(net(x), negatives, atol=1e-6)
        weight.copy_(torch.tensor([[0.0, 0, 0, -1, 0, 0, 0, 0]]))  # the other way
        assert not torch.allclose(net(x), negatives, atol=1e-6)


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_a_cycle_binds_the_two_maps_together(weight: float) -> None:
    """Between two normal laws each map may turn the sign or not: that both do or neither is what the cycle says."""
    torch.manual_seed(0)
    x = torch.stack([torch.randn(1000, 1), 1 + 2 * torch.randn(1000, 1)], 1)
    cycle = CycleGAN((2, 1), (affine(1.0, 0.0), affine(-0.3, 0.0)))
    game = CycleConsistent(weight, critic=(32,), r1=0.1)
    fixed: dict[str, Any] = {"batch_size": 100, "lr": 0.02, "schedule": "cosine", "progress": False}
    pg.fit(cycle, (x, x), objective=game, epochs=60, **fixed)
    (there, offset), (back, _) = ([p.item() for p in net.parameters()] for net in (cycle.to_b, cycle.to_a))
    assert abs(there) == pytest.approx(2, abs=0.4) and offset == pytest.approx(1, abs=0.4)
    assert (there * back == pytest.approx(1, abs=0.15)) == (weight > 0)


def test_what_translation_refuses() -> None:
    x = torch.randn(6, 2, 3)
    with pytest.raises(ValueError, match="a row is 2 data"):
        CycleGAN((3, 4))
    with pytest.raises(ValueError, match="no square image"):
        CycleGAN((2, 4, 5))
    with pytest.raises(ValueError, match="give \\(x, x\\)"):
        pg.fit(pg.models.GAN((2, 3)), x, objective=CycleConsistent(), epochs=1, progress=False)
    with pytest.raises(ValueError, match="weights are 0 or more"):
        CycleConsistent(cycle=-1.0)


def test_a_label_is_asked_for_and_no_other_context() -> None:
    for cls in (DCGAN, StyleGAN):
        with pytest.raises(ValueError, match="takes one context, the label"):
            pg.sample(cls((4, 4), channels=(4,), classes=3), 2)
        with pytest.raises(ValueError, match="takes no context"):
            pg.sample(cls((4, 4), channels=(4,)), 2, context=(torch.zeros(2),))
    with pytest.raises(ValueError, match="has 1 networks: give two"):
        CycleGAN((2, 4, 4), (torch.nn.Linear(4, 4),))  # type: ignore[arg-type]
