"""What every test gets: a fixed seed, one thread, pictures without a screen."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

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
