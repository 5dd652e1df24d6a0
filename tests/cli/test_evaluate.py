"""``pyro-gen evaluate`` as a user types it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen import data, log_likelihood
from pyro_gen.saving import load_program
from tests.cli.shell import FIT, err_line, run, run_json


def test_a_transform_that_draws_is_evaluated_on_the_scale_of_the_data(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "likelihood=student_t", "--set", "latent=2", "--set", "hidden=[8]", "--epochs", "1"]
    words = ["fit", "VAE", "--data", "digits", *options, "--transform", "dequantize", "--transform", "logit=0.05"]
    run_json(capsys, *words, "--out", "vae.pt", "--no-progress")
    words = ["evaluate", "vae.pt", "--data", "digits", "--method", "elbo", "--seed", "7", "--no-progress"]
    result = run_json(capsys, *words)
    transform = data.Compose([data.Dequantize(17), data.Logit(0.05)])
    _, ladj = transform.call_and_ladj(data.load("digits").test, torch.Generator().manual_seed(7))
    on_the_scale = result["mean"] + ladj.mean().item()
    assert result["mean_on_the_scale_of_the_data"] == pytest.approx(on_the_scale)
    assert result["bits_per_dim"] == pytest.approx(-on_the_scale / (64 * np.log(2)))
    _, other = transform.call_and_ladj(data.load("digits").test, torch.Generator().manual_seed(8))
    assert abs((other - ladj).mean().item()) > 1e-3  # so the draw matters


def test_samples_are_judged_beside_the_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "KernelDensity", "--data", "digits", "--transform", "dequantize", "--epochs", "1"]
    run_json(capsys, *words, "--out", "k.pt", "--no-progress")
    words = ["evaluate", "k.pt", "--data", "digits", "--samples", "300"]
    result = run_json(capsys, *words)
    assert result["samples"] == 300 and 0 < result["frechet"]["value"] < 3 * result["frechet"]["real"]["value"]
    assert 0.4 < result["c2st"]["value"] < 0.8 and result["coverage"]["value"] > 0.8
    _, out, _ = run(capsys, *words[:-1], "50")
    assert "frechet" in out and "real against real" in out
    np.save("a.npy", data.load("digits").test[:50].numpy())
    assert run_json(capsys, "evaluate", "k.pt", "--data", "a.npy", "--samples", "50")["recall"]["real"] is None
    # As many as the other part has: the test data here.
    assert run_json(capsys, *words[:-1], "400", "--part", "train")["samples"] == 360
    assert "--num-particles is of likelihoods" in err_line(capsys, *words, "--num-particles", "3")


@pytest.mark.parametrize("name", ["a.npy", "a.pt"])
def test_rows_without_a_value_are_refused_in_arrays_too(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def write(x: torch.Tensor) -> None:
        torch.save(x, "a.pt")
        np.save("a.npy", x.numpy())

    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    x[[2, 4]] = torch.nan
    x[0, 0] = torch.nan  # a hole in a row is none of it
    write(x)
    words = [*FIT, name, "--epochs", "1", "--batch-size", "2", "--no-progress"]
    code, _, err = run(capsys, *words)
    assert code == 2 and "2 of 6 rows without any observed value (the first is row 2, counted from 0)" in err
    assert run_json(capsys, *words, "--drop-empty")["steps"] == 2  # four rows are left
    write(torch.full((6, 3), torch.nan))
    code, _, err = run(capsys, *words, "--drop-empty")
    assert code == 2 and "no value is observed in the whole array" in err


def test_columns_are_matched_by_name_and_may_be_empty(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def evaluate(frame: Any, *words: str) -> dict[str, Any]:
        frame.to_csv("new.csv", index=False)
        return run_json(capsys, "evaluate", "g.pt", "--data", "new.csv", "--no-progress", *words)  # type: ignore[no-any-return]

    words = ["fit", "Gaussian", "--data", "t.csv", "--transform", "standardize", "--epochs", "200", "--lr", "0.05"]
    run_json(capsys, *words, "--out", "g.pt", "--no-progress")
    table = pd.read_csv("t.csv")
    mean = evaluate(table)["mean"]
    assert evaluate(table[["c", "a", "b"]])["mean"] == mean
    swapped = table[["c", "a", "b"]].set_axis(list("abc"), axis=1)  # the same numbers under other names
    assert evaluate(swapped)["mean"] < mean - 10

    # What is not observed is integrated out: that of columns a and b alone, and 0 for a row of nothing.
    saved = load_program("g.pt")
    assert saved.transform is not None
    x = torch.tensor(table.assign(c=np.nan).to_numpy(), dtype=torch.float32)
    alone = log_likelihood(saved.program, saved.transform(x)).mean()
    hollow = evaluate(table.assign(c=np.nan))
    assert hollow["data"] == 40 and hollow["mean"] == pytest.approx(alone) and alone > mean + 0.5
    halved = pd.concat([table, table * np.nan])
    assert evaluate(halved)["mean"] == pytest.approx(mean / 2)
    assert evaluate(halved, "--drop-empty")["mean"] == pytest.approx(mean)
    halved.to_csv("new.csv", index=False)
    code, _, err = run(capsys, "evaluate", "g.pt", "--data", "new.csv", "--no-progress")
    assert code == 0 and err.startswith("note: 40 of 80 rows without any observed value count as log-likelihood 0")
    np.save("new.npy", halved.to_numpy())
    assert run_json(capsys, "evaluate", "g.pt", "--data", "new.npy", "--no-progress")["mean"] == pytest.approx(mean / 2)

    def complaint(frame: Any) -> str:
        frame.to_csv("new.csv", index=False)
        return err_line(capsys, "evaluate", "g.pt", "--data", "new.csv", "--no-progress")

    assert "has no column 'b' (add it, empty where it was not observed);" in complaint(table[["c", "a"]])
    assert "new.csv has a column 'd' that the program does not know" in complaint(table.assign(d=1.0))
    both = complaint(table.rename(columns={"b": "B"}))
    assert "no column 'b'" in both and "a column 'B'" in both and "columns are 'a', 'b', 'c'." in both
    # To train on, a column needs values.
    table.assign(c=np.nan).to_csv("new.csv", index=False)
    assert "column 'c' has no observed value" in err_line(capsys, *words[:3], "new.csv")


def test_weights_of_another_shape_and_a_changed_class_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FIT, "t.csv", "--transform", "standardize", "--epochs", "1", "--no-progress", "--out", "w.pt"]
    assert run(capsys, *words)[0] == 0
    code, _, err = run(capsys, "evaluate", "w.pt", "--trust", "--data", "iris", "--no-progress")
    assert code == 2 and "iris has no column 'a', 'b', 'c' (add it" in err
    np.save("four.npy", np.zeros((2, 4)))
    code, _, err = run(capsys, "evaluate", "w.pt", "--trust", "--data", "four.npy", "--no-progress")
    assert code == 2 and "four.npy has data of shape (4,), the program is for data of shape (3,)" in err
    source = Path("own.py").read_text(encoding="utf-8")
    Path("own.py").write_text(source.replace("factors=2", "factors=4") + "# changed\n", encoding="utf-8")
    assert "has changed since the program was trained" in err_line(capsys, "sample", "w.pt", "--trust")
    err = err_line(capsys, "evaluate", "w.pt", "--target", "own.py:Fixed", "--data", "t.csv", "--no-progress")
    assert "weights do not fit" in err
    whole = Path("w.pt").read_bytes()
    Path("w.pt").write_bytes(whole[: len(whole) // 2])
    code, _, err = run(capsys, "sample", "w.pt")
    assert code == 2 and "not a program saved" in err
