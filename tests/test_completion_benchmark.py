"""The benchmark of imputation by deep programs: exact draws pass, and draws without their weights do not."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import predictive
from pyro_gen.registry import MODELS

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_completion", FOLDER / "completion.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        spec.loader.exec_module(module)
    return module


# A coverage is more than 4 standard errors from .95 with probability 1e-4 at most, and the sums' p-value below 1e-4 as
# often: of the two figures of two patterns one fails a correct program in one of 2,000 seeds at most. The seeds are
# fixed, and the twins are off by ten standard errors and more.
@pytest.mark.parametrize(("spread", "holds"), [(1.0, True), (0.5, False), (2.5, False)])
def test_coverage_of_numbers(benchmark: ModuleType, spread: float, holds: bool) -> None:
    with seeded(0):
        loc = torch.randn(300, 5)
        truth, draws = loc + torch.randn(300, 5), loc + spread * torch.randn(39, 300, 5)
        hidden = torch.rand(300, 5) < 0.5
    assert benchmark.coverage(draws, truth, hidden).passed() == holds


def test_coverage_of_tied_values(benchmark: ModuleType) -> None:
    """Ties are broken by a coin: bits that are one with probability .02 are held in 95 percent, and not in all."""
    with seeded(1):
        p = torch.full((4000, 1), 0.02)
        truth, draws = torch.bernoulli(p), torch.bernoulli(p.expand(39, 4000, 1))
    found = benchmark.coverage(draws, truth, torch.ones_like(truth, dtype=torch.bool))
    assert abs(found.entries - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


@pytest.fixture(scope="module")
def vae() -> pg.Program:
    """A VAE that says much of its data, with a guide that nobody has trained."""
    with seeded(3):
        program = pg.models.VAE(16, 2, (16,))
        with torch.no_grad():
            for p in program.decoder.parameters():  # type: ignore[union-attr]
                p.mul_(3.0)
            program.encoder[1][-1].bias[:2] = 1.5  # type: ignore[index, union-attr]
    return program


def passes(benchmark: ModuleType, program: pg.Program, **options: Any) -> dict[str, bool]:
    data = benchmark.simulated(program, (torch.zeros(1, 16),), 200, 1)
    return {name: found.passed() for name, found in benchmark.judge(program, data, 2, **options).items()}


def test_imputation_by_a_vae_holds_what_it_has_drawn(benchmark: ModuleType, vae: pg.Program) -> None:
    assert all(passes(benchmark, vae, method="guide", num_proposals=1000).values())


def test_draws_of_the_guide_without_weights_do_not(
    benchmark: ModuleType, vae: pg.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def any_of_them(log_weights: Tensor, draws: int) -> Tensor:
        return torch.randint(len(log_weights), (draws, log_weights.shape[1]))

    monkeypatch.setattr(predictive, "resample", any_of_them)
    assert not any(passes(benchmark, vae, method="guide").values())


def test_every_deep_program_is_asked(benchmark: ModuleType) -> None:
    deep = {"vae", "flows", "exponential_family", "autoregressive"}
    names = {card.cls.__name__ for _, card in MODELS.items() if card.family in deep}
    asked = {name.partition(",")[0] for name in benchmark.CASES}
    assert names | {"DeepMarkov", "VariationalRNN"} <= asked
