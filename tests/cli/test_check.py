"""``pyro-gen check`` as a user types it."""

import json
from pathlib import Path

import pytest

from tests.cli.shell import run, run_json


def test_failed_checks_come_last(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", "own.py:Unscaled", "--data", "t.csv")
    starts = [line.split()[0] for line in out.splitlines()[1:] if line[0] != " "]
    assert code == 1 and starts[-1] == "FAILED" and "FAILED" not in starts[:-1] and len(starts) > 5


def test_check_says_what_is_wrong_with_a_program(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "check", "own.py:Fixed")["ok"]  # on data simulated from it
    assert run_json(capsys, "check", "own.py:Factors", "--data", "t.csv")["ok"]
    code, out, _ = run(capsys, "check", "own.py:Unscaled", "--data", "t.csv", "--json")
    assert code == 1
    assert [c["name"] for c in json.loads(out)["checks"] if c["status"] == "failed"] == ["minibatch"]
