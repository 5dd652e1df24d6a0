"""What every test gets: a fixed seed, one thread, pictures without a screen."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # more are processes, each of which imports torch

import pyro
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# At import, so that it also holds for the examples in docstrings, which take no fixtures from this folder.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="Where tests/test_devices.py computes: cpu, cuda, cuda:1, ...")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of `--device`."""
    return torch.device(request.config.getoption("--device"))


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Seeds before each file is imported: numbers drawn in a parametrisation are drawn then, before any fixture."""
    pyro.set_rng_seed(0)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seeds torch, NumPy and random before each test, so that no result depends on the order of the tests."""
    pyro.set_rng_seed(0)
    return 0


@pytest.fixture
def untouched_rng(seed: int) -> Iterator[None]:
    """Fails the test if it leaves torch's global generator in another state than it found it."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "torch's global random state was disturbed"


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder to hand to torchvision as `root`: $PYRO_GEN_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("PYRO_GEN_DATA", ROOT.parent / "shared" / "data"))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST in {root}; name the folder that holds MNIST/raw in PYRO_GEN_DATA")
    return root


@pytest.fixture(scope="session")
def logistic_selection() -> Callable[[float, float, float, float], tuple[torch.Tensor, ...]]:
    """Of a normal selected by a logistic function: the probability, mean and variance of what is selected, and its
    distribution function on a grid of 120,001 points from -30 to 30.
    """
    grid = torch.linspace(-30.0, 30.0, 120_001).double()

    def moments(loc: float, scale: float, intercept: float, slope: float) -> tuple[torch.Tensor, ...]:
        density = torch.distributions.Normal(loc, scale).log_prob(grid).exp() * torch.sigmoid(intercept + slope * grid)
        total = torch.trapezoid(density, grid)
        mean = torch.trapezoid(density * grid, grid) / total
        variance = torch.trapezoid(density * (grid - mean).square(), grid) / total
        return total, mean, variance, torch.cumulative_trapezoid(density, grid) / total

    return moments
