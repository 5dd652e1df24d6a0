"""The commands that there are, as installed; their help and their exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_gen as pg
from pyro_gen import cli
from pyro_gen.registry import DATA_SETS
from tests.cli.shell import FIT, run


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"pyro-gen {pg.__version__}\n", "")


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


def test_debug_shows_the_traceback(here: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        cli.main(["fit", "own.py:Fixed", "--data", "nothing.csv", "--debug"])


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


def test_help_does_not_wait_for_libraries_that_it_does_not_need() -> None:
    script = "import sys; from pyro_gen.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"pandas", "sklearn", "matplotlib", "arviz", "lightning", "dask"} & set(done.stderr.split())
