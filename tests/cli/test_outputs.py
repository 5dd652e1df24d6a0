"""No command writes over what it reads, or over what it did not write, unless it is told to."""

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_gen as pg
from pyro_gen import cli, pictures
from pyro_gen.cli.outputs import check_output
from pyro_gen.saving import save_program
from pyro_gen.targets import build

FIT = ("fit", "Gaussian", "--data", "t.csv", "--epochs", "1", "--no-progress")
IMPUTE = ("impute", "t.csv", "--method", "gaussian", "--draws", "2", "--no-progress")

OWN = """
import torch, pyro.distributions as dist, pyro_gen as pg
class Own(pg.Program):
    def __init__(self):
        super().__init__()
        self.event_shape, self.loc = torch.Size((2,)), torch.nn.Parameter(torch.zeros(2))
    def model(self, x):
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(30, 2))
    x[::5, 1] = np.nan
    frame = pd.DataFrame(x, columns=["a", "b"])
    frame.to_csv("t.csv", index=False)
    frame.to_csv("other.csv", index=False)
    frame.to_parquet("t.parquet")
    np.save("t.npy", x)
    torch.save(torch.zeros(5, 2), "t.pt")
    save_program("o.pt", build("Gaussian", (2,)), "Gaussian", columns=["a", "b"])
    save_program(
        "vae.pt", build("VAE", (8, 8), {"hidden": [4], "latent": 2}), "VAE", options={"hidden": [4], "latent": 2}
    )
    for name, text in {
        "own.py": OWN,
        "notes.nc": "mine",
        "notes.png": "mine",
        "notes.html": "<p>mine</p>",
        "s.json": '{"a": "real"}',
    }.items():
        Path(name).write_text(text)
    Path("pictures").mkdir()
    Path("pictures/trace.png").write_text("mine")
    os.symlink("t.csv", "link.csv")
    os.link("t.csv", "hard.csv")
    Path("folder").mkdir()
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "words",
    [
        (*FIT, "--out", "t.csv"),
        (*FIT, "--out", "./folder/../t.csv"),
        (*FIT, "--out", "link.csv"),
        (*FIT, "--out", "hard.csv"),
        (*FIT, "--out", "other.csv"),
        (*FIT, "--out", "t.pt"),  # numbers, no program of ours
        (*FIT, "--checkpoint", "t.csv"),
        (*FIT, "--checkpoint", "t.csv", "--resume"),
        (*FIT, "--checkpoint", "o.pt"),
        (*FIT, "--checkpoint", "t.npy"),
        (*FIT, "--out", "new.pt", "--checkpoint", "new.pt"),
        (*FIT, "--out", "new.pt", "--checkpoint", "folder/../new.pt"),
        ("fit", "own.py:Own", *FIT[2:], "--out", "own.py"),
        ("zoo", "reproduce", "gaussian-iris", "--checkpoint", "t.csv", "--no-progress"),
        (*IMPUTE, "--out", "t.csv"),
        (*IMPUTE, "--out", "link.csv"),
        (*IMPUTE, "--out", "hard.csv", "--single", "mean"),
        (*IMPUTE, "--out", "other.csv"),
        (*IMPUTE, "--out", "t.parquet"),
        (*IMPUTE, "--report", "notes.html"),
        (*IMPUTE, "--schema", "s.json", "--out", "s.json"),
        ("impute", "t.parquet", "--out", "t.parquet"),
        ("impute", "folder", "--out", "folder"),
        ("sample", "o.pt", "--out", "o.pt"),
        ("sample", "o.pt", "--out", "t.csv"),
        ("sample", "o.pt", "--out", "t.npy"),
        ("sample", "o.pt", "--out", "t.pt"),
        ("sample", "o.pt", "--target", "own.py:Own", "--out", "own.py"),
        ("sample", "vae.pt", "--out", "notes.png"),
        ("sample", "vae.pt", "--out", "vae.pt"),
        ("posterior", "own.py:Own", "--data", "t.npy", "--out", "t.csv"),
        ("posterior", "own.py:Own", "--data", "t.npy", "--out", "notes.nc"),
        ("posterior", "own.py:Own", "--data", "t.npy", "--plot", "pictures"),
        ("posterior", "own.py:Own", "--data", "t.npy", "--plot", "t.csv"),
        ("demo", "--out", "notes.png"),
    ],
)
def test_what_is_there_is_not_written_over(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    before = contents(here)
    code = cli.main(words)
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert contents(here) == before


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("sample", "o.pt", "--out", "t.csv"), "t.csv"),
        (("sample", "o.pt", "--out", "t.npy"), "t.npy"),
        (("sample", "vae.pt", "--out", "notes.png"), "notes.png"),
        ((*IMPUTE, "--out", "t.csv", "--single", "mean"), "t.csv"),
        ((*FIT, "--out", "t.pt"), "t.pt"),
    ],
)
def test_overwrite_is_the_way_out_and_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], path: str
) -> None:
    before = contents(here)
    assert cli.main(words) == 2 and "or --overwrite." in capsys.readouterr().err
    assert contents(here) == before
    assert cli.main([*words, "--overwrite"]) == 0
    after = contents(here)
    changed = {name for name in before if after[name] != before[name]}
    assert changed - {"link.csv", "hard.csv"} == {path}


def test_what_commands_wrote_they_write_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        (*FIT, "--out", "again.pt"),
        (*FIT, "--checkpoint", "again.ckpt"),
        ("sample", "o.pt"),
        ("sample", "vae.pt"),
        ("sample", "vae.pt", "--out", "again.png"),
        ("sample", "vae.pt", "--out", "again.svg"),
        ("sample", "vae.pt", "--out", "again.pdf"),
        IMPUTE,
        (*IMPUTE, "--out", "again.csv"),
        (*IMPUTE, "--out", "again.parquet", "--report", "again.html"),
        (*IMPUTE, "--single", "mean"),
    ):
        for _ in range(2):
            assert cli.main(words) == 0, capsys.readouterr().err


def test_pg_fit_does_not_write_over_what_is_no_checkpoint(here: Path) -> None:
    before = contents(here)
    x = torch.zeros(4, 2)
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"t\.csv is not a checkpoint of pg\.fit"):
            pg.fit(pg.models.Gaussian(2), x, epochs=1, checkpoint="t.csv", resume=resume, progress=False)
    assert contents(here) == before
    pictures.write(pictures.image_grid(torch.rand(2, 4, 4)), "a.png")  # in Python, who names a file has said so


def test_a_netcdf_file_of_others_is_known_as_such(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["posterior", "own.py:Own", "--data", "t.npy", "--out", "notes.nc"]) == 2
    assert "notes.nc: is there already, and not known as written by pyro-gen" in capsys.readouterr().err


def test_demo_trains_nothing_for_a_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *a: object, **k: object) -> None:
        raise PermissionError(errno.EACCES, "no", str(path))

    monkeypatch.setattr("pyro_gen.demo.run", lambda *a, **k: pytest.fail("it trains"))
    monkeypatch.setattr(Path, "mkdir", refuse)  # root may make any
    out = tmp_path / "a" / "b" / "p.png"
    assert cli.main(["demo", "--out", str(out), "--no-progress"]) == 2
    assert capsys.readouterr().err == f"error: --out {out}: cannot be written, there is no permission to.\n"


def test_folders_that_are_tried_are_taken_away_again(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b" / "p.png", "--out")
    assert list(tmp_path.iterdir()) == []
