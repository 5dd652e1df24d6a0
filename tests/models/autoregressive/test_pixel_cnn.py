"""The gated PixelCNN: what each pixel sees, and a density over images that conditions on its context."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.models import PixelCNN, PixelVAE
from pyro_gen.models.autoregressive.parts.convolutions import MaskedConv
from pyro_gen.models.autoregressive.parts.pixel_steps import PixelSteps


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


def program_of(likelihood: str, context: int = 0, **options) -> PixelCNN:
    with seeded(2):
        program = PixelCNN((4, 5), channels=6, layers=3, likelihood=likelihood, context=context, **options).double()
        with torch.no_grad():
            for parameter in program.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return program.eval()


CASES = {
    "bernoulli": ("bernoulli", {}),
    "categorical": ("categorical", {"levels": 4}),
    "mixture": ("discretized_logistic_mixture", {"levels": 17, "components": 3}),
    "normal": ("normal", {"scale": "shared"}),
    "conditional": ("bernoulli", {"context": 2}),
    "censored": ("censored", {"low": torch.linspace(-1, 1, 20).double()}),
}


# The laws are the same up to rounding, so draws differ once in 1e9 seeds. The twin keeps the vertical stack of the
# first row, and so has other laws in all others.
@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize(("likelihood", "options"), CASES.values(), ids=CASES)
def test_draws_from_what_the_stacks_keep_are_those_of_the_whole_network(
    likelihood, options, stale, monkeypatch
) -> None:
    program = program_of(likelihood, **options)
    law = program.observed(50, torch.randn(50, 2).double() if program.context else None)
    if stale:
        start = PixelSteps.start_row
        monkeypatch.setattr(PixelSteps, "start_row", lambda steps, i: None if i else start(steps, i))
    nothing = torch.full((50, 4, 5), torch.nan, dtype=torch.float64)
    draws = []
    for steps in (program.steps, None):
        law.steps = steps
        with seeded(3):
            draws.append(law.marginalise(nothing)[2]())
    assert torch.allclose(draws[0], draws[1]) is not stale


def test_the_lower_part_is_completed_by_its_conditional_law() -> None:
    """A frequency of 4,000 draws is beyond 4.5 standard errors once in 10^5 seeds, for 8 cells."""
    program = PixelCNN((3, 2), channels=4, layers=2).double().eval()
    with seeded(1), torch.no_grad():
        for parameter in program.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    row = torch.tensor([[1.0, 0.0], [1.0, torch.nan], [torch.nan, torch.nan]], dtype=torch.float64)
    whole = row.nan_to_num().expand(8, 3, 2).clone().flatten(1)
    whole[:, 3:] = torch.cartesian_prod(*3 * [torch.tensor([0.0, 1.0])]).double()
    p = program.observed(8).log_prob(whole.view(8, 3, 2)).detach().softmax(0)
    draws = pg.impute(program, row.expand(4000, 3, 2), draws=1)[0].flatten(1)
    found = (draws.unsqueeze(1) == whole).all(-1).double().mean(0)
    assert bool(((found - p).abs() < 4.5 * (p * (1 - p) / 4000).sqrt()).all())
    assert pg.log_likelihood(program, row.unsqueeze(0)).kind == "exact"


def test_drawing_from_what_is_kept_takes_a_third_of_the_work() -> None:
    law, work = PixelCNN((8, 8), channels=16, layers=4).eval().observed(100), []
    for steps in (law.steps, None):
        law.steps = steps
        with FlopCounterMode(display=False) as counter, seeded(0):
            law.sample()
        work.append(counter.get_total_flops())
    assert work[1] > 3 * work[0] > 0


def test_misfits_are_explained() -> None:
    for options in ({"event_shape": 6}, {"event_shape": (2, 2), "kernel": 2}):
        with pytest.raises(ValueError, match="odd kernel"):
            PixelCNN(**options)


def test_a_context_is_one_tensor_with_a_row_for_each_datum() -> None:
    program, x, c = PixelCNN((2, 2), channels=4, layers=1, context=2), torch.zeros(3, 2, 2), torch.eye(3)[:, :2]
    expected = pg.log_likelihood(program, x, c).value
    assert torch.equal(pg.log_likelihood(program, x, c.long()).value, expected)  # integers are numbers
    for context in ((), (c, c), (c[:2],), (torch.zeros(3),), ("two",)):
        with pytest.raises(ValueError, match=r"give one tensor with shape \(N, 2\)"):
            pg.log_likelihood(program, x, *context)
    for without in (PixelCNN((2, 2), channels=4, layers=1), PixelVAE((2, 2), 1, (4,), channels=4, layers=1)):
        with pytest.raises(ValueError, match=r"give no context|takes none"):
            pg.log_likelihood(without, x, c)
