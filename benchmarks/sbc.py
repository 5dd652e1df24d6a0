"""Simulation-based calibration of every program of the zoo whose data share latent variables.

The registry says which these are: each small instance of a model with a global latent variable, simulated with the
shape and the context of its rows. Ranks of what made the data among draws of Hamiltonian Monte Carlo are uniform for
every variable, the log-likelihood and the log-prior, or the program is flagged: a correct one with probability at most
``alpha`` each, exactly. What cannot be simulated, or has no continuous latent variable, is listed with the reason.

    python benchmarks/sbc.py [--only NAME ...] [--simulations 200] [--draws 31] [--store]
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import processor, versions

import pyro_gen as pg
from pyro_gen.inference.calibration import Calibration
from pyro_gen.packing import packed_inputs
from pyro_gen.registry import MODELS
from pyro_gen.traces import structure

ALPHA, WARMUP = 1e-3, 400
RESULT = Path(__file__).parent / "results" / "sbc.json"

# Models for tables impute by samplers of their own; their imputations are judged by coverage.
OTHERWISE = {"tabular": "priors are made from the data that they see, so nothing can be simulated from them"}


def shared() -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """Name, family and small instance of each model with global latent variables."""
    for name, card in MODELS.items():
        for variant, make in card.small.items():
            program, x, *context = make()
            traced, rows = packed_inputs(program, x)
            if structure(traced, rows, *context).global_:
                yield f"{name} {variant}".strip(), card.family, (program, x, *context)


def calibrate(program: pg.Program, x: Any, *context: Any, **options: Any) -> Calibration:
    """Ranks by Hamiltonian Monte Carlo, with the false-alarm rate ALPHA."""
    settings = {"method": "hmc", "warmup": WARMUP, "alpha": ALPHA} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of data sets that no density has, which are left out
        return pg.sbc(program, x, *context, **settings)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--draws", type=int, default=31)
    parser.add_argument("--store", action="store_true")
    chosen = parser.parse_args()
    rows: dict[str, Any] = {}
    kept = json.loads(RESULT.read_text())["programs"] if chosen.only and RESULT.exists() else {}
    settings = {"method": "hmc", "warmup": WARMUP, "draws": chosen.draws, "alpha": ALPHA}
    for name, family, instance in shared():
        if chosen.only and not any(name.startswith(only) for only in chosen.only):
            continue
        start = time.perf_counter()
        try:
            if family in OTHERWISE:
                raise ValueError(OTHERWISE[family])
            found = calibrate(*instance, simulations=chosen.simulations, draws=chosen.draws)
        except ValueError as error:
            rows[name] = {"left_out": str(error)}
        else:
            rows[name] = {
                "quantities": len(found.ranks),
                "simulations": found.simulations,
                "p_value": found.p_value,
                "flagged": list(found.flagged),
                "seconds": time.perf_counter() - start,
            }
        print(f"{name:40} {_line(rows[name])}", flush=True)
        if chosen.store:  # after each: all together take their time
            result = {"settings": settings, "programs": kept | rows, "processor": processor()}
            RESULT.write_text(json.dumps(result | {"versions": versions("torch", "pyro-ppl")}, indent=2) + "\n")
    return int(any(row.get("flagged") for row in rows.values()))


def _line(row: dict[str, Any]) -> str:
    if "left_out" in row:
        return f"left out: {row['left_out']}"
    verdict = f"flagged: {', '.join(row['flagged'])}" if row["flagged"] else "uniform"
    return f"{row['quantities']:3d} quantities, p = {row['p_value']:.3f}, {verdict}; {row['seconds']:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
