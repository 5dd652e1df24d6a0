"""The demonstration: a VAE on the digits that come with scikit-learn, trained, measured by several methods, drawn."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_gen import zoo
from pyro_gen._random import seeded
from pyro_gen.data import load
from pyro_gen.evaluation.baselines import independent_bernoulli, mixture_of_bernoullis
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.inference.likelihood.bdmc import bdmc
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.predictive import impute, reconstruct, sample
from pyro_gen.inference.progress import progress_bar
from pyro_gen.models import VAE
from pyro_gen.pictures import Row, image_rows, write

__all__ = ["draw", "run"]

ENTRY = "vae-digits"
COLUMNS = 12


def run(
    picture: str | Path = "pyro_gen_demo.png",
    *,
    seed: int = 0,
    progress: bool = True,
    training: dict[str, Any] | None = None,
    ais: dict[str, Any] | None = None,
    simulated: int = 100,
    test_size: int | None = None,
) -> dict[str, Any]:
    """Trains the zoo's ``vae-digits`` and measures it on test data next to baselines.

    Arguments:
        picture: The file of the picture.
        seed: Seeds everything; the caller's generators are left alone.
        progress: Whether to show progress on standard error.
        training: Arguments of :func:`pyro_gen.fit` other than the recipe's, for a shorter run.
        ais: Arguments of :func:`pyro_gen.inference.likelihood.ais.ais` other than its defaults.
        simulated: How many data to simulate for the BDMC gap.
        test_size: How many of the test data to use, by default all.

    Returns:
        Numbers and text only: ``test_log_likelihood`` and ``standard_error`` (Monte Carlo) by method and
        ``sampling_error`` (from the choice of test data) in nats per image, ``bdmc_gap`` in nats, ``baselines``,
        ``seconds``, ``peak_memory_gib`` of the process, ``picture``, ``versions``, ``seed``.
    """
    with _one_thread():
        return _run(Path(picture), seed, progress, training or {}, ais or {}, simulated, test_size)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and lose a factor of ten where it must wait for a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(
    picture: Path,
    seed: int,
    progress: bool,
    training: dict[str, Any],
    ais: dict[str, Any],
    simulated: int,
    test_size: int | None,
) -> dict[str, Any]:
    start = time.perf_counter()
    entry = zoo.load(ENTRY)
    data = zoo.prepare(entry)
    test = data.test[:test_size]
    vae = zoo.train(entry, data, seed=seed, device="cpu", progress=progress, **training).program
    assert isinstance(vae, VAE)  # for the type checker: the recipe says so
    trained = time.perf_counter()

    def step(text: str, work: Callable[..., LogLikelihood]) -> LogLikelihood:
        with progress_bar(text, progress) as report:
            return work(progress=report)

    found = {
        "elbo": step("ELBO", lambda **k: log_likelihood(vae, test, method="elbo", seed=seed, **k)),
        "iwae": step("IWAE", lambda **k: log_likelihood(vae, test, method="iwae", seed=seed, **k)),
        "ais": step("AIS", lambda **k: log_likelihood(vae, test, method="ais", seed=seed, **ais, **k)),
    }
    gap = step("BDMC", lambda **k: bdmc(vae, simulated, seed=seed + 1, **ais, **k)).diagnostics["gap"]
    train = load(entry.data, transform=data.transform).train  # the VAE may have trained on more than one version of it
    scores = {
        "independent_bernoulli": independent_bernoulli(train, test),
        "mixture_of_bernoullis": mixture_of_bernoullis(train, test, seed=seed),
    }
    where = write(draw(vae, data.test, seed=seed, log_likelihood=found["ais"].mean()), picture)
    return {
        "test_log_likelihood": {name: result.mean() for name, result in found.items()},
        "standard_error": {name: result.mean_standard_error() for name, result in found.items()},
        "sampling_error": {name: result.sampling_error() for name, result in found.items()},
        "bdmc_gap": float(gap.mean()),
        "bdmc_gap_standard_error": float(gap.std()) / math.sqrt(len(gap)),
        "baselines": {name: float(score.mean()) for name, score in scores.items()},
        "unit": "nats per image",
        "test_images": len(test),
        "train_seconds": trained - start,
        "seconds": time.perf_counter() - start,
        "peak_memory_gib": _peak_memory_gib(),
        "picture": str(where),
        "versions": zoo.versions(),
        "seed": seed,
    }


def _peak_memory_gib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, else KiB


def draw(vae: VAE, test: Tensor, *, seed: int = 0, log_likelihood: float | None = None) -> Any:
    """Draws test images, what the VAE makes of them and of nothing, and a path between two.

    Arguments:
        vae: A VAE of images.
        test: Binary images, with shape (N, H, W).
        seed: Seeds the draws.
        log_likelihood: The test log-likelihood in nats per image, for the title.
    """
    shown = test[_spread(len(test), COLUMNS)]
    half = shown.shape[1] // 2
    given = shown.clone()
    given[:, half:] = torch.nan
    missing = given.isnan()
    completions = impute(vae, given, draws=3, seed=seed)
    title = "A VAE of binary 8 × 8 digits"
    if log_likelihood is not None:
        title += f": {log_likelihood:.2f} nats per test image"
    rows = [
        Row("test images", shown, gap=0.0),
        Row("reconstructions", reconstruct(vae, shown, seed=seed), gap=0.0),
        Row("samples", sample(vae, COLUMNS, seed=seed)),
        Row("", sample(vae, COLUMNS, seed=seed + 1), gap=0.0),
        Row("upper half given", given),
        *(Row("lower half\npainted in" if i == 1 else "", c, missing, gap=0.0) for i, c in enumerate(completions)),
        Row("from one image\nto another", _path(vae, shown[1], shown[-3], COLUMNS)),
    ]
    return image_rows(rows, title, "Red ink: pixels drawn given the upper half, three times.")


def _spread(size: int, count: int) -> Tensor:
    return torch.linspace(0, size - 1, count).round().long()


def _path(vae: VAE, first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Mean pixels along a great arc between the codes of two images: where the prior has its mass, not through 0."""
    with torch.no_grad(), seeded(0):
        codes = vae.encoder(vae.likelihood.normalise(torch.stack([first, last])))[:, : vae.latent]
        a, b = codes
        angle = torch.arccos((a @ b / (a.norm() * b.norm())).clamp(-1 + 1e-6, 1 - 1e-6))
        t = torch.linspace(0, 1, steps).unsqueeze(1)
        z = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
        return vae.likelihood(vae.decoder(z)).mean  # type: ignore[no-any-return]
