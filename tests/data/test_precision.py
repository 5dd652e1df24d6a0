"""Large numbers that differ little: tables are read and standardised with all their digits.

A column shifted by a constant that float64 holds exactly has the same likelihood, whatever the shift.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_gen as pg
from pyro_gen import cli
from pyro_gen.data import Batches, Standardize, as_tensor, read_table
from pyro_gen.saving import load_program, save_program
from pyro_gen.targets import describe_transform, restore_transform

OFFSETS = [1e7, 1e8, 1.7e9, -4e12]  # the third: seconds since 1970
ROWS = 60


def hours(offset: float) -> pd.DataFrame:
    """Numbers in quarters, so that the offset moves no digit of them in float64."""
    rng = np.random.default_rng(0)
    a = (rng.normal(0, 3, ROWS) * 4).round() / 4
    b = (a + rng.normal(0, 2, ROWS)).round(2)
    return pd.DataFrame({"time": a + offset, "b": b})


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, float]:
    code = cli.main([*words, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    found: dict[str, float] = json.loads(out)
    return found


def likelihood(capsys: pytest.CaptureFixture[str], name: str, seed: int = 0) -> float:
    """The log-likelihood of a file on the scale of its data, by a Gaussian trained on it."""
    words = ["fit", "Gaussian", "--data", name, "--transform", "standardize", "--epochs", "5", "--out", "g.pt"]
    run_json(capsys, *words, "--no-progress", "--seed", str(seed))
    found = run_json(capsys, "evaluate", "g.pt", "--data", name, "--method", "exact", "--no-progress")
    return found["mean_on_the_scale_of_the_data"] if "mean_on_the_scale_of_the_data" in found else found["mean"]


def as_npy(table: pd.DataFrame, name: str) -> str:
    np.save(f"{name}.npy", table.to_numpy())
    return f"{name}.npy"


def as_csv(table: pd.DataFrame, name: str) -> str:
    table.to_csv(f"{name}.csv", index=False)
    return f"{name}.csv"


def as_parquet(table: pd.DataFrame, name: str) -> str:
    table.to_parquet(f"{name}.parquet")
    return f"{name}.parquet"


@pytest.mark.parametrize("save", [as_csv, as_parquet, as_npy])
def test_an_offset_does_not_change_a_likelihood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], save: object
) -> None:
    monkeypatch.chdir(tmp_path)
    assert callable(save)
    expected = likelihood(capsys, save(hours(0.0), "t"))
    for offset in OFFSETS:
        assert likelihood(capsys, save(hours(offset), "t")) == pytest.approx(expected, abs=1e-5), offset
    # What is drawn lies where the data does, and between whole numbers too: float32 has steps of 128 at 1.7e9.
    likelihood(capsys, save(hours(1.7e9), "t"))
    run_json(capsys, "sample", "g.pt", "--n", "400", "--out", "s.csv")
    drawn = pd.read_csv("s.csv").iloc[:, 0]
    assert drawn.nunique() == 400 and abs(drawn.mean() - 1.7e9) < 2 and 2 < drawn.std() < 4


def test_the_twin_by_single_precision_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same numbers after a detour through float32: nats are wrong at 1e7, and nothing varies at 1.7e9."""
    monkeypatch.chdir(tmp_path)
    expected = likelihood(capsys, as_csv(hours(0.0), "t"))
    assert abs(likelihood(capsys, as_csv(hours(1e7).astype(np.float32).astype(float), "t")) - expected) > 1e-4
    as_csv(hours(1.7e9).astype(np.float32).astype(float), "t")
    assert cli.main(["fit", "Gaussian", "--data", "t.csv", "--transform", "standardize"]) == 2
    assert "'time' does not vary" in capsys.readouterr().err


def test_a_transform_of_fit_sees_all_digits() -> None:
    """Also one that is applied to minibatches, of an array: validation data too."""
    near, far = (hours(offset).to_numpy() for offset in (0.0, 1.7e9))

    def losses(x: np.ndarray) -> list[float]:
        transform = Standardize.fit(as_tensor(x, dtype=torch.float64))
        found = pg.fit(
            pg.models.Gaussian(2), x, transform=transform, validation=x[:20], epochs=3, batch_size=16, progress=False
        )
        return [row[name] for row in found.history for name in ("train_loss", "validation_loss")]

    assert losses(far) == pytest.approx(losses(near), abs=1e-5)
    # The batch itself is in the precision of the program, for a program of float64 too.
    for program in (pg.models.Gaussian(2), pg.models.Gaussian(2).double()):
        dtype = next(program.parameters()).dtype
        (x,) = next(Batches(far, 60, seed=0, transform=lambda x: x - 1.7e9, dtype=dtype).epoch(0))
        assert x.dtype == dtype


def test_moments_come_back_from_a_file_with_all_digits(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    hours(1.7e9).to_csv(path, index=False)
    table = read_table(path)
    assert table.values.dtype == torch.float64 and table.values[:, 0].sub(1.7e9).tolist() == hours(0.0)["time"].tolist()
    transform = Standardize.fit(table.values)
    again = restore_transform(json.loads(json.dumps(describe_transform(transform))))
    assert isinstance(again, Standardize) and again.mean.tolist() == transform.mean.tolist()
    assert torch.equal(again(table.values), transform(table.values))
    program = pg.fit(pg.models.Gaussian(2), transform(table.values), epochs=1, progress=False).program
    save_program(tmp_path / "g.pt", program, "Gaussian", transform=transform)
    saved = load_program(tmp_path / "g.pt").transform
    assert isinstance(saved, Standardize) and saved.mean.tolist() == transform.mean.tolist()


@pytest.mark.parametrize("offset", OFFSETS)
def test_an_imputer_does_not_see_an_offset(offset: float) -> None:
    near, far = hours(0.0), hours(offset)
    holes = np.random.default_rng(1).random((ROWS, 2)) < 0.2
    filled = [
        pg.Imputer("gaussian", random_state=0).fit_transform(table.mask(holes)) - [shift, 0]
        for table, shift in ((near, 0.0), (far, offset))
    ]
    # The step of float64 at the largest offset is 5e-4.
    np.testing.assert_allclose(filled[1], filled[0], atol=2e-3)
