"""One SVI step of a small VAE (64-64-8, batch 64): ours against Pyro's, NumPyro's and hand-written PyTorch.

All contenders train the same network with the same one-particle ELBO and Adam, read their loss after each step
(NumPyro's scan after all of them), and take turns in rounds, so that a slow minute of the machine hits them all. The
figures are ratios of medians over rounds, of CPU time: one thread each, and what else the machine does is left out.

NumPyro is no dependency of this package: install it beside (``pip install numpyro``), or its figures are left out.

    python benchmarks/svi_step.py [--rounds 60] [--store]
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from machine import processor, versions
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference.objectives import ELBO
from pyro_gen.inference.svi.step import GradientStep, LossModule

BATCH, PIXELS, HIDDEN, LATENT, STEPS = 64, 64, 64, 8, 50
RESULT = Path(__file__).parent / "results" / "svi_step.json"


class Networks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))


class Ours(pg.Program):
    def __init__(self) -> None:
        super().__init__()
        self.nets = Networks()

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            return pg.observe("x", dist.Bernoulli(logits=self.nets.decoder(z)).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            loc, log_scale = self.nets.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def ours(mode: str) -> Callable[[Tensor], float]:
    program = Ours()
    optimizer = torch.optim.Adam(program.parameters(), lr=1e-3, fused=True)
    step = GradientStep(LossModule(program, ELBO(), size=BATCH, missing=False), optimizer, None, mode)
    one = torch.ones(())

    def run(x: Tensor) -> float:
        return step([x], one)[0]

    return run


def pyro_svi() -> Callable[[Tensor], float]:
    nets = Networks()

    def model(x: Tensor) -> None:
        pyro.module("decoder", nets.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=nets.decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", nets.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = nets.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    return svi.step


def hand_written() -> Callable[[Tensor], float]:
    nets = Networks()
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-3, fused=True)

    def run(x: Tensor) -> float:
        loc, log_scale = nets.encoder(x).chunk(2, -1)
        scale = log_scale.exp()
        logits = nets.decoder(loc + scale * torch.randn_like(scale))
        divergence = 0.5 * (scale.square() + loc.square() - 1 - 2 * log_scale).sum()
        loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def repeated(run: Callable[[Tensor], float], x: Tensor) -> Callable[[], object]:
    def steps() -> None:
        for _ in range(STEPS):
            run(x)

    return steps


def numpyro(x: Tensor) -> dict[str, Callable[[], object]]:
    """NumPyro's contenders, on one thread, if it is installed."""
    if importlib.util.find_spec("numpyro") is None:
        print("NumPyro is not installed: its figures are left out.")
        return {}
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    sys.path.insert(0, str(Path(__file__).parent / "rivals"))
    from numpyro_svi import contenders

    return contenders(x.numpy(), HIDDEN, LATENT, STEPS)  # type: ignore[no-any-return]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--store", action="store_true", help=f"write {RESULT}")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    pyro.enable_validation(False)  # the faster Pyro
    torch.manual_seed(0)
    x = (torch.rand(BATCH, PIXELS) < 0.5).float()
    steps = {"pyro_svi": pyro_svi(), "hand_written": hand_written()}
    steps |= {mode: ours(mode) for mode in ("eager", "traced", "compiled")}
    contenders = {name: repeated(run, x) for name, run in steps.items()} | numpyro(x)
    for run in contenders.values():
        run()  # recording, compilation, caches
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            times[name].append((time.process_time() - start) / STEPS * 1e3)

    median = {name: statistics.median(t) for name, t in times.items()}
    ratios = {
        f"{slow} / {fast}": (median[slow] / median[fast], bar)
        for slow, fast, bar in (
            ("pyro_svi", "traced", 1.5),
            ("pyro_svi", "compiled", 5.0),
            ("hand_written", "compiled", 2.0),
            ("numpyro_update", "compiled", 2.0),
            ("numpyro_scan", "compiled", 1.0),
        )
        if slow in median
    }
    for name, ms in median.items():
        print(f"{name:14s} {ms:7.3f} ms/step  ({min(times[name]):.3f} to {max(times[name]):.3f})")
    for name, (ratio, bar) in ratios.items():
        print(f"{name:24s} {ratio:5.2f}x  (bar {bar}x)  {'ok' if ratio >= bar else 'MISSED'}")
    if arguments.store:
        result = {
            "unit": "CPU ms per step, median over rounds",
            "median": median,
            "ratios": {name: ratio for name, (ratio, _) in ratios.items()},
            "bars": {name: bar for name, (_, bar) in ratios.items()},
            "rounds": arguments.rounds,
            "threads": 1,
            "machine": processor(),
            "versions": versions("torch", "pyro-ppl", "numpyro", "jax"),
        }
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(ratio >= bar for ratio, bar in ratios.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
