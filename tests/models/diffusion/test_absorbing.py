"""Absorbing diffusion against sums over all of its paths, and against an autoregressive model in all orders."""

import itertools

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference.likelihood import by_particles, revealing
from pyro_gen.inference.likelihood.guide_bounds import guide_bound
from pyro_gen.models import AbsorbingDiffusion

ENTRIES = 3


class WrongReveal(AbsorbingDiffusion):
    """The planted defect: what is weighed is the chance of being revealed at all, not by a hidden entry."""

    def step(self, x: Tensor, time: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        i = (self.steps * time).floor() + 1
        loss, _ = super().step(x, time, *context)
        return loss, self.steps * (self.share(i) - self.share(i - 1))


def program_of(cls: type[AbsorbingDiffusion], steps: int) -> tuple[AbsorbingDiffusion, Tensor]:
    """A chain with a network that tells entries by each other, and all data there are."""
    with seeded(3):
        program = cls(ENTRIES, steps=steps, width=8).double().eval()
        torch.nn.init.normal_(program.last.weight, std=1.0)
    return program, torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * ENTRIES)


def hidden_losses(program: AbsorbingDiffusion, x: Tensor) -> dict[tuple[bool, ...], Tensor]:
    """Of each set of hidden entries the sum of their losses, of each datum, (N)."""
    found = {}
    for hidden in itertools.product([False, True], repeat=ENTRIES):
        z = torch.where(torch.tensor(hidden), 2.0, x)
        with torch.no_grad():
            told = program.log_probs(z).gather(-1, x.long().unsqueeze(-1)).squeeze(-1)
        found[hidden] = -(told * torch.tensor(hidden)).sum(1)
    return found


def enumerated_bound(program: AbsorbingDiffusion, x: Tensor) -> Tensor:
    """The negative bound of each datum, by the sum over all sets of hidden entries at all noise levels."""
    total = torch.zeros(len(x)).double()
    for i in range(program.steps + 1):
        share = (i + 1) / (program.steps + 1)
        reveal = 1.0 if i == 0 else 1 / (i + 1)
        for hidden, loss in hidden_losses(program, x).items():
            k = sum(hidden)
            total += share**k * (1 - share) ** (ENTRIES - k) * reveal * loss
    return total


def in_all_orders(program: AbsorbingDiffusion, x: Tensor) -> Tensor:
    """The mean over all orders of the negative log-density of an autoregressive model with that network."""
    orders, total = list(itertools.permutations(range(ENTRIES))), torch.zeros(len(x)).double()
    for order in orders:
        for place, entry in enumerate(order):
            hidden = torch.tensor([order.index(d) >= place for d in range(ENTRIES)])
            with torch.no_grad():
                laws = program.log_probs(torch.where(hidden, 2.0, x))
            total -= laws[:, entry].gather(-1, x[:, entry : entry + 1].long())[:, 0]
    return total / len(orders)


def test_the_bound_is_that_of_all_paths() -> None:
    for cls, holds in ((AbsorbingDiffusion, True), (WrongReveal, False)):
        program, x = program_of(cls, 4)
        exact = enumerated_bound(program, x)
        found = pg.log_likelihood(program, x, num_particles=2000)
        # One of 8 data is 4.5 standard errors off in 5e-5 of seeds, and these errors are on the large side.
        near = ((found.value + exact).abs() < 4.5 * found.standard_error).all()
        assert bool(near) == holds


def test_traces_of_the_chain_have_the_same_bound() -> None:
    program, x = program_of(AbsorbingDiffusion, 4)
    found = guide_bound(program, x, (), "elbo", 200, 0, None)
    # Means of independent draws: one of 8 data is 4.5 standard errors off in 5e-5 of seeds.
    assert ((found.value + enumerated_bound(program, x)).abs() < 4.5 * found.standard_error).all()


