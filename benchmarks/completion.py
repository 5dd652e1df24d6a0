"""Imputation by deep programs: do intervals of missing entries hold them as often as they promise?

Asked are variational autoencoders, autoregressive networks, flows, deep sequences and exponential families; chains of
noise, energies and generators are not yet. Each is trained for seconds, on digits or on the light that wanders round
six sensors, and then asked twice.

* Of data that it has drawn itself half of the entries are hidden, each by a coin, or the lower half of the image, the
  later half of the sequence. Whatever the program has learned, exact draws of what is hidden have intervals of 95
  percent that hold the truth in 95 percent, in the mean over coins that break ties. So has the sum of all hidden
  entries of a datum, which tells whether entries go together as they should.
* Of test data the same intervals say how good the program is. They have no bar.

A program passes when the four coverages of its own data are between .93 and .97 (or within 4 standard errors of .95),
and sums are uniform by the test of Kolmogorov and Smirnov at a level of 1e-4.

    python benchmarks/completion.py [--only NAME ...] [--rows 200] [--store]
"""

import argparse
import json
import math
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from machine import processor, versions
from torch import Tensor

import pyro_gen as pg
from pyro_gen.imputation.scores import pit, pit_test

LEVEL, LOW, HIGH, ALPHA = 0.95, 0.93, 0.97, 1e-4
DRAWS, REAL = 39, 90  # draws of each entry, test data
SLOW_ROWS, FEW_ROWS = 40, 16  # where particles go over many entries; where each step of theirs is slow too
RESULT = Path(__file__).parent / "results" / "completion.json"

Data = Any  # a tensor, or a mapping of tensors


class Case(NamedTuple):
    """A program to train: how it is made, its training and test data with their context, and for how long."""

    make: Callable[[], pg.Program]
    data: Callable[[], tuple[tuple[Data, ...], tuple[Data, ...]]]
    epochs: int = 20
    most: int = 1000  # rows, where each takes its time


class Coverage(NamedTuple):
    """How often intervals hold the truth: entries, and sums of a datum's hidden entries, with standard errors."""

    entries: float
    entries_error: float
    sums: float
    sums_error: float
    p_value: float  # that sums are uniform

    def passed(self) -> bool:
        def near(value: float, error: float) -> bool:
            return LOW <= value <= HIGH or abs(value - LEVEL) <= 4 * error

        return near(self.entries, self.entries_error) and near(self.sums, self.sums_error) and self.p_value > ALPHA


def inside(draws: Tensor, truth: Tensor) -> Tensor:
    """The probability that the interval of draws (S, *) holds the truth (*), over the coins that break their ties.

    That is the mean of what :func:`pyro_gen.imputation.scores.pit` tells with coins of its own: theirs would be most of
    the noise where an entry is hardly ever one.
    """
    below, ties = (draws < truth).sum(0).double(), (draws == truth).sum(0).double()
    n, tail = len(draws) + 1, (1 - LEVEL) / 2
    held = (below + ties + 1).clamp(max=n * (1 - tail)) - below.clamp(min=n * tail)
    return (held.clamp(min=0.0) / (ties + 1)).masked_fill(truth.isnan(), math.nan)


def coverage(draws: Tensor, truth: Tensor, hidden: Tensor, seed: int = 0) -> Coverage:
    """Of draws (S, N, *event) of data (N, *event) at what was hidden; data are independent, entries of one are not."""
    rows = len(truth)
    seen = hidden.reshape(rows, -1).any(1)
    entries = inside(draws, truth.masked_fill(~hidden, math.nan)).reshape(rows, -1)[seen]
    of_sums = [
        torch.where(hidden, x, 0.0).double().flatten(-hidden.dim() + 1).sum(-1)[..., seen] for x in (draws, truth)
    ]
    weights = (~entries.isnan()).double().sum(1)
    mean = float(entries.nansum() / weights.sum())
    error = float((entries.nansum(1) - weights * mean).square().sum().sqrt() / weights.sum())
    held = inside(*of_sums)
    binomial = math.sqrt(LEVEL * (1 - LEVEL) / len(held))
    return Coverage(mean, error, float(held.mean()), binomial, pit_test(pit(*of_sums, seed=seed)))


