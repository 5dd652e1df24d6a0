"""A deep Markov model of music, where a file of chorales is given, and of a simulated light that six sensors follow.

``python examples/deep_markov_music.py JSB-Chorales-dataset/jsb-chorales-quarter.json`` reads chorales as
lists of chords, lists of MIDI numbers, under "train" and "test": 88 notes on or off, shorter pieces padded with NaN.
Without a file the system is simulated, so that the exact law is known, and half of a sequence is forecast. Thirteen
steps are far for annealing, which warns that it lacks temperatures: 90% intervals hold three quarters of what comes.
"""

import json
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyro_gen as pg
from pyro_gen.data.beacon import beacon_log_likelihood
from pyro_gen.pictures import write
from pyro_gen.sequences import lengths


def chorales(file: Path) -> tuple[Tensor, Tensor]:
    """Pieces with shape (N, T, 88), NaN beyond their end."""
    parts = []
    for name in ("train", "test"):
        pieces = json.loads(file.read_text())[name]
        x = torch.full((len(pieces), max(map(len, pieces)), 88), torch.nan)
        for row, piece in zip(x, pieces, strict=True):
            row[: len(piece)] = 0.0
            for step, chord in zip(row, piece, strict=False):
                step[[int(note) - 21 for note in chord if note > 0]] = 1.0
        parts.append(x)
    return parts[0], parts[1]


def music(file: Path) -> dict[str, float]:
    train, test = chorales(file)
    program = pg.models.DeepMarkov(train.shape[1:], latent=32, hidden=(100,), recurrent=100, likelihood="bernoulli")
    pg.fit(program, train, epochs=300, batch_size=20, lr=3e-3, schedule="cosine", kl_warmup=50, clip_norm=10.0)
    found = pg.log_likelihood(program, test, method="iwae", num_particles=50)
    return {"nats_per_step": -float(found.value.sum() / lengths(test).sum())}


def simulated() -> dict[str, float]:
    data = pg.data.load("beacon")
    steps = data.train.shape[1]
    program = pg.models.DeepMarkov(data.event_shape, latent=4)
    pg.fit(program, data.train, epochs=40, batch_size=50, lr=0.01, schedule="cosine", kl_warmup=5, clip_norm=10.0)
    found = pg.log_likelihood(program, data.test, method="iwae", num_particles=50)

    seen = data.test[:12].clone()
    seen[:, 12:] = torch.nan  # to come
    drawn = pg.impute(program, seen, draws=50)[:, :, 12:]
    off = (drawn.mean(0) - data.test[:12, 12:]).square().mean(2).sqrt()
    low, high = drawn.quantile(torch.tensor([0.05, 0.95]), dim=0)
    inside = ((data.test[:12, 12:] >= low) & (data.test[:12, 12:] <= high)).float().mean()
    figure = Figure((7, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.imshow(data.test[0].T.numpy(), aspect="auto", vmin=0, vmax=1)
    above.set(title="a light passes six sensors, 25 steps", ylabel="sensor")
    shown = below.imshow(torch.cat([seen[0, :12], drawn[0, 0]]).T.numpy(), aspect="auto", vmin=0, vmax=1)
    below.axvline(11.5, color="white", linestyle="--")
    below.set(title="12 steps seen, 13 drawn (right of the line)", xlabel="step", ylabel="sensor")
    figure.colorbar(shown, ax=[above, below], shrink=0.6, label="brightness", extend="both")
    print(f"saved {write(figure, 'outputs/deep_markov_music.png')}")
    return {
        "nats_per_step": found.mean() / steps,
        "exact_law": beacon_log_likelihood(data.test).mean().item() / steps,
        "off_next_step": off[:, 0].mean().item(),
        "off_last_step": off[:, -1].mean().item(),
        "coverage_of_90": inside.item(),
    }


def main(file: str | None = None) -> dict[str, float]:
    numbers = music(Path(file)) if file else simulated()
    for name, value in numbers.items():
        print(f"{name} {value:.3f}")
    return numbers


if __name__ == "__main__":
    main(*sys.argv[1:2])
