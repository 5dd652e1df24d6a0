"""Files of trained programs: whose code they run, and what crafted, damaged and cut-off ones are answered with."""

import hashlib
import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_gen as pg
from pyro_gen import cli
from pyro_gen._archives import WithinMemory, read_archive
from pyro_gen.saving import load_program, save_program
from pyro_gen.targets import build

OWN = """
import pathlib, torch
import pyro.distributions as dist
import pyro_gen as pg

pathlib.Path(__file__).with_name("ran").touch()

class Mine(pg.Program):
    def __init__(self, start=0.0):
        super().__init__()
        self.event_shape = torch.Size((2,))
        self.loc = torch.nn.Parameter(torch.full((2,), start))

    def model(self, x):
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved program of the user's, whose Python file leaves a trace where it runs."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    program = build("own.py:Mine", options={"start": 3.0})
    save_program("own.pt", program, "own.py:Mine", options={"start": 3.0})
    Path("ran").unlink()
    return tmp_path


def is_mine(program: pg.Program) -> bool:
    return program.state_dict()["loc"].tolist() == [3.0, 3.0]


def test_a_users_file_runs_only_where_the_user_says_so(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = hashlib.sha256((own / "own.py").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="give trust=True if you trust that file, or name the program") as caught:
        pg.load("own.pt")
    assert f"runs the Python file {own / 'own.py'} (SHA-256 {digest})" in str(caught.value)
    for words in (["sample"], ["evaluate", "--data", "iris"], ["posterior", "--data", "iris"]):
        assert cli.main([words[0], "own.pt", *words[1:]]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert f"give --trust if you trust that file, or name the program yourself by --target {own}/own.py:Mine" in err
    assert not Path("ran").exists()
    assert is_mine(pg.load("own.pt", trust=True)) and Path("ran").exists()
    assert is_mine(pg.load("own.pt", target="own.py:Mine"))
    assert cli.main(["sample", "own.pt", "--trust", "--out", "s.csv"]) == 0


def test_the_class_itself_or_an_instance_needs_no_trust(own: Path) -> None:
    cls: Any = type(build("own.py:Mine"))
    Path("ran").unlink()
    Path("own.py").unlink()
    assert is_mine(pg.load("own.pt", cls)) and is_mine(pg.load("own.pt", target=cls(1.0)))
    assert not Path("ran").exists()
    with pytest.raises(ValueError, match="weights do not fit"):
        pg.load("own.pt", target=pg.models.Gaussian(2))


def test_a_changed_file_is_not_run_and_a_moved_one_is_named(own: Path) -> None:
    text = Path("own.py").read_text()
    Path("own.py").write_text(text + "\n")
    with pytest.raises(ValueError, match=r"has changed since the program was trained \(SHA-256 .* then, .* now\)"):
        pg.load("own.pt", trust=True)
    assert not Path("ran").exists()
    assert is_mine(pg.load("own.pt", target="own.py:Mine"))  # looked at, and named
    Path("own.py").write_text(text)
    assert is_mine(pg.load("own.pt", trust=True))
    Path("own.py").rename("moved.py")
    with pytest.raises(ValueError, match="not there now: say where it is, by target="):
        pg.load("own.pt", trust=True)


def rewrite(path: str, **changes: Any) -> None:
    saved = torch.load(path, weights_only=True)
    description = json.loads(saved["description"]) | changes
    torch.save({"state_dict": saved["state_dict"], "description": json.dumps(description)}, path)


def test_a_path_without_a_folder_is_not_looked_up_in_the_current_one(own: Path) -> None:
    rewrite("own.pt", target="own.py:Mine")
    with pytest.raises(ValueError, match="a path without a folder"):
        pg.load("own.pt", trust=True)
    assert not Path("ran").exists()


# ----------------------------------------------------------------------------------------------------------------------
# Crafted, damaged, cut off


def saved_bytes(obj: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return buffer.getvalue()


def gaussian(**changes: Any) -> dict[str, Any]:
    program = build("Gaussian", (3,))
    description = {"target": "Gaussian", "options": {}, "event_shape": [3], "transform": [], "columns": None}
    return {"state_dict": program.state_dict(), "description": json.dumps(description | changes)}


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def packed(content: bytes) -> bytes:
    """The same archive with a megabyte of zeros in a thousand bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, bytes(2**20) if "/data/" in entry.filename else old.read(entry))
    return buffer.getvalue()


