"""The protocols of benchmarks/imputation.py are those of the literature: masks and rivals give the known figures."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import norm, t

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)  # where a script finds the modules beside it
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load(FOLDER / "imputation.py")


@pytest.fixture(scope="module")
def imputers() -> ModuleType:
    return load(FOLDER / "rivals" / "imputers.py")


# Mean imputation at seed 1234, knowledge/imputation.md, table 2.2. No figure depends on the machine: the legacy
# generator of NumPy is frozen.
@pytest.mark.parametrize(
    ("table", "shape", "known"),
    [
        ("iris", (150, 4), 0.978),
        ("wine", (178, 13), 1.024),
        ("diabetes", (442, 10), 1.012),
        ("breast", (569, 30), 1.028),
        ("digits", (1797, 61), 1.025),
    ],
)
def test_the_masks_of_miwae_are_reproduced(
    benchmark: ModuleType, imputers: ModuleType, table: str, shape: tuple[int, int], known: float
) -> None:
    x = benchmark.standard(table)
    holed = benchmark.miwae_holes(x, 1234)
    missing = np.isnan(holed)
    assert x.shape == shape
    assert missing.sum() == math.floor(x.size / 2)
    assert np.array_equal(holed[~missing], x[~missing])
    point, _ = imputers.mean(holed, 0)
    assert round(benchmark.score(x[missing], point, None)["mse"], 3) == known


def test_another_mask_gives_another_figure(benchmark: ModuleType, imputers: ModuleType) -> None:
    x = benchmark.standard("breast")
    holed = benchmark.miwae_holes(x, 1235)
    missing = np.isnan(holed)
    assert round(benchmark.score(x[missing], imputers.mean(holed, 0)[0], None)["mse"], 3) != 1.028


def test_the_mask_of_not_miwae_is_reproduced(benchmark: ModuleType, imputers: ModuleType) -> None:
    x = benchmark.standard("breast")
    holed = benchmark.self_masked(x)
    missing = np.isnan(holed)
    mse = benchmark.score(x[missing], imputers.mean(holed, 0)[0], None)["mse"]
    assert round(math.sqrt(mse), 2) == 1.82  # the paper's Table 1


@pytest.mark.parametrize(("table", "em", "copula"), [("iris", 0.412, 0.493), ("wine", 0.732, 0.716)])
def test_the_gaussian_rivals_are_those_of_the_table(
    benchmark: ModuleType, imputers: ModuleType, table: str, em: float, copula: float
) -> None:
    x = benchmark.standard(table)
    holed = benchmark.miwae_holes(x, 1234)
    missing = np.isnan(holed)
    for rival, known in ((imputers.gaussian, em), (imputers.copula, copula)):
        assert benchmark.score(x[missing], rival(holed, 0)[0], None)["mse"] == pytest.approx(known, abs=0.03)


def test_conditionals_are_those_of_the_textbook(imputers: ModuleType) -> None:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((4, 4))
    sigma, mu = root @ root.T + np.eye(4), rng.standard_normal(4)
    x = np.array([[1.0, np.nan, 0.5, np.nan], [np.nan] * 4, [0.1, 0.2, 0.3, 0.4]])
    means, covariances = imputers.conditionals(x, mu, sigma)
    o, m = [0, 2], [1, 3]
    weights = sigma[np.ix_(m, o)] @ np.linalg.inv(sigma[np.ix_(o, o)])
    assert np.allclose(means[0, m], mu[m] + weights @ (x[0, o] - mu[o]))
    assert np.allclose(covariances[0][np.ix_(m, m)], sigma[np.ix_(m, m)] - weights @ sigma[np.ix_(o, m)])
    assert np.allclose(means[1], mu) and np.allclose(covariances[1], sigma)
    assert np.array_equal(means[2], x[2]) and not covariances[2].any()


def test_crps_is_fair(benchmark: ModuleType) -> None:
    rng = np.random.default_rng(0)
    truth, draws = rng.standard_normal(5), rng.standard_normal((7, 5))
    pairs = abs(draws[:, None] - draws[None]).sum((0, 1)) / (7 * 6)
    assert np.allclose(benchmark.crps(truth, draws), abs(draws - truth).mean(0) - pairs / 2)
    # Of standard normal draws at zero: 2 phi(0) - 1 / sqrt(pi), whatever their number. A false alarm has 5 standard
    # errors; the twin divides the pairs by the square of the number of draws.
    exact = 2 * norm.pdf(0) - 1 / math.sqrt(math.pi)
    draws = rng.standard_normal((3, 40_000))
    fair = benchmark.crps(np.zeros(40_000), draws)
    unfair = abs(draws).mean(0) - abs(draws[:, None] - draws[None]).mean((0, 1)) / 2
    assert abs(fair.mean() - exact) < 5 * fair.std() / 200
    assert abs(unfair.mean() - exact) > 5 * unfair.std() / 200


def test_intervals_of_draws_from_the_truth_cover(benchmark: ModuleType) -> None:
    rng = np.random.default_rng(0)
    truth, draws = rng.standard_normal(20_000), rng.standard_normal((100, 20_000))
    # 20,000 cells: a standard error of 0.0016, four of them are a false-alarm rate of 6e-5.
    assert abs(benchmark.score(truth, truth, draws)["coverage"] - 0.95) < 0.0064
    assert abs(benchmark.score(truth, truth, 0.9 * draws)["coverage"] - 0.95) > 0.0064  # the twin: draws too narrow
    assert "coverage" not in benchmark.score(truth, truth, draws[:20])


def test_the_best_point_prediction_never_loses_to_the_frequencies(benchmark: ModuleType) -> None:
    truth, frequencies = np.array([0.0, 1.0, 2.0, 1.0]), np.array([0.2, 0.5, 0.3])
    base = -np.log(frequencies[[0, 1, 2, 1]]).mean()
    wrong, right = np.array([1.0, 0.0, 0.0, 0.0]), truth
    assert benchmark.log_loss(truth, wrong, None, frequencies) == pytest.approx(base)
    assert benchmark.log_loss(truth, right, None, frequencies) < 0.01
    draws = np.stack([truth] * 9 + [wrong])
    assert benchmark.log_loss(truth, truth, draws, frequencies) == pytest.approx(-math.log(9.5 / 11.5))


def test_the_simulation_gives_the_figures_of_the_book(benchmark: ModuleType, imputers: ModuleType) -> None:
    """Table 3.2 of knowledge/imputation.md; 2000 runs, standard errors about 0.005."""
    x, y = benchmark.simulated(2000)
    known = {"norm.predict": (0.350, 0.376), "norm.nob": (0.006, 0.925), "norm": (-0.028, 0.958)}
    for method, (bias, coverage) in known.items():
        completed = imputers.regressions(x, y, method, draws=5, seed=1)
        found = benchmark.slopes(completed, y[None], np.ones_like(completed))
        estimate, error, df = benchmark.rubin(*found, df=48)
        covered = abs(estimate - 1) <= t.ppf(0.975, df) * error
        assert estimate.mean() - 1 == pytest.approx(bias, abs=0.025)
        assert covered.mean() == pytest.approx(coverage, abs=0.025 if coverage > 0.5 else 0.055)


def test_slopes_leave_out_what_is_missing(benchmark: ModuleType) -> None:
    x, y = benchmark.simulated(3)
    seen = ~np.isnan(x)
    slope, variance = benchmark.slopes(x, y, seen.astype(float))
    for run in range(3):
        of_x, of_y = x[run, seen[run]], y[run, seen[run]]
        coefficients, covariance = np.polyfit(of_x, of_y, 1, cov="unscaled")
        residual = of_y - np.polyval(coefficients, of_x)
        assert slope[run] == pytest.approx(coefficients[0])
        assert variance[run] == pytest.approx(covariance[0, 0] * (residual**2).sum() / (len(of_x) - 2))
