"""fit lands on known optima, resumes to the same result, and says what is wrong."""

import contextlib
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.optimize
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.utils.data import Dataset

import pyro_gen as pg
from pyro_gen.inference import ELBO, IWAE, DReG, NonFiniteLossError, ScoreFunctionELBO
from pyro_gen.inference.svi import api, fit, loop, step
from pyro_gen.program import Program, data_scale


def correlated(rows: int = 80) -> Tensor:
    noise = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    return noise @ torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.8, -0.3], [0.0, 0.0, 1.5]]) + torch.tensor([1.0, -2.0, 0.5])


def binary(rows: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(rows, 2, generator=generator) @ torch.randn(2, 9, generator=generator)
    return (torch.rand(rows, 9, generator=generator) < torch.sigmoid(2 * z)).float()


def vae() -> Program:
    torch.manual_seed(5)
    return pg.models.VAE(9, latent=2, hidden=(6,))


def quiet(program: Program, data: Any, **options: Any) -> pg.FitResult:
    return fit(program, data, **({"progress": False, "compile": False, "batch_size": 20} | options))


def same(a: Program, b: Program) -> bool:
    return all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


# ----------------------------------------------------------------------------------------------------------------------
# Known optima


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_gaussian_lands_on_the_maximum_of_the_likelihood(covariance: str) -> None:
    x = correlated()
    program = pg.models.Gaussian(3, covariance)
    result = quiet(program, x, epochs=400, batch_size=80, lr=0.05, schedule="cosine", compile="auto")
    centred = x - x.mean(0)
    optimum = centred.T @ centred / len(x)
    with torch.no_grad():
        if covariance == "full":
            found = program.scale_tril @ program.scale_tril.T
        else:
            found, optimum = program.scale.square(), optimum.diagonal()
    torch.testing.assert_close(program.loc.detach(), x.mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(found, optimum, atol=2e-3, rtol=2e-3)
    assert result.mode == "traced"


def test_with_missing_entries_it_lands_where_a_direct_optimiser_does() -> None:
    x = correlated()
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.3] = torch.nan
    program = pg.models.Gaussian(3)
    quiet(program, x, epochs=400, batch_size=80, lr=0.05, schedule="cosine", compile="auto")

    rows = x.double().numpy()
    lower = np.tril_indices(3)

    def negative_log_likelihood(free: np.ndarray) -> float:
        factor = np.zeros((3, 3))
        factor[lower] = free[3:]
        covariance, total = factor @ factor.T, 0.0
        for row in rows:
            seen = ~np.isnan(row)
            part, residual = covariance[np.ix_(seen, seen)], row[seen] - free[:3][seen]
            total += residual @ np.linalg.solve(part, residual) + np.linalg.slogdet(2 * np.pi * part)[1]
        return total / 2 / len(rows)

    best = scipy.optimize.minimize(negative_log_likelihood, np.concatenate([np.zeros(3), np.eye(3)[lower]]))
    factor = np.zeros((3, 3))
    factor[lower] = best.x[3:]
    scale_tril = program.scale_tril.detach().double().numpy()
    np.testing.assert_allclose(program.loc.detach().numpy(), best.x[:3], atol=5e-3)
    np.testing.assert_allclose(scale_tril @ scale_tril.T, factor @ factor.T, atol=1e-2)


def test_a_global_latent_in_minibatches_reaches_the_conjugate_posterior() -> None:
    """m ~ N(0, 1), x_n ~ N(m, 1): the posterior is N(sum x / (N + 1), 1 / (N + 1))."""
    x = 1.0 + torch.randn(99, 1, generator=torch.Generator().manual_seed(0))

    def model(x: Tensor) -> Tensor:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pg.plate(x):
            return pg.observe("x", dist.Normal(m, 1.0).expand([1]).to_event(1), x)

    program = Program.from_functions(model, AutoNormal)
    quiet(
        program,
        x,
        epochs=250,
        batch_size=33,
        lr=0.05,
        schedule="cosine",
        objective=ELBO(num_particles=8),
        compile="auto",
    )
    trace = pyro.poutine.trace(program.guide).get_trace(x)
    q = trace.nodes["m_unconstrained"]["fn"]
    # Unscaled minibatches would give N(., 1 / 34): a scale of 0.17 instead of 0.1.
    assert float(q.mean.detach()) == pytest.approx(float(x.sum()) / 100, abs=0.03)
    assert float(q.variance.detach()) ** 0.5 == pytest.approx(0.1, rel=0.15)


def test_two_instances_of_a_class_train_independently() -> None:
    """With Pyro's global store, a second instance trains nothing."""
    pyro.clear_param_store()
    a, b = pg.models.Gaussian(3), pg.models.Gaussian(3)
    for program, x in ((a, correlated()), (b, -correlated())):
        quiet(program, x, epochs=150, batch_size=80, lr=0.1, schedule="cosine")
    torch.testing.assert_close(a.loc, correlated().mean(0), atol=5e-3, rtol=0)
    torch.testing.assert_close(b.loc, -correlated().mean(0), atol=5e-3, rtol=0)
    assert len(pyro.get_param_store()) == 0


class Regression(Program):
    """y_n ~ N(w x_n, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def model(self, y: Tensor, x: Tensor) -> Tensor:
        with self.plate(y):
            return pg.observe("y", dist.Normal(self.w * x, 1.0).to_event(1), y)


class Rows(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, *parts: Tensor) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, i: int) -> Any:
        return tuple(p[i] for p in self.parts) if len(self.parts) > 1 else self.parts[0][i]


@pytest.mark.parametrize("as_dataset", [False, True])
def test_context_and_data_sets(as_dataset: bool) -> None:
    x = torch.linspace(-1, 1, 40).unsqueeze(-1)
    y = 3 * x + 0.1 * torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    data: Any = Rows(y, x) if as_dataset else (y, x)
    program = Regression()
    quiet(program, data, epochs=120, batch_size=40, lr=0.2, schedule="cosine", validation=(y, x))
    assert float(program.w.detach()) == pytest.approx(float((x * y).sum() / (x * x).sum()), abs=1e-3)
    assert program.event_shape == (1,)


# ----------------------------------------------------------------------------------------------------------------------
# The same again


def flip(x: Tensor) -> Tensor:
    return torch.where(torch.rand_like(x) < 0.1, 1 - x, x)


def test_a_seed_fixes_the_run_and_the_caller_keeps_their_generators(untouched_rng: None) -> None:
    state = torch.get_rng_state()
    results = []
    for seed in (0, 0, 1):
        program = vae()
        torch.set_rng_state(state)
        quiet(
            program,
            Rows(binary()),
            epochs=2,
            seed=seed,
            validation=binary()[:9],
            transform=flip,
        )
        results.append(program)
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


RESUMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "traced": {"compile": "trace"},
    "cosine": {"schedule": "cosine"},
    "iwae": {"objective": IWAE(3)},
    "early stopping": {"patience": 2, "validation": binary()[:20], "lr": 0.2},
    "warm-up": {"kl_warmup": 4},
    "score function": {"objective": ScoreFunctionELBO()},
    "weight decay": {"weight_decay": 0.1},
    "fresh draws": {"transform": pg.data.DynamicBinarize(2)},
}


@pytest.mark.parametrize("case", RESUMED, ids=str)
def test_an_interrupted_run_ends_where_the_uninterrupted_one_does(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"epochs": 6, "lr": 0.02} | RESUMED[case]
    if "objective" in options:  # its state belongs to a run
        kind = type(options["objective"])
        make = (lambda: IWAE(3)) if kind is IWAE else ScoreFunctionELBO
    else:
        make = lambda: None  # noqa: E731
    whole, halves = vae(), vae()
    uninterrupted = quiet(whole, binary(), **(options | {"objective": make()}))

    class PowerCutError(Exception):
        pass

    epoch = loop.Training._epoch

    def until_the_third(self: Any, number: int, bar: Any) -> Any:
        if number == 2:
            raise PowerCutError
        return epoch(self, number, bar)

    file = tmp_path / "folder" / "checkpoint.pt"
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_epoch", until_the_third)
        with pytest.raises(PowerCutError):
            quiet(halves, binary(), checkpoint=file, log_dir=tmp_path / "log", **(options | {"objective": make()}))
    resumed = vae()
    with torch.no_grad():
        next(resumed.parameters()).fill_(7.0)  # what the fresh program holds must not matter
    result = quiet(
        resumed, binary(), checkpoint=file, resume=True, log_dir=tmp_path / "log", **(options | {"objective": make()})
    )
    assert same(whole, resumed)
    assert result.steps == uninterrupted.steps
    assert (result.best_epoch, result.stopped) == (uninterrupted.best_epoch, uninterrupted.stopped)
    for a, b in zip(result.history, uninterrupted.history, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    seconds = [row["seconds"] for row in result.history]
    assert seconds == sorted(seconds)
    with (tmp_path / "log" / "metrics.csv").open() as log:
        assert [float(row["train_loss"]) for row in csv.DictReader(log)] == [r["train_loss"] for r in result.history]

    again = quiet(vae(), binary(), checkpoint=file, resume=True, **(options | {"objective": make()}))
    assert again.steps == result.steps  # nothing is left to do
    assert same(again.program, whole)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"seed": 1}, "seed is 0, not 1"),
        ({"lr": 0.5}, "lr is"),
        ({"objective": IWAE(3)}, "objective is ELBO, not IWAE"),
        ({"batch_size": 30}, "batch_size is 20"),
        ({"weight_decay": 0.1}, "weight_decay is 0.0, not 0.1"),
        ({"clip_norm": 1.0}, "clip_norm is None, not 1.0"),
        ({"patience": 2, "validation": binary()}, "patience is None, not 2"),
        ({"validation": binary()}, "validation data is None"),
        ({"objective": ELBO(free_bits=0.5)}, "settings of the objective differs"),
        ({"schedule": lambda share: 1 - share}, "schedule is constant, not a function"),
        ({"transform": lambda x: x.clone()}, "transform differs"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, options: dict[str, Any], what: str) -> None:
    file = tmp_path / "checkpoint.pt"
    quiet(vae(), binary(), epochs=1, checkpoint=file)
    with pytest.raises(ValueError, match=what):
        quiet(vae(), binary(), epochs=2, checkpoint=file, resume=True, **options)


class Halved(pg.models.Gaussian):
    """Another model with the same parameters."""

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc / 2, 1.0).to_event(1), x)


def switched(x: Tensor) -> Tensor:
    other = x.clone()
    other[[0, 7]] = other[[7, 0]]  # of the same rows, in another order
    return other


class Items(torch.utils.data.Dataset[Tensor]):
    def __init__(self, x: Tensor, noise: float = 0.0) -> None:
        self.x, self.noise = x, noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        return self.x[i] + self.noise * torch.randn(3)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ((pg.models.Gaussian, lambda x: x), (pg.models.Gaussian, lambda x: x + 0.5), "data differs"),
        ((pg.models.Gaussian, lambda x: x), (pg.models.Gaussian, switched), "data differs"),
        ((pg.models.Gaussian, lambda x: x), (Halved, lambda x: x), "program differs"),
        ((pg.models.Gaussian, Items), (pg.models.Gaussian, lambda x: Items(x + 0.5)), "data differs"),
        ((pg.models.Gaussian, lambda x: Items(x, 0.1)), (pg.models.Gaussian, lambda x: Items(x, 0.1)), None),
    ],
    ids=["other numbers", "another order", "another model", "a data set of other numbers", "items at random"],
)
def test_a_checkpoint_knows_its_data_and_its_program(
    first: tuple[Any, Any], second: tuple[Any, Any], what: str | None, tmp_path: Path
) -> None:
    file, x = tmp_path / "checkpoint.pt", correlated()
    quiet(first[0](3), first[1](x), epochs=1, checkpoint=file)
    assert quiet(first[0](3), first[1](x), epochs=2, checkpoint=file, resume=True).history[-1]["epoch"] == 2
    if what is None:
        assert quiet(second[0](3), second[1](x), epochs=2, checkpoint=file, resume=True).steps > 0
        return
    with pytest.raises(ValueError, match=f"is of another run: the {what}"):
        quiet(second[0](3), second[1](x), epochs=2, checkpoint=file, resume=True)


def model_of(scale: float) -> Any:
    def model(x: Tensor) -> Tensor:
        loc = pyro.param("loc", torch.zeros(3))
        with pg.plate(x):
            return pg.observe("x", dist.Normal(loc, scale).to_event(1), x)

    return model


def test_a_checkpoint_knows_what_a_function_encloses(tmp_path: Path) -> None:
    file, x = tmp_path / "checkpoint.pt", correlated()
    quiet(Program.from_functions(model_of(1.0)), x, epochs=1, checkpoint=file)
    quiet(Program.from_functions(model_of(1.0)), x, epochs=2, checkpoint=file, resume=True)
    with pytest.raises(ValueError, match="the program differs"):
        quiet(Program.from_functions(model_of(2.0)), x, epochs=2, checkpoint=file, resume=True)


def test_a_schedule_goes_by_the_share_of_all_epochs(tmp_path: Path) -> None:
    file, x = tmp_path / "checkpoint.pt", correlated()
    for schedule in ("cosine", lambda share: 1 - share / 2):
        quiet(pg.models.Gaussian(3), x, epochs=2, schedule=schedule, checkpoint=file)
        with pytest.raises(ValueError, match="epochs is 2, not 3"):
            quiet(pg.models.Gaussian(3), x, epochs=3, schedule=schedule, checkpoint=file, resume=True)
    with pytest.raises(ValueError, match="the learning rates differs"):
        quiet(pg.models.Gaussian(3), x, epochs=2, schedule=lambda share: 1 - share, checkpoint=file, resume=True)


def test_a_schedule_is_asked_before_each_step_and_not_else() -> None:
    asked: list[float] = []
    result = quiet(pg.models.Gaussian(3), correlated(), epochs=2, schedule=lambda share: asked.append(share) or 1.0)
    assert len(asked) == result.steps and asked == sorted(asked)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        quiet(vae(), binary(), epochs=1, checkpoint=tmp_path / "junk", resume=True)


@pytest.mark.parametrize("where", ["class", "instance"])
def test_a_program_may_bring_its_objective(where: str) -> None:
    class WithObjective(pg.models.VAE):
        if where == "class":
            objective = IWAE(3)

    programs = []
    for cls, objective in ((WithObjective, None), (pg.models.VAE, IWAE(3))):
        torch.manual_seed(5)
        programs.append(cls(9, latent=2, hidden=(6,)))
        if where == "instance" and objective is None:
            programs[-1].objective = IWAE(3)
        quiet(programs[-1], binary(), epochs=2, objective=objective)
    assert all(torch.equal(a, b) for a, b in zip(*(p.parameters() for p in programs), strict=True))


def test_what_is_not_a_program_or_an_objective_is_named() -> None:
    with pytest.raises(TypeError, match="create an instance"):
        quiet(pg.models.Gaussian, correlated(), epochs=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Linear"):
        quiet(nn.Linear(2, 2), correlated(), epochs=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give an objective such as"):
        quiet(vae(), binary(), epochs=1, objective="elbo")


def test_after_a_resume_the_last_good_weights_are_those_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, x = tmp_path / "checkpoint.pt", correlated()
    trained = pg.models.Gaussian(3)
    quiet(trained, x, epochs=3, lr=0.1, checkpoint=file)
    fresh = pg.models.Gaussian(3)
    monkeypatch.setattr(step.GradientStep, "__call__", lambda *_: (torch.nan, torch.nan))
    with pytest.raises(NonFiniteLossError):
        quiet(fresh, x, epochs=4, lr=0.1, checkpoint=file, resume=True)
    assert same(fresh, trained)


def test_an_autoguide_of_local_latents_keeps_its_rows() -> None:
    y = 3 * torch.randn(40, generator=torch.Generator().manual_seed(2))

    def model(x: Tensor) -> Tensor:
        with pg.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            return pg.observe("x", dist.Normal(z, 0.5), x)

    program = Program.from_functions(model, AutoNormal)
    quiet(program, y, epochs=300, batch_size=40, lr=0.05, schedule="cosine")
    loc = dict(program.named_parameters())["_guide.locs.z_unconstrained"].detach()
    torch.testing.assert_close(loc, y / 1.25, atol=0.15, rtol=0)  # the conjugate posterior mean, row by row
    with pytest.raises(ValueError, match="cannot be trained in minibatches"):
        quiet(Program.from_functions(model, AutoNormal), y, epochs=1, batch_size=16)


def test_validation_data_off_the_support_are_refused() -> None:
    with pytest.raises(ValueError, match="support"):
        quiet(vae(), binary(), epochs=1, validation=16 * binary())


def test_a_bound_on_what_has_no_normalised_density_is_refused() -> None:
    def model(x: Tensor) -> Tensor:
        loc = pyro.param("loc", torch.zeros(3))
        with pg.plate(x):
            pyro.factor("energy", -(x - loc).square().sum(-1))
        return x

    with pytest.raises(ValueError, match="is unnormalised"):
        quiet(Program.from_functions(model), correlated(), epochs=1)


# ----------------------------------------------------------------------------------------------------------------------
# Settings


def test_early_stopping_returns_to_the_best_weights() -> None:
    program = vae()
    result = quiet(program, binary()[:30], validation=binary()[30:], epochs=200, lr=0.05, patience=5, compile="auto")
    losses = [row["validation_loss"] for row in result.history]
    assert result.stopped == "patience"
    assert result.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 5
    # Validation draws are a function of the seed: a step that moves nothing reports the loss of the weights it has.
    check = quiet(program, binary()[:30], validation=binary()[30:], epochs=1, lr=1e-30)
    assert check.history[0]["validation_loss"] == pytest.approx(min(losses), abs=1e-5)


def test_validation_uses_the_same_draws_each_epoch() -> None:
    result = quiet(vae(), binary(), validation=binary(), epochs=3, lr=1e-30)
    assert len({row["validation_loss"] for row in result.history}) == 1
    assert len({row["train_loss"] for row in result.history}) == 3


def test_history_schedule_and_warm_up() -> None:
    def lr(**options: Any) -> list[float]:
        return [row["lr"] for row in quiet(vae(), binary(), epochs=4, lr=0.1, **options).history]

    assert lr() == [0.1] * 4
    progress = [(e * 3 + 2) / 12 for e in range(4)]  # of the last of three steps of an epoch
    assert lr(schedule="cosine") == pytest.approx([0.05 * (1 + math.cos(math.pi * p)) for p in progress])
    assert lr(schedule=lambda p: 1 - p) == pytest.approx([0.1 * (1 - p) for p in progress])
    result = quiet(vae(), binary(), epochs=4, kl_warmup=2, validation=binary()[:7])
    assert [row["kl_weight"] for row in result.history] == pytest.approx([1 / 3, 5 / 6, 1, 1])
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    assert set(result.history[0]) == {"epoch", "train_loss", "validation_loss", "lr", "kl_weight", "seconds"}
    assert (result.steps, result.stopped, result.mode) == (12, "epochs", "eager")
    assert "4 epochs, train loss" in repr(result) and "best validation loss" in repr(result)


def test_the_warm_up_trains_without_kl_first() -> None:
    """At weight 0 nothing pulls the guide to the prior: a first epoch moves it as an autoencoder's."""
    a, b = vae(), vae()
    quiet(a, binary(), batch_size=60, epochs=1, lr=0.1, kl_warmup=1000)
    quiet(b, binary(), batch_size=60, epochs=1, lr=0.1)
    free, pulled = (float(_kl(p)) for p in (a, b))
    assert free > pulled


def test_numbers_of_numpy_are_settings_in_a_recorded_graph_too() -> None:
    result = pg.fit(vae(), binary(), epochs=1, kl_warmup=np.int64(2), lr=np.float32(0.1), progress=False)  # type: ignore[arg-type]
    assert result.mode == "traced"


def _kl(program: Program) -> Tensor:
    with torch.no_grad():
        q = pyro.poutine.trace(program.guide).get_trace(binary()).nodes["z"]["fn"].base_dist
        return torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0)).sum()


