"""Hundreds of wrong invocations, generated: exit code 2, one line on standard error, and no file is harmed."""

import hashlib
import inspect
import os
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen import cli
from pyro_gen.cli import zoo
from pyro_gen.cli.app import app
from pyro_gen.saving import save_program
from pyro_gen.targets import build

OWN = """
import torch, pyro.distributions as dist, pyro_gen as pg
class Own(pg.Program):
    def __init__(self):
        super().__init__()
        self.event_shape, self.loc = torch.Size((2,)), torch.nn.Parameter(torch.zeros(2))
    def model(self, x):
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)
class Needs(Own):
    def __init__(self, depth):
        super().__init__()
class Dies(Own):
    def __init__(self):
        raise KeyError("depth")
class Exits(Own):
    def __init__(self):
        raise SystemExit(0)
class Late(pg.Program):
    def __init__(self):
        self.loc = torch.nn.Parameter(torch.zeros(2))
class Context(Own):
    def model(self, x, u):
        return super().model(x)
number = 3
def function(x): pass
"""

DATA = {  # none of them is a table of numbers with a value in each column
    "empty.csv": b"",
    "blank.csv": b"\n\n\n",
    "header.csv": b"a,b\n",
    "names.csv": b"a,a\n1,2\n3,4\n",
    "nul.csv": b"a,b\n\x00\x00,\x00\n",
    "quote.csv": b'a,b\n"1,2\n3,4\n',
    "hollow.csv": b"a,b\nNA,NA\nNA,NA\n",
    "column.csv": b"a,b\n1,NA\n2,NA\n",
    "ragged.csv": b"a,b\n1,2,3\n4,5,6,7\n",
    "binary.csv": bytes(range(256)) * 4,
    "half.parquet": b"PAR1 and no more",
    "text.parquet": b"",
    "zip.csv": b"PK\x03\x04" + b"\x00" * 40,
    "nowhere.csv": None,
    "nowhere.parquet": None,
    "nowhere": None,
    "folder.csv": "folder",
    "data\udcff.csv": None,
}
ARRAYS = {
    "empty.npy": b"",
    "half.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }"
    + b"\n",
    "pickle.npy": b"\x80\x04]\x94.",
    "junk.pt": b"junk",
    "empty.pt": b"",
    "nowhere.npy": None,
    "nowhere.pt": None,
}
PROGRAMS = [
    *("nowhere.py:Own", "broken.py:Own", "raises.py:Own", "exits.py:Own", "dies.py:Own", "empty.py", "none.py:Own"),
    *("own.py:Nope", "own.py", "own.py:number", "own.py:function", "own.py:Needs", "own.py:Dies", "own.py:Exits"),
    *("own.py:Late", "own.py:Context", "folder.py:Own", "VEA", "", ":", ".py:Own", "own.py:", "own:Own"),
]
WEIGHTS = [
    *("nowhere.pt", "junk.pt", "empty.pt", "array.pt", "other.pt", "half.pt", "t.csv", "folder.csv", "code.pt"),
    *("mine.pt", "moved.pt", "own.py", ""),
]
OUTPUTS = [
    *("t.csv/a", "folder.csv", ".", "/dev/null", "a" * 300, "/proc/nowhere/a", "t.csv", "link.csv", "array.npy"),
]


