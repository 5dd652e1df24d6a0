"""What fit finds out before the first step holds for all others."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_gen as pg


class Discriminant(pg.Program):
    """Two classes of which the means start at the same value, so that the label feeds nothing there."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.zeros(2))

    def model(self, data: dict[str, Tensor]) -> None:
        with self.plate(data):
            y = pg.observe("y", dist.Categorical(torch.ones(2)), data["y"])
            pg.observe("x", dist.Normal(self.means[y.long()], 1.0), data["x"])


def test_a_missing_label_that_feeds_nothing_yet_is_summed_out_when_it_does() -> None:
    """A twin that looks for it at the start alone draws labels, and both means go to that of all data."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(100) % 2).float()
    x = 6 * y - 3 + torch.randn(100, generator=generator)
    some = torch.where(torch.arange(100) < 10, y, torch.nan)
    program = Discriminant()
    pg.fit(program, {"x": x, "y": some}, epochs=100, lr=0.1, schedule="cosine", compile=False, progress=False)
    expected = torch.stack([x[y == k].mean() for k in (0, 1)])
    torch.testing.assert_close(program.means.detach(), expected, atol=0.1, rtol=0)


def test_parameters_are_where_they_were() -> None:
    program = Discriminant()
    data = {"x": torch.zeros(4), "y": torch.full((4,), torch.nan)}
    pg.fit(program, data, epochs=1, lr=1e-12, compile=False, progress=False)
    torch.testing.assert_close(program.means.detach(), torch.zeros(2), atol=1e-9, rtol=0)
