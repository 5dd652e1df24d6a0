"""Structure: our figures beside those of other packages, in one run; a question a part.

A part is a module of benchmarks/structure_parts with a docstring and a function ``run``. A rival that is not installed
is left out, and its bars with it: install it where PYTHONPATH finds it, not into the environment of the package.

    python benchmarks/structure.py [PART ...] [--store]
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

import pyro
import torch
from machine import processor, versions
from structure_parts import Result

PARTS = (
    "clusters",
    "communities",
    "compare",
    "factors",
    "ggm",
    "gp",
    "graph_exact",
    "graph_orders",
    "graphs",
    "hierarchical",
    "hmm",
    "regimes",
    "topics",
)
RESULT = Path(__file__).parent / "results" / "structure.json"


def store(part: str, result: Result) -> None:
    """Writes the figures of a part, and leaves those of the others."""
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    stored[part] = {
        "figures": result.figures,
        "bars": {
            bar.name: {"value": bar.value, "at_least" if bar.least else "at_most": bar.bar} for bar in result.bars
        },
        "device": "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": processor(),
        "versions": versions("torch", "pyro-ppl", *result.packages),
    }
    RESULT.write_text(json.dumps(dict(sorted(stored.items())), indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", action="store_true", help=f"write {RESULT}")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")

    torch.set_num_threads(arguments.threads)
    pyro.enable_validation(False)
    missed = False
    for part in arguments.parts or PARTS:
        module = importlib.import_module(f"structure_parts.{part}")
        print(f"{part}: {module.__doc__.splitlines()[0]}", flush=True)
        result: Result = module.run()
        for bar in result.bars:
            missed |= not bar.reached
            sign = ">=" if bar.least else "<="
            print(f"    {bar.name:64s} {bar.value:9.4g}  (bar {sign} {bar.bar})  {'ok' if bar.reached else 'MISSED'}")
        if arguments.store:
            store(part, result)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
