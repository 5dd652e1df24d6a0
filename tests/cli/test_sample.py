"""``pyro-gen sample`` as a user types it."""

from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_gen as pg
from pyro_gen import pictures
from tests.cli.shell import FIT, err_line, run, run_json


def test_images_by_name_become_a_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--set", "latent=2", "--set", "hidden=[16]", "--transform", "binarize=8"]
    words = ["fit", "VAE", "--data", "digits", *options, "--epochs", "1", "--validation", "0.1", "--out", "vae.pt"]
    found = run_json(capsys, *words, "--no-progress")
    assert found["validation_loss"] > 0
    sampled = run_json(capsys, "sample", "vae.pt", "-n", "14")
    assert sampled["scale"] == "after Binarize(threshold=8)"
    assert Path(sampled["samples"]).read_bytes().startswith(b"\x89PNG")
    assert run_json(capsys, "sample", "vae.pt", "-n", "3", "--out", "s.npy")["shape"] == [3, 8, 8]
    assert np.load("s.npy").shape == (3, 8, 8)
    # The test data, not the training data, is what a named set is evaluated on.
    assert (
        run_json(capsys, "evaluate", "vae.pt", "--data", "digits", "--method", "elbo", "--no-progress")["data"] == 360
    )


def test_a_moved_file_is_named_anew(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*FIT, "t.csv", "--transform", "standardize", "--epochs", "1", "--no-progress", "--out", "w.pt"]
    assert run(capsys, *words)[0] == 0
    program = pg.load("w.pt", trust=True)
    Path("own.py").rename("moved.py")
    err = err_line(capsys, "sample", "w.pt")
    assert f"its program is in {here / 'own.py'}, which is not there now: say where it is, by --target." in err
    assert run(capsys, "sample", "w.pt", "--target", "moved.py:Fixed")[0] == 0
    again = pg.load("w.pt", target="moved.py:Fixed")
    assert torch.equal(again.loading.weight, program.loading.weight) and not again.training
    with pytest.raises(ValueError, match="by target="):
        pg.load("w.pt")


def test_a_grid_of_images_fills_its_picture() -> None:
    for count, title in ((24, "24 samples of vae.pt"), (2, "2 samples of a file with a long name.pt")):
        figure = pictures.image_grid(torch.rand(count, 8, 8), title)
        width = figure.get_size_inches()[0]
        boxes = [axes.get_position() for axes in figure.get_axes()]
        text = figure.texts[0].get_window_extent()
        assert min(box.x0 for box in boxes) * width == pytest.approx(0.15)  # in line with the title
        assert text.x0 / figure.dpi == pytest.approx(0.15, abs=0.03) and text.x1 / figure.dpi < width
        assert count < 12 or max(box.x1 for box in boxes) * width > width - 0.25
    labelled = pictures.image_rows([pictures.Row("test images", torch.rand(2, 8, 8))])
    assert labelled.get_axes()[0].get_position().x0 * labelled.get_size_inches()[0] > 1.5
