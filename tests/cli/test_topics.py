"""``pyro-gen structure topics`` as a user types it."""

from pathlib import Path

import pandas as pd
import pytest

from tests.cli.shell import err_line, run, run_json


def test_topics_of_a_folder_and_of_a_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["the cat <b> and dog", "dog dog cat", "star and moon", "moon star moon"] * 5
    Path("texts").mkdir()
    for i, text in enumerate(texts):
        Path(f"texts/{i:02}.txt").write_text(text, encoding="utf-8")
    words = ["structure", "topics", "texts", "--topics", "2", "--chains", "2", "--draws", "5"]
    found = run_json(capsys, *words, "--out", "topics.csv", "--plot", "topics.png", "--report", "topics.html")
    assert found["number"] == 2 and {"cat dog", "moon star"} == {
        " ".join(sorted(t["words"].split()[:2])) for t in found["topics"]
    }
    shares = pd.read_csv("topics.csv")
    assert list(shares.columns) == ["document", "topic 0", "topic 1"] and len(shares) == 20
    assert ((shares["topic 0"] > 0.5) == (shares["topic 0"][0] > 0.5)).tolist() == [True, True, False, False] * 5
    assert Path("topics.png").read_bytes().startswith(b"\x89PNG")
    page = Path("topics.html").read_text(encoding="utf-8")
    assert "NPMI" in page and "stability" in page and "<b>" not in page
    code, text, _ = run(capsys, *words, "--out", "topics.csv", "--overwrite")
    assert code == 0 and text.startswith("Topics of 20 documents with 4 words: 2.")
    counts = pd.DataFrame([[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 2, 1], [0, 0, 1, 1]] * 3, columns=["a", "b", "c", "d"])
    counts.to_csv("counts.csv", index=False)
    table = run_json(capsys, "structure", "topics", "counts.csv", "--topics", "2", "--chains", "1", "--draws", "4")
    assert table["number"] == 2 and {"a b", "c d"} >= {
        " ".join(sorted(t["words"].split()[:2])) for t in table["topics"]
    }


def test_bad_input_gets_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"a": [1, 0, 2], "b": [2, 0, 1]}).to_csv("empty.csv", index=False)
    assert "document '1' has no word" in err_line(capsys, "structure", "topics", "empty.csv", "--topics", "2")
    pd.DataFrame({"a": [1, 1], "b": [-2, 1]}).to_csv("negative.csv", index=False)
    assert "-2 is no count" in err_line(capsys, "structure", "topics", "negative.csv", "--topics", "2")
    assert "ends in .html" in err_line(capsys, "structure", "topics", "empty.csv", "--report", "page.txt")
    assert "english or none" in err_line(capsys, "structure", "topics", "empty.csv", "--stop-words", "klingon")
