"""The energy-based model: its base, its normalising constant by quadrature or enumeration, and what it learns."""

import itertools
import math
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.density.energy import unnormalised_log_prob, unnormalised_terms
from pyro_gen.inference import ContrastiveDivergence, NoiseContrastive, Objective, ScoreMatching
from pyro_gen.inference.mcmc.langevin import Langevin
from pyro_gen.models import EnergyBased
from pyro_gen.models.energy import energy_based
from pyro_gen.nets import ConvEncoder
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
    assert EnergyBased(2).initialise(torch.ones(5, 2)).base.scale.tolist() == [1, 1]  # what does not vary has no scale


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


# ----------------------------------------------------------------------------------------------------------------------
# Binary entries, against the sum over all 256 states

STATES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8))).reshape(-1, 2, 4)


def binary(network: torch.nn.Module | None = None) -> tuple[EnergyBased, Tensor]:
    """An energy of eight entries that is far from its base, and the log-weights of all states."""
    with seeded(0):
        x = (torch.rand(200, 8) < torch.linspace(0.2, 0.8, 8)).float().reshape(-1, 2, 4)
        program = EnergyBased((2, 4), (8,), base="bernoulli", network=network).initialise(x)
        for parameter in program.network.parameters():
            torch.nn.init.normal_(parameter, std=0.8)
    with torch.no_grad():
        return program, unnormalised_log_prob(program, STATES).double()


def test_the_base_of_binary_entries_has_the_margins_of_the_data() -> None:
    x = (torch.rand(300, 2, 4) < 0.3).float()
    x[:, 0, 0] = 0.0
    x[:9, 1, 1] = torch.nan
    program = EnergyBased((2, 4), base="bernoulli").initialise(x)
    ones, seen = x.nansum(0), (~x.isnan()).sum(0)
    margins = (ones + 0.5) / (seen + 1)  # no entry is impossible
    exact = dist.Bernoulli(margins).to_event(2).log_prob(STATES)
    assert torch.allclose(unnormalised_log_prob(program, STATES), exact, atol=1e-5)
    with pytest.raises(ValueError, match="base='poisson': choose \"normal\""):
        EnergyBased(2, base="poisson")


def off_by(program: EnergyBased, log_p: Tensor) -> float:
    """How far log Z by annealing is from the sum, in standard errors; the bounds are to be in order, or nearly."""
    found = pg.log_partition(program, method="ais", chains=256, temperatures=48)
    assert float(found.upper - found.lower) > -6 * float(found.standard_error)
    return abs(found.mean() - float(log_p.logsumexp(0))) / float(found.standard_error)


@pytest.mark.parametrize("network", [None, ConvEncoder((2, 4), 1, (4,), "silu")], ids=["layers", "convolutions"])
def test_log_z_of_binary_entries_is_the_sum_over_all_states(network: torch.nn.Module | None) -> None:
    program, log_p = binary(network)
    exact = pg.log_partition(program)
    assert exact.kind == "exact" and abs(exact.mean() - float(log_p.logsumexp(0))) < 1e-5
    assert off_by(program, log_p) < 4.5  # false alarms: 1e-5, since the stated error is cautious


def test_log_z_twin_chains_at_the_wrong_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    program, log_p = binary()
    right = energy_based.move_missing

    def hot(*args: Any, **options: Any) -> Tensor:
        return right(*args[:4], 0.0, *args[5:], **options)

    monkeypatch.setattr(energy_based, "move_missing", hot)
    assert off_by(program, log_p) > 4.5


def gradient_errors(objective: ContrastiveDivergence) -> Tensor:
    """The mean gradient of contrastive divergence over 24 runs less the exact one, in standard errors."""
    program, _ = binary()
    parameters = list(program.network.parameters())
    with seeded(1):
        x = STATES[torch.randint(len(STATES), (200,))]

        def flat(loss: Tensor) -> Tensor:
            return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

        exact = flat(unnormalised_log_prob(program, STATES).logsumexp(0) - unnormalised_log_prob(program, x).mean())
        directions = torch.randn(3, len(exact)) / len(exact) ** 0.5
        found = torch.stack([directions @ flat(objective.loss(program, x) / len(x)) for _ in range(24)])
    return (found.mean(0) - directions @ exact) / (found.std(0) / len(found) ** 0.5)


class Still(Langevin):
    """The planted defect: chains that stay where they are."""

    def step(self, state: Any, progress: float | None) -> tuple[Any, dict[str, Tensor]]:
        return state, {}


def test_contrastive_divergence_of_binary_entries_has_the_gradient_of_the_likelihood() -> None:
    # Student's t with 23 degrees of freedom: beyond 6 in 4e-6 of the cases.
    assert bool((gradient_errors(ContrastiveDivergence(20)).abs() < 6).all())
    assert bool((gradient_errors(ContrastiveDivergence(20, kernel=Still)).abs() > 6).any())


def imputed_off(draws: int = 4000) -> float:
    """How far the means of entries drawn given others are from those by the sum, in standard errors, at most."""
    program, log_p = binary()
    x = torch.full((1, 2, 4), torch.nan)
    x[0, 0] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    filled = pg.impute(program, x, draws=draws, progress=False)[:, 0]
    assert bool((filled[:, 0] == x[0, 0]).all())
    w = torch.where((STATES[:, 0] == x[0, 0]).all(1), log_p, -math.inf).softmax(0)
    worst = 0.0
    for statistic in (*range(4), None):  # each entry, and how many are up
        values = STATES[:, 1].double().sum(1) if statistic is None else STATES[:, 1, statistic].double()
        found = filled[:, 1].double().sum(1) if statistic is None else filled[:, 1, statistic].double()
        mean = float((w * values).sum())
        error = float((w * (values - mean).square()).sum().sqrt()) / draws**0.5
        worst = max(worst, abs(float(found.mean()) - mean) / error)
    return worst


def test_binary_entries_are_drawn_given_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # Draws are resampled from four times as many chains: 1.1 times the error. False alarms: 5e-5 in all.
    assert imputed_off() < 4.9
    right = energy_based.move_missing

    def deaf(sampler: Any, program: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """The planted defect: chains move as if other values had been seen."""
        seen = torch.where(args[0], x, 1 - x)
        return torch.where(args[0], right(sampler, program, seen, *args, **options), x)

    monkeypatch.setattr(energy_based, "move_missing", deaf)
    assert imputed_off() > 4.9


def test_a_base_of_binary_entries_refuses_numbers() -> None:
    with pytest.raises(ValueError, match="binarize the data"):
        pg.fit(EnergyBased(3, (8,), base="bernoulli"), torch.randn(20, 3), epochs=1, progress=False)