def cases() -> Iterator[tuple[str, ...]]:
    fit = ("fit", "own.py:Own", "--data")
    readers = [
        fit,
        ("evaluate", "o.pt", "--data"),
        ("posterior", "own.py:Own", "--data"),
        ("evidence", "own.py:Own", "--data"),
        ("check", "own.py:Own", "--data"),
    ]
    for name in (*DATA, *ARRAYS):
        for reader in readers:
            if not (reader[0] == "evaluate" and name in ("hollow.csv", "column.csv")):  # which says nothing of these
                yield (*reader, name)
    for name in DATA:
        yield ("impute", name)
    for program in PROGRAMS:
        for reader in (("fit", program, "--data", "t.csv"), ("evidence", program, "--data", "t.csv")):
            yield (*reader, "--context", "nowhere.csv")
        for reader in (("fit", program, "--data", "t.csv"), ("posterior", program, "--data", "t.csv")):
            if not (program == "own.py:Context" and reader[0] == "check"):
                yield reader
        if program != "":
            yield ("check", program)
    for weights in WEIGHTS:
        yield ("sample", weights)
        yield ("evaluate", weights, "--data", "t.csv")
        yield ("posterior", weights, "--data", "t.csv")
        yield ("evidence", weights, "--data", "t.csv")
        yield ("predict", weights, "-n", "3")
        yield ("evaluate", "o.pt", "--data", "t.csv", "--posterior", weights)
        yield ("predict", "own.py:Own", "-n", "3", "--posterior", weights)
    for out in OUTPUTS:
        for suffix in ("", ".pt"):
            if out + suffix not in ("/dev/null.pt", "..pt", "folder.csv.pt", "t.csv.pt", "link.csv.pt", "array.npy.pt"):
                yield (*fit, "t.csv", "--out", out + suffix)
        yield (*fit, "t.csv", "--checkpoint", out)
        yield ("sample", "o.pt", "--out", out)
        yield ("predict", "o.pt", "-n", "3", "--out", out)
        yield ("impute", "holes.csv", "--out", out)
        yield ("impute", "holes.csv", "--report", out)
        yield ("posterior", "own.py:Own", "--data", "t.csv", "--out", out)
    for out in ("t.csv/a.png", "a.txt", "array.npy", "a" * 300 + ".png", "link.csv"):
        yield ("demo", "--out", out)
    for name in (*DATA, *ARRAYS):
        yield (*fit, "t.csv", "--context", name)
        yield ("predict", "o.pt", "--context", name)
    yield from wrong_words()
    yield from wrong_values()
    for option, values in {
        "--set": ("depth", "=3", "nope=3", "depth=3"),
        "--transform": ("binarise", "binarize=a", "logit=1,2,3", "standardize=3", ""),
        "--lr": ("-1", "0", "nan"),
        "--validation": ("0", "1", "-0.5", "nan"),
        "--clip-norm": ("-1", "0"),
        "--schedule": ("cosin",),
        "--patience": ("3",),
        "--kl-warmup": ("-1",),
        "--particles": ("3",),
    }.items():
        for value in values:
            yield (*fit, "t.csv", option, value)
    for option, values in {
        "--method": ("nope", "copula,nope", "", ","),
        "--type": ("a", "a=", "=real", "a=nope", "nope=real", "w=real"),
        "--schema": ("nowhere.json", "t.csv", "folder.csv", "list.json", "kind.json"),
        "--ignore": ("nope",),
        "--time-limit": ("0", "-1", "nan"),
        "--encoding": ("nope",),
        "--workers": ("3",),
    }.items():
        for value in values:
            yield ("impute", "holes.csv", option, value)


def wrong_words() -> Iterator[tuple[str, ...]]:
    for command in commands():
        yield (*command, "--nope")
        yield (*command, "--nope=3")
        yield (*command[:-1], command[-1] + "x")
        yield (*command, *["surplus"] * 4)
    yield from (("zoo", "show", "nope"), ("zoo", "reproduce", "nope"), ("zoo", "table", "--write", "t.csv"))
    yield from (("fit",), ("sample",), ("evaluate",), ("evaluate", "o.pt"), ("posterior",), ("impute",), ("check",))
    yield from (
        ("-x",),
        ("--",),
        ("fit", "--", "--data"),
        ("fit", "VAE"),
        ("check", "VAE"),
        ("fit", "vae-digits", "--lr"),
    )


