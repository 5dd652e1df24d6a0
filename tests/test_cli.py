"""The command line, as a user types it: results, JSON, exit codes, and one clear line for every wrong input."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_gen as pg
from pyro_gen import cli, data, log_likelihood, outputs, pictures, zoo
from pyro_gen.inference import ELBO, IWAE, DReG, FitResult, fit, svi
from pyro_gen.inference.objectives import Objective
from pyro_gen.program import Program
from pyro_gen.registry import DATA_SETS
from pyro_gen.saving import load_program

OWN = """
import pyro, pyro.distributions as dist, torch
from torch import nn
from pyro_gen import Program, observe

class Factors(Program):
    def __init__(self, event_shape, factors=2):
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.factors = factors
        size = self.event_shape.numel()
        self.loading, self.encoder = nn.Linear(factors, size), nn.Linear(size, 2 * factors)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.factors), 1.0).to_event(1))
            return observe("x", dist.Normal(self.loading(z), self.log_scale.exp()).to_event(1), x)

    def guide(self, x):
        with self.plate(x):
            loc, log_scale = self.encoder(x.nan_to_num()).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc.tanh(), log_scale.sigmoid()).to_event(1))

class Fixed(Factors):
    def __init__(self):
        super().__init__((3,))

class Unscaled(Fixed):  # a minibatch counts as the whole data
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.factors), 1.0).to_event(1))
            return observe("x", dist.Normal(self.loading(z), self.log_scale.exp()).to_event(1), x)

class Explodes(Fixed):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.factors), 1.0).to_event(1))
            return observe("x", dist.Normal(self.loading(z) * 1e30, 1e-30).to_event(1), x)

class Needs(Program):
    def __init__(self, depth):
        super().__init__()

class Shaped(Program):
    def __init__(self, event_shape):
        super().__init__()

class Context(Fixed):
    def model(self, x, u, *others, v=None):
        return super().model(x)

def conditional(x, u, w):
    return observe("x", dist.Normal(u, 1.0).to_event(1), x)

functions = Program.from_functions(conditional)

class Late(Program):
    def __init__(self):
        self.layer = nn.Linear(2, 3)
        super().__init__()

class Never(Program):
    def __init__(self):
        self.event_shape = torch.Size((3,))

class Alien(nn.Module):
    pass

class Blind(Fixed):  # the encoder meets NaN
    def guide(self, x):
        with self.plate(x):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

class Positive(Fixed):  # the data is negative in part
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.factors), 1.0).to_event(1))
            return observe("x", dist.Exponential(self.loading(z).exp()).to_event(1), x)

class OffPrior(Fixed):  # the guide is negative in part
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Exponential(x.new_ones(self.factors)).to_event(1))
            return observe("x", dist.Normal(self.loading(z), 100.0).to_event(1), x)

