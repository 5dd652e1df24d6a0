"""Every program of the zoo whose data share latent variables is calibrated: its ranks are uniform."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.models import ConjugateRegression, Regression

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ALPHA = 1e-4  # the false-alarm rate of each run, exactly
U = torch.linspace(-1, 1, 12).reshape(6, 2)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_sbc", FOLDER / "sbc.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)  # where a script finds the modules beside it
        spec.loader.exec_module(module)
    return module


def in_closed_form(program, y, u, *, draws, seed, defect=1.0):
    """The posterior of the conjugate regression; the defect is a factor of the number of data that the noise knows."""
    found = ConjugateRegression(u.shape[1]).fit_posterior(y, u)
    with seeded(seed):
        variance = torch.distributions.InverseGamma(found.noise_shape * defect, found.noise_rate * defect)
        variance = variance.sample((draws,))
        factor = torch.linalg.cholesky(found.precision)
        noise = torch.randn(draws, len(found.mean), 1)
        beta = found.mean + torch.linalg.solve_triangular(factor.mT, noise, upper=True).squeeze(-1)
        beta = found.mean + (beta - found.mean) * variance.sqrt().unsqueeze(1)
    return {"variance": variance, "beta": beta}


@pytest.mark.parametrize("defect", [1.0, 4.0])
def test_the_closed_form_of_the_conjugate_regression(defect):
    options = {"simulations": 150, "draws": 15, "alpha": ALPHA, "defect": defect}
    found = pg.sbc(ConjugateRegression(2), (6,), U, method=in_closed_form, **options)
    assert found.passed == (defect == 1.0), str(found)
    if defect != 1.0:  # the twin: a noise that is too sure of itself
        assert "variance" in found.flagged


def test_a_small_regression_by_hmc():
    """Quick: 60 data sets. The slow test has all programs, this one that they go through at all."""
    found = pg.sbc(Regression(2, "bernoulli"), (6,), U, simulations=60, draws=15, warmup=120, alpha=ALPHA)
    assert found.passed and set(found.ranks) == {"beta[0]", "beta[1]", "alpha", "log-likelihood", "log-prior"}


def test_the_stored_table_is_of_programs_that_are_there_and_uniform(benchmark):
    stored = json.loads(benchmark.RESULT.read_text())["programs"]
    assert set(stored) <= {name for name, _, _ in benchmark.shared()}
    assert not any(row.get("flagged") for row in stored.values())
    assert all(row.get("left_out") or row["simulations"] >= 90 for row in stored.values())


@pytest.mark.slow
def test_all_programs_are_calibrated(benchmark):
    """Uniform at level 1 - 1e-4 each. What is left out is what the stored table says."""
    stored = json.loads(benchmark.RESULT.read_text())["programs"]
    assert {name for name, _, _ in benchmark.shared()} == set(stored), "run python benchmarks/sbc.py --store"
    for name, family, instance in benchmark.shared():
        if family not in benchmark.OTHERWISE and "left_out" not in stored[name]:
            found = benchmark.calibrate(*instance, simulations=150, draws=15, alpha=ALPHA)
            assert found.passed, f"{name}: {found}"
