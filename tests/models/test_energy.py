"""The energy-based model: its base, its normalising constant by quadrature, and what it learns."""

import math
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density.energy import unnormalised_log_prob, unnormalised_terms
from pyro_gen.inference import ContrastiveDivergence, NoiseContrastive, Objective, ScoreMatching
from pyro_gen.models import EnergyBased
from pyro_gen.saving import load_program, save_program


def quadrature(program: EnergyBased, context: Tensor | None = None) -> float:
    """log Z by a sum over a grid, for data on the scale of one."""
    grid = torch.linspace(-6.0, 6.0, 301)
    points = torch.cartesian_prod(grid, grid)
    given = () if context is None else (context.expand(len(points), -1),)
    with torch.no_grad():
        log_p = unnormalised_log_prob(program, points, *given).double()
    return log_p.logsumexp(0).item() + 2 * math.log(12 / 300)


def test_untrained_it_is_its_base_which_is_that_of_the_data() -> None:
    x = torch.randn(200, 2) * torch.tensor([3.0, 0.1]) + 5
    x[0, 1] = torch.nan
    program = EnergyBased(2).initialise(x)
    exact = dist.Normal(x.nanmean(0), torch.stack([x[:, 0].std(correction=0), x[1:, 1].std(correction=0)])).to_event(1)
    assert torch.allclose(unnormalised_log_prob(program, x[1:]), exact.log_prob(x[1:]), atol=1e-4)
    assert EnergyBased(2).initialise(torch.ones(5, 2)).scale.tolist() == [1, 1]  # what does not vary has no scale


def test_the_energy_is_that_of_its_network_whatever_the_shape() -> None:
    program = EnergyBased((2, 3), (8,))
    torch.nn.init.normal_(program.network[-1].weight)
    x = torch.randn(4, 2, 3)
    terms = unnormalised_terms(program, x)
    assert torch.allclose(terms.factor, -program.network(x.flatten(1)).squeeze(-1))
    assert torch.allclose(terms.base, dist.Normal(0.0, 1.0).log_prob(x).sum((1, 2)))


def held_out(program: EnergyBased, x: Tensor, context: Tensor | None = None) -> float:
    given = () if context is None else (context.expand(len(x), -1),)
    with torch.no_grad():
        return (unnormalised_log_prob(program, x, *given).double().mean() - quadrature(program, context)).item()


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (None, {"epochs": 60}),
        (ContrastiveDivergence(5, persistent=True), {"epochs": 100}),
        (NoiseContrastive(ratio=5), {"epochs": 100}),
        (ScoreMatching("denoising", noise=0.05), {"epochs": 200, "lr": 0.01}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_it_learns_the_moons(objective: Objective | None, options: dict[str, Any]) -> None:
    moons = pg.data.load("moons")
    program = EnergyBased(2, (64, 64))
    settings: dict[str, Any] = {"batch_size": 200, "lr": 0.02, "schedule": "cosine", "progress": False}
    result = pg.fit(program, moons.train, objective=objective, **(settings | options))
    assert result.mode == "traced", result.mode_reason
    # A Gaussian has -1.92; half circles under noise of 0.1 have about -0.97.
    assert -1.35 < held_out(program, moons.test) < -0.9
    if isinstance(objective, NoiseContrastive):
        assert abs(program.log_partition.item() - quadrature(program)) < 0.05


def test_a_context_moves_the_density() -> None:
    moons = pg.data.load("moons")
    which = moons.train_target
    assert which is not None
    program = EnergyBased(2, (64, 64), context=1)
    c = which[:, None].float()
    pg.fit(program, (moons.train, c), epochs=40, batch_size=200, lr=0.02, schedule="cosine", progress=False)
    upper, lower = moons.test[moons.test_target == 0], moons.test[moons.test_target == 1]
    right, wrong = held_out(program, upper, torch.zeros(1)), held_out(program, lower, torch.zeros(1))
    assert right > -0.8 > wrong + 2  # the other moon is nearly ruled out, and knowing which is worth log 2


def test_chains_that_persist_do_not_keep_a_program_from_being_loaded(tmp_path: Path) -> None:
    x = torch.randn(50, 2)
    program = EnergyBased(2, (4,), objective=ContrastiveDivergence(2, persistent=20))
    pg.fit(program, x, epochs=1, progress=False)
    file = tmp_path / "program.pt"
    save_program(file, program, "EnergyBased")
    other = EnergyBased(2, (4,), objective=ContrastiveDivergence(2, persistent=20))
    loaded = load_program(file, other).program
    assert torch.equal(unnormalised_log_prob(loaded, x), unnormalised_log_prob(program, x))