not_a_program = 3
"""

FIT = ("fit", "own.py:Fixed", "--data")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's files in it, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYRO_GEN_DATA", raising=False)
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).numpy() * [1, 10, 50] + [0, 5, 50]
    x[3, 1] = np.nan
    pd.DataFrame(x, columns=["a", "b", "c"]).to_csv("t.csv", index=False)
    pd.DataFrame(x, columns=["a", "b", "c"]).to_parquet("t.parquet")
    files = {
        "own.py": OWN,
        "broken.py": "x = (\n",
        "raises.py": "import nowhere_to_be_found\n",
        "empty.py": "",
        "text.csv": "a,b\n1,x\n2,y\n",
        "holes.csv": "a,b\n1,2\n,\n3,4\n",
        "empty.csv": "",
        "header.csv": "a,b\n",
        "two.csv": "a,b\n1,2\n3,4\n5,7\n2,2\n",
        "constant.csv": "a,flag,b\n1,2,3\n4,2,\n5,,1\n",
        "junk.pt": "junk",
    }
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    torch.save({"a": torch.zeros(2)}, "other.pt")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    out, err = capsys.readouterr()
    return code, out, err


def err_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line that a command fails with."""
    code, out, err = run(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


# ----------------------------------------------------------------------------------------------------------------------
# What works


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


def test_images_by_name_become_a_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--set", "latent=2", "--set", "hidden=[16]", "--transform", "binarize=8"]
    words = ["fit", "VAE", "--data", "digits", *options, "--epochs", "1", "--validation", "0.1", "--out", "vae.pt"]
    found = run_json(capsys, *words, "--no-progress")
    assert found["validation_loss"] > 0
    sampled = run_json(capsys, "sample", "vae.pt", "-n", "14")
    assert sampled["scale"] == "after Binarize(threshold=8)"
    assert Path(sampled["samples"]).read_bytes().startswith(b"\x89PNG")
    assert run_json(capsys, "sample", "vae.pt", "-n", "3", "--out", "s.npy")["shape"] == [3, 8, 8]
    assert np.load("s.npy").shape == (3, 8, 8)
    # The test data, not the training data, is what a named set is evaluated on.
    assert (
        run_json(capsys, "evaluate", "vae.pt", "--data", "digits", "--method", "elbo", "--no-progress")["data"] == 360
    )


def test_a_transform_that_draws_is_evaluated_on_the_scale_of_the_data(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "likelihood=student_t", "--set", "latent=2", "--set", "hidden=[8]", "--epochs", "1"]
    words = ["fit", "VAE", "--data", "digits", *options, "--transform", "dequantize", "--transform", "logit=0.05"]
    run_json(capsys, *words, "--out", "vae.pt", "--no-progress")
    words = ["evaluate", "vae.pt", "--data", "digits", "--method", "elbo", "--seed", "7", "--no-progress"]
    result = run_json(capsys, *words)
    transform = data.Compose([data.Dequantize(17), data.Logit(0.05)])
    _, ladj = transform.call_and_ladj(data.load("digits").test, torch.Generator().manual_seed(7))
    on_the_scale = result["mean"] + ladj.mean().item()
    assert result["mean_on_the_scale_of_the_data"] == pytest.approx(on_the_scale)
    assert result["bits_per_dim"] == pytest.approx(-on_the_scale / (64 * np.log(2)))
    _, other = transform.call_and_ladj(data.load("digits").test, torch.Generator().manual_seed(8))
    assert abs((other - ladj).mean().item()) > 1e-3  # so the draw matters


@pytest.mark.parametrize("name", ["a.npy", "a.pt"])
def test_rows_without_a_value_are_refused_in_arrays_too(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def write(x: torch.Tensor) -> None:
        torch.save(x, "a.pt")
        np.save("a.npy", x.numpy())

    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    x[[2, 4]] = torch.nan
    x[0, 0] = torch.nan  # a hole in a row is none of it
    write(x)
    words = [*FIT, name, "--epochs", "1", "--batch-size", "2", "--no-progress"]
    code, _, err = run(capsys, *words)
    assert code == 2 and "2 of 6 rows without any observed value (the first is row 2, counted from 0)" in err
    assert run_json(capsys, *words, "--drop-empty")["steps"] == 2  # four rows are left
    write(torch.full((6, 3), torch.nan))
    code, _, err = run(capsys, *words, "--drop-empty")
    assert code == 2 and "no value is observed in the whole array" in err


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments that the command line gives to pg.fit, which runs as ever."""
    calls: list[dict[str, Any]] = []

    def record(program: Program, x: Any, **arguments: Any) -> FitResult:
        calls.append(arguments)
        return fit(program, x, **arguments)

    monkeypatch.setattr(cli, "train", record)
    monkeypatch.setattr("pyro_gen.zoo.training.fit", record)
    return calls


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

    one_epoch = svi._Training._epoch
    with monkeypatch.context() as patch:
        patch.setattr(svi._Training, "_epoch", stop)
        assert run(capsys, *words, "--checkpoint", "run.ckpt")[0] == 130
    resumed = run_json(capsys, *words, "--checkpoint", "run.ckpt", "--resume", "--out", "resumed.pt")
    assert resumed["train_loss"] == whole["train_loss"]
    one, two = (torch.load(f, weights_only=True)["state_dict"] for f in ("whole.pt", "resumed.pt"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_of_another_run_is_refused_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["zoo", "reproduce", "gaussian-iris", "--checkpoint", "run.ckpt", "--no-progress"]
    assert run(capsys, *words)[0] == 0
    code, out, err = run(capsys, *words, "--seed", "1")
    lines = err.strip().splitlines()
    assert (code, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith("error: ") and "run.ckpt" in lines[0] and "seed" in lines[0]
    with pytest.raises(ValueError, match="seed"):
        zoo.reproduce("gaussian-iris", seed=1, checkpoint="run.ckpt", resume=True, progress=False)


def test_an_entry_of_the_zoo_is_fitted_by_its_recipe(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "fit", "gaussian-iris", "--no-progress")
    assert found["epochs"] == zoo.load("gaussian-iris").training["epochs"]
    result = run_json(capsys, "evaluate", "gaussian-iris.pt", "--data", "iris", "--no-progress")
    assert zoo.load("gaussian-iris").figure.holds(result["mean"])
    train = run_json(capsys, "evaluate", "gaussian-iris.pt", "--data", "iris", "--part", "train", "--no-progress")
    assert train["data"] == 120


def test_zoo_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert [entry["name"] for entry in run_json(capsys, "zoo", "list")] == list(zoo.names())
    assert run_json(capsys, "zoo", "show", "vae-digits")["figure"] == ">= -16.6 nats"
    code, out, _ = run(capsys, "zoo", "list")
    assert code == 0 and "gaussian-iris" in out
    code, out, _ = run(capsys, "zoo", "show", "gaussian-iris")
    assert code == 0 and out.startswith("title = ")
    assert run(capsys, "zoo", "table")[1] == zoo.table() + "\n"


def test_a_figure_that_does_not_hold_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = zoo.load("gaussian-iris")
    assert run(capsys, "zoo", "reproduce", "gaussian-iris", "--no-progress")[0] == 0
    text = entry.text.replace("equals = -3.68", "equals = -3.5")
    monkeypatch.setattr("pyro_gen.zoo.reproduction.load", lambda name: zoo.Entry.parse(name, text))
    code, out, _ = run(capsys, "zoo", "reproduce", "gaussian-iris", "--no-progress")
    assert code == 1 and "DOES NOT HOLD" in out


def test_columns_are_matched_by_name_and_may_be_empty(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def evaluate(frame: Any, *words: str) -> dict[str, Any]:
        frame.to_csv("new.csv", index=False)
        return run_json(capsys, "evaluate", "g.pt", "--data", "new.csv", "--no-progress", *words)  # type: ignore[no-any-return]

    words = ["fit", "Gaussian", "--data", "t.csv", "--transform", "standardize", "--epochs", "200", "--lr", "0.05"]
    run_json(capsys, *words, "--out", "g.pt", "--no-progress")
    table = pd.read_csv("t.csv")
    mean = evaluate(table)["mean"]
    assert evaluate(table[["c", "a", "b"]])["mean"] == mean
    swapped = table[["c", "a", "b"]].set_axis(list("abc"), axis=1)  # the same numbers under other names
    assert evaluate(swapped)["mean"] < mean - 10

    # What is not observed is integrated out: that of columns a and b alone, and 0 for a row of nothing.
    saved = load_program("g.pt")
    assert saved.transform is not None
    x = torch.tensor(table.assign(c=np.nan).to_numpy(), dtype=torch.float32)
    alone = log_likelihood(saved.program, saved.transform(x)).mean()
    hollow = evaluate(table.assign(c=np.nan))
    assert hollow["data"] == 40 and hollow["mean"] == pytest.approx(alone) and alone > mean + 0.5
    halved = pd.concat([table, table * np.nan])
    assert evaluate(halved)["mean"] == pytest.approx(mean / 2)
    assert evaluate(halved, "--drop-empty")["mean"] == pytest.approx(mean)
    halved.to_csv("new.csv", index=False)
    code, _, err = run(capsys, "evaluate", "g.pt", "--data", "new.csv", "--no-progress")
    assert code == 0 and err.startswith("note: 40 of 80 rows without any observed value count as log-likelihood 0")
    np.save("new.npy", halved.to_numpy())
    assert run_json(capsys, "evaluate", "g.pt", "--data", "new.npy", "--no-progress")["mean"] == pytest.approx(mean / 2)

    def complaint(frame: Any) -> str:
        frame.to_csv("new.csv", index=False)
        return err_line(capsys, "evaluate", "g.pt", "--data", "new.csv", "--no-progress")

    assert "has no column 'b' (add it, empty where it was not observed);" in complaint(table[["c", "a"]])
    assert "new.csv has a column 'd' that the program does not know" in complaint(table.assign(d=1.0))
    both = complaint(table.rename(columns={"b": "B"}))
    assert "no column 'b'" in both and "a column 'B'" in both and "columns are 'a', 'b', 'c'." in both
    # To train on, a column needs values.
    table.assign(c=np.nan).to_csv("new.csv", index=False)
    assert "column 'c' has no observed value" in err_line(capsys, *words[:3], "new.csv")


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


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("give validation= too.", "give --validation too."),
        ('estimate it with method="ais" or', "estimate it with --method ais or"),
        ("kl_warmup=-1: give", "--kl-warmup -1: give"),
        ("use lr=1e-3.", "use --lr 1e-3."),
        ("resume=True goes", "--resume goes"),
        ("VAE(lr=3) has", "VAE(lr=3) has"),  # no option of the command
        ("--set lr=3: no", "--set lr=3: no"),
        ("my_lr=3", "my_lr=3"),
    ],
)
def test_advice_is_in_words_of_the_shell(python: str, shell: str) -> None:
    assert cli._in_words_of_the_shell(python) == shell


def test_a_moved_file_is_named_anew(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*FIT, "t.csv", "--transform", "standardize", "--epochs", "1", "--no-progress", "--out", "w.pt"]
    assert run(capsys, *words)[0] == 0
    program = pg.load("w.pt", trust=True)
    Path("own.py").rename("moved.py")
    err = err_line(capsys, "sample", "w.pt")
    assert f"its program is in {here / 'own.py'}, which is not there now: say where it is, by --target." in err
    assert run(capsys, "sample", "w.pt", "--target", "moved.py:Fixed")[0] == 0
    again = pg.load("w.pt", target="moved.py:Fixed")
    assert torch.equal(again.loading.weight, program.loading.weight) and not again.training
    with pytest.raises(ValueError, match="by target="):
        pg.load("w.pt")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"pyro-gen {pg.__version__}\n", "")


def test_the_list_has_measured_times_where_there_are_some(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(zoo, "stored", lambda: {"gaussian-iris": {"seconds": 77.2, "device": "an abacus"}})
    lines = {line.split("│")[1].strip(): line for line in run(capsys, "zoo", "list")[1].splitlines() if "│" in line}
    assert "77 s (an abacus)" in lines["gaussian-iris"]
    assert f"about {zoo.clock(60 * zoo.load('ppca-wine').minutes)}" in lines["ppca-wine"]


def test_failed_checks_come_last(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", "own.py:Unscaled", "--data", "t.csv")
    starts = [line.split()[0] for line in out.splitlines()[1:] if line[0] != " "]
    assert code == 1 and starts[-1] == "FAILED" and "FAILED" not in starts[:-1] and len(starts) > 5


def test_a_grid_of_images_fills_its_picture() -> None:
    for count, title in ((24, "24 samples of vae.pt"), (2, "2 samples of a file with a long name.pt")):
        figure = pictures.image_grid(torch.rand(count, 8, 8), title)
        width = figure.get_size_inches()[0]
        boxes = [axes.get_position() for axes in figure.get_axes()]
        text = figure.texts[0].get_window_extent()
        assert min(box.x0 for box in boxes) * width == pytest.approx(0.15)  # in line with the title
        assert text.x0 / figure.dpi == pytest.approx(0.15, abs=0.03) and text.x1 / figure.dpi < width
        assert count < 12 or max(box.x1 for box in boxes) * width > width - 0.25
    labelled = pictures.image_rows([pictures.Row("test images", torch.rand(2, 8, 8))])
    assert labelled.get_axes()[0].get_position().x0 * labelled.get_size_inches()[0] > 1.5


def test_check_says_what_is_wrong_with_a_program(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "check", "own.py:Fixed")["ok"]  # on data simulated from it
    assert run_json(capsys, "check", "own.py:Factors", "--data", "t.csv")["ok"]
    code, out, _ = run(capsys, "check", "own.py:Unscaled", "--data", "t.csv", "--json")
    assert code == 1
    assert [c["name"] for c in json.loads(out)["checks"] if c["status"] == "failed"] == ["minibatch"]


# ----------------------------------------------------------------------------------------------------------------------
# What is wrong


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("fit", "VEA", "--data", "iris"), "there is no model 'VEA'"),
        (("fit", "own.py:Nope", "--data", "t.csv"), "own.py has no 'Nope'; its programs are: Factors, Fixed"),
        (("fit", "own.py:not_a_program", "--data", "t.csv"), "holds a int, not a program"),
        (("fit", "own.py", "--data", "t.csv"), "say which program, as own.py:Name"),
        (("fit", "own.py:Needs", "--data", "t.csv"), "own.py:Needs needs --set depth=..., an argument"),
        (("check", "own.py:Shaped"), "own.py:Shaped needs event_shape, the shape of its data: give some, by --data"),
        (("fit", "own.py:Context", "--data", "t.csv"), "Context takes context (u), which the command line cannot give"),
        (("check", "own.py:Context"), "Context takes context (u), which the command line cannot give: use Python"),
        (("fit", "own.py:functions", "--data", "t.csv"), "functions takes context (u, w), which the command line"),
        (("fit", "own.py:Late", "--data", "t.csv"), "Late.__init__ must call super().__init__() before anything else"),
        (("fit", "own.py:Never", "--data", "t.csv"), "Never.__init__ must call super().__init__() before anything"),
        (("fit", "own.py:Alien", "--data", "t.csv"), "Alien does not inherit from pyro_gen.Program"),
        (("fit", "own.py:Blind", "--data", "t.csv"), "in the guide, the parameter loc of Normal is NaN"),
        (("fit", "own.py:Blind", "--data", "t.csv"), "torch.nan_to_num(x), and x.isnan() beside it."),
        (("fit", "own.py:Positive", "--data", "t.csv"), "at site 'x'"),
        (("fit", "own.py:Positive", "--data", "t.csv"), "in the data: transform it (--transform)"),
        (("fit", "own.py:OffPrior", "--data", "t.csv"), "the guide draws outside of the support"),
        ((*FIT, "constant.csv", "--transform", "standardize"), "column 'flag' does not vary in the training data"),
        ((*FIT, "t.csv", "--out", "t.csv/w.pt"), "t.csv is a file, not a folder"),
        ((*FIT, "t.csv", "--out", "."), "--out .: is a folder"),
        ((*FIT, "t.csv", "--checkpoint", "t.csv/w.pt"), "--checkpoint t.csv/w.pt: "),
        ((*FIT, "t.csv", "--clip-norm", "-1"), "--clip-norm -1.0: the greatest norm"),
        (("demo", "--out", "t.csv/a.png"), "t.csv is a file, not a folder"),
        (("fit", "nowhere.py:Fixed", "--data", "t.csv"), "nowhere.py: no such file"),
        (("fit", "broken.py:Fixed", "--data", "t.csv"), "broken.py, line 1: '(' was never closed"),
        (("fit", "raises.py:Fixed", "--data", "t.csv"), "raises.py does not run: ModuleNotFoundError"),
        (("fit", "empty.py", "--data", "t.csv"), "it defines no subclass of pyro_gen.Program"),
        (("fit", "own.py:Fixed"), "say what to train own.py:Fixed on, by --data"),
        ((*FIT, "nothing.csv"), "nothing.csv: no such file"),
        ((*FIT, "irsi"), "there is no data set 'irsi'"),
        ((*FIT, "text.csv"), "column 'b' holds text: 'x' in row 1"),
        ((*FIT, "holes.csv"), "row 2 below the header); --drop-empty leaves them out"),
        ((*FIT, "empty.csv"), "the file is empty"),
        ((*FIT, "header.csv"), "no rows"),
        ((*FIT, "junk.pt"), "not an array of numbers"),
        ((*FIT, "mnist"), "name its folder by --data-root"),
        ((*FIT, "two.csv"), "shape"),  # two columns for a program of three
        ((*FIT, "t.csv", "--transform", "binarise=3"), "there is no transform 'binarise'"),
        ((*FIT, "t.csv", "--set", "factors"), "--set factors: give an argument of the program as name=value"),
        ((*FIT, "t.csv", "--set", "factors=2"), "unexpected keyword argument 'factors'"),
        ((*FIT, "t.csv", "--validation", "1.5"), "a fraction in (0, 1)"),
        (("fit", "vae-digits", "--validation", "0"), "an entry of the zoo"),
        ((*FIT, "t.csv", "--particles", "5"), "say of which objective, by --objective"),
        ((*FIT, "t.csv", "--objective", "iwae"), "say how many draws per datum, by --particles"),
        ((*FIT, "t.csv", "--kl-warmup", "-1"), "--kl-warmup -1: give"),
        (
            (*FIT, "t.csv", "--objective", "dreg", "--particles", "5", "--kl-warmup", "2"),
            "DReG has no KL weight to warm up",
        ),
        ((*FIT, "t.csv", "--resume"), "--resume goes on from a checkpoint: give --checkpoint too"),
        (("fit", "VAE", "--data", "iris", "--set", "hidden=3"), "VAE(hidden=3)"),
        (("fit", "VAE", "--data", "iris", "--set", "latent=0"), "VAE(latent)"),
        ((*FIT, "t.csv", "--patience", "3"), "--patience stops on the validation loss: give --validation too."),
        ((*FIT, "t.csv", "--lr", "-1"), "the learning rate is positive"),
        ((*FIT, "t.csv", "--schedule", "cosin"), "--schedule cosin: give"),
        (("fit", "own.py:Explodes", "--data", "t.csv"), "site 'x'"),
        (("fit", "VAE", "--data", "digits"), "found invalid values in the data: transform it"),
        (("fit", "FactorAnalysis", "--data", "digits", "--set", "rank=2"), "is for tables"),
        (("fit", "FactorAnalysis", "--data", "iris"), "FactorAnalysis needs --set rank=..."),
        (
            ("fit", "FactorAnalysis", "--data", "iris", "--set", "rank=two"),
            "cannot be built with rank='two': Type",
        ),
        (("fit", "VAE", "--data", "iris", "--set", "latent=two"), "VAE(latent): a width is a positive integer"),
        (("fit", "vae-digits", "--data", "iris"), "an entry of the zoo"),
        (("fit", "TableStudent", "--data", "t.csv"), "type pyro-gen impute t.csv --method student"),
        (("fit", "tabular", "--data", "t.csv"), "there is no model 'tabular': choose one of "),
        (("evaluate", "nothing.pt", "--data", "iris"), "nothing.pt: no such file"),
        (("evaluate", "junk.pt", "--data", "iris"), "junk.pt: not a program saved by pyro-gen fit"),
        (("evaluate", "other.pt", "--data", "iris"), "other.pt: not a program saved by pyro-gen fit"),
        (("sample", "empty.csv"), "not a program saved by pyro-gen fit"),
        (("zoo", "show", "vae"), "the zoo has no entry 'vae'"),
        (("zoo", "reproduce", "vae-mnist"), "vae-mnist needs mnist"),
        (("zoo", "reproduce", "vae-mnist", "--data-root", "."), "does not hold it in torchvision's layout"),
        (("zoo", "table", "--write", "text.csv"), "no lines"),
        (("check", "VAE"), "say which, by --data"),
        (("demo", "--out", "picture.txt"), "ends in .png, .pdf or .svg"),
    ],
)
def test_bad_input_gets_one_clear_line_and_exit_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    code, out, err = run(capsys, *words, *(["--no-progress"] if words[0] in ("fit", "evaluate") else []))
    assert (code, out) == (2, "")
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert complaint in lines[0]
    assert len(lines[0]) < 720


@pytest.mark.parametrize(
    "words",
    [
        ("fti",),
        ("fit",),
        ("fit", "VAE", "--epoch", "3"),
        ("fit", "VAE", "--epochs", "many"),
        ("fit", "VAE", "--objective", "vae"),
        ("fit", "VAE", "--device", "abacus"),
        ("zoo", "shwo"),
        ("evaluate", "x.pt"),
    ],
)
def test_usage_errors_are_exit_code_2(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err and "Traceback" not in err


def test_weights_of_another_shape_and_a_changed_class_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FIT, "t.csv", "--transform", "standardize", "--epochs", "1", "--no-progress", "--out", "w.pt"]
    assert run(capsys, *words)[0] == 0
    code, _, err = run(capsys, "evaluate", "w.pt", "--trust", "--data", "iris", "--no-progress")
    assert code == 2 and "iris has no column 'a', 'b', 'c' (add it" in err
    np.save("four.npy", np.zeros((2, 4)))
    code, _, err = run(capsys, "evaluate", "w.pt", "--trust", "--data", "four.npy", "--no-progress")
    assert code == 2 and "four.npy has data of shape (4,), the program is for data of shape (3,)" in err
    source = Path("own.py").read_text(encoding="utf-8")
    Path("own.py").write_text(source.replace("factors=2", "factors=4"), encoding="utf-8")
    assert "has changed since the program was trained" in err_line(capsys, "sample", "w.pt", "--trust")
    err = err_line(capsys, "evaluate", "w.pt", "--target", "own.py:Fixed", "--data", "t.csv", "--no-progress")
    assert "weights do not fit" in err
    whole = Path("w.pt").read_bytes()
    Path("w.pt").write_bytes(whole[: len(whole) // 2])
    code, _, err = run(capsys, "sample", "w.pt")
    assert code == 2 and "not a program saved" in err


def test_a_gpu_that_is_not_there_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words in ([*FIT, "t.csv"], ["zoo", "reproduce", "gaussian-iris"]):
        code, out, err = run(capsys, *words, "--device", "cuda", "--no-progress")
        assert (code, out, err.strip()) == (2, "", "error: --device cuda: torch finds no GPU here.")


def test_debug_shows_the_traceback(here: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        cli.main(["fit", "own.py:Fixed", "--data", "nothing.csv", "--debug"])


# ----------------------------------------------------------------------------------------------------------------------
# The installed command


def installed(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("pyro-gen")
    return subprocess.run([str(command), *words], cwd=folder, capture_output=True, text=True, check=False)


def test_the_installed_command(here: Path) -> None:
    done = installed(*FIT, "t.csv", "--transform", "standardize", "--epochs", "2", "--json", folder=here)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 2
    failed = installed("evaluate", "own_Fixed.pt", "--trust", "--data", "text.csv", folder=here)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error: text.csv: column 'b' holds text") and "Traceback" not in failed.stderr


def test_the_package_runs_as_a_module(here: Path) -> None:
    words = [sys.executable, "-m", "pyro_gen", "zoo", "show", "vae"]
    done = subprocess.run(words, cwd=here, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the zoo has no entry 'vae'")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name in ("demo", "zoo", "fit", "sample", "evaluate", "check", "--debug"):
        assert name in out


def test_data_sets_in_the_help_are_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(run(capsys, "fit", "--help")[1].split())
    assert all(name in out for name in DATA_SETS)
