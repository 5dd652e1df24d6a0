"""Programs that print, exit or raise whatever they like: what a command returns is not for them to say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyro_gen import cli
from pyro_gen.cli import console

PROGRAM = """
import atexit, logging, os, sys
import pyro, pyro.distributions as dist, torch, typer
from torch import nn
from pyro_gen import Program, observe

class Own(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        sys.exit(0)

def end(how):
    if how == "generator": raise GeneratorExit
    if how == "stop": raise StopIteration
    if how == "own": raise Own("enough")
    if how == "mute": raise Mute
    if how == "typer": raise typer.Exit(0)
    if how == "abort": raise typer.Abort
    if how == "usage": raise typer.BadParameter("no")
    if how: sys.exit(0 if how == "exit" else how)

{top}

class Fixed(Program):
    def __init__(self):
        super().__init__()
        end("{init}")
        self.event_shape = torch.Size((2,))
        self.loc = nn.Parameter(torch.zeros(2))

    def model(self, x):
        end("{model}")
        with self.plate(x):
            return observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)
"""

ENDS = ["exit", "done", "generator", "own", "mute", "typer", "abort", "usage"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2)), columns=["a", "b"]).to_csv("t.csv", index=False)
    return tmp_path


def write_program(top: str = "", init: str = "", model: str = "") -> None:
    text = PROGRAM.replace("{top}", top).replace("{init}", init).replace("{model}", model)
    Path("own.py").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("how", "command"), [*((how, "check") for how in ENDS), *((how, "fit") for how in ("exit", "generator", "usage"))]
)
@pytest.mark.parametrize("place", ["top", "init", "model"])
def test_who_exits_does_not_decide_the_exit_code(
    here: Path, capsys: pytest.CaptureFixture[str], how: str, place: str, command: str
) -> None:
    write_program(**{place: f'end("{how}")' if place == "top" else how})
    code = cli.main([command, "own.py:Fixed", "--data", "t.csv", "--json", *["--no-progress"] * (command == "fit")])
    out, err = capsys.readouterr()
    if command == "check" and place == "model" and how in ("typer", "abort", "usage"):
        assert code == 1 and not json.loads(out)["ok"]  # an error like others: the program fails its checks
        return
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: ") and "Traceback" not in err
    name = {"exit": "SystemExit: 0", "done": "SystemExit: done", "own": "Own: enough", "usage": "no"}.get(how, "")
    assert name in err
    assert not Path("own_Fixed.pt").exists()


def test_what_a_program_prints_is_no_result(here: Path) -> None:
    """In a process of its own: also what child processes and the exit of the process print."""
    write_program(
        'print("one"); os.system("echo two"); os.write(1, b"three\\n"); sys.__stdout__.write("four\\n")\n'
        'atexit.register(print, "five"); logging.basicConfig(stream=sys.stdout, level=20); logging.info("six")\n'
        'atexit.register(os.system, "echo seven")\n'
    )
    words = ["fit", "own.py:Fixed", "--data", "t.csv", "--epochs", "1", "--no-progress", "--json"]
    done = subprocess.run([sys.executable, "-m", "pyro_gen", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 1
    for word in ("one", "two", "three", "four", "five", "six", "seven"):
        assert word in done.stderr


def test_standard_output_is_given_back(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_program('print("noise")')
    before = sys.stdout
    words = ["fit", "own.py:Fixed", "--data", "t.csv", "--epochs", "1", "--no-progress"]
    assert cli.main([*words, "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["epochs"] == 1 and err.count("noise") == 1 and sys.stdout is before
    assert cli.main(words) == 0
    assert "noise" in capfd.readouterr().out  # for people, it may print
    assert cli.main(["check", "nowhere.py", "--json"]) == 2
    print("after")
    assert capfd.readouterr().out == "after\n" and sys.stdout is before
    write_program('os.system("echo noise")')
    script = f"from pyro_gen.cli import main; main({[*words, '--json']}); print('{{}}')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("{") and done.stdout.endswith("}\n{}\n") and "noise" in done.stderr


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "d": "NaN"})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": {"c": None}, "d": "NaN"}


def test_an_answer_of_no_is_still_exit_code_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_program()
    text = Path("own.py").read_text().replace("self.plate(x)", "pyro.poutine.scale(scale=2.0), self.plate(x)")
    Path("own.py").write_text(text)
    assert cli.main(["check", "own.py:Fixed", "--data", "t.csv", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_typers_own_ways_out_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "--help"]) == 0 and "--epochs" in capsys.readouterr().out
    assert cli.main([]) == 2 and cli.main(["zoo"]) == 2
