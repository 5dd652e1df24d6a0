"""What games make of 25 narrow Gaussians: modes covered, with a fifth of their fair share each, and good samples.

The same generator (2-128-128-2) and the same critic (2-128-128-1) play on the grid of ``pg.data.load``, 20,000 points,
in minibatches of 256, with other losses and other bounds on the critic's slope, from three seeds. A sample is good
within 3 standard deviations of a mode: of the mixture itself 98.9% are. The last game is given the label of each point,
and its critic projects on it. The bar is for each seed: 23 modes, 60% good samples, two minutes of a CPU. Settings were
chosen with another seed, 10.

    python benchmarks/adversarial.py [GAME ...] [--seeds 3] [--store] [--write docs/samples.md]
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import pyro
import torch
from machine import processor, versions
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen._files import write_text
from pyro_gen.data.mixtures import MIXTURES
from pyro_gen.evaluation.samples import modes
from pyro_gen.inference import Adversarial
from pyro_gen.nets import MLP

RESULT = Path(__file__).parent / "results" / "adversarial.json"
START, END = "<!-- games-table:start -->", "<!-- games-table:end -->"
GRID = "grid_of_gaussians"
MODES, GOOD, SECONDS = 23, 0.6, 120
FORMS = {"modes": "d", "good": ".0%", "cpu_seconds": ".0f"}
# The games, each with its epochs and its learning rate; whether it is held to the bar.
GAMES: dict[str, tuple[dict[str, Any], int, float, bool]] = {
    "plain": ({"r1": 0.0}, 100, 2e-3, False),
    "R1": ({"r1": 0.2}, 100, 2e-3, True),
    "WGAN-GP": (
        {"loss": "wasserstein", "r1": 0.0, "gradient_penalty": 1.0, "critic_steps": 3},
        120,
        2e-3,
        True,
    ),
    "spectral": ({"loss": "hinge", "r1": 0.0, "spectral": 3.0, "critic_steps": 2}, 60, 2e-3, True),
    "spectral with R1": ({"loss": "hinge", "r1": 0.1, "spectral": 3.0}, 100, 2e-3, True),
    "projection": ({"loss": "hinge", "r1": 0.2, "classes": 25}, 60, 2e-3, True),
}


class OfLabel(nn.Module):
    """The generator of the last game: noise and the indicator of a label, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP((2 + 25, 128, 128, 2))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        asked = (label.unsqueeze(-1) == torch.arange(25)).to(z)
        return self.net(torch.cat([z, asked.expand(*z.shape[:-1], 25)], -1))  # type: ignore[no-any-return]


def play(name: str, seed: int) -> dict[str, float]:
    settings, epochs, lr, _ = GAMES[name]
    data, mixture, labelled = pg.data.load(GRID), MIXTURES[GRID], "classes" in settings
    assert data.train_target is not None
    pyro.set_rng_seed(seed)
    gan = pg.models.GAN((2,), 2, OfLabel()) if labelled else pg.models.GAN((2,))
    rows: Any = (data.train, data.train_target.to(data.train)) if labelled else data.train
    start = time.process_time()
    fixed: dict[str, Any] = {"batch_size": 256, "schedule": "cosine", "seed": seed, "progress": False}
    pg.fit(gan, rows, objective=Adversarial((128, 128), **settings), epochs=epochs, lr=lr, **fixed)
    seconds = time.process_time() - start
    context = ((torch.arange(10_000) % 25).float(),) if labelled else ()
    found = modes(pg.sample(gan, 10_000, context=context, seed=seed), mixture.centres, mixture.scale)
    return {"modes": found.covered, "good": found.good, "cpu_seconds": round(seconds, 1)}


def verdict(name: str, runs: list[dict[str, float]]) -> str:
    if not GAMES[name][3]:
        return "no bar"
    holds = all(r["modes"] >= MODES and r["good"] >= GOOD and r["cpu_seconds"] <= SECONDS for r in runs)
    return "holds" if holds else "missed"


def table(stored: dict[str, Any]) -> str:
    head = "| game | `Adversarial` with | epochs | modes of 25 | good samples | CPU seconds"
    lines = [f"{head} | {MODES} modes, {GOOD:.0%} good |", f"|{'---|' * 7}"]
    for name in (name for name in GAMES if name in stored):
        game, runs = stored[name], stored[name]["runs"]
        played = ", ".join(f"{key}={value!r}" for key, value in game["settings"].items())
        cells = (", ".join(f"{r[key]:{form}}" for r in runs) for key, form in FORMS.items())
        lines.append(f"| {name} | `{played}` | {game['epochs']} | {' | '.join(cells)} | {verdict(name, runs)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", nargs="*", help=f"{', '.join(GAMES)}; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", action="store_true", help=f"write {RESULT.name}, game by game")
    parser.add_argument("--write", type=Path, help="write the table of what is stored; without games, play none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    stored = json.loads(RESULT.read_text())["games"] if RESULT.exists() else {}
    missed = False
    for name in options.games or ([] if options.write else GAMES):
        runs = [play(name, seed) for seed in range(options.seeds)]
        found = verdict(name, runs)
        missed |= found == "missed"
        figures = ", ".join(f"{r['modes']} modes, {r['good']:.1%} good, {r['cpu_seconds']:.0f} s" for r in runs)
        print(f"{name:18}{figures}  {found}", flush=True)
        if options.store:
            settings, epochs, lr, _ = GAMES[name]
            stored[name] = {"settings": settings, "epochs": epochs, "lr": lr, "runs": runs}
            machine = {"processor": processor(), "versions": versions("pyro-gen", "torch", "pyro-ppl")}
            RESULT.write_text(json.dumps({"machine": machine, "games": stored}, indent=1) + "\n")
    if options.write:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(START)
        write_text(options.write, f"{before}{START}\n{table(stored)}\n{END}{rest.partition(END)[2]}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
