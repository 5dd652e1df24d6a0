"""The PixelRNN: what each pixel sees, exactly, and a row LSTM beside torch's own."""

import pytest
import torch
from torch import nn

from pyro_gen._random import seeded
from pyro_gen.models import PixelRNN
from pyro_gen.models.autoregressive.pixel_rnn import RowLSTM


# By hand: features see a window before them, states a triangle of features above. The twin is a layer whose state does
# not see what is beside it in the row above.
@pytest.mark.parametrize("narrow", [False, True])
def test_a_pixel_sees_a_triangle_before_it_and_nothing_else(narrow) -> None:
    with seeded(0):
        program = PixelRNN((6, 7), channels=4, layers=1).double().eval()
    if narrow:
        with torch.no_grad():
            program.layers[0].of_state.weight[..., [0, 2]] = 0
    with seeded(1):
        image = torch.rand(42, dtype=torch.float64)
    of = torch.autograd.functional.jacobian(lambda x: program.network(x.unsqueeze(0), 0, None).logits[0], image)
    found = (of != 0).reshape(6, 7, 6, 7)
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij")
    same = []
    for i in range(6):
        for j in range(7):
            r = i - rows
            above = (r > 0) & (columns >= j - r - 2) & (columns <= j + r)
            beside = (r == 0) & (columns >= j - 2) & (columns < j)
            same.append(torch.equal(found[i, j], above | beside))
    assert all(same) is not narrow


def test_a_row_lstm_of_images_one_pixel_wide_is_an_lstm() -> None:
    with seeded(0):
        layer, known = RowLSTM(3, 1), nn.LSTM(3, 3, batch_first=True)
        u = torch.randn(5, 3, 6, 1)
    o, f, n, g = range(4)  # which torch has in the order n, f, g, o
    with torch.no_grad():
        for name, weight in (("ih", layer.of_input.weight[..., 0, 0]), ("hh", layer.of_state.weight[..., 0])):
            getattr(known, f"weight_{name}_l0").copy_(weight.unflatten(0, (4, 3))[[n, f, g, o]].flatten(0, 1))
        known.bias_ih_l0.copy_(layer.of_input.bias.unflatten(0, (4, 3))[[n, f, g, o]].flatten())
        known.bias_hh_l0.zero_()
        expected = known(u[..., 0].movedim(1, 2))[0].movedim(2, 1)
        assert torch.allclose(layer(u)[..., 0], expected, atol=1e-6)
        known.weight_hh_l0.zero_()  # the twin: without a memory of h
        assert not torch.allclose(layer(u)[..., 0], known(u[..., 0].movedim(1, 2))[0].movedim(2, 1), atol=1e-3)


def test_misfits_are_explained() -> None:
    for options in ({"event_shape": 6}, {"event_shape": (2, 2), "kernel": 2}):
        with pytest.raises(ValueError, match="odd kernel"):
            PixelRNN(**options)
