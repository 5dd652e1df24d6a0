"""``pyro-gen compare`` as a user types it."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.cli.shell import err_line, run, run_json

OWN = """
import pyro, pyro.distributions as dist, torch
from pyro_gen import Program, observe

class Narrow(Program):
    sd = 1.0

    def model(self, x):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(1), self.sd).to_event(1))
        with self.plate(x):
            return observe("x", dist.Normal(mean, 1.0).to_event(1), x)

class Wide(Narrow):
    sd = 100.0
"""


@pytest.fixture
def files(here: Path) -> None:
    Path("own.py").write_text(OWN)
    x = torch.randn(30, generator=torch.Generator().manual_seed(0))
    pd.DataFrame({"x": x[:20]}).to_csv("rows.csv", index=False)
    pd.DataFrame({"x": x[20:]}).to_csv("new.csv", index=False)


def test_two_programs_and_their_draws(files: None, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "posterior", "own.py:Narrow", "--data", "rows.csv", "--chains", "16", "--draws", "100")
    words = ["compare", "narrow=own.py:Narrow", "wide=own.py:Wide", "own_Narrow_posterior.nc", "--data", "rows.csv"]
    more = ["--posterior", "narrow=own_Narrow_posterior.nc", "--held-out", "new.csv", "--no-progress"]
    found = run_json(capsys, *words, *more, "--out", "table.csv", "--plot", "p.png")
    models = found["models"]
    assert set(models) == {"narrow", "wide", "own_Narrow"}
    assert models["narrow"]["probability"] > 0.95 and models["narrow"]["held_out"] == pytest.approx(-1.4, abs=0.5)
    assert models["own_Narrow"]["log_evidence"] is None and "evidence" in models["own_Narrow"]["reasons"]
    table = pd.read_csv("table.csv", index_col="model")
    assert table["loo"]["narrow"] == pytest.approx(models["narrow"]["loo"])
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    code, text, _ = run(capsys, *words[:2], *words[4:], "--no-progress")
    assert code == 0 and "log-evidence" in text and "narrow" in text


def test_bad_input_gets_one_line(files: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "own.py:Narrow", "--data", "rows.csv"]
    assert "two targets are called own_Narrow" in err_line(capsys, *words, "own.py:Narrow")
    assert "no target of that name; there are own_Narrow" in err_line(capsys, *words, "--posterior", "a=b.nc")
    assert "give NAME=FILE" in err_line(capsys, *words, "--posterior", "b.nc")
    assert "ends in .csv" in err_line(capsys, *words, "--out", "t.txt")
    pd.DataFrame({"other": [1.0, 2.0]}).to_csv("other.csv", index=False)
    assert "its columns are not those of rows.csv" in err_line(capsys, *words, "--held-out", "other.csv")
    fitted = ["compare", "FactorAnalysis", "--set", "rank=1", "--data", "rows.csv"]
    assert "nothing can be computed for 'FactorAnalysis'" in err_line(capsys, *fitted)
