"""``pyro-gen structure`` as a user types it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.shell import err_line, run, run_json


def test_clusters_of_a_file_with_holes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    kind = np.arange(40) % 2
    table = pd.DataFrame(6.0 * kind[:, None] + rng.normal(size=(40, 2)), columns=["<b>", "width"])
    table.iloc[0, 0] = np.nan
    table.to_csv("rows.csv", index=False)
    words = ["structure", "clusters", "rows.csv", "--max-clusters", "3", "--draws", "8"]
    found = run_json(capsys, *words, "--out", "c.csv", "--plot", "c.png", "--report", "c.html")
    assert found["number"] == 2 and found["sizes"] == [20, 20] and found["number_probabilities"]["2"] > 0.8
    labels = pd.read_csv("c.csv")
    assert len(labels) == 40 and ((labels["cluster"] == labels["cluster"][0]) == (kind == 0)).all()
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    page = Path("c.html").read_text(encoding="utf-8")
    assert "2 with probability" in page and "&lt;b&gt;" in page and "<b>" not in page
    code, text, _ = run(capsys, *words, "--out", "c.csv", "--overwrite")
    assert code == 0 and text.startswith("Clusters of 40 rows: 2 with probability")


def test_bad_input_gets_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [5.0, 5.0, 5.0]}).to_csv("flat.csv", index=False)
    assert "column 'b' is 5 in every row" in err_line(capsys, "structure", "clusters", "flat.csv")
    assert "ends in .html" in err_line(capsys, "structure", "clusters", "flat.csv", "--report", "page.txt")
