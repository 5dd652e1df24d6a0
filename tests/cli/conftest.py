"""A folder of a user's, and what reaches pg.fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen.inference import FitResult, fit
from pyro_gen.program import Program
from tests.cli.shell import OWN


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


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments that the command line gives to pg.fit, which runs as ever."""
    calls: list[dict[str, Any]] = []

    def record(program: Program, x: Any, **arguments: Any) -> FitResult:
        calls.append(arguments)
        return fit(program, x, **arguments)

    monkeypatch.setattr("pyro_gen.cli.fit.train", record)
    monkeypatch.setattr("pyro_gen.zoo.training.fit", record)
    return calls
