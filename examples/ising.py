"""Magnets at three temperatures: an Ising model on a torus, whose energies and log Z Onsager and Kaufman know exactly.

Chains move in clusters (Swendsen and Wang), for at the critical temperature spin by spin they would take for ever. The
constant log Z is estimated by annealed importance sampling, and a picture with holes is filled in given what was seen.
"""

import torch

import pyro_gen as pg
from pyro_gen.models import Ising
from pyro_gen.models.undirected import SwendsenWang
from pyro_gen.models.undirected.parts.kaufman import CRITICAL, log_partition_of_torus
from pyro_gen.pictures import write

SIDE, CHAINS = 64, 16
COUPLINGS = {"hot": 0.35, "critical": CRITICAL, "cold": 0.5}


def exact_energy(coupling: float, side: int) -> float:
    """The mean of the sum of s s' over edges, for each spin: the derivative of log Z."""
    k = torch.tensor(coupling, dtype=torch.float64, requires_grad=True)
    (energy,) = torch.autograd.grad(log_partition_of_torus(side, side, k), k)
    return energy.item() / side**2


def main(sweeps: int = 100) -> dict[str, float]:
    numbers, spins = {}, {}
    for name, coupling in COUPLINGS.items():
        model = Ising({"torus": [SIDE, SIDE]}, coupling, sampler=SwendsenWang())
        states = list(model.chains(sweeps, CHAINS, burn_in=60))
        with torch.no_grad():
            of_chains = torch.stack([model.agreements(x) for x in states]).mean(0) / coupling / SIDE**2
        error = of_chains.std() / CHAINS**0.5
        numbers[f"{name}_energy"] = of_chains.mean().item()
        numbers[f"{name}_z"] = ((of_chains.mean() - exact_energy(coupling, SIDE)) / error).item()
        spins[name] = states[-1][0]

    small = Ising({"torus": [16, 16]}, 0.3)
    log_z = pg.log_partition(small, method="ais", chains=128, temperatures=200)
    print(log_z)
    numbers["log_z_off"] = log_z.mean() - pg.log_partition(small).mean()  # exact, by Kaufman's formula
    numbers["log_z_error"] = float(log_z.standard_error)
    numbers["ess"] = float(log_z.diagnostics["ess"])

    strip = Ising({"grid": [10, SIDE]}, 0.5)  # narrow enough for exact draws, given what was seen
    image = pg.sample(strip, 1, seed=0)
    holed = torch.where(torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) < 0.3, torch.nan, image)
    filled = strip.most_probable(holed)
    numbers["filled_right"] = (filled == image)[holed.isnan()].double().mean().item()
    print("picture:", write(draw(spins, holed[0], filled[0]), "outputs/ising.png"))
    return numbers


def draw(spins, holed, filled):
    from matplotlib.figure import Figure

    figure = Figure((11, 5.6), layout="constrained")
    axes = figure.subplot_mosaic(
        [[*spins], ["holed", "holed", "holed"], ["filled", "filled", "filled"]], height_ratios=[5, 1, 1]
    )
    titles = {n: f"{n}: J = {COUPLINGS[n]:.3f}" for n in spins} | {"holed": "holes", "filled": "filled in"}
    for name, image in (spins | {"holed": holed.nan_to_num(nan=0.5), "filled": filled}).items():
        axes[name].imshow(image.numpy(), cmap="Greys", vmin=0, vmax=1)
        axes[name].set(title=titles[name], xticks=[], yticks=[])
    return figure


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:18}{value:9.3f}")
