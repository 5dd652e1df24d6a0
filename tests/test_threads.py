"""Threads: what Pyro and torch hold for the whole process is held by one thread at a time."""

import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen import _random


@pytest.fixture(autouse=True)
def _switching() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Slow(pg.Program):
    """Lets other threads run in the middle of its model; Dropout shows the mode that it runs in."""

    event_shape = torch.Size([2])

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.1, -0.2]))
        self.dropout = nn.Dropout(0.5)

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            time.sleep(0.002)
            return pg.observe("x", dist.Normal(self.dropout(z + self.loc), 0.5).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            time.sleep(0.002)
            pyro.sample("z", dist.Normal(0.8 * x.nan_to_num(), 0.6).to_event(1))


def rows(seed: int) -> Tensor:
    with _random.seeded(seed):
        x = torch.randn(6, 2)
    x[0, 1] = torch.nan
    return x


def fitted(seed: int) -> Tensor:
    program = Slow()
    pg.fit(program, rows(seed), epochs=2, batch_size=3, seed=seed, compile=False, progress=False)
    return program.loc.detach()


SHARED = Slow()
VERBS: dict[str, Callable[[int], Tensor]] = {
    "sample": lambda seed: pg.sample(SHARED, 5, seed=seed),
    "impute": lambda seed: pg.impute(SHARED, rows(seed), draws=2, num_proposals=20, method="guide", seed=seed),
    "reconstruct": lambda seed: pg.reconstruct(SHARED, rows(seed), seed=seed),
    "log_likelihood": lambda seed: (
        pg.log_likelihood(SHARED, rows(seed), method="iwae", num_particles=8, seed=seed).value
    ),
    "posterior": lambda seed: torch.tensor(
        pg.posterior(SHARED, rows(seed), chains=4, draws=3, warmup=20, seed=seed, progress=False).posterior["z"].values
    ),
    "fit": fitted,
}


def in_threads(verb: Callable[[int], Tensor]) -> list[Tensor]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(verb, range(4), timeout=60))


@pytest.mark.filterwarnings("ignore:impute. the guide misses")
@pytest.mark.parametrize("verb", VERBS)
def test_threads_get_the_results_of_a_single_one(verb: str) -> None:
    alone = [VERBS[verb](seed) for seed in range(4)]
    for expected, found in zip(alone, in_threads(VERBS[verb]), strict=True):
        assert torch.equal(expected, found)


def test_different_verbs_at_a_time() -> None:
    names = ["sample", "reconstruct", "fit", "log_likelihood"]
    alone = [VERBS[name](i) for i, name in enumerate(names)]
    for expected, found in zip(alone, in_threads(lambda i: VERBS[names[i]](i)), strict=True):
        assert torch.equal(expected, found)


def test_without_the_lock_threads_disturb_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [VERBS["sample"](seed) for seed in range(4)]
    monkeypatch.setattr(_random, "_LOCK", contextlib.nullcontext())
    try:
        found = in_threads(VERBS["sample"])
    except Exception:  # "Multiple sample sites named ..."
        found = []
    finally:
        pyro.poutine.runtime._PYRO_STACK.clear()
        pyro.settings.set(module_local_params=False)  # which they may have left as they found it of one another
    assert not found or not all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))


def test_imputers_in_threads() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(40, 3)).cumsum(1), columns=list("abc")).mask(rng.random((40, 3)) < 0.2)

    def impute(seed: int) -> Tensor:
        completed = pg.Imputer(method="gaussian", draws=3, random_state=seed).fit(table).impute(table)
        return torch.tensor(np.stack([completed[i].to_numpy() for i in range(3)]))

    alone = [impute(seed) for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for expected, found in zip(alone, pool.map(impute, range(2), timeout=60), strict=True):
            assert torch.equal(expected, found)


def test_a_progress_callback_may_call_verbs() -> None:
    seen: list[Tensor] = []
    pg.log_likelihood(
        SHARED,
        rows(0),
        method="iwae",
        num_particles=4,
        progress=lambda fraction: seen.append(pg.sample(SHARED, 2, seed=1)),
    )
    assert torch.equal(seen[0], pg.sample(SHARED, 2, seed=1))


def _child(queue: "multiprocessing.Queue[float]") -> None:
    queue.put(float(pg.sample(SHARED, 2, seed=1).sum()))


def test_a_fork_while_another_thread_holds_the_lock_does_not_hang() -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    expected = float(pg.sample(SHARED, 2, seed=1).sum())

    def hold() -> None:
        with _random.exclusive():
            time.sleep(1.0)

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold)
        time.sleep(0.1)
        child = context.Process(target=_child, args=(queue,))
        child.start()
        assert queue.get(timeout=20) == expected
        child.join(20)
        held.result()