def wrong_values() -> Iterator[tuple[str, ...]]:
    """Each option that takes a number or a choice, with what is neither."""
    arguments = {"fit": ["own.py:Own"], "sample": ["o.pt"], "posterior": ["own.py:Own"], "impute": ["holes.csv"]}
    arguments |= {
        "evaluate": ["o.pt"],
        "evidence": ["own.py:Own"],
        "predict": ["o.pt"],
        "check": ["own.py:Own"],
        "zoo reproduce": ["gaussian-iris"],
    }
    for words, callback in commands().items():
        parameters = inspect.signature(callback, eval_str=True).parameters
        data = ["--data", "t.csv"] if "data" in parameters and words != ("impute",) else []
        for name, parameter in parameters.items():
            kind, *told = typing.get_args(parameter.annotation)
            declared = [word for one in told for word in getattr(one, "param_decls", None) or () if word[:2] == "--"]
            kind = next((one for one in typing.get_args(kind) if one is not type(None)), kind)
            if not isinstance(kind, type) or not issubclass(kind, int | float | StrEnum) or kind is bool:
                continue
            given = [*words, *arguments.get(" ".join(words), []), *data, declared[0] if declared else f"--{name}"]
            given[-1] = given[-1].replace("_", "-")
            for value in ("many", "", *(["1.5"] if kind is int else [])):
                yield (*given, value)
            if any(getattr(one, "min", None) is not None for one in told):
                yield (*given, "-7")


def commands() -> dict[tuple[str, ...], Callable[..., Any]]:
    found = {(str(one.name),): one.callback for one in app.registered_commands}
    found |= {("zoo", str(one.name)): one.callback for one in zoo.app.registered_commands}
    return found  # type: ignore[return-value]


CASES = list(dict.fromkeys(cases()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("here")
    before = Path.cwd()
    os.chdir(path)
    for name, content in {**DATA, **ARRAYS}.items():
        if content == "folder":
            Path(name).mkdir()
        elif content is not None:
            Path(name).write_bytes(content)  # type: ignore[arg-type]
    x = np.random.default_rng(0).normal(size=(20, 2))
    frame = pd.DataFrame(x, columns=["a", "b"])
    frame.to_csv("t.csv", index=False)
    frame.assign(w=["x", "y"] * 10).mask(np.arange(60).reshape(20, 3) % 7 == 0).to_csv("holes.csv", index=False)
    np.save("array.npy", x)
    np.save("pickle.npy", np.array([{"a": 1}], dtype=object))
    torch.save(torch.zeros(3, 2), "array.pt")
    torch.save({"a": torch.zeros(2)}, "other.pt")
    save_program("o.pt", build("Gaussian", (2,)), "Gaussian", columns=["a", "b"])
    Path("half.pt").write_bytes(Path("o.pt").read_bytes()[:-100])
    texts = {
        "own.py": OWN,
        "broken.py": "x = (\n",
        "raises.py": "import nowhere\n",
        "empty.py": "",
        "none.py": "Own = None",
    }
    texts |= {
        "exits.py": "raise SystemExit(0)",
        "dies.py": "raise GeneratorExit",
        "list.json": "[1]",
        "kind.json": '{"a": 3}',
    }
    for name, text in texts.items():
        Path(name).write_text(text)
    save_program("mine.pt", build("own.py:Own"), "own.py:Own")
    Path("old.py").write_text(OWN)
    save_program("moved.pt", build("old.py:Own"), "old.py:Own")
    Path("old.py").unlink()
    torch.save({"state_dict": {}, "description": Code()}, "code.pt")
    Path("folder.py").mkdir()
    os.symlink("t.csv", "link.csv")
    os.chdir(before)
    return path


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.blake2b(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 300


@pytest.mark.parametrize("command", sorted({words[0] for words in CASES}))
def test_a_wrong_invocation_is_one_line_and_harms_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYRO_GEN_DATA", raising=False)
    before = contents(folder)
    wrong = []
    for words in (words for words in CASES if words[0] == command):
        quiet = [] if command in ("sample", "check", "zoo", "-x", "--") else ["--no-progress"]
        split = words.index("--") if "--" in words else len(words)
        code = cli.main([*words[:split], *quiet, *words[split:]])
        out, err = capsys.readouterr()
        clear = err.startswith("error: ") and err.count("\n") == 1 and 15 < len(err) < 800
        clear = clear and not any(word in err for word in ("Traceback", "weights_only", "executed"))
        if (code, out) != (2, "") or not clear or contents(folder) != before:
            wrong.append((words, code, out, err))
    assert not wrong


@pytest.mark.parametrize("words", [("fit", "exits.py:Own", "--data", "t.csv", "--json"), ("impute", "t.csv", "--nope")])
def test_some_of_them_as_processes(folder: Path, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pyro_gen", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
