"""Programs with context, global latent variables and guides by name, from fit to predict, as a user types it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen.saving import load_program
from tests.cli.shell import err_line, run, run_json

OWN = """
import pyro, pyro.distributions as dist, torch
from pyro_gen import Program, observe

class Regression(Program):  # conjugate: the posterior of the weights is normal
    def model(self, y, u):
        w = pyro.sample("w", dist.Normal(torch.zeros(u.shape[1]), 2.0).to_event(1))
        with self.plate(y):
            return observe("y", dist.Normal((u @ w).unsqueeze(-1), 0.5).to_event(1), y)

class Plain(Program):
    def model(self, y):
        with self.plate(y):
            return observe("y", dist.Normal(y.new_zeros(1), 0.5).to_event(1), y)

class Local(Program):
    def model(self, y, u):
        with self.plate(y):
            z = pyro.sample("z", dist.Normal(u.mean(1, keepdim=True), 1.0).to_event(1))
            return observe("y", dist.Normal(z, 0.5).to_event(1), y)
"""

FAST = ("--chains", "32", "--draws", "60", "--warmup", "100", "--no-progress")
REGRESSION = ("own.py:Regression", "--data", "y.csv", "--context", "u.csv")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYRO_GEN_DATA", raising=False)
    Path("own.py").write_text(OWN, encoding="utf-8")
    rng = np.random.default_rng(0)
    u = rng.normal(size=(35, 2))
    y = u @ [1.0, -2.0] + 0.5 * rng.normal(size=35)
    for name, rows in (("", slice(0, 30)), ("new_", slice(30, 35))):
        pd.DataFrame(u[rows], columns=["a", "b"]).to_csv(f"{name}u.csv", index=False)
        pd.DataFrame({"y": y[rows]}).to_csv(f"{name}y.csv", index=False)
    pd.DataFrame(u[30:][:, ::-1], columns=["b", "a"]).to_csv("turned_u.csv", index=False)
    holes = pd.DataFrame(u, columns=["a", "b"])[:30]
    holes.loc[4, "b"] = np.nan
    holes.to_csv("holes_u.csv", index=False)
    pd.DataFrame(u, columns=["a", "c"])[:30].to_csv("other_u.csv", index=False)
    np.save("cube.npy", rng.normal(size=(30, 2, 2)))
    return tmp_path


def closed_form() -> tuple[Any, Any, Any]:
    """Mean and standard deviation of new data, and their log-density."""
    u, y, new_u, new_y = (pd.read_csv(f"{n}.csv").to_numpy() for n in ("u", "y", "new_u", "new_y"))
    covariance = np.linalg.inv(np.eye(2) / 4 + u.T @ u / 0.25)
    mean = new_u @ covariance @ u.T @ y[:, 0] / 0.25
    sd = np.sqrt(0.25 + np.einsum("ni,ij,nj->n", new_u, covariance, new_u))
    density = -0.5 * ((new_y[:, 0] - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)
    return mean, sd, density


def test_a_posterior_predicts_and_its_predictions_are_the_closed_form(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_json(capsys, "posterior", *REGRESSION, *FAST, "--out", "run.nc")
    new = ("--posterior", "run.nc", "--context", "new_u.csv", "--no-progress")
    found = run_json(capsys, "predict", "own.py:Regression", *new, "--out", "draws.npy", "--draws", "800")
    mean, sd, _ = closed_form()
    draws = np.load("draws.npy")[..., 0]
    assert found["shape"] == [800, 5, 1] and draws.shape == (800, 5)
    assert np.abs((draws.mean(0) - mean) / sd * 800**0.5).max() < 4.5
    assert np.abs((draws.std(0) / sd - 1) * 1600**0.5).max() < 4.5
    code, out, _ = run(capsys, "predict", "own.py:Regression", *new)
    assert code == 0 and out.startswith(
        "5 rows predicted by 1000 draws, scale: what the posterior was given, after its --transform if it had one. "
    )
    table = pd.read_csv("own_Regression_predictions.csv")
    assert table.columns.tolist() == ["x", "x sd", "x 5%", "x 50%", "x 95%"] and len(table) == 5
    part = pd.read_csv("new_y.csv")
    part.loc[:1, "y"] = np.nan
    part.to_csv("part.csv", index=False)
    assert run(capsys, "predict", "own.py:Regression", *new, "--data", "part.csv", "--out", "p.csv")[0] == 0
    table = pd.read_csv("p.csv")
    assert table["y sd"][2:].max() < 1e-6 < table["y sd"][:2].min()


def test_a_guide_by_name_is_trained_saved_and_used(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", *REGRESSION, "--guide", "full-rank", "--epochs", "300", "--lr", "0.03", "--out", "r.pt"]
    run_json(capsys, *words, "--validation", "0.1", "--no-progress")
    saved = load_program("r.pt", trust=True)
    assert saved.description["guide"] == "full-rank"
    assert saved.description["context"] == [{"columns": ["a", "b"], "shape": [2]}]
    mean, sd, density = closed_form()
    with_u = ("--trust", "--context", "turned_u.csv")  # columns by name, not by place
    drawn = run_json(capsys, "predict", "r.pt", *with_u, "--out", "d.npy", "--no-progress")
    assert drawn["shape"] == [1000, 5, 1]
    draws = np.load("d.npy")[..., 0]
    assert np.abs((draws.mean(0) - mean) / sd).max() < 0.4 and np.abs(np.log(draws.std(0) / sd)).max() < 0.25
    scored = ["evaluate", "r.pt", "--data", "new_y.csv", *with_u, "--posterior", "guide", "--no-progress"]
    found = run_json(capsys, *scored)
    assert found["method"] == "predictive" and found["mean"] == pytest.approx(density.mean(), abs=0.15)
    assert run_json(capsys, "sample", "r.pt", *with_u, "--out", "s.npy")["shape"] == [5, 1]
    run_json(capsys, "posterior", "r.pt", "--data", "y.csv", "--trust", "--context", "u.csv", *FAST, "--out", "r.nc")
    found = run_json(capsys, *scored[:-3], "--posterior", "r.nc", "--no-progress")
    assert found["mean"] == pytest.approx(density.mean(), abs=0.03)
    code, out, _ = run(capsys, "check", "own.py:Regression", "--data", "y.csv", "--context", "u.csv")
    assert code == 1 and "Draws of Markov chains, pg.posterior, need none." in " ".join(out.split())


@pytest.mark.parametrize("method", ["smc", "bridge"])
def test_the_evidence_is_the_closed_form(here: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    u, y = pd.read_csv("u.csv").to_numpy(), pd.read_csv("y.csv").to_numpy()[:, 0]
    covariance = torch.tensor(0.25 * np.eye(30) + 4 * u @ u.T)
    exact = torch.distributions.MultivariateNormal(torch.zeros(30).double(), covariance).log_prob(torch.tensor(y))
    found = run_json(capsys, "evidence", *REGRESSION, "--method", method, "--no-progress")
    assert found["unit"] == "nats" and found["mean"] == pytest.approx(float(exact), abs=5 * found["standard_error"])
    code, out, _ = run(capsys, "evidence", *REGRESSION, "--no-progress")
    assert code == 0 and out.startswith("log-evidence ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("fit", "own.py:Regression", "--data", "y.csv"), "takes context (u): give a file by --context FILE"),
        (
            ("evidence", "own.py:Plain", "--data", "y.csv", "--context", "u.csv"),
            "takes no context, and was given 1 file",
        ),
        (("posterior", *REGRESSION, "--context", "u.csv"), "takes context (u), and was given 2 files"),
        (("fit", "own.py:Regression", "--data", "y.csv", "--context", "new_u.csv"), "has 5 rows, and the data have 30"),
        (("fit", "own.py:Regression", "--data", "y.csv", "--context", "holes_u.csv"), "row 4, counted from 0, has a"),
        (("fit", "own.py:Regression", "--data", "y.csv", "--context", "nowhere.csv"), "nowhere.csv"),
        (("fit", "vae-digits", "--context", "u.csv"), "is an entry of the zoo"),
        (("fit", "own.py:Local", "--data", "y.csv", "--context", "u.csv", "--guide", "flow"), "row by row"),
        (("fit", *REGRESSION, "--guide", "laplace"), "--guide"),
        (("check", "own.py:Regression", "--context", "u.csv"), "by --data"),
        (("evidence", *REGRESSION, "--method", "guess"), "'guess' is not one of"),
        (("evidence", *REGRESSION, "--target", "own.py:Plain"), "--target is for a file written by pyro-gen fit"),
        (("predict", "own.py:Regression", "--context", "new_u.csv"), "is not trained: name draws of its posterior"),
        (("predict", "own.py:Regression", "--posterior", "x.nc", "--n", "3"), "--posterior x.nc: no such file"),
        (("predict", "own.py:Regression", "--posterior", "u.csv", "--n", "3"), "give a .nc file or .zarr folder"),
        (("predict", "own.py:Regression", "--posterior", "junk.nc", "--n", "3"), "not draws of pyro-gen posterior"),
        (("predict", "own.py:Regression", "--posterior", "own.nc"), "say how many rows to predict"),
        (("predict", "own.py:Regression", "--posterior", "own.nc", "--out", "p.txt"), "ends in .csv or .npy"),
        (("predict", "own.py:Plain", "--posterior", "own.nc", "-n", "3"), "leave posterior out"),
    ],
)
def test_one_clear_line(here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str) -> None:
    import arviz as az

    Path("junk.nc").write_text("junk")
    idata = az.from_dict(posterior={"w": np.zeros((2, 4, 2))})
    idata.posterior.attrs["event_shape"] = json.dumps([1])
    idata.to_netcdf("own.nc")
    assert line in err_line(capsys, *words)


def test_a_trained_program_knows_its_context(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", *REGRESSION, "--guide", "mean-field", "--epochs", "1", "--out", "r.pt", "--no-progress"]
    assert run(capsys, *words)[0] == 0
    assert "--context for each" in err_line(capsys, "predict", "r.pt", "--trust", "-n", "3")
    assert "no column 'b'" in err_line(capsys, "predict", "r.pt", "--trust", "--context", "other_u.csv")
    assert "for each datum" in err_line(capsys, "predict", "r.pt", "--trust", "--context", "cube.npy")
    assert "and the data have 3" in err_line(capsys, "sample", "r.pt", "--trust", "-n", "3", "--context", "new_u.csv")
    plain = ["fit", "own.py:Regression", "--data", "y.csv", "--context", "u.csv", "--epochs", "1", "--no-progress"]
    assert "no parameters to train" in err_line(capsys, *plain)
