"""``pyro-gen fit`` as a user types it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen import zoo
from pyro_gen.cli import outputs
from pyro_gen.inference import ELBO, IWAE, DReG, svi
from pyro_gen.inference.objectives import Objective
from pyro_gen.saving import load_program
from tests.cli.shell import FIT, err_line, run, run_json


def test_fit_evaluate_and_sample_a_users_program(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ["fit", "own.py:Factors", "--data", "t.csv", "--transform", "standardize", "--epochs", "60", "--lr", "0.02"]
    found = run_json(capsys, *fit, "--batch-size", "40", "--no-progress")
    assert Path(found["weights"]) == here / "own_Factors.pt"
    assert (found["epochs"], found["steps"]) == (60, 60)

    result = run_json(
        capsys, "evaluate", "own_Factors.pt", "--trust", "--data", "t.parquet", "--method", "iwae", "--no-progress"
    )
    assert result["kind"] == "stochastic lower bound" and result["data"] == 40
    # A standard normal has -3/2 log(2 pi e) = -4.26 on standardised data; two factors of 40 rows can overfit a little.
    assert -4.4 < result["mean"] < -3.6
    saved = load_program("own_Factors.pt", trust=True)
    assert saved.transform is not None
    x = torch.tensor(pd.read_csv("t.csv").to_numpy(), dtype=torch.float32)
    jacobian = saved.transform.log_abs_det_jacobian(x).mean().item()
    assert result["mean_on_the_scale_of_the_data"] == pytest.approx(result["mean"] + jacobian)

    few = ["--chains", "2", "--method", "smc"]
    found = run_json(capsys, "evaluate", "own_Factors.pt", "--trust", "--data", "t.parquet", *few, "--no-progress")
    assert found["method"] == "smc" and abs(found["mean"] - result["mean"]) < 0.1  # both to 0.01

    code, out, _ = run(
        capsys, "evaluate", "own_Factors.pt", "--trust", "--data", "t.csv", "--method", "elbo", "--no-progress"
    )
    assert code == 0 and out.startswith("log-likelihood -") and "nats per datum" in out

    sampled = run_json(capsys, "sample", "own_Factors.pt", "--trust", "--n", "500", "--seed", "3")
    assert sampled["shape"] == [500, 3]
    table = pd.read_csv(sampled["samples"])
    assert list(table.columns) == ["a", "b", "c"]
    # Back on the scale of the data: means 0, 5, 50 with scales 1, 10, 50. Bounds are 8 standard errors or wider.
    assert (table.mean() - [0, 5, 50]).abs().lt(np.array([0.5, 5, 25])).all()
    assert (table.std() / [1, 10, 50]).between(0.6, 1.6).all()


def test_the_same_seed_gives_the_same_weights(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def weights(seed: int) -> torch.Tensor:
        words = [*FIT, "t.csv", "--transform", "standardize", "--epochs", "2", "--seed", str(seed), "--out", "w.pt"]
        assert run(capsys, *words, "--no-progress")[0] == 0
        return torch.load("w.pt", weights_only=True)["state_dict"]["loading.weight"]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("words", "objective", "particles"),
    [
        (["--objective", "elbo"], ELBO, 1),
        (["--objective", "ELBO", "--particles", "3"], ELBO, 3),
        (["--objective", "iwae", "--particles", "4"], IWAE, 4),
        (["--objective", "dreg", "--particles", "2"], DReG, 2),
    ],
)
def test_the_objective_is_chosen(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    fitted: list[dict[str, Any]],
    words: list[str],
    objective: type[Objective],
    particles: int,
) -> None:
    run_json(capsys, *FIT, "t.csv", "--transform", "standardize", "--epochs", "1", *words, "--no-progress")
    chosen = fitted[0]["objective"]
    assert (type(chosen), chosen.num_particles) == (objective, particles)


def test_objectives_without_a_number_of_draws(
    here: Path, capsys: pytest.CaptureFixture[str], fitted: list[dict[str, Any]]
) -> None:
    words = ["fit", "GAN", "--data", "iris", "--epochs", "1", "--no-progress", "--objective", "adversarial"]
    run_json(capsys, *words)
    assert type(fitted[0]["objective"]).__name__ == "Adversarial"
    code, _, err = run(capsys, *words, "--particles", "3", "--overwrite")
    assert code != 0 and "Adversarial has no number of draws" in err


def test_arguments_of_fit_reach_it_and_those_not_given_do_not(
    here: Path, capsys: pytest.CaptureFixture[str], fitted: list[dict[str, Any]]
) -> None:
    words = [*FIT, "t.csv", "--transform", "standardize", "--epochs", "2", "--no-progress"]
    run_json(capsys, *words, "--kl-warmup", "2", "--device", "cpu")
    run_json(capsys, *words)
    run_json(capsys, "fit", "gaussian-iris", "--epochs", "1", "--kl-warmup", "1", "--no-progress")
    assert (fitted[0]["kl_warmup"], fitted[0]["accelerator"]) == (2, "cpu")
    assert not {"objective", "kl_warmup", "checkpoint"} & fitted[1].keys()
    assert (fitted[2]["kl_warmup"], fitted[2]["epochs"]) == (1, 1)
    assert fitted[2]["lr"] == zoo.load("gaussian-iris").training["lr"]  # the recipe's


def test_a_resumed_fit_ends_where_the_uninterrupted_one_ends(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*FIT, "t.csv", "--transform", "standardize", "--epochs", "4", "--no-progress"]
    whole = run_json(capsys, *words, "--out", "whole.pt")

    def stop(training: Any, epoch: int, bar: Any) -> Any:
        if epoch == 2:
            raise KeyboardInterrupt
        return one_epoch(training, epoch, bar)

    one_epoch = svi.loop.Training._epoch
    with monkeypatch.context() as patch:
        patch.setattr(svi.loop.Training, "_epoch", stop)
        assert run(capsys, *words, "--checkpoint", "run.ckpt")[0] == 130
    resumed = run_json(capsys, *words, "--checkpoint", "run.ckpt", "--resume", "--out", "resumed.pt")
    assert resumed["train_loss"] == whole["train_loss"]
    one, two = (torch.load(f, weights_only=True)["state_dict"] for f in ("whole.pt", "resumed.pt"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_entry_of_the_zoo_is_fitted_by_its_recipe(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "fit", "gaussian-iris", "--no-progress")
    assert found["epochs"] == zoo.load("gaussian-iris").training["epochs"]
    result = run_json(capsys, "evaluate", "gaussian-iris.pt", "--data", "iris", "--no-progress")
    assert zoo.load("gaussian-iris").figure.holds(result["mean"])
    train = run_json(capsys, "evaluate", "gaussian-iris.pt", "--data", "iris", "--part", "train", "--no-progress")
    assert train["data"] == 120


@pytest.mark.parametrize(
    ("scale", "shift", "warning"),
    [
        ([1, 10, 1000], [0, 0, 0], "go from 0.98 ('a') to 1.09e+03 ('c'): add --transform standardize"),
        ([1, 1, 1], [0, 1990, 0], "column 'b' has mean 1989.7 and standard deviation 0.955"),
        ([1, 10, 50], [0, 50, 0], None),
        ([0, 0, 1], [2000, 1, 0], None),  # constant columns have no scale
    ],
)
def test_columns_of_far_apart_scales_are_warned_of(
    here: Path, capsys: pytest.CaptureFixture[str], scale: list[float], shift: list[float], warning: str | None
) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).numpy() * scale + shift
    pd.DataFrame(x, columns=["a", "b", "c"]).assign(rare=[0] * 39 + [1]).to_csv("s.csv", index=False)
    words = ["fit", "Gaussian", "--data", "s.csv", "--epochs", "1", "--no-progress"]
    code, _, err = run(capsys, *words)
    assert code == 0
    if warning is None:
        assert err == ""
        return
    assert err.startswith("warning: ") and warning in err and err.count("\n") == 1
    assert run(capsys, *words, "--transform", "standardize")[2] == ""


def test_images_are_not_warned_of(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "VAE", "--data", "digits", "--transform", "dequantize", "--set", "likelihood=normal"]
    code, _, err = run(capsys, *words, "--set", "hidden=[4]", "--epochs", "1", "--no-progress")
    assert (code, err) == (0, "")


def test_nothing_is_trained_that_cannot_be_written(
    here: Path, capsys: pytest.CaptureFixture[str], fitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*FIT, "t.csv", "--epochs", "1", "--no-progress"]
    with monkeypatch.context() as patch:
        patch.setattr(outputs.os, "access", lambda path, mode: False)  # root may write everywhere
        assert f"--out w.pt: cannot be written, {here} is read-only" in err_line(capsys, *words, "--out", "w.pt")
    assert fitted == []
    assert run(capsys, *words, "--out", "new/folder/w.pt")[0] == 0
    assert Path("new/folder/w.pt").is_file() and len(fitted) == 1


def test_divergence_is_answered_in_options_of_the_command_line(
    here: Path, capsys: pytest.CaptureFixture[str], fitted: list[dict[str, Any]]
) -> None:
    words = [*FIT, "t.csv", "--transform", "standardize", "--epochs", "4", "--no-progress"]
    err = err_line(capsys, *words, "--lr", "1e10", "--batch-size", "8")
    assert "Try a smaller --lr, --clip-norm, or" in err and "clip_norm" not in err
    run_json(capsys, *words, "--clip-norm", "2.5")
    assert "clip_norm" not in fitted[0] and fitted[1]["clip_norm"] == 2.5


def test_a_gpu_that_is_not_there_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words in ([*FIT, "t.csv"], ["zoo", "reproduce", "gaussian-iris"]):
        code, out, err = run(capsys, *words, "--device", "cuda", "--no-progress")
        assert (code, out, err.strip()) == (2, "", "error: --device cuda: torch finds no GPU here.")
