"""The driver: what is kept, reported, streamed and resumed, and where chains start."""

import io
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_gen import Program, observe
from pyro_gen.density import Density, density
from pyro_gen.inference.mcmc import HMC, SAMPLERS, Block, Samples, driver, run

SMALL: dict[str, Any] = {"chains": 8, "warmup": 20}


def normal(dim: int = 2) -> Density:
    return Density.from_functions(lambda z: -0.5 * z.square().sum(-1), dim=dim)


class Scale(Program):
    def model(self, x: Tensor) -> Tensor:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        pyro.deterministic("twice", 2 * loc)
        with self.plate(x):
            return observe("x", dist.Normal(loc, scale), x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(7.0, 0.01))
        pyro.sample("scale", dist.LogNormal(3.0, 0.01))


class Local(Program):
    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
            return observe("x", dist.Normal(0.0, scale), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("scale", dist.LogNormal(x, 0.01))


DATA = torch.tensor([0.5, -1.0, 2.0])


def same(a: Samples, b: Samples) -> bool:
    tensors = [
        (a.z, b.z),
        *((a.stats[n], b.stats[n]) for n in a.stats),
        *((a.values[n], b.values[n]) for n in a.values),
    ]
    return a.stats.keys() == b.stats.keys() and all(torch.equal(x, y) for x, y in tensors)


def part(samples: Samples, rows: slice) -> Samples:
    stats, held = ({n: t[rows] for n, t in tensors.items()} for tensors in (samples.stats, samples.held))
    return Samples(samples.z[rows], stats, samples.warmup, 0.0, samples.state, samples.density, held)


# ----------------------------------------------------------------------------------------------------------------------
# What is kept


@pytest.mark.usefixtures("untouched_rng")
def test_shapes_names_and_seeds():
    target = density(Scale(), DATA)
    samples = run(target, draws=10, seed=3, **SMALL)
    assert samples.z.shape == (10, 8, 2)
    assert {n: t.shape[2:] for n, t in samples.values.items()} == {"loc": (), "scale": (), "twice": ()}
    torch.testing.assert_close(samples.values["scale"], samples.z[..., 1].exp())
    torch.testing.assert_close(samples.values["twice"], 2 * samples.z[..., 0])
    assert set(samples.stats) == {"lp", "energy", "acceptance_rate", "n_steps", "diverging", "step_size"}
    assert all(t.shape == (10, 8) for t in samples.stats.values())
    torch.testing.assert_close(samples.stats["lp"], target.log_density(samples.z.flatten(0, 1)).view(10, 8))
    assert bool((samples.stats["energy"] >= -samples.stats["lp"] - 1e-4).all())
    assert same(samples, run(target, draws=10, seed=3, **SMALL))
    assert not same(samples, run(target, draws=10, seed=4, **SMALL))


def test_one_target_for_each_datum():
    samples = run(density(Local(), DATA), draws=5, **SMALL)
    assert samples.z.shape == (5, 8, 3, 1)
    assert samples.values["scale"].shape == (5, 8, 3)
    assert samples.stats["lp"].shape == (5, 8, 3)


@pytest.mark.parametrize("method", ["hmc", "mala", HMC])
def test_thinning_keeps_every_third_draw(method: str | type[HMC]):
    every = run(normal(), method, draws=12, **SMALL)
    third = run(normal(), method, draws=4, thin=3, **SMALL)
    assert same(part(every, slice(2, None, 3)), third)


def test_the_report_on_the_warm_up():
    samples = run(normal(), draws=5, keep_warmup=True, **SMALL)
    report = samples.warmup
    assert report["iterations"] == 20 and report["restarted"] == 0 and report["metric"] == "diagonal"
    assert report["seconds"] > 0 and samples.seconds > report["seconds"]
    assert 0 < report["acceptance"] <= 1 and report["divergences"] == 0
    assert report["step_size"].item() == pytest.approx(samples.stats["step_size"][0, 0].item())
    assert report["num_steps"] > 0
    kept = report["draws"]
    assert kept.z.shape == (20, 8, 2) and kept.stats["lp"].shape == (20, 8) and kept.values["z"].shape == (20, 8, 2)
    assert bool((kept.stats["n_steps"][0] == 1).all())  # it begins with single steps


def test_the_more_chains_the_shorter_the_warm_up():
    lengths = [driver.default_warmup(c) for c in (4, 64, 256, 1024)]
    assert lengths == sorted(lengths, reverse=True)
    assert run(normal(), chains=600, draws=1).warmup["iterations"] == driver.default_warmup(600)


def test_progress_is_reported_seldom_and_to_the_end(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[float, dict[str, Any]]] = []
    monkeypatch.setattr(driver, "PERIOD", 0.0)
    run(normal(), draws=10, thin=2, progress=lambda f, figures: seen.append((f, figures)), **SMALL)
    fractions = [f for f, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1 and len(seen) == 41
    assert [figures["phase"] for _, figures in seen] == ["warm-up"] * 20 + ["sampling"] * 21
    assert set(seen[-1][1]) == {"phase", "divergences", "acceptance", "step_size", "num_steps"}
    monkeypatch.setattr(driver, "PERIOD", 1e6)
    seen.clear()
    run(normal(), draws=10, progress=lambda f, figures: seen.append((f, figures)), **SMALL)
    assert [f for f, _ in seen] == [1.0]


def test_divergences_are_counted_while_it_runs():
    seen: list[dict[str, Any]] = []
    options = {"step_size": 50.0, "num_steps": 5}
    samples = run(normal(), chains=8, warmup=0, draws=20, progress=lambda _, figures: seen.append(figures), **options)
    assert seen[-1]["divergences"] == int(samples.stats["diverging"].sum()) > 0


# ----------------------------------------------------------------------------------------------------------------------
# Streaming


@pytest.mark.parametrize("entries", [1, 7 * 8 * 2])
def test_a_sink_gets_the_same_draws_in_blocks(monkeypatch: pytest.MonkeyPatch, entries: int):
    kept = run(normal(), draws=20, **SMALL)
    monkeypatch.setattr(driver, "BLOCK", entries)
    in_blocks = run(normal(), draws=20, **SMALL)
    assert same(kept, in_blocks)
    blocks: list[Block] = []
    samples = run(normal(), draws=20, sink=blocks.append, **SMALL)
    size = max(1, entries // 16)
    assert [b.start for b in blocks] == list(range(0, 20, size))
    assert all(len(b.z) == min(size, 20 - b.start) for b in blocks)
    assert torch.equal(torch.cat([b.z for b in blocks]), kept.z)
    assert torch.equal(torch.cat([b.values["z"] for b in blocks]), kept.values["z"])
    assert torch.equal(torch.cat([b.stats["lp"] for b in blocks]), kept.stats["lp"])
    assert samples.z.numel() == 0 and not samples.stats and not samples.values


# ----------------------------------------------------------------------------------------------------------------------
# Interruption


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("method", ["hmc", "mala"])
@pytest.mark.parametrize("metric", ["diagonal", "dense", "low_rank"])
@pytest.mark.parametrize("name", ["joint", "per datum"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(method: str, metric: str, name: str):
    make = {"joint": lambda: density(Scale(), DATA), "per datum": lambda: density(Local(), DATA)}[name]
    options = {"metric": metric, "thin": 2, "seed": 5}
    whole = run(make(), method, draws=15, **options, **SMALL)
    first = run(make(), method, draws=9, **options, **SMALL)
    file = io.BytesIO()
    torch.save(first.state, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = run(make(), method, draws=6, state=state, **options)
    assert same(part(whole, slice(9)), first)
    assert same(part(whole, slice(9, None)), second)
    assert second.warmup["iterations"] == 0
    assert torch.equal(second.state["generator"], whole.state["generator"])


def test_twin_that_forgets_the_generator_is_another_run():
    whole = run(normal(), draws=10, **SMALL)
    state = run(normal(), draws=5, **SMALL).state
    state["generator"] = torch.Generator().manual_seed(1).get_state()
    assert not same(part(whole, slice(5, None)), run(normal(), draws=5, state=state))


def test_a_state_of_another_run_is_refused():
    state = run(normal(), draws=1, **SMALL).state
    with pytest.raises(ValueError, match="that of HMC, not of MALA"):
        run(normal(), "mala", state=state)
    with pytest.raises(ValueError, match="another density"):
        run(normal(3), state=state)
    with pytest.raises(ValueError, match="has 8 chains"):
        run(normal(), chains=4, state=state)
    with pytest.raises(ValueError, match="after the warm-up"):
        run(normal(), warmup=10, state=state)


# ----------------------------------------------------------------------------------------------------------------------
# Where chains start


def start(target: Density, init: Any, **options: Any) -> Tensor:
    """The state after one step so small that nothing moves."""
    return run(
        target, chains=options.pop("chains", None), warmup=0, draws=1, init=init, step_size=1e-12, num_steps=1
    ).z[0]


def test_uniform_points_fill_their_box():
    z = start(normal(3), "uniform", chains=2000)
    assert z.shape == (2000, 3) and -2 < float(z.min()) < -1.98 and 1.98 < float(z.max()) < 2


def test_points_off_the_support_are_drawn_again():
    half = Density.from_functions(lambda z: torch.where(z[0] > 1.5, -z[0], math.nan), dim=1)
    z = start(half, "uniform", chains=500)
    assert bool((z > 1.5).all()) and len(z.unique()) > 400
    with pytest.raises(ValueError, match=r"5 of 5 starting points .* after 100 tries"):
        start(Density.from_functions(lambda z: torch.where(z[0] > 3, -z[0], math.nan), dim=1), "uniform", chains=5)
    with pytest.raises(ValueError, match="1 of 2 starting points have no finite"):
        start(half, torch.tensor([[2.0], [0.0]]))


def test_points_from_prior_guide_values_and_pathfinder():
    target = density(Scale(), DATA)
    prior = start(target, "prior", chains=4000)
    # |z| < 5 for two means and two variances: false alarm 2e-6.
    assert (
        float(prior.mean(0).abs().max()) < 5 / 4000**0.5
        and float((prior.var(0) - 1).abs().max()) < 5 * (2 / 4000) ** 0.5
    )
    guide = start(target, "guide", chains=200)
    torch.testing.assert_close(guide.mean(0), torch.tensor([7.0, 3.0]), atol=0.01, rtol=0)
    local = start(density(Local(), DATA), "guide", chains=50)
    torch.testing.assert_close(local.mean(0)[:, 0], DATA, atol=0.01, rtol=0)
    values = {"loc": torch.tensor([1.0, 2.0]), "scale": torch.tensor([1.0, math.e])}
    torch.testing.assert_close(start(target, values), torch.tensor([[1.0, 0.0], [2.0, 1.0]]))
    points = torch.randn(6, 2)
    assert torch.equal(start(normal(), points), points)
    near = start(
        Density.from_functions(lambda z: -0.5 * ((z - 9) / 0.1).square().sum(-1), dim=2), "pathfinder", chains=50
    )
    assert float((near - 9).abs().max()) < 1
    twos = start(normal(), lambda target, chains: torch.full((chains, target.dim), 2.0), chains=3)
    assert torch.equal(twos, torch.full((3, 2), 2.0))


def test_wrong_starting_points_are_refused():
    with pytest.raises(ValueError, match="shape \\(6, 3\\), where \\(6, 2\\)"):
        start(normal(), torch.zeros(6, 3))
    with pytest.raises(ValueError, match="choose from uniform, prior, guide, pathfinder"):
        start(normal(), "zeros", chains=2)
    with pytest.raises(ValueError, match="no named sites"):
        start(normal(), {"z": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="has a guide"):
        start(normal(), "guide", chains=2)


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes


def test_wrong_methods_and_numbers_are_refused():
    with pytest.raises(ValueError, match=f"choose from {', '.join(SAMPLERS)}"):
        run(normal(), "metropolis")
    for name, value in (("chains", 0), ("warmup", -1), ("draws", -1), ("thin", 0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            run(normal(), **{name: value})


def test_few_chains_and_no_warm_up_work():
    assert run(normal(), chains=1, warmup=30, draws=3).z.shape == (3, 1, 2)
    assert run(normal(), chains=2, warmup=0, draws=3).z.shape == (3, 2, 2)