def test_a_long_chain_is_an_autoregressive_model_in_a_random_order() -> None:
    long, x = program_of(AbsorbingDiffusion, 500)
    orders = in_all_orders(long, x)
    torch.testing.assert_close(enumerated_bound(long, x), orders, rtol=0, atol=5e-3)
    short = enumerated_bound(program_of(AbsorbingDiffusion, 1)[0], x)  # the twin: entries revealed together
    assert (short.mean() - orders.mean()) > 0.02


def test_draws_follow_the_enumerated_law() -> None:
    """One step and the observation: the probability of a datum is a sum over what the step reveals."""
    program, x = program_of(AbsorbingDiffusion, 1)
    probs = torch.zeros(len(x)).double()
    with torch.no_grad():
        nothing = program.log_probs(torch.full((1, ENTRIES), 2.0).double())[0]  # (D, 2)
        for hidden in itertools.product([False, True], repeat=ENTRIES):
            then = program.log_probs(torch.where(torch.tensor(hidden), 2.0, x))  # (N, D, 2)
            laws = torch.where(torch.tensor(hidden).unsqueeze(-1), then, nothing)
            probs += laws.gather(-1, x.long().unsqueeze(-1)).squeeze(-1).sum(1).exp() / 2**ENTRIES
    drawn = pg.sample(program, 20000)
    counts = torch.stack([(drawn == row).all(1).sum() for row in x])
    chi2 = ((counts - 20000 * probs) ** 2 / (20000 * probs)).sum().item()
    assert abs(probs.sum().item() - 1) < 1e-9
    assert chi2 < 35  # 7 degrees of freedom: 1e-5 of seeds


def enumerated_density(program: AbsorbingDiffusion, x: Tensor) -> Tensor:
    """The density of each datum (N) under the chain: the sum over all ways to reveal it, set by set of hidden ones."""
    sets = list(itertools.product([False, True], repeat=ENTRIES))
    told = {}
    for hidden in sets:
        with torch.no_grad():
            laws = program.log_probs(torch.where(torch.tensor(hidden), 2.0, x))
        told[hidden] = laws.gather(-1, x.long().unsqueeze(-1)).squeeze(-1)  # (N, D)
    rest = {hidden: (told[hidden] * torch.tensor(hidden)).sum(1).exp() for hidden in sets}  # at z_0
    for i in range(1, program.steps + 1):
        before, rest = rest, {}
        for hidden in sets:
            rest[hidden] = torch.zeros(len(x)).double()
            for then in sets:
                if all(h or not t for h, t in zip(hidden, then, strict=True)):
                    now = torch.tensor(hidden) & ~torch.tensor(then)
                    chance = (1 / (i + 1)) ** int(now.sum()) * (i / (i + 1)) ** sum(then)
                    rest[hidden] += chance * (told[hidden] * now).sum(1).exp() * before[then]
    return rest[(True,) * ENTRIES]


HOLES = torch.tensor([[torch.nan, 1.0, torch.nan], [0.0, torch.nan, 1.0], [1.0, 1.0, torch.nan]]).double()


def completed_as_enumerated() -> bool:
    """Whether each share of the data that rows with holes are completed to is near its conditional probability.

    A share p of 4000 draws is off by sqrt(p (1 - p) / 4000); the 8 shares are 5 such errors off, and 1e-3, in less than
    1e-5 of seeds (particles are eight times as many, and their error is small beside it).
    """
    program, x = program_of(AbsorbingDiffusion, 4)
    with torch.no_grad():
        program.last.weight.mul_(2.0)
    density = enumerated_density(program, x)
    assert abs(float(density.sum()) - 1) < 1e-9
    drawn = pg.impute(program, HOLES, draws=4000, seed=1)
    share = (drawn.unsqueeze(2) == x).all(-1).double().mean(0)  # (3, 8)
    fits = (torch.isnan(HOLES).unsqueeze(1) | (HOLES.unsqueeze(1) == x)).all(-1)
    p = torch.where(fits, density, 0.0)
    p = p / p.sum(1, keepdim=True)
    return bool(((share - p).abs() < 5 * (p * (1 - p) / 4000).sqrt() + 1e-3).all())


