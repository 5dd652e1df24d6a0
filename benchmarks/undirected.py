"""Undirected models: log Z against what is known exactly, the energy at the critical point, and spins a second.

ising (a): log Z of grids of 3 x 3 and 4 x 4 spins with free boundaries, exactly and by annealing with blocked Gibbs
sampling in both directions, against brute force. (b): of a torus of 32 x 32 by annealing with 64 chains against
Kaufman's formula, at the coupling 0.3 and at the critical one, where the schedule gives the end of the path, at which
spins are slow, more steps. (c): the mean energy at the critical point by Swendsen and Wang's clusters, 64 chains,
against the derivative of Kaufman's formula. (d): spins that blocked Gibbs sampling draws a second, a checkerboard of
64 chains of 32 x 32: the median of rounds.

boltzmann (a): a move of blocked Gibbs sampling of a restricted Boltzmann machine with 784 and 500 units, 1,000 chains,
against the pair of matrix products in it alone; one thread, and its own time, so that the load of the machine does not
count: the ratio of medians over rounds that take turns. (b): binary digits, test log-likelihood by the recipes, and of
scikit-learn's BernoulliRBM with 16 units, learning rate by validation, exactly: its weights are put into this machine.

    python benchmarks/undirected.py [PART ...] [--threads 2] [--rounds 9] [--store]
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import processor, versions

import pyro_gen as pg
from pyro_gen.models import Ising, RestrictedBoltzmann
from pyro_gen.models.undirected import SwendsenWang
from pyro_gen.models.undirected.parts.kaufman import CRITICAL, log_partition_of_torus

LOG_Z = {  # by side and coupling, of free boundaries
    (3, 0.2): 6.48304479,
    (3, 0.5): 7.8915245,
    (3, 1.0): 12.80942025,
    (4, 0.2): 11.58157691,
    (4, 0.5): 14.49771102,
    (4, 1.0): 24.81764441,
}
SIDE, CHAINS = 32, 64
TEMPERATURES = {"K = 0.3": (0.3, 600), "critical": (CRITICAL, 4000)}
BURN_IN, SWEEPS = 100, 300  # of clusters
MOVES = 20  # in a round of the throughput
RESULT = Path(__file__).parent / "results" / "undirected.json"

Figures = list[tuple[str, float, Callable[[float], bool], str]]  # name, value, whether it holds, the bar in words


def annealed(model: Ising, exact: float, **options: Any) -> dict[str, float]:
    start = time.perf_counter()
    found = pg.log_partition(model, method="ais", **options)
    print(f"    {found}, exactly {exact:.3f}", flush=True)
    error = found.mean_standard_error()
    ess = {name: float(found.diagnostics[name]) for name in ("ess", "ess_back")}
    seconds = time.perf_counter() - start
    return {
        "off": found.mean() - exact,
        "standard_error": error,
        "z": (found.mean() - exact) / error,
        "s": seconds,
    } | ess


def energy() -> dict[str, float]:
    k = torch.tensor(CRITICAL, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(log_partition_of_torus(SIDE, SIDE, k), k)
    model = Ising({"torus": [SIDE, SIDE]}, CRITICAL, sampler=SwendsenWang())
    start = time.perf_counter()
    with torch.no_grad():
        states = model.chains(SWEEPS, CHAINS, burn_in=BURN_IN)
        of_chains = torch.stack([model.agreements(x).double() for x in states]).mean(0) / CRITICAL
    mean, error = float(of_chains.mean()), float(of_chains.std()) / CHAINS**0.5
    seconds = time.perf_counter() - start
    return {"exact": exact.item(), "mean": mean, "error": error, "z": (mean - exact.item()) / error, "s": seconds}


def throughput(rounds: int) -> float:
    """Millions of spins drawn a second."""
    model = Ising({"torus": [SIDE, SIDE]}, CRITICAL)
    x = torch.bernoulli(torch.full((CHAINS, 1, SIDE, SIDE), 0.5))
    missing = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    speeds = []
    with torch.no_grad():
        for _ in range(rounds + 1):  # the first one warms up
            start = time.perf_counter()
            for _ in range(MOVES):
                x = model.kernel(x, missing, 1.0)
            speeds.append(MOVES * x.numel() / (time.perf_counter() - start) / 1e6)
    return statistics.median(speeds[1:])


def ising(rounds: int) -> tuple[dict[str, Any], Figures]:
    result: dict[str, Any] = {"grids": {}, "torus": {}}
    figures: Figures = []
    for (side, coupling), exact in LOG_Z.items():
        name = f"{side} x {side}, J = {coupling}"
        model = Ising({"grid": [side, side]}, coupling)
        off = pg.log_partition(model).mean() - exact
        result["grids"][name] = {"exact_off": off, **annealed(model, exact, chains=256)}
        figures += [
            (f"{name}: exact, error", off, lambda v: abs(v) < 1e-6, "< 1e-6"),
            (f"{name}: annealed, z", result["grids"][name]["z"], lambda v: abs(v) < 3, "< 3"),
            (f"{name}: annealed, s.e.", result["grids"][name]["standard_error"], lambda v: v <= 0.05, "<= 0.05"),
        ]
    for (name, (coupling, temperatures)), bar in zip(TEMPERATURES.items(), (0.15, 0.3), strict=True):
        exact = float(log_partition_of_torus(SIDE, SIDE, torch.tensor(coupling)))
        u = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64)
        options = {"temperatures": temperatures} if name != "critical" else {"schedule": 1 - (1 - u) ** 3}
        found = annealed(Ising({"torus": [SIDE, SIDE]}, coupling), exact, chains=CHAINS, **options)
        result["torus"][name] = {"exact": exact, "temperatures": temperatures, "chains": CHAINS, **found}
        figures += [
            (f"torus, {name}: z", found["z"], lambda v: abs(v) < 3, "< 3"),
            (f"torus, {name}: s.e.", found["standard_error"], lambda v, bar=bar: v <= bar, f"<= {bar}"),
            (f"torus, {name}: ESS", min(found["ess"], found["ess_back"]), lambda v: v >= 16, ">= 16 of 64"),
        ]
    result["energy"] = energy()
    figures.append(("critical energy by clusters: z", result["energy"]["z"], lambda v: abs(v) < 3, "< 3"))
    result["million_spins_a_second"] = throughput(rounds)
    figures.append(("million spins a second", result["million_spins_a_second"], lambda v: v >= 20, ">= 20"))
    return result, figures


def gibbs_share(rounds: int) -> dict[str, float]:
    """Milliseconds of a move, and of its pair of matrix products alone."""
    machine = RestrictedBoltzmann(784, 500)
    x = torch.bernoulli(torch.full((1000, 1, 784), 0.5))
    missing = torch.ones(1, 784, dtype=torch.bool)
    v, h, w = x[:, 0].clone(), torch.bernoulli(torch.full((1000, 500), 0.5)), machine.weights.detach()
    bare, whole = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        for _ in range(8 * rounds):
            start = time.thread_time()
            v @ w, h @ w.T
            between = time.thread_time()
            x = machine.kernel(x, missing, 1.0)
            whole.append(1e3 * (time.thread_time() - between))
            bare.append(1e3 * (between - start))
    torch.set_num_threads(threads)
    result = {"products_ms": statistics.median(bare[rounds:]), "move_ms": statistics.median(whole[rounds:])}
    return result | {"share": result["products_ms"] / result["move_ms"]}


def rival(train: torch.Tensor, validation: torch.Tensor, test: torch.Tensor) -> float:
    """The test log-likelihood of scikit-learn's machine with 16 units."""
    from sklearn.neural_network import BernoulliRBM

    best, chosen = -float("inf"), 0.0
    for rate in (0.01, 0.03, 0.1):
        theirs = BernoulliRBM(16, learning_rate=rate, n_iter=60, random_state=0).fit(train.flatten(1).numpy())
        ours = RestrictedBoltzmann(64, 16)
        ours.initialise(train.flatten(1))
        # Their units are 0 and 1: v' W h + a' v + b' h, with v = phi + mu and h + 1/2 in place of h.
        w, a, b = (torch.from_numpy(t).float() for t in (theirs.components_.T, *_biases(theirs)))
        ours.weights.data.copy_(w)
        ours.hidden_biases.data.copy_(b + ours.visible.mean @ w)
        ours.visible_biases.data.copy_(a + 0.5 * w.sum(1) - ours.visible.logits)
        score = pg.log_likelihood(ours, validation.flatten(1)).mean()
        if score > best:
            best, chosen = score, pg.log_likelihood(ours, test.flatten(1)).mean()
    return chosen


