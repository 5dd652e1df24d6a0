"""Annealed importance sampling: gradients for a sandwich of half a nat, and throughput.

(a) How many gradients of a datum, of all chains, pilot rounds and the backward chain included, bidirectional Monte
Carlo with 16 chains needs for a mean gap of 0.5 nats: the defaults against the protocol of Wu et al. (2017), whose
number of temperatures is varied. On a probabilistic PCA with 20 factors, both from the prior, and on a VAE with 50
latent variables and a decoder 50-200-200-784, trained for a short while on binary MNIST where $PYRO_GEN_DATA or
../shared/data has it (else its weights are drawn and made twice as large, and it has no encoder to start from), ours
from the encoder and from the prior. Between two numbers of temperatures, log gap is taken for linear in log gradients.

(b) Gradients per second of a whole run of ``ais``, pilot rounds and recording of the graph included, against those of
the bare decoder: its forward pass, the log-likelihood, and its backward pass to the latent variables, on as many rows.
The two take turns in rounds.

    python benchmarks/ais.py [--rounds 3] [--threads 1] [--store]
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from machine import processor, versions

import pyro_gen as pg
from pyro_gen.inference.likelihood.ais import ais

GAP, CHAINS, SIMULATED = 0.5, 16, 24  # nats; chains per datum; data
TEMPERATURES = {"ours": (4, 16, 64, 256, 512, 1024, 2048), "wu2017": (50, 100, 200, 400, 800, 1600, 3200)}
ROWS, STEPS = 100, 600  # data and temperatures of the run that is timed
RESULT = Path(__file__).parent / "results" / "ais.json"


def ppca() -> pg.Program:
    torch.manual_seed(0)
    program = pg.models.ProbabilisticPCA(50, 20)
    with torch.no_grad():
        program.loadings.normal_()  # type: ignore[operator]
    return program


def vae() -> tuple[pg.Program, str]:
    torch.manual_seed(0)
    program = pg.models.VAE((28, 28), latent=50, hidden=(200, 200))
    root = Path(os.environ.get("PYRO_GEN_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if (root / "MNIST" / "raw").is_dir():
        train = pg.data.load("mnist", root=root, transform=pg.data.Binarize(128)).train[:10_000]
        pg.fit(program, train, epochs=10, batch_size=100, lr=1e-3, progress=False)
        return program, "10 epochs of 10,000 binary MNIST images"
    with torch.no_grad():
        for p in program.decoder.parameters():  # type: ignore[union-attr]
            p.mul_(2.0)
    return program, "random weights, twice those of the initialisation"


def needed(program: pg.Program, which: str, **options: Any) -> dict[str, Any]:
    """Gradients for the gap, from the first two numbers of temperatures on both sides of it."""
    curve: list[tuple[float, float]] = []
    for temperatures in TEMPERATURES[which]:
        preset = "wu2017" if which == "wu2017" else None
        found = pg.bdmc(program, SIMULATED, preset=preset, chains=CHAINS, temperatures=temperatures, **options)
        gap, gradients = float(found.diagnostics["gap"].mean()), float(found.diagnostics["gradients"])
        curve.append((gradients, gap))
        print(f"    {which:7s} T = {temperatures:5d}  {gradients:9.0f} gradients  gap {gap:6.2f}", flush=True)
        if gap <= GAP:
            break
    (before, high), (after, low) = curve[-2] if len(curve) > 1 else curve[-1], curve[-1]
    if low > GAP:  # a bound on what it needs
        return {"gradients": after, "reached": False, "curve": curve}
    share = 1.0 if high <= GAP else (math.log(high) - math.log(GAP)) / (math.log(high) - math.log(max(low, 1e-3)))
    return {"gradients": math.exp(math.log(before) + share * math.log(after / before)), "reached": True, "curve": curve}


def throughput(program: pg.Program, rounds: int) -> dict[str, Any]:
    """Seconds for 1000 gradients of all rows, of both."""
    decoder = program.decoder
    x = pg.sample(program, ROWS)
    flat = x.reshape(1, ROWS, -1).expand(CHAINS, -1, -1).contiguous()

    def bare(z: torch.Tensor) -> torch.Tensor:
        z = z.detach().requires_grad_()
        logits = decoder(z).reshape(flat.shape)  # type: ignore[operator]
        log_prior = -0.5 * z.square().sum(-1)
        log_likelihood = -F.binary_cross_entropy_with_logits(logits, flat, reduction="none").sum(-1)
        (grad,) = torch.autograd.grad((log_prior + log_likelihood).sum(), z)
        return grad

    for p in program.parameters():
        p.requires_grad_(False)
    z = torch.randn(CHAINS, ROWS, 50)
    times: dict[str, list[float]] = {"bare": [], "ais": []}
    gradients = 0.0
    for _ in range(rounds + 1):  # the first one warms up
        start = time.perf_counter()
        result = ais(program, x, chains=CHAINS, temperatures=STEPS, start="prior")
        gradients = float(result.diagnostics["gradients"]) / CHAINS
        times["ais"].append((time.perf_counter() - start) / gradients * 1e3)
        start = time.perf_counter()
        for _ in range(STEPS):
            bare(z)
        times["bare"].append((time.perf_counter() - start) / STEPS * 1e3)
    return {"ms": {name: statistics.median(t[1:]) for name, t in times.items()}, "gradients": gradients}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", action="store_true", help=f"write {RESULT}")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    pyro.enable_validation(False)
    decoder, weights = vae()
    found: dict[str, dict[str, Any]] = {}
    for name, program, starts in (("ppca_20", ppca(), ("prior",)), ("vae_50", decoder, ("guide", "prior"))):
        print(name if name != "vae_50" else f"{name} ({weights})")
        found[name] = {"wu2017": needed(program, "wu2017")}
        for start in starts:
            if start == "prior" or "MNIST" in weights:
                found[name][f"ours from the {start}"] = needed(program, "ours", start=start)
    speed = throughput(decoder, arguments.rounds)

    ratios: dict[str, tuple[float, float]] = {}
    for name, figures in found.items():
        for who, figure in figures.items():
            least = "" if figure["reached"] else "at least "
            print(f"{name:8s} {who:20s} {least}{figure['gradients']:9.0f} gradients per datum")
        ours = [f["gradients"] if f["reached"] else math.inf for who, f in figures.items() if who != "wu2017"]
        ratios[f"{name}: ours / wu2017"] = (min(ours) / figures["wu2017"]["gradients"], 0.2)
    for name, ms in speed["ms"].items():
        print(f"{name:8s} {ms:7.3f} ms per gradient of {CHAINS} x {ROWS} rows")
    share = speed["ms"]["bare"] / speed["ms"]["ais"]
    missed = [name for name, (ratio, bar) in ratios.items() if ratio > bar]
    missed += [
        f"{name}: gap" for name, f in found.items() if not any(g["reached"] for w, g in f.items() if w != "wu2017")
    ]
    for name, (ratio, bar) in ratios.items():
        print(f"{name:28s} {ratio:6.3f}  (bar {bar})  {'MISSED' if name in missed else 'ok'}")
    print(f"{'throughput: ais / bare':28s} {share:6.3f}  (bar 0.7)  {'ok' if share >= 0.7 else 'MISSED'}")
    if arguments.store:
        result = {
            "unit": "gradients per datum for a mean gap of 0.5 nats, 16 chains; ms per gradient of all rows",
            "vae_weights": weights,
            "gradients": found,
            "throughput": {**speed, "rows": [CHAINS, ROWS], "temperatures": STEPS},
            "ratios": {**{name: ratio for name, (ratio, _) in ratios.items()}, "throughput: ais / bare": share},
            "bars": {**{name: bar for name, (_, bar) in ratios.items()}, "throughput: ais / bare": 0.7},
            "rounds": arguments.rounds,
            "device": "cpu",
            "cores": os.cpu_count(),
            "threads": arguments.threads,
            "machine": processor(),
            "versions": versions("torch", "pyro-ppl"),
        }
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if not missed and share >= 0.7 else 1


if __name__ == "__main__":
    sys.exit(main())