def test_clipping_bounds_the_gradient() -> None:
    """SGD would show it in the step; Adam's first moment does."""
    x = 1000 * correlated()
    seen = []
    original = torch.optim.Adam.step

    def step(self: Any, *args: Any) -> Any:
        seen.append(torch.stack([p.grad.square().sum() for p in self.param_groups[0]["params"]]).sum().sqrt())
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        quiet(pg.models.Gaussian(3), x, epochs=1, clip_norm=0.5)
        clipped, seen = seen, []
        quiet(pg.models.Gaussian(3), x, epochs=1)
    assert all(n == pytest.approx(0.5, rel=1e-4) for n in clipped)
    assert all(n > 100 for n in seen)


def test_weight_decay_shrinks() -> None:
    a, b = pg.models.Gaussian(3), pg.models.Gaussian(3)
    quiet(a, correlated(), epochs=60, lr=0.05)
    quiet(b, correlated(), epochs=60, lr=0.05, weight_decay=1.0)
    assert float(b.loc.detach().norm()) < 0.9 * float(a.loc.detach().norm())


def test_the_transform_is_applied_afresh_and_validation_takes_it_too() -> None:
    grey = torch.full((60, 9), 0.5)
    result = quiet(vae(), grey, transform=pg.data.DynamicBinarize(2), validation=grey, epochs=2)
    # binarised halves cost 9 log 2 = 6.24 nats at best
    assert all(abs(row["validation_loss"] - 9 * math.log(2)) < 2 for row in result.history)