def digits(
    transform: pg.data.Transform | None = None, pooled: bool = False, form: str = "rows"
) -> Callable[[], tuple[tuple[Data, ...], tuple[Data, ...]]]:
    """Training and test digits: alone, with their labels, or given their class or their lower left quarter."""

    def load() -> tuple[tuple[Data, ...], tuple[Data, ...]]:
        loaded = pg.data.load("digits")
        parts: list[tuple[Data, ...]] = []
        for x, y in ((loaded.train, loaded.train_target), (loaded.test[:REAL], loaded.test_target[:REAL])):
            assert y is not None
            if pooled:  # 4 x 4 sums of four levels each, with uniform noise, standardised
                sums = x.reshape(-1, 4, 2, 4, 2).sum((2, 4)) + torch.rand(len(x), 4, 4)
                x = (sums - 20) / 20
            x = x if transform is None else transform(x)
            if form == "labelled":
                parts.append(({"x": x, "y": y.float()},))
            elif form == "class":
                parts.append((x, y.float()))
            elif form == "quarter":
                parts.append((x.masked_fill(QUARTER, math.nan), x.masked_fill(~QUARTER, math.nan)))
            else:
                parts.append((x,))
        return parts[0], parts[1]

    return load


QUARTER = torch.zeros(8, 8, dtype=torch.bool)
QUARTER[4:, :4] = True
BINARY = pg.data.Binarize(8.0)
binary, levels, small = digits(BINARY), digits(), digits(pooled=True)


def beacon() -> tuple[tuple[Data, ...], tuple[Data, ...]]:
    """Sequences of a light's six sensors, 12 steps each, and their lengths: what is hidden is to come."""
    loaded = pg.data.load("beacon")
    parts = (loaded.train[:, :12].contiguous(), loaded.test[:REAL, :12].contiguous())
    train, test = ((x, torch.full((len(x),), 12)) for x in parts)
    return train, test


def counts() -> tuple[tuple[Data, ...], tuple[Data, ...]]:
    """Grey levels as counts, of 4 x 4 sums divided by four."""
    loaded = pg.data.load("digits")
    train, test = ((x.reshape(-1, 4, 2, 4, 2).sum((2, 4)) / 4).round().flatten(1) for x in (loaded.train, loaded.test))
    return (train,), (test[:REAL],)


def flat() -> tuple[tuple[Data, ...], tuple[Data, ...]]:
    (train,), (test,) = small()
    return (train.flatten(1),), (test.flatten(1),)