CRAFTED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"a,b\n1,2\n",
    "pickle": lambda: pickle.dumps({"state_dict": {}, "description": "{}"}),
    "legacy": lambda: _legacy(gaussian()),
    "zip": lambda: _zip({"a.txt": b"a"}),
    "half": lambda: saved_bytes(gaussian())[:-300],
    "first bytes": lambda: saved_bytes(gaussian())[:200],
    "flipped": lambda: saved_bytes(gaussian()).replace(b"state_dict", b"state\xff\xfe\xfdct"),
    "list": lambda: saved_bytes([1, 2]),
    "tensor": lambda: saved_bytes(torch.zeros(2)),
    "other keys": lambda: saved_bytes({"a": torch.zeros(2)}),
    "no tensors": lambda: saved_bytes(gaussian() | {"state_dict": {"loc": 3}}),
    "no text": lambda: saved_bytes(gaussian() | {"description": 3}),
    "no JSON": lambda: saved_bytes(gaussian() | {"description": "{"}),
    "deep JSON": lambda: saved_bytes(gaussian() | {"description": "[" * 100_000}),
    "another JSON": lambda: saved_bytes(gaussian() | {"description": "[1, 2]"}),
    "no target": lambda: saved_bytes(gaussian(target=None)),
    "options": lambda: saved_bytes(gaussian(options=[["a", 1]][0])),
    "shape of texts": lambda: saved_bytes(gaussian(event_shape=["3"])),
    "negative shape": lambda: saved_bytes(gaussian(event_shape=[-3])),
    "true shape": lambda: saved_bytes(gaussian(event_shape=[True])),
    "transform of what": lambda: saved_bytes(gaussian(transform=[{"name": "no"}])),
    "transform with what": lambda: saved_bytes(gaussian(transform=[{"name": "logit", "b": 2}])),
    "columns": lambda: saved_bytes(gaussian(columns=[1, 2])),
    "code": lambda: saved_bytes(gaussian() | {"state_dict": Calls(print, "executed")}),
    "exec": lambda: saved_bytes(gaussian() | {"more": Calls(exec, "raise SystemExit")}),
    "torch.load": lambda: saved_bytes(gaussian() | {"more": Calls(torch.load, "a")}),
    "bytearray": lambda: saved_bytes(gaussian() | {"more": Calls(bytearray, 10**13)}),
    "packed": lambda: packed(saved_bytes(gaussian())),
    "view": lambda: saved_bytes(gaussian() | {"state_dict": {"loc": torch.zeros(1).expand(10**12)}}),
    "vast shape": lambda: saved_bytes(gaussian(event_shape=[10**6])),
    "vaster shape": lambda: saved_bytes(gaussian(event_shape=[10**15])),
    "wide": lambda: saved_bytes(
        gaussian(target="VAE", options={"hidden": [10**7, 10**7], "likelihood": "normal"}, event_shape=[3])
    ),
    "deep": lambda: saved_bytes(
        gaussian(target="VAE", options={"hidden": [4000] * 1000, "likelihood": "normal"}, event_shape=[3])
    ),
}


def _legacy(obj: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _zip(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / "crafted.pt"
    path.write_bytes(CRAFTED[name]())
    assert cli.main(["sample", str(path), "--out", str(tmp_path / "s.csv")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"error: {path}: not a program saved by pyro-gen fit")
    assert not any(word in err for word in ("weights_only", "Unpickl", "trusted", "executed", "Traceback"))
    assert len(err) < 400 and not (tmp_path / "s.csv").exists()


def test_a_sound_file_passes_the_same_reader(tmp_path: Path) -> None:
    """The twin of the above: what is refused there is refused for what is wrong with it."""
    path = tmp_path / "sound.pt"
    path.write_bytes(saved_bytes(gaussian()))
    assert isinstance(load_program(path).program, pg.models.Gaussian)
    linear = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(linear.parameters())
    linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    kept = {"a": linear.state_dict(), "b": optimizer.state_dict(), "c": [1.5, None, True, (torch.Size([2]), "d")]}
    kept |= {"e": OrderedDict(f=torch.zeros(3, dtype=torch.float64)[1:]), "g": linear.weight, "h": torch.bfloat16}
    kept |= {"i": torch.tensor([True]), "j": torch.zeros(0, 3), "k": torch.arange(6).reshape(2, 3).T}
    torch.save(kept, path)
    found = read_archive(path)
    assert found.keys() == kept.keys() and torch.equal(found["k"], kept["k"]) and found["h"] is torch.bfloat16
    assert torch.equal(found["b"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize("name", [name for name in pg.models.__all__ if name in ("VAE", "FactorAnalysis", "Gaussian")])
def test_building_what_the_file_holds_is_within_its_memory(tmp_path: Path, name: str) -> None:
    options = {"VAE": {"hidden": [500, 500], "likelihood": "normal"}, "FactorAnalysis": {"rank": 3}}.get(name, {})
    save_program(tmp_path / "a.pt", build(name, (64,), options), name, options=options)
    assert type(pg.load(tmp_path / "a.pt")).__name__ == name


def test_memory_is_counted_over_all_arrays() -> None:
    with WithinMemory(1000):
        for _ in range(4):
            torch.zeros(60)
        with pytest.raises(ValueError, match="is asked for"):
            torch.zeros(60)
    with WithinMemory(1000):
        for create in (lambda: torch.eye(100), lambda: torch.arange(10**9), lambda: torch.zeros(1).new_empty(300)):
            with pytest.raises(ValueError, match="is asked for"):
                create()