def test_a_program_keeps_its_mode() -> None:
    for training in (True, False):
        program = vae().train(training)
        quiet(program, binary(), epochs=1)
        assert program.training is training


def test_logs(tmp_path: Path) -> None:
    result = quiet(vae(), binary(), epochs=3, validation=binary()[:10], log_dir=tmp_path / "csv")
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows == result.history

    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = quiet(vae(), binary(), epochs=3, log_dir=tmp_path / "events", logger="tensorboard")
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [
        (row["epoch"], pytest.approx(row["train_loss"])) for row in result.history
    ]


def test_the_progress_bar_is_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    quiet(vae(), binary(), epochs=1, progress=True)
    assert capsys.readouterr().out == ""


# ----------------------------------------------------------------------------------------------------------------------
# NaN


class Fragile(Program):
    """x ~ N(0, v) with a plain parameter for the variance, which a large step makes negative."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.tensor([0.5]))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            return pg.observe("x", dist.Normal(0.0, self.v.sqrt()).to_event(1), x)


class BadGuide(Program):
    """The guide's scale 1 / raw is infinite once a step to its optimum, raw = 1, has gone too far."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(3.0))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z = pyro.sample("latent", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            return pg.observe("x", dist.Normal(1e-30 * z, 1.0).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("latent", dist.Normal(torch.zeros(1), 1 / self.raw.clamp(min=0.0)).to_event(1))


