"""``pyro-gen posterior`` as a user types it: table, diagnosis, pictures, JSON, one clear line for each wrong input."""

import json
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from pyro_gen import cli, pictures
from pyro_gen.cli.posterior import _print_parameters
from pyro_gen.inference.diagnose import summary
from pyro_gen.inference.storage import store

OWN = """
import pyro, pyro.distributions as dist, torch
from torch import nn
from pyro_gen import Program, observe

class Mean(Program):  # the posterior of the mean is normal in closed form
    def __init__(self, sd=2.0):
        super().__init__()
        self.sd = sd
        self.loc, self.scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))

    def model(self, x):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), self.sd).to_event(1))
        with self.plate(x):
            return observe("x", dist.Normal(mean, 1.0).to_event(1), x)

    def guide(self, x):
        pyro.sample("mean", dist.Normal(self.loc, self.scale.abs()).to_event(1))

class Modes(Program):  # |mean| is known, its sign is not
    def model(self, x):
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with self.plate(x):
            return observe("x", dist.Normal(mean.abs() * torch.ones(2), 1.0).to_event(1), x)

class Local(Program):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            return observe("x", dist.Normal(z, 1.0).to_event(1), x)

class Exact(Program):
    def model(self, x):
        with self.plate(x):
            return observe("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), x)

class Context(Mean):
    def model(self, x, u):
        return super().model(x)

def function(x):
    return x
"""

FAST = ("--chains", "40", "--draws", "40", "--warmup", "60", "--no-progress")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYRO_GEN_DATA", raising=False)
    Path("own.py").write_text(OWN, encoding="utf-8")
    x = 5 + torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).numpy()
    x[3, 1] = np.nan
    pd.DataFrame(x, columns=["a", "b"]).to_csv("t.csv", index=False)
    return tmp_path


def close(idata: Any) -> None:
    for group in idata.groups():
        idata[group].close()


def exact() -> tuple[Any, Any]:
    """Mean and standard deviation of the posterior of Mean, per column."""
    x = pd.read_csv("t.csv")
    variance = 1 / (1 / 4 + x.count().to_numpy())
    return variance * x.sum().to_numpy(), np.sqrt(variance)


