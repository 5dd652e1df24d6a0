"""Networks take any batch shape and any image size, and tell missing entries from zeros."""

import pytest
import torch
from torch import nn

from pyro_gen.nets import ACTIVATIONS, GRU, MLP, ConvDecoder, ConvEncoder, MissingInput

NETS = [
    lambda: MLP((12, 5, 3), missing=True),
    lambda: ConvEncoder((4, 3), out=3, channels=(4, 6), missing=True),
]


def test_missing_input_is_two_linear_maps():
    layer = MissingInput(nn.Linear(4, 3))
    nn.init.normal_(layer.missing.weight)
    x = torch.randn(10, 4)
    m = torch.rand(10, 4) < 0.5
    expected = torch.where(m, 0.0, x) @ layer.seen.weight.T + layer.seen.bias + m.float() @ layer.missing.weight.T
    assert torch.allclose(layer(torch.where(m, torch.nan, x)), expected, atol=1e-6)
    assert [n for n, _ in layer.named_parameters()] == ["seen.weight", "seen.bias", "missing.weight"]


@pytest.mark.parametrize("make", NETS)
def test_missing_and_zero_differ_once_trained_on_missing_data(make):
    net = make()
    event = (12,) if isinstance(net, MLP) else (4, 3)
    zero = torch.randn(6, *event)
    zero.flatten(1)[:, ::2] = 0.0
    missing = zero.clone()
    missing.flatten(1)[:, ::2] = torch.nan
    assert torch.equal(net(zero), net(missing))
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    net(missing).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    optimiser.step()
    assert not torch.allclose(net(zero), net(missing))


@pytest.mark.parametrize("make", NETS)
def test_vmap_and_leading_dimensions_equal_a_loop(make):
    net = make()
    event = (12,) if isinstance(net, MLP) else (4, 3)
    x = torch.randn(5, 7, *event)
    x[torch.rand_like(x) < 0.3] = torch.nan
    loop = torch.stack([net(v) for v in x])
    assert torch.allclose(torch.vmap(net)(x), loop, atol=1e-6)
    assert torch.allclose(net(x), loop, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (1, 1), (5, 9), (3, 32, 30)])
def test_convolutions_reach_any_image(shape):
    encoder = ConvEncoder(shape, out=6, channels=(4, 8), activation="silu", dropout=0.1)
    decoder = ConvDecoder(6, shape, channels=(8, 4), dropout=0.1)
    x = torch.randn(2, 3, *shape)
    assert encoder(x).shape == (2, 3, 6)
    assert decoder(encoder(x)).shape == x.shape
    levels = ConvDecoder(6, (5, *shape), channels=(8, 4))
    assert levels(encoder(x)).shape == (2, 3, 5, *shape)
    z = torch.randn(4, 3, 6)
    assert torch.allclose(torch.vmap(levels)(z), torch.stack([levels(v) for v in z]), atol=1e-6)


def test_dropout_is_for_training():
    net = MLP((4, 100, 2), dropout=0.5)
    x = torch.randn(3, 4)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_has_a_gradient(name):
    net = MLP((3, 4, 1), activation=name)
    net(torch.randn(50, 3)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MLP((3,)), "input and output"),
        (lambda: MLP((3, 3, 3), activation="sigmoidal"), "choose one of"),
        (lambda: ConvEncoder((64,), 2), r"\(H, W\)"),
        (lambda: ConvEncoder((8, 8), 2, channels=()), "at least one stage"),
        (lambda: ConvDecoder(3, (64,)), r"\(H, W\)"),
    ],
)
def test_misfits_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_gru_reads_either_way_and_equals_torch() -> None:
    net, theirs, x = GRU(3, 4), torch.nn.GRU(3, 4, batch_first=True), torch.randn(2, 5, 3)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.cat([net.input.weight[:4], net.input.weight[4:8], net.input.weight[8:]]))
        theirs.weight_hh_l0.copy_(net.recurrent.weight)
        theirs.bias_ih_l0.copy_(net.input.bias)
        theirs.bias_hh_l0.copy_(net.recurrent.bias)
    assert torch.allclose(net(x), theirs(x)[0], atol=1e-6)
    assert torch.allclose(net(x, reverse=True), theirs(x.flip(1))[0].flip(1), atol=1e-6)
    assert torch.allclose(net.step(x[:, 0], torch.zeros(2, 4)), net(x)[:, 0])
