"""Whether a weight on the total correlation disentangles: the mutual information gap on shapes of known factors.

The same small network (256-128-128-6) is trained on 576 binary images of 16 by 16 pixels, of which shape, size, row
and column are known (``pg.data.load("shapes")``, training and test data together: nothing is predicted), by the ELBO,
beta-VAE, beta-TCVAE, FactorVAE and InfoVAE, from five seeds. The figure is the mutual information gap, its mean over
the seeds with its standard error, and the difference to the ELBO's, paired by seed.

    python benchmarks/disentanglement.py [--seeds 5] [--epochs 30] [--store]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from machine import processor, versions

import pyro_gen as pg
from pyro_gen.evaluation.disentanglement import mutual_information_gap_of
from pyro_gen.inference import ELBO, BetaTCVAE, FactorVAE, InfoVAE, Objective

RESULT = Path(__file__).parent / "results" / "disentanglement.json"
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "ELBO": ELBO,
    "beta-TCVAE": lambda: BetaTCVAE(6.0),
    "beta-VAE": lambda: ELBO(beta=4.0),
    "FactorVAE": lambda: FactorVAE(6.0, critic=(64, 64), critic_lr=1e-3),
    "InfoVAE": lambda: InfoVAE(0.0, 20.0),
}


def gap(make: Callable[[], Objective], seed: int, epochs: int) -> float:
    data = pg.data.load("shapes")
    pyro.set_rng_seed(seed)
    vae = pg.models.VAE(data.event_shape, latent=6, hidden=(128, 128), activation="relu")
    options = {"batch_size": 64, "lr": 3e-3, "schedule": "cosine", "seed": seed, "progress": False}
    pg.fit(vae, torch.cat([data.train, data.test]), objective=make(), epochs=epochs, compile="trace", **options)
    return mutual_information_gap_of(vae, None).value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--only", nargs="*", default=list(OBJECTIVES), help="objectives, beside ELBO and beta-TCVAE")
    parser.add_argument("--store", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    start = time.process_time()
    for name in dict.fromkeys(["ELBO", "beta-TCVAE", *options.only]):
        found[name] = [gap(OBJECTIVES[name], seed, options.epochs) for seed in range(options.seeds)]
        print(f"{name:12}{statistics.mean(found[name]):7.3f} +- {error(found[name]):.3f}  {found[name]}", flush=True)
    more = [b - a for a, b in zip(found["ELBO"], found["beta-TCVAE"], strict=True)]
    z = statistics.mean(more) / error(more)
    seconds = time.process_time() - start
    print(f"beta-TCVAE over ELBO: {statistics.mean(more):.3f}, {z:.1f} standard errors; {seconds:.0f} s of CPU")
    if options.store:
        result = {"gaps": found, "z": z, "epochs": options.epochs, "cpu_seconds": seconds}
        RESULT.write_text(
            json.dumps(result | {"processor": processor(), "versions": versions("torch", "pyro-ppl")}, indent=1) + "\n"
        )
    return 0 if z > 2 else 1


def error(values: list[float]) -> float:
    """The standard error of a mean."""
    return statistics.stdev(values) / len(values) ** 0.5


if __name__ == "__main__":
    sys.exit(main())