def test_missing_entries_have_the_enumerated_law(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed_as_enumerated()
    monkeypatch.setattr(revealing, "ROWS", 5000)  # a network that is given some particles at a time
    assert completed_as_enumerated()


def any_of_them(log_weights: Tensor, draws: int) -> Tensor:
    """The planted defect: particles are resampled whatever their weights."""
    return torch.randint(len(log_weights), (draws, log_weights.shape[1]))


def test_particles_without_weights_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revealing, "resample", any_of_them)
    monkeypatch.setattr(by_particles, "resample", any_of_them)
    assert not completed_as_enumerated()


def test_the_mean_weight_is_the_enumerated_density(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 x 2 x 1000 estimates by 8 particles each, of rows with holes and a complete one.

    The mean of one of four is 4 standard errors off in 3e-4 of seeds, and 4.5 in 3e-5.
    """
    program, x = program_of(AbsorbingDiffusion, 4)
    with torch.no_grad():
        program.last.weight.mul_(2.0)
    rows, density = torch.cat([HOLES, x[:1]]), enumerated_density(program, x)
    exact = torch.stack([density[((x == row) | row.isnan()).all(1)].sum() for row in rows])

    def off() -> Tensor:
        found = pg.log_likelihood(program, rows.repeat(1000, 1), method="smc", particles=8, islands=2, seed=1)
        ratio = found.diagnostics["islands"].exp().view(-1, 4) / exact
        return ((ratio.mean(0) - 1) / (ratio.std(0) / len(ratio) ** 0.5)).abs()

    assert bool((off() < 4.5).all())
    monkeypatch.setattr(revealing, "resample", any_of_them)
    assert bool((off() > 6).any())
    assert pg.log_likelihood(program, HOLES).method == "smc"


def test_imputation_asks_the_network_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    program, calls = AbsorbingDiffusion((4, 4), levels=3, steps=10, width=8, context=2), []
    log_probs = program.log_probs
    x = torch.arange(32.0).view(2, 4, 4) % 3
    x[:, 1:3] = torch.nan
    c = torch.tensor([[0.0, 1.0], [torch.nan, 2.0]])
    before = torch.get_rng_state()
    first = pg.impute(program, x, c, draws=5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, pg.impute(program, x, c, draws=5, seed=3))
    assert not torch.equal(first, pg.impute(program, x, c, draws=5, seed=4))
    assert torch.equal(first[:, :, [0, 3]], x[:, [0, 3]].expand(5, 2, 2, 4))
    assert set(first.unique().tolist()) == {0.0, 1.0, 2.0}

    def counted(z: Tensor, *context: Tensor) -> Tensor:
        calls.append(len(z))
        return log_probs(z, *context)

    monkeypatch.setattr(program, "log_probs", counted)
    make = program.missing_particles(x, c)
    make(x, (c,), 40)
    assert len(calls) <= 11  # 10 steps and the observation


@pytest.mark.parametrize("value", [0.5, 4.0])
def test_seen_values_outside_of_the_support_are_refused(value: float) -> None:
    program, x = program_of(AbsorbingDiffusion, 2)
    x[5, 1], x[5, 0] = value, torch.nan
    with pytest.raises(ValueError, match=rf"the value {value:g} at index \[5, 1\] .* integers from 0 to 1"):
        pg.impute(program, x)
    with pytest.raises(ValueError, match=rf"the value {value:g}, and values are 0, \.\.\., 1"):
        pg.log_likelihood(program, x)


@pytest.mark.parametrize("value", [0.5, 4.0])
def test_data_outside_of_the_support_are_refused(value: float) -> None:
    program, x = program_of(AbsorbingDiffusion, 2)
    x[5, 1] = value
    with pytest.raises(ValueError, match=rf"the value {value:g} at index \[5, 1\] .* of LevelCategorical"):
        pg.log_likelihood(program, x)