def test_summary_diagnosis_pictures_and_draws(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["posterior", "own.py:Mean", "--data", "t.csv", "--out", "p.nc", "--plot", "pictures/here", *FAST]
    assert cli.main(words) == 0
    captured = capsys.readouterr()
    for text in (
        "mean[0]",
        "tail-ESS",
        "R-hat",
        "hmc: 40 chains of 40 draws, 2 parameters",
        "No problem found",
        "p.nc",
    ):
        assert text in captured.out
    assert captured.err == ""
    assert max(map(len, captured.out.split("hmc:")[0].splitlines())) <= 80
    for name in ("trace", "rank", "pair", "forest"):
        assert Path(f"pictures/here/{name}.png").read_bytes().startswith(b"\x89PNG")
    idata = store("p.nc")
    table, (mean, sd) = summary(idata), exact()
    # |z| < 5 for two means: false alarms 1e-6.
    assert (np.abs(table["mean"] - mean) < 5 * table["mcse_mean"]).all()
    assert (np.abs(table["sd"] / sd - 1) < 0.15).all()
    assert {"log_likelihood", "posterior_predictive", "observed_data"} <= set(idata.groups())
    close(idata)


def test_json_is_all_that_is_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["posterior", "own.py:Mean", "--data", "t.csv", "--out", "p.zarr", "--set", "sd=0.001", "--json", *FAST]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["diagnosis"]["ok"] and found["method"] == "hmc" and found["chains"] == found["draws"] == 40
    assert list(found["parameters"]) == ["mean[0]", "mean[1]"]
    assert abs(found["parameters"]["mean[0]"]["mean"]) < 0.01  # the prior of --set
    assert Path(found["posterior"]) == (here / "p.zarr").resolve()


def test_problems_are_said_in_words(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["posterior", "own.py:Modes", "--data", "t.csv", "--method", "mala", "--json", *FAST]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["posterior"]).name == "own_Modes_posterior.nc"
    assert not found["diagnosis"]["ok"]
    assert any("several modes" in p["text"] for p in found["diagnosis"]["problems"])


@pytest.mark.parametrize("method", ["mala", "smc"])
def test_other_methods(method: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["posterior", "own.py:Mean", "--data", "t.csv", "--method", method, "--no-progress", "--json"]
    words += ["--plot", "pictures", *(["--chains", "64", "--draws", "100"] if method == "mala" else [])]
    assert cli.main(words) == 0
    found, (mean, _) = json.loads(capsys.readouterr().out), exact()
    for i in range(2):
        row = found["parameters"][f"mean[{i}]"]
        assert abs(row["mean"] - mean[i]) < 5 * row["mcse_mean"]
    names = {Path(p).stem for p in found["pictures"]}
    assert names == ({"trace", "rank", "pair", "forest"} if method == "mala" else {"pair", "forest"})
    assert (found["log_evidence"] is not None) == (method == "smc")


def test_chains_per_datum(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["posterior", "own.py:Local", "--data", "t.csv", *FAST]) == 0
    out = capsys.readouterr().out
    assert "z[0, 0]" in out and "40 parameters" in out


def test_weighted_draws_are_resampled_for_pictures() -> None:
    """Each datum by weights of its own: those of the first pick one draw, those of the second another."""
    values = np.arange(10.0)[None, :, None, None] + 100 * np.arange(2)[:, None] + np.zeros(2)
    log_weight = np.full((1, 10, 2), -1e3)
    log_weight[0, 3, 0] = log_weight[0, 7, 1] = 0.0
    dims = ("chain", "draw", "data", "k")
    idata = az.InferenceData(
        posterior=xr.Dataset({"z": (dims, values)}), sample_stats=xr.Dataset({"log_weight": (dims[:3], log_weight)})
    )
    scalars = pictures._scalars(idata, np.random.default_rng(0))
    assert {name: set(v.values.ravel()) for name, v in scalars.items()} == {
        **{f"z[0, {k}]": {3.0} for k in range(2)},
        **{f"z[1, {k}]": {107.0} for k in range(2)},
    }


def test_a_trained_program(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "own.py:Mean", "--data", "t.csv", "--transform", "standardize", "--epochs", "150", "--lr", "0.03"]
    assert cli.main([*words, "--out", "mean.pt", "--no-progress"]) == 0
    capsys.readouterr()
    words = ["posterior", "mean.pt", "--trust", "--data", "t.csv", "--json", "--no-progress"]
    assert cli.main([*words, "--method", "guide", "--out", "g.nc", "--plot", "pictures"]) == 0
    guided = json.loads(capsys.readouterr().out)
    assert cli.main([*words, *FAST[:-1]]) == 0
    sampled = json.loads(capsys.readouterr().out)
    assert Path(sampled["posterior"]).name == "mean_posterior.nc"
    # The data goes through the transform that the program was trained with.
    for name, row in sampled["parameters"].items():
        assert abs(row["mean"]) < 0.1
        error = np.hypot(row["mcse_mean"], guided["parameters"][name]["mcse_mean"])
        assert abs(row["mean"] - guided["parameters"][name]["mean"]) < 5 * error
    assert guided["diagnosis"]["figures"]["khat"] < 0.7


def test_a_run_is_gone_on_with(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["posterior", "own.py:Mean", "--data", "t.csv", "--out", "p.nc", "--json", *FAST]
    found = []
    for more in (["--draws", "10"], ["--draws", "40", "--resume"], ["--draws", "40"]):
        assert cli.main([*words, *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["draws"] == 10 and found[1]["parameters"] == found[2]["parameters"] != found[0]["parameters"]
    assert cli.main([*words, "--resume", "--seed", "1"]) == 2
    assert "another run: seed was 0 and is 1 now" in capsys.readouterr().err


def test_a_folder_is_written_over_when_asked_and_never_that_of_others(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["posterior", "own.py:Mean", "--data", "t.csv", "--out", "keep.zarr", "--json", *FAST]
    Path("keep.zarr").mkdir()
    Path("keep.zarr/notes.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        assert cli.main([*words, *more]) == 2
        assert "keep.zarr" in capsys.readouterr().err
    assert Path("keep.zarr/notes.txt").read_text() == "mine"
    Path("keep.zarr/notes.txt").unlink()
    Path("keep.zarr").rmdir()
    assert [cli.main([*words, *more]) for more in ([], [], ["--overwrite"])] == [0, 2, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["own.py:Mean"], "Missing option '--data'"),
        (["own.py:Nowhere", "--data", "t.csv"], "has no 'Nowhere'; its programs are: Mean"),
        (["own.py:function", "--data", "t.csv"], "holds a function, not a program, under 'function'"),
        (["nowhere.py:Mean", "--data", "t.csv"], "nowhere.py: no such file"),
        (["own.py:Mean", "--data", "nowhere.csv"], "nowhere.csv"),
        (["nowhere.pt", "--data", "t.csv"], "nowhere.pt: no such file"),
        (["own.py:Exact", "--data", "t.csv"], "Exact has no latent variable"),
        (["own.py:Context", "--data", "t.csv"], "u"),
        (["own.py:Mean", "--data", "t.csv", "--out", "p.csv"], "draws are written to a file named .nc"),
        (["own.py:Mean", "--data", "t.csv", "--out", "no/p.nc"], "its folder no is not there"),
        (["own.py:Mean", "--data", "t.csv", "--plot", "own.py"], "--plot own.py: is a file, give a folder"),
        (["own.py:Mean", "--data", "t.csv", "--method", "gibbs"], "Invalid value for '--method'"),
        (["own.py:Mean", "--data", "t.csv", "--method", "guide", "--warmup", "5"], "does not take warmup"),
        (["own.py:Mean", "--data", "t.csv", "--chains", "0"], "Invalid value for '--chains'"),
        (["own.py:Mean", "--data", "t.csv", "--target", "x.py:M"], "--target is for a file written by pyro-gen fit"),
        (["own.py:Mean", "--data", "t.csv", "--set", "sd"], "sd"),
        (["mean.pt", "--data", "t.csv", "--transform", "standardize"], "mean.pt has its own transform"),
    ],
)
def test_wrong_inputs_are_named(words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["posterior", *words]) == 2
    captured = capsys.readouterr()
    text = " ".join(captured.err.replace("│", " ").split())
    assert message in text and "Traceback" not in text and captured.out == ""
    assert not list(here.glob("*.nc"))


def test_names_and_figures_stand_whole_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame({name: [-123456.7] for name in ("mean", "sd", "5%", "50%", "95%")}, index=["intercept[12]"])
    table[["ess_bulk", "ess_tail", "rhat"]] = 12800.0, 9585.0, 1.001
    monkeypatch.setenv("COLUMNS", "40")
    _print_parameters(table)
    row = capsys.readouterr().out.splitlines()[3].split()
    assert row == ["intercept[12]", *["-1.23e+05"] * 5, "12,800", "9,585", "1.001"]