M = pg.models
VAE: dict[str, Any] = {"event_shape": (8, 8), "latent": 8, "hidden": (64,), "activation": "relu"}
CASES: dict[str, Case] = {
    "VAE": Case(lambda: M.VAE(**VAE), binary),
    "VAE, 17 levels": Case(lambda: M.VAE(**VAE, likelihood="discretized_logistic", levels=17), levels),
    "VAE, normal": Case(lambda: M.VAE(**VAE | {"event_shape": (4, 4)}, likelihood="normal", scale="entry"), small),
    "VAE, convolutional": Case(lambda: M.VAE((8, 8), 8, (8, 16), architecture="conv", activation="relu"), binary, 10),
    **{
        f"VAE, prior {name}": Case(lambda name=name: M.VAE(**VAE, prior=name), binary)
        for name in ("mixture", "vamp", "flow", "autoregressive", "correlated")
    },
    **{
        f"VAE, guide {name}": Case(lambda name=name: M.VAE(**VAE, guide=name), binary)
        for name in ("full covariance", "iaf", "spline")
    },
    **{
        f"HierarchicalVAE, {way}": Case(
            lambda way=way: M.HierarchicalVAE((8, 8), (8, 4), (64, 32), inference=way), binary
        )
        for way in ("bottom up", "top down")
    },
    "PixelVAE": Case(lambda: M.PixelVAE((8, 8), 4, (64,), channels=16, layers=1), binary, 10, SLOW_ROWS),
    "ConditionalVAE, class": Case(lambda: M.ConditionalVAE((8, 8), 10, 8, (64,)), digits(BINARY, form="class")),
    "ConditionalVAE, quarter": Case(lambda: M.ConditionalVAE((8, 8), (8, 8), 8, (64,)), digits(BINARY, form="quarter")),
    "SemiSupervisedVAE": Case(lambda: M.SemiSupervisedVAE((8, 8), 10, 8, (64,)), digits(BINARY, form="labelled")),
    "CCVAE": Case(lambda: M.CCVAE((8, 8), 10, 8, 8, (64,)), digits(BINARY, form="labelled")),
    "DiscreteVAE": Case(lambda: M.DiscreteVAE((8, 8), 16, hidden=(64,)), binary),
    "DiscreteVAE, 8 units": Case(lambda: M.DiscreteVAE((8, 8), 8, hidden=(64,)), binary),
    "VQVAE": Case(lambda: M.VQVAE((8, 8), 4, 8, 4, (64,), 32), binary),
    "Autoencoder": Case(lambda: M.Autoencoder((8, 8), 4, (64,), hide=0.25), binary),
    "RealNVP": Case(lambda: M.RealNVP((4, 4), layers=4), small, 20),
    "MAF": Case(lambda: M.MAF((4, 4)), small, 20),
    "IAF": Case(lambda: M.IAF((4, 4)), small, 10, FEW_ROWS),
    "NeuralSpline, autoregressive": Case(lambda: M.NeuralSpline((4, 4), layers=2, hidden=(32,)), small, 10, FEW_ROWS),
    "NeuralSpline, coupling": Case(lambda: M.NeuralSpline((4, 4), "coupling", 2, (32,)), small, 10, SLOW_ROWS),
    "Glow": Case(lambda: M.Glow((4, 4), scales=2, steps=2, hidden=32), small, 10, SLOW_ROWS),
    "ResidualFlow": Case(lambda: M.ResidualFlow((4, 4), layers=3, hidden=(32,)), small, 10, SLOW_ROWS),
    "ContinuousFlow": Case(lambda: M.ContinuousFlow((4, 4), hidden=64, steps=4), small, 10, FEW_ROWS),
    "VariationalDequantization": Case(
        lambda: M.VariationalDequantization(16, 17, "RealNVP", (32,), layers=4), counts, 10, SLOW_ROWS
    ),
    "DeepMarkov": Case(lambda: M.DeepMarkov((12, 6), 4, (32,), 32), beacon, 20),
    "VariationalRNN": Case(lambda: M.VariationalRNN((12, 6), 4, (32,), 32), beacon, 10, FEW_ROWS),
    "DeepExponentialFamily, gamma": Case(
        lambda: M.DeepExponentialFamily(16, (8, 4), hidden=(64,)), counts, 20, SLOW_ROWS
    ),
    "DeepExponentialFamily, poisson": Case(
        lambda: M.DeepExponentialFamily(16, (8, 4), "poisson", (64,)), counts, 20, SLOW_ROWS
    ),
    "DeepExponentialFamily, normal": Case(lambda: M.DeepExponentialFamily(16, (8, 4), "normal", (64,)), flat),
    "MADE": Case(lambda: M.MADE((8, 8), (128,)), binary, 30),
    "NADE": Case(lambda: M.NADE((8, 8), 128, orders=4), binary, 60),
    "PixelCNN": Case(lambda: M.PixelCNN((8, 8), 16, 3), binary, 10, SLOW_ROWS),
    "PixelRNN": Case(lambda: M.PixelRNN((8, 8), 16, 1), binary, 10, FEW_ROWS),
    "CausalTransformer": Case(lambda: M.CausalTransformer((8, 8), 32, 2), binary, 10, SLOW_ROWS),
    "WaveNet": Case(lambda: M.WaveNet(16, layers=3, scale="entry"), flat, 10, SLOW_ROWS),
}