@pytest.mark.parametrize("batch_size", [10, 40])
@pytest.mark.parametrize("compile", [False, "trace"])
def test_a_nan_loss_names_the_site_and_keeps_weights_that_work(batch_size: int, compile: Any) -> None:
    """With one step per epoch the weights of the last completed epoch are the very ones that fail."""
    x = 0.01 * torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    program = Fragile()
    with pytest.raises(NonFiniteLossError, match=r"The loss became nan in epoch \d+: the model's site 'x'") as caught:
        quiet(program, x, epochs=20, lr=0.2, batch_size=batch_size, compile=compile)
    assert "\n" not in str(caught.value)
    assert float(program.v.detach()) > 0
    assert ELBO().loss(program, x).isfinite()


def test_an_infinite_value_of_the_guide_is_named() -> None:
    program = BadGuide()
    with pytest.raises(NonFiniteLossError, match="the guide's site 'latent' has a non-finite value"):
        quiet(program, torch.zeros(20, 1), epochs=3, lr=5.0)


def test_a_matrix_that_cannot_be_factored_is_a_non_finite_loss() -> None:
    class Matrix(Program):
        def __init__(self) -> None:
            super().__init__()
            self.d = nn.Parameter(torch.tensor(0.1))

        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                covariance = self.d * torch.eye(2)
                return pg.observe("x", dist.MultivariateNormal(torch.zeros(2), covariance), x)

    program = Matrix()
    with pytest.raises(NonFiniteLossError, match="Epoch 2: "):
        quiet(program, 1e-3 * torch.ones(20, 2), epochs=3, lr=0.2)
    assert float(program.d.detach()) > 0


