"""Samples of the zoo's programs of digits, judged by themselves: one table.

Each program is trained by its recipe; 1,000 samples are compared with the 360 test digits by features of a classifier
(``pyro_gen.evaluation.samples``), in the form that the program models, binary or 17 levels. The first row of either has
1,000 training digits in the place of the samples: no model is expected to be better, and copies of the training data
have just these. Independent pixels are the recipe of a mixture with one component. Of the variational diffusion there
are samples by three chains with one network: that of its recipe, one of 250 steps, and DDIM with 20.

    python benchmarks/samples.py [ENTRY ...] [--store] [--write docs/samples.md]

With entries, these alone are trained, and stored beside the others. With ``--write`` and no entries the table is made
of what is stored.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from machine import processor, versions

from pyro_gen import zoo
from pyro_gen._files import write_text
from pyro_gen.evaluation.samples import digits_classifier, program_features, sample_quality
from pyro_gen.models import DDIM, VDM

RESULT = Path(__file__).parent / "results" / "samples.json"
START, END = "<!-- samples-table:start -->", "<!-- samples-table:end -->"
ENTRIES = {  # the entries that are compared, by what the data are
    "binary": [
        "independent-pixels",
        "bernoulli-mixture-digits",
        "rbm-digits-128",
        "vae-digits",
        "made-digits",
        "nade-digits",
        "transformer-digits",
        "pixel-cnn-digits",
        "absorbing-digits",
    ],
    "17 levels": [
        "independent-levels",
        "latent-class-digits",
        "kernel-density-digits-levels",
        "vae-digits-levels",
        "vdm-digits",
        "vdm-digits-250",
        "vdm-digits-ddim-20",
        "dcgan-digits",
    ],
}
INDEPENDENT = {"independent-pixels": "bernoulli-mixture-digits", "independent-levels": "latent-class-digits"}
FIGURES = ("frechet", "kernel", "precision", "recall", "density", "coverage", "c2st")
DRAWS = 1000


def of_steps(chain: VDM, steps: int) -> VDM:
    chain = copy(chain)
    chain.steps = steps
    return chain


SAMPLERS: dict[str, tuple[str, Callable[[Any], Any]]] = {  # other samplers of the program of an entry
    "vdm-digits-250": ("vdm-digits", lambda chain: of_steps(chain, 250)),
    "vdm-digits-ddim-20": ("vdm-digits", lambda chain: DDIM(chain, 20)),
}


def entry_of(name: str) -> Any:
    if name not in INDEPENDENT:
        return zoo.load(name)
    entry = zoo.load(INDEPENDENT[name])
    return replace(entry, name=name, options=entry.options | {"components": 1})


@cache
def trained(name: str) -> tuple[Any, Any]:
    """The data of an entry, and its program."""
    entry = entry_of(name)
    data = zoo.prepare(entry)
    return data, zoo.train(entry, data, device="cpu", progress=False).program


def measure(name: str) -> dict[str, Any]:
    """The figures of one entry: value, error, and the same of real data."""
    start = time.process_time()
    entry, sampler = SAMPLERS.get(name, (name, lambda program: program))
    data, program = trained(entry)
    found = sample_quality(*program_features(sampler(program), data, draws=DRAWS))
    out: dict[str, Any] = {"p_value": found.c2st.p_value, "cpu_seconds": time.process_time() - start}
    for figure in FIGURES:
        of = getattr(found, figure)
        out[figure] = [of.value, of.standard_error, of.real.value, of.real.standard_error]
    return out


def table(stored: dict[str, Any]) -> str:
    """The Markdown table of what is stored."""
    lines = [
        "| | Frechet | kernel | precision | recall | density | coverage | C2ST |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, names in ENTRIES.items():
        known = [name for name in names if name in stored]
        known.sort(key=lambda name: -stored[name]["frechet"][0])
        if known:
            real = [stored[known[0]][figure][2:] for figure in FIGURES]
            lines.append(row(f"**{kind}**: real data", real))
        lines += [row(f"`{name}`", [stored[name][figure][:2] for figure in FIGURES]) for name in known]
    return "\n".join(lines)


def row(name: str, found: list[list[float]]) -> str:
    digits = [3 if figure == "kernel" else 2 for figure in FIGURES]
    cells = [f"{value:.{d}f} ± {error:.{d}f}" for d, (value, error) in zip(digits, found, strict=True)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="*")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stored = json.loads(RESULT.read_text())["figures"] if RESULT.exists() else {}
    found = {}
    every = [name for names in ENTRIES.values() for name in names]
    for name in options.entries or ([] if options.write else every):
        found[name] = measure(name)
        print(row(name, [found[name][figure][:2] for figure in FIGURES]), flush=True)
        if options.store:
            stored |= {name: found[name]}
            machine = {"processor": processor(), "versions": versions("pyro-gen", "torch")}
            classifier = {"accuracy": digits_classifier().accuracy, "binary": digits_classifier().binary_accuracy}
            whole = {"machine": machine, "classifier": classifier, "figures": stored}
            RESULT.write_text(json.dumps(whole, indent=1) + "\n")
    if options.write:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(START)
        write_text(options.write, f"{before}{START}\n{table(stored)}\n{END}{rest.partition(END)[2]}")
    # Independent pixels must be told from digits: else the features see nothing.
    poor = [f for name, f in found.items() if name in INDEPENDENT]
    return 0 if all(f["p_value"] < 0.01 and f["frechet"][0] > 2 * f["frechet"][2] for f in poor) else 1


if __name__ == "__main__":
    sys.exit(main())
