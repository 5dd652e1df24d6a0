"""The likelihood of programs that have none, by annealed importance sampling: the table of Wu et al. (2017) for digits.

Each program is trained on grey digits in [0, 1] (17 levels with uniform noise as wide as a level). What is measured is
the density of test digits under its mean with Gaussian observation noise of 0.1 for each pixel, log p of 64 numbers in
nats, by annealed importance sampling; on data simulated from the program bidirectional Monte Carlo bounds its bias, the
gap, which must be at most half a nat. Beside it stands the estimate that the paper warns of, by a kernel density of
10,000 samples with the same noise as bandwidth (Parzen windows): it has the same expectation, before the logarithm.

- ``VAE``: trained at this noise, so that it is its own likelihood.
- ``GAN``: with R1; ``GMMN``: the same generator by maximum mean discrepancy. Both have 10 latent dimensions.
- ``DCGAN``: by convolutions from 32 latent dimensions, with R1.
- ``diffusion``: DDPM of 100 steps, drawn by 8 deterministic steps (DDIM) from 64 normal numbers, which are its latent
  variable. A gradient is that of 8 networks, so 20 of the data are measured, by fewer chains and more temperatures.
- ``training digits``: a digit of the training data, each as likely: exact.

    python benchmarks/implicit.py [PROGRAM ...] [--data 100] [--store] [--write docs/likelihoods.md]

References:
    | On the Quantitative Analysis of Decoder-Based Generative Models (Wu, Burda, Salakhutdinov & Grosse, 2017)
    | https://arxiv.org/abs/1611.04273
    | Denoising Diffusion Implicit Models (Song, Meng & Ermon, 2021)
    | https://arxiv.org/abs/2010.02502
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from machine import processor, versions
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen._files import write_text
from pyro_gen.data import Dequantize
from pyro_gen.distributions import GaussianKernels
from pyro_gen.inference import MMD, Adversarial
from pyro_gen.models import DCGAN, DDIM, DDPM, GAN, VAE
from pyro_gen.nets import MLP

RESULT = Path(__file__).parent / "results" / "implicit.json"
START, END = "<!-- implicit-table:start -->", "<!-- implicit-table:end -->"
NOISE, GAP, LATENT, SAMPLES = 0.1, 0.5, 10, 10_000
LEVELS = Dequantize(17)
FIT: dict[str, Any] = {"transform": LEVELS, "batch_size": 64, "schedule": "cosine", "progress": False}


def vae(x: Tensor) -> pg.Program:
    program = VAE((8, 8), latent=LATENT, hidden=(128, 128), likelihood="normal", scale=NOISE)
    return pg.fit(program, x, epochs=100, lr=2e-3, **FIT).program


def generator() -> GAN:
    network = nn.Sequential(MLP((LATENT, 128, 128, 64), activation="elu"), nn.Sigmoid(), nn.Unflatten(1, (8, 8)))
    return GAN((8, 8), LATENT, network)


def gan(x: Tensor) -> pg.Program:
    objective = Adversarial(critic=(128, 128), r1=1.0)
    return pg.fit(generator(), x, objective=objective, epochs=200, lr=1e-3, ema=0.999, **FIT).program


def dcgan(x: Tensor) -> pg.Program:
    objective = Adversarial(critic=(64,), channels=(32, 64), r1=1.0)
    return pg.fit(DCGAN((8, 8)), x, objective=objective, epochs=100, lr=1e-3, ema=0.99, **FIT).program


def gmmn(x: Tensor) -> pg.Program:
    return pg.fit(generator(), x, objective=MMD(), epochs=200, lr=1e-3, **FIT | {"batch_size": 256}).program


class Images(nn.Module):
    """Images in [0, 1] as a function of the first state of a chain, by deterministic steps."""

    def __init__(self, chain: DDPM, steps: int = 8) -> None:
        super().__init__()
        self.ddim = DDIM(chain, steps)

    def forward(self, z: Tensor) -> Tensor:
        clean = self.ddim.chain.predict(self.ddim.decode(z.reshape(*z.shape[:-1], 8, 8)), 0)
        return (clean + 1) / 2


def diffusion(x: Tensor) -> pg.Program:
    centred = 2 * LEVELS(x, torch.Generator().manual_seed(0)) - 1
    options = FIT | {"transform": None}
    ddpm = DDPM((8, 8), steps=100, schedule="cosine", width=128)
    chain = pg.fit(ddpm, centred, epochs=200, lr=1e-3, ema=0.999, **options)
    return GAN((8, 8), 64, Images(chain.program.eval()))  # type: ignore[arg-type]


PROGRAMS: dict[str, Callable[[Tensor], pg.Program]] = {
    "VAE": vae,
    "GAN": gan,
    "DCGAN": dcgan,
    "GMMN": gmmn,
    "diffusion": diffusion,
}
FEW = {"diffusion": 20}  # data
ANNEALING: dict[str, dict[str, Any]] = {"diffusion": {"chains": 8, "temperatures": 10_000, "simulated": 10}}


def means(program: pg.Program, n: int) -> Tensor:
    """Draws of what the noise is added to, with shape (n, 8, 8)."""
    if not isinstance(program, VAE):
        drawn: Tensor = pg.sample(program, n)
        return drawn
    with torch.no_grad():
        z = torch.randn(n, LATENT, generator=torch.Generator().manual_seed(0))
        mean: Tensor = program.decode(z).mean
        return mean


def measure(name: str, train: Tensor, test: Tensor) -> dict[str, Any]:
    start = time.process_time()
    if name == "training digits":
        log_p = windows(LEVELS(train, torch.Generator().manual_seed(0)), test)
        error = (log_p.std() / len(test) ** 0.5).item()
        return {"value": log_p.mean().item(), "data": len(test), "sampling_error": error}
    pyro.set_rng_seed(0)
    program = PROGRAMS[name](train).eval()
    trained = time.process_time() - start
    test = test[: FEW.get(name)]
    found = pg.log_likelihood(
        program, test, method="bdmc", noise=NOISE, **ANNEALING.get(name, {"chains": 16, "simulated": 20})
    )
    parzen = windows(means(program, SAMPLES), test).mean().item()
    return {
        "value": found.mean(),
        "data": len(test),
        "error": found.mean_standard_error(),
        "sampling_error": found.sampling_error(),
        "gap": float(found.diagnostics["gap"].mean()),
        "parzen": parzen,
        "cpu_seconds": [trained, time.process_time() - start - trained],
    }


def windows(points: Tensor, test: Tensor) -> Tensor:
    """The log-density of test data by the noise about points, with shape (N,)."""
    kernels = GaussianKernels(points.flatten(1).double(), torch.full((64,), NOISE).double())
    return kernels.log_prob(test.flatten(1).double())


def table(stored: dict[str, Any]) -> str:
    head = "| program | nats by AIS | gap of BDMC | Parzen, 10,000 samples | data, sampling error |"
    lines = [head, f"|{'---|' * 5}"]
    for name in sorted(stored, key=lambda name: -stored[name]["value"]):
        found = stored[name]
        if "gap" in found:
            figure = f"{found['value']:.2f} ± {found['error']:.2f}"
            cells = [name, figure, f"{found['gap']:z.2f}", f"{found['parzen']:.2f}"]
        else:
            cells = [name, f"{found['value']:.2f}, exact", "", ""]
        lines.append(f"| {' | '.join(cells)} | {found['data']}, {found['sampling_error']:.1f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", help=", ".join(["training digits", *PROGRAMS]))
    parser.add_argument("--data", type=int, default=100, help="how many of the test digits")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = pg.data.load("digits")
    test = LEVELS(digits.test, torch.Generator().manual_seed(1))[: options.data]
    stored = json.loads(RESULT.read_text())["programs"] if RESULT.exists() else {}
    ok = True
    for name in options.programs or ([] if options.write else ["training digits", *PROGRAMS]):
        found = measure(name, digits.train, test)
        print(f"{name}: {found}", flush=True)
        ok = ok and found.get("gap", 0.0) <= GAP
        if options.store:
            stored[name] = found
            machine = {"processor": processor(), "versions": versions("pyro-gen", "torch")}
            whole = {"machine": machine, "noise": NOISE, "programs": stored}
            RESULT.write_text(json.dumps(whole, indent=1) + "\n")
    if options.write:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(START)
        write_text(options.write, f"{before}{START}\n{table(stored)}\n{END}{rest.partition(END)[2]}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