def test_a_gradient_that_is_nan_under_a_finite_loss_names_the_parameter() -> None:
    class Root(Program):
        def __init__(self) -> None:
            super().__init__()
            self.r = nn.Parameter(torch.zeros(1))

        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                return pg.observe("x", dist.Normal(self.r.abs().sqrt(), 1.0).to_event(1), x)

    with pytest.raises(NonFiniteLossError, match=r"gradient of the loss became NaN .* parameters program\.r"):
        quiet(Root(), torch.ones(20, 1), epochs=1)


def test_an_infinite_validation_loss_stops_too() -> None:
    x = correlated()
    with pytest.raises(NonFiniteLossError, match="The validation loss became inf in epoch 1: the model's site 'x'"):
        quiet(pg.models.Gaussian(3, "diagonal"), x, validation=1e30 * x, epochs=2)


def test_an_exploding_run_keeps_weights_with_a_finite_loss() -> None:
    program = pg.models.ProbabilisticPCA(9, 2, guide="amortised")
    x = binary() * 1e10
    with pytest.raises(NonFiniteLossError):
        quiet(program, x, epochs=300, lr=1e4)
    assert all(p.isfinite().all() for p in program.parameters())


# ----------------------------------------------------------------------------------------------------------------------
# Misuse


class Broadcast(Program):
    """Scores (N,) against (N, 1): log_prob has shape (N, N), and nothing fails."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            pyro.sample("x", dist.Normal(self.loc, 1.0), obs=x)
        return x


def test_a_silent_broadcast_is_caught_before_training() -> None:
    with pytest.raises(ValueError, match=r"(?s)site \"x\""):
        quiet(Broadcast(), torch.randn(20, 1), epochs=1)


def test_data_of_another_shape_is_refused_in_its_first_line() -> None:
    with pytest.raises(ValueError, match=r"^Gaussian takes data of shape \(N, 3\), and was given \(20, 2\)\.$"):
        quiet(pg.models.Gaussian(3), X[:, :2], epochs=1)


def test_without_the_preflight_it_would_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "preflight_all", lambda *_: None)
    with pyro.validation_enabled(False):
        assert quiet(Broadcast(), torch.randn(20, 1), epochs=1).steps == 1


class Constant(Program):
    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            return pg.observe("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), x)


X = correlated(20)


@pytest.mark.parametrize(
    ("program", "data", "options", "message"),
    [
        (None, X, {"epochs": 0}, "epochs=0"),
        (None, X, {"lr": 0.0}, "lr=0.0"),
        (None, X, {"lr": float("nan")}, "lr=nan"),
        (None, X, {"batch_size": 0}, "batch_size"),
        (None, X[:0], {}, "data"),
        (None, X, {"schedule": "step"}, 'schedule="step"'),
        (None, X, {"schedule": 3}, "schedule=3"),
        (None, X, {"clip_norm": 0.0}, "clip_norm=0.0"),
        (None, X, {"kl_warmup": -1}, "kl_warmup=-1"),
        (None, X, {"patience": 3}, "give validation= too"),
        (None, X, {"patience": 0, "validation": X}, "patience=0"),
        (None, X, {"validation": X[:, :2]}, r"Validation data of shape \(2,\) per datum, training data of \(3,\)"),
        (None, X, {"validation": (X, X)}, "Validation data of 2 parts"),
        (None, X, {"validation": X[:0]}, "data"),
        (None, X, {"compile": "yes"}, "compile='yes'"),
        (None, X, {"resume": True}, "give checkpoint= too"),
        (None, X, {"log_dir": "logs", "logger": "paper"}, "logger='paper'"),
        (None, X, {"objective": DReG(2), "kl_warmup": 3}, "DReG has no KL weight"),
        (Constant, X, {}, "Constant has no parameters to train"),
    ],
)
def test_misuse_is_one_clear_line(program: Any, data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        quiet(pg.models.Gaussian(3) if program is None else program(), data, **({"epochs": 1} | options))
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------------
# A data plate that is not scaled


class Plated(Program):
    def __init__(self, plate: Any) -> None:
        super().__init__()
        self.open, self.loc = plate, nn.Parameter(torch.zeros(3))

    def model(self, x: Tensor) -> Tensor:
        with self.open(x):
            return pg.observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)


@contextlib.contextmanager
def unscaled(x: Tensor) -> Iterator[None]:
    with pg.plate(x), pyro.poutine.scale(scale=1.0 / data_scale(x)):
        yield


@pytest.mark.parametrize(
    ("plate", "scaled"),
    [
        (unscaled, False),
        (lambda x: pyro.plate("data", len(x)), True),
        (lambda x: pyro.plate("rows", len(x)), True),
        (pg.plate, True),
        (lambda x: pyro.plate("data", 60, subsample=torch.arange(len(x))), True),
    ],
    ids=["poutine.scale", "data", "rows", "pg.plate", "a subsample of Pyro's"],
)
def test_a_data_plate_that_is_not_scaled_is_named(plate: Any, scaled: bool) -> None:
    x = correlated()[:60]
    quiet(Plated(plate), x, epochs=1, batch_size=60)  # all data at once: there is nothing to scale
    if scaled:
        one, other = (
            quiet(Plated(plate), x, epochs=1, batch_size=b, lr=1e-12).history[0]["train_loss"] for b in (60, 20)
        )
        assert abs(one - other) < 1e-4 * one
        return
    with pytest.warns(UserWarning, match=r"fit: site 'x' of Plated counts a minibatch of 1 / 3 of the data") as said:
        pg.fit(Plated(plate), x, epochs=1, batch_size=20, progress=False)
    assert said[0].filename == __file__


def test_the_first_fit_leaves_what_is_pythons_own_as_it_was() -> None:
    """In a process where nothing was imported yet; the undecorated function is the twin that disturbs."""

    def unchanged(fit: str) -> list[bool]:
        script = (
            "import json, os, random, warnings, torch, pyro_gen as pg\n"
            "own = lambda: [random.getstate(), list(warnings.filters), dict(os.environ)]\n"
            "program, x = pg.models.Gaussian(2), torch.randn(20, 2)\n"
            f"fit, before = {fit}, own()\n"
            "fit(program, x, epochs=1, progress=False, compile=False)\n"
            "print(json.dumps([a == b for a, b in zip(before, own())]))"
        )
        # What a fit of another test has left in the environment would hide what this one leaves there.
        environment = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "HOME", "OMP_NUM_THREADS")}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    assert unchanged("pg.fit") == [True, True, True]
    assert not all(unchanged("pg.fit.__wrapped__"))  # all three by today's Lightning, two by 2.4
