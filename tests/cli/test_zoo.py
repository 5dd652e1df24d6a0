"""``pyro-gen zoo`` as a user types it."""

from pathlib import Path

import pytest

from pyro_gen import zoo
from tests.cli.shell import run, run_json


def test_zoo_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert [entry["name"] for entry in run_json(capsys, "zoo", "list")] == list(zoo.names())
    assert run_json(capsys, "zoo", "show", "vae-digits")["figure"] == ">= -16.6 nats"
    code, out, _ = run(capsys, "zoo", "list")
    assert code == 0 and all(name in out for name in zoo.names())  # whole, in a terminal of 80 columns
    code, out, _ = run(capsys, "zoo", "show", "gaussian-iris")
    assert code == 0 and out.startswith("title = ")
    assert run(capsys, "zoo", "table")[1] == zoo.table() + "\n"


def test_tables_are_put_into_several_pages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    marks = "<!-- zoo-table:start -->\n<!-- zoo-table:end -->\n"
    pages = [tmp_path / name for name in ("a.md", "b.md")]
    for page in pages:
        page.write_text(marks)
    run(capsys, "zoo", "table", "--write", str(pages[0]), "--write", str(pages[1]))
    assert pages[0].read_text() == pages[1].read_text() != marks


def test_a_figure_that_does_not_hold_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = zoo.load("gaussian-iris")
    assert run(capsys, "zoo", "reproduce", "gaussian-iris", "--no-progress")[0] == 0
    text = entry.text.replace("equals = -3.68", "equals = -3.5")
    monkeypatch.setattr("pyro_gen.zoo.reproduction.load", lambda name: zoo.Entry.parse(name, text))
    code, out, _ = run(capsys, "zoo", "reproduce", "gaussian-iris", "--no-progress")
    assert code == 1 and "DOES NOT HOLD" in out


def test_a_checkpoint_of_another_run_is_refused_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["zoo", "reproduce", "gaussian-iris", "--checkpoint", "run.ckpt", "--no-progress"]
    assert run(capsys, *words)[0] == 0
    code, out, err = run(capsys, *words, "--seed", "1")
    lines = err.strip().splitlines()
    assert (code, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith("error: ") and "run.ckpt" in lines[0] and "seed" in lines[0]
    with pytest.raises(ValueError, match="seed"):
        zoo.reproduce("gaussian-iris", seed=1, checkpoint="run.ckpt", resume=True, progress=False)


def test_the_list_has_measured_times_where_there_are_some(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(zoo, "stored", lambda: {"gaussian-iris": {"seconds": 77.2, "device": "an abacus"}})
    lines = {line.split("│")[1].strip(): line for line in run(capsys, "zoo", "list")[1].splitlines() if "│" in line}
    assert "77 s (an abacus)" in lines["gaussian-iris"]
    assert f"about {zoo.clock(60 * zoo.load('ppca-wine').minutes)}" in lines["ppca-wine"]
