"""The gated PixelCNN: what each pixel sees, and a density over images that conditions on its context."""

import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.models import PixelCNN
from pyro_gen.models.autoregressive.parts.convolutions import MaskedConv


def sees(network, shape: tuple[int, int]) -> Tensor:
    """Which outputs, (D), depend on which pixels, (D), of a function of an image (1, 1, H, W)."""
    with seeded(0):
        image = torch.rand(1, 1, *shape, dtype=torch.float64)
    of = torch.autograd.functional.jacobian(lambda x: network(x).flatten(), image)
    return of.reshape(-1, image.numel()) != 0


def naive_stack() -> nn.Module:
    """One stack masked in reading order, as the twin: it has a blind spot."""
    first, last = MaskedConv(1, 4, 5, "before", own=False), MaskedConv(4, 1, 5, "before", own=True)
    return nn.Sequential(first, nn.Tanh(), MaskedConv(4, 4, 5, "before", own=True), nn.Tanh(), last)


@pytest.mark.parametrize("naive", [False, True])
def test_a_pixel_sees_all_before_it_and_nothing_else(naive) -> None:
    with seeded(1):
        program = PixelCNN((5, 6), channels=4, layers=3).double().eval()
        twin = naive_stack().double()
    found = sees(twin if naive else lambda x: program.network(x.flatten(1), 0, None).logits, (5, 6))
    before = torch.ones(30, 30).tril(-1).bool()
    assert not found[~before].any()
    assert bool(found[before].all()) is not naive


def test_it_sees_as_far_as_its_layers_reach() -> None:
    program = PixelCNN((7, 7), channels=4, layers=2, kernel=3).double().eval()
    found = sees(lambda x: program.network(x.flatten(1), 0, None).logits, (7, 7)).reshape(7, 7, 7, 7)
    rows, columns = torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")
    for i, j in ((6, 3), (3, 0), (4, 6)):
        near = (i - rows <= 2) & ((columns - j).abs() <= 2)
        assert torch.equal(found[i, j], near & ((rows < i) | ((rows == i) & (columns < j))))


def test_a_context_is_conditioned_on() -> None:
    images = torch.cartesian_prod(*4 * [torch.tensor([0.0, 1.0])]).unflatten(1, (2, 2))
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    program = PixelCNN((2, 2), channels=8, layers=1, context=2)
    x = images[[3, 12]].repeat(4, 1, 1)  # the lower row is white in one class, the upper one in the other
    c = y.repeat(4, 1)
    pg.fit(program, (x, c), epochs=30, batch_size=8, lr=0.02, progress=False, compile=False)
    with torch.no_grad():
        p = [program.observed(16, row.expand(16, 2)).log_prob(images).exp() for row in y]
    assert all(abs(q.sum().item() - 1) < 1e-5 for q in p)
    assert p[0][3] > 0.9 and p[1][12] > 0.9


def test_misfits_are_explained() -> None:
    for options in ({"event_shape": 6}, {"event_shape": (2, 2), "kernel": 2}):
        with pytest.raises(ValueError, match="odd kernel"):
            PixelCNN(**options)