def masks(x: Tensor, seed: int) -> dict[str, Tensor]:
    """What is hidden of data (N, *event): half of it at random, and the lower half, the latter half of steps."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.rand(x.shape, generator=generator) < 0.5
    lower = torch.zeros_like(half)
    lower[:, x.shape[1] // 2 :] = True
    return {"half": half & ~x.isnan(), "lower": lower & ~x.isnan()}


def hide(data: Data, mask: Tensor) -> tuple[Data, Tensor]:
    """Data with NaN where hidden, and what is asked of them; of labelled ones the labels are hidden too."""
    if isinstance(data, Mapping):
        return {"x": data["x"].masked_fill(mask, math.nan), "y": torch.full_like(data["y"], math.nan)}, data["x"]
    return data.masked_fill(mask, math.nan), data


def judge(program: pg.Program, data: tuple[Data, ...], seed: int, **options: Any) -> dict[str, Coverage]:
    """Coverage of imputations of each pattern of hidden entries, of data and their context."""
    x, *context = data
    found: dict[str, Coverage] = {}
    for name, mask in masks(x["x"] if isinstance(x, Mapping) else x, seed).items():
        holed, truth = hide(x, mask)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of draws that are not to be trusted: their coverage says so
            draws = pg.impute(program, holed, *context, draws=DRAWS, seed=seed, progress=False, **options)
        found[name] = coverage(draws["x"] if isinstance(draws, Mapping) else draws, truth, mask, seed)
    return found


def simulated(program: pg.Program, data: tuple[Data, ...], rows: int, seed: int) -> tuple[Data, ...]:
    """Data that the program draws, with the context of as many test data in turn."""
    index = torch.arange(rows)
    context = tuple(c[index % len(c)] for c in data[1:])
    x = pg.sample(program, rows, context=context, seed=seed, progress=False)
    if not isinstance(x, Mapping) and isinstance(data[0], Tensor):  # a given part is not modelled
        x = torch.where(data[0][index % len(data[0])].isnan(), math.nan, x)
    return (x, *context)


def few(data: Data, rows: int) -> Data:
    return {n: v[:rows] for n, v in data.items()} if isinstance(data, Mapping) else data[:rows]


def run(name: str, case: Case, rows: int) -> dict[str, Any]:
    start = time.process_time()
    seed = zlib.crc32(name.encode())  # masks, draws and coins of each are its own: what all miss is then of pg.impute
    pyro.set_rng_seed(0)
    train, test = case.data()
    rows = min(rows, case.most)
    program = case.make()
    options = {"epochs": case.epochs, "batch_size": 64, "lr": 3e-3, "clip_norm": 10.0, "schedule": "cosine"}
    pg.fit(program, train, progress=False, **options)
    trained = time.process_time()
    own = judge(program, simulated(program, test, rows, seed + 1), seed + 2)
    done = time.process_time()
    real = judge(program, tuple(few(part, case.most) for part in test), seed + 3)
    return {
        "own": {name: found._asdict() for name, found in own.items()},
        "test": {name: found._asdict() for name, found in real.items()},
        "passed": all(found.passed() for found in own.values()),
        "rows": rows,
        "seconds": {"training": trained - start, "imputation": done - trained},
    }


def line(row: dict[str, Any]) -> str:
    own = "  ".join(
        f"{name} {f['entries']:.3f} ({f['entries_error']:.3f}), sums {f['sums']:.3f}, p {f['p_value']:.1g}"
        for name, f in row["own"].items()
    )
    test = " ".join(f"{f['entries']:.3f}/{f['sums']:.3f}" for f in row["test"].values())
    return f"{own}  | test {test} | {'ok' if row['passed'] else 'MISSED'}  {row['seconds']['imputation']:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--store", action="store_true")
    chosen = parser.parse_args()
    kept = json.loads(RESULT.read_text())["programs"] if chosen.only and RESULT.exists() else {}
    rows: dict[str, Any] = {}
    for name, case in CASES.items():
        if chosen.only and not any(name.startswith(only) for only in chosen.only):
            continue
        rows[name] = run(name, case, chosen.rows)
        print(f"{name:32} {line(rows[name])}", flush=True)
        if chosen.store:  # after each: all together take their time
            everything = {n: r for n in CASES if (r := (kept | rows).get(n))}
            settings = {"level": LEVEL, "draws": DRAWS}
            result = {"settings": settings, "programs": everything, "processor": processor()}
            RESULT.write_text(json.dumps(result | {"versions": versions("torch", "pyro-ppl")}, indent=2) + "\n")
    return int(any(not row["passed"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
