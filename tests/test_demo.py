"""The demo: its numbers make sense in a short run, and reach the bars in the full one."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch

from pyro_gen import cli, data, demo, pictures, zoo
from pyro_gen.evaluation.baselines import independent_bernoulli, mixture_of_bernoullis
from pyro_gen.models import VAE
from pyro_gen.targets import build


def test_a_short_demo(tmp_path: Path, untouched_rng: None) -> None:
    found = demo.run(
        tmp_path / "demo.png",
        progress=False,
        training={"epochs": 3},
        ais={"temperatures": 20, "chains": 4},
        simulated=10,
        test_size=40,
    )
    assert json.loads(json.dumps(found)) == found
    nats = found["test_log_likelihood"]
    error = found["standard_error"]
    assert list(nats) == list(error) == ["elbo", "iwae", "ais"]
    assert nats["elbo"] < nats["iwae"]  # by several nats, after 3 epochs
    assert nats["ais"] == pytest.approx(nats["iwae"], abs=1.0)
    assert -40 < nats["ais"] < -16
    assert all(0 < e < 0.5 for e in error.values())
    assert -0.5 < found["bdmc_gap"] < 3
    assert found["test_images"] == 40 and found["seed"] == 0
    assert found["versions"] == zoo.versions()
    digits = data.load("digits", transform=data.Binarize(8))
    independent = independent_bernoulli(digits.train, digits.test[:40]).mean().item()
    mixture = mixture_of_bernoullis(digits.train, digits.test[:40]).mean().item()
    assert found["baselines"] == pytest.approx(
        {"independent_bernoulli": independent, "mixture_of_bernoullis": mixture}, rel=1e-6
    )
    assert 0.1 < found["peak_memory_gib"] < 64
    assert torch.get_num_threads() == 1  # that of the tests, restored
    assert Path(found["picture"]) == tmp_path / "demo.png"
    assert matplotlib.image.imread(found["picture"]).shape[2] in (3, 4)


def test_the_same_seed_draws_the_same_picture(untouched_rng: None) -> None:
    vae = build("VAE", (8, 8), {"latent": 2, "hidden": (8,)})
    assert isinstance(vae, VAE)
    test = data.load("digits", transform=data.Binarize(8)).test

    def pixels(seed: int) -> list[torch.Tensor]:
        images = [axes.get_images()[0].get_array() for axes in demo.draw(vae, test, seed=seed).get_axes()]
        return [torch.as_tensor(image) for image in images]

    first, again, other = pixels(0), pixels(0), pixels(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_demo_as_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {
        "test_log_likelihood": {"elbo": -18.0, "iwae": -16.5, "ais": -16.4},
        "standard_error": {"elbo": 0.02, "iwae": 0.01, "ais": 0.01},
        "sampling_error": {"elbo": 0.2, "iwae": 0.2, "ais": 0.2},
        "baselines": {"independent_bernoulli": -25.3, "mixture_of_bernoullis": -18.2},
        "bdmc_gap": 0.03,
        "test_images": 360,
        "seconds": 80.0,
        "train_seconds": 40.0,
        "peak_memory_gib": 1.2,
        "picture": "x.png",
    }
    asked = []
    monkeypatch.setattr(demo, "run", lambda out, **options: asked.append((out, options)) or seen)
    assert cli.main(["demo", "--out", str(tmp_path), "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert asked == [(tmp_path / "pyro_gen_demo.png", {"seed": 3, "progress": True})]
    for text in ("-16.40", "-25.30", "-18.20", "BDMC gap 0.030", "Picture: x.png", "mixture of 50 Bernoullis"):
        assert text in out
    assert cli.main(["demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == seen


def test_drawn_pixels_have_another_ink_and_holes_are_grey() -> None:
    image = torch.tensor([[[1.0, 1.0], [0.0, torch.nan]]])
    drawn = torch.tensor([[[False, True], [False, False]]])
    (row,) = pictures._coloured(pictures.Row("", image, drawn))
    ink, red, paper, hole = row.reshape(4, 3)
    assert paper.tolist() == [1, 1, 1]
    assert red[0] > 2 * red[1] and ink.max() < 0.2
    assert 0.85 < hole.min() < hole.max() < 0.97


def test_a_grid_of_images_shows_them_all() -> None:
    for shape in ((30, 8, 8), (30, 1, 8, 8)):
        assert pictures.is_image(shape[1:])
        assert len(pictures.image_grid(torch.rand(shape)).get_axes()) == 30
    assert not pictures.is_image((8,))


@pytest.mark.slow
def test_the_full_demo_reaches_its_bars(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("pyro-gen")), "demo", "--json", "--out", str(tmp_path / "demo.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["test_log_likelihood"]["ais"] >= -16.6
    assert found["bdmc_gap"] <= 0.2
    assert found["seconds"] <= 150
    assert found["peak_memory_gib"] <= 2
    assert found["baselines"]["independent_bernoulli"] == pytest.approx(-25.28, abs=0.02)
    assert -18.5 < found["baselines"]["mixture_of_bernoullis"] < -17.5
    assert Path(found["picture"]).stat().st_size > 10_000