def _biases(theirs: Any) -> tuple[Any, Any]:
    return theirs.intercept_visible_, theirs.intercept_hidden_


def boltzmann(rounds: int) -> tuple[dict[str, Any], Figures]:
    result: dict[str, Any] = {"gibbs": gibbs_share(rounds)}
    figures: Figures = [("Gibbs: share of the products", result["gibbs"]["share"], lambda v: v >= 0.9, ">= 0.9")]
    for name, bar in (("rbm-digits", -18.6), ("rbm-digits-128", -17.7)):
        found = pg.zoo.reproduce(name, progress=False)
        result[name] = {"nats": found.value, "standard_error": found.standard_error}
        figures.append((f"{name}: nats", found.value, lambda v, bar=bar: v >= bar, f">= {bar}"))
    data = pg.data.load("digits")
    train, test = (data.train >= 8).float(), (data.test >= 8).float()
    place = torch.arange(len(data.train) + len(data.test))
    held_out = place[place % 5 != 0] % 10 == 3
    theirs = rival(train[~held_out], train[held_out], test)
    result["scikit-learn"] = {"nats": theirs}
    gain = result["rbm-digits"]["nats"] - theirs
    figures.append(("16 units, above scikit-learn's: nats", gain, lambda v: v > 0, "> 0"))
    return result, figures


PARTS: dict[str, Callable[[int], tuple[dict[str, Any], Figures]]] = {"ising": ising, "boltzmann": boltzmann}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[*PARTS], help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--store", action="store_true", help=f"write {RESULT}")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    missed = False
    for part in arguments.parts:
        load = os.getloadavg()[0]
        result, figures = PARTS[part](arguments.rounds)
        for name, value, holds, bar in figures:
            missed |= not holds(value)
            print(f"{part}: {name:36s} {value:11.6f}  (bar {bar})  {'ok' if holds(value) else 'MISSED'}")
        stored[part] = {
            **result,
            "device": "cpu",
            "cores": os.cpu_count(),
            "load_before": load,  # of others: above 0 the speeds are too low
            "threads": arguments.threads,
            "machine": processor(),
            "versions": versions("torch", "pyro-ppl"),
        }
    if arguments.store:
        RESULT.write_text(json.dumps(stored, indent=2) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
