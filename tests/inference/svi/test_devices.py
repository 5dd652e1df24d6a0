"""Two processes train what one trains with the same global batch.

Gradients are averaged over the processes, each with half of every minibatch: where no draw enters the loss the two
runs are the same computation, up to the order of sums. Both run on the CPU, started by torchrun.
"""

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch

import pyro_gen as pg

SETUP = """
import pyro
import torch
import pyro_gen as pg
from pyro_gen.inference import Objective, Player
from pyro_gen.program import data_scale

class Game(Objective):
    # The first player's loss has no gradient by what the second moves: nobody may wait for one.
    anneals = False

    def players(self, program):
        return [
            Player("place", [program.loc], self.distance),
            Player("shape", [program.scale_tril_unconstrained], self.likelihood, steps=2),
        ]

    def distance(self, program, x):
        return data_scale(x) * (x - program.loc).square().sum()

    def likelihood(self, program, x):
        return -pyro.poutine.trace(program.model).get_trace(x).log_prob_sum()

def runs():
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    x = torch.randn(61, 3, generator=torch.Generator().manual_seed(0)) @ mixing
    holes = x.clone()
    # Missing in three rows only: in most epochs one process sees none of them.
    holes[:3, 1] = torch.nan
    binary = (torch.rand(400, 9, generator=torch.Generator().manual_seed(1)) < torch.linspace(0.1, 0.9, 9)).float()
    torch.manual_seed(2)
    common = dict(epochs=6, batch_size=20, lr=0.05, progress=False, compile="auto")
    yield "gaussian", pg.models.Gaussian(3), x[:60], common | dict(clip_norm=1.0, validation=x[:13])
    yield "ppca", pg.models.ProbabilisticPCA(3, 1).marginal(), x[:60], common | dict(schedule="cosine")
    # Its guide is the exact posterior: log p(x, z) - log q(z | x) and its gradient are the same for every draw of z.
    yield "latent", pg.models.ProbabilisticPCA(3, 1), x[:60], common
    yield "holes", pg.models.Gaussian(3), holes[:60], common
    yield "game", pg.models.Gaussian(3), x[:60], common | dict(objective=Game(), clip_norm=1.0)
    yield "vae", pg.models.VAE(9, latent=2, hidden=(8,)), binary, common | dict(epochs=12, batch_size=40, lr=0.01)
    yield "rest", pg.models.Gaussian(3), x, common | dict(epochs=2)
"""

WORKER = (
    SETUP
    + """
import json, sys, warnings
warnings.simplefilter("error", RuntimeWarning)
out = {}
for name, program, x, options in runs():
    result = pg.fit(program, x, strategy="ddp", devices=2, accelerator="cpu", **options)
    out[name] = {
        "history": result.history,
        "state": {n: v.tolist() for n, v in program.state_dict().items()},
        "mode": result.mode,
        "steps": result.steps,
    }
rank = torch.distributed.get_rank()
try:
    x = torch.randn(8, 3)
    pg.fit(pg.models.Gaussian(3), x, batch_size=3, strategy="ddp", devices=2, accelerator="cpu", progress=False)
except ValueError as error:
    out["odd batch"] = str(error)
with open(f"{sys.argv[1]}/rank{rank}.json", "w") as file:
    json.dump(out, file)
torch.distributed.destroy_process_group()
"""
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks report, by one start of two processes; torchrun finds a free port itself."""
    folder = tmp_path_factory.mktemp("ddp")
    script = folder / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(folder)], env=environment, cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def single(wanted: str) -> pg.FitResult:
    namespace: dict[str, Any] = {}
    exec(SETUP, namespace)
    for name, program, x, options in namespace["runs"]():
        if name == wanted:
            return pg.fit(program, x, **options)
    raise KeyError(wanted)


def test_both_ranks_report_the_same(outcome: list[dict[str, Any]]) -> None:
    a, b = ({k: v for k, v in o.items() if k != "odd batch"} for o in outcome)
    for name in a:
        assert a[name]["state"] == b[name]["state"]
        assert [r["train_loss"] for r in a[name]["history"]] == [r["train_loss"] for r in b[name]["history"]]
        assert a[name]["mode"] == "eager"


@pytest.mark.parametrize("name", ["gaussian", "ppca", "latent", "holes", "game"])
def test_two_processes_are_one_with_the_same_global_batch(outcome: list[dict[str, Any]], name: str) -> None:
    alone, together = single(name), outcome[0][name]
    assert together["steps"] == alone.steps
    for row, other in zip(together["history"], alone.history, strict=True):
        for key in {"train_loss", "shape_loss", "validation_loss", "lr"} & set(other):
            assert row[key] == pytest.approx(other[key], abs=1e-4)
    for key, value in alone.program.state_dict().items():
        torch.testing.assert_close(torch.tensor(together["state"][key]), value, atol=1e-4, rtol=1e-4)


def test_with_draws_two_processes_train_as_well_as_one(outcome: list[dict[str, Any]]) -> None:
    """Other draws, so the last losses agree to their noise: 3% where training gains more than 10%."""
    alone, together = single("vae").history, outcome[0]["vae"]["history"]
    first, last = together[0]["train_loss"], together[-1]["train_loss"]
    assert last < 0.9 * first
    assert last == pytest.approx(alone[-1]["train_loss"], rel=0.03)


def test_a_last_batch_that_does_not_split_gives_up_a_datum(outcome: list[dict[str, Any]]) -> None:
    assert outcome[0]["rest"]["steps"] == 2 * 3  # 20 + 20 + 20, and the 61st is left to another epoch


def test_a_batch_that_does_not_split_is_refused(outcome: list[dict[str, Any]]) -> None:
    assert "multiple of the 2 processes" in outcome[0]["odd batch"]
