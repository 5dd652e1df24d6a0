"""The speed table of the README, from the stored results of the benchmarks: at defaults first, best settings beside it.

    python benchmarks/table.py [--write README.md]

With ``--write`` it takes the place of what stands between ``<!-- speed-table:start -->`` and
``<!-- speed-table:end -->``. What has not been measured is left out.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
START, END = "<!-- speed-table:start -->", "<!-- speed-table:end -->"
RIVALS = {"numpyro": "NumPyro", "blackjax": "blackjax", "nutpie": "nutpie", "pyro": "Pyro"}
SCHOOLS = "eight_schools"
Row = tuple[str, str, str, str]


def number(x: float) -> str:
    """Two digits that count, or three of what is 10 or more; thousands apart."""
    if not math.isfinite(x):
        return "-"
    digits = max(0, (1 if x < 10 else 2) - math.floor(math.log10(abs(x)))) if x else 0
    scale = 10 ** max(0, math.floor(math.log10(abs(x))) - 2) if x >= 1000 else 1
    return f"{round(x / scale) * scale:,.0f}" if x >= 100 else f"{x:.{digits}f}"


def soonest(best: dict[str, Any] | None) -> float:
    """Seconds to 1,000 effective draws at the setting that has them first, medians over runs."""
    runs = [tried["runs"] for tried in (best["all"] if best else [])]
    enough = [of for of in runs if all(r["ess"] >= 1000 and r["ess_per_second"] for r in of)]
    return min((statistics.median(r["seconds"] for r in of) for of in enough), default=math.inf)


def listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def sampling(mcmc: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    by_default, tuned, raw = mcmc["raw"].get("f", {}), mcmc["raw"].get("a", {}), mcmc["figures"]
    schools = by_default.get(SCHOOLS, {})
    if schools.get("ours"):
        rivals = {name: schools[r]["median"] for r, name in RIVALS.items() if schools.get(r)}
        best = ""
        if tuned.get("ours"):
            best = f"{number(tuned['ours']['median'])} ({number(raw['a: ours / NumPyro NUTS'])}x NumPyro's of that run)"
        mine = number(schools["ours"]["median"])
        row = "eight schools, cold: effective draws a second", mine, best
        rows.append((*row, listed({name: number(v) for name, v in rivals.items()})))
        times = {name: soonest(schools[r]) for r, name in RIVALS.items() if schools.get(r)}
        best = f"{number(raw['c: seconds to 400 effective draws'])} s to 400" if tuned.get("ours") else ""
        row = "the same: seconds to 1,000 effective draws", f"{number(soonest(schools['ours']))} s", best
        rows.append((*row, listed({name: f"{number(t)} s" for name, t in times.items()})))
    keys = {name: f"f: {name} / default, time to 1,000 effective draws" for name in RIVALS.values()}
    if len(by_default) > 1 and (ratios := {name: raw[key] for name, key in keys.items() if key in raw}):
        best = f"{number(raw['b: ours / NumPyro NUTS'])} times NumPyro's draws a second"
        counts = {
            name: sum(math.isfinite(soonest(of.get(r))) for of in by_default.values()) for r, name in RIVALS.items()
        }
        of_some = {n: f" ({counts[n]} of them)" if counts[n] < len(by_default) else "" for n in ratios}
        rivals = {name: f"{number(r)} times as long{of_some[name]}" for name, r in ratios.items()}
        name = f"{len(by_default)} posteriors: time to 1,000 effective draws, geometric mean"
        rows.append((name, "1", best, listed(rivals)))
    for case, name in (("hmm", "`DiscreteHMM`, T = 400"), ("lotka", "Lotka-Volterra by RK4, 200 steps")):
        if found := mcmc["raw"].get("g", {}).get(case):
            old = "chain by chain" if case == "hmm" else "loop unrolled"
            now, before = (f"{number(1e3 * found[key])} ms" for key in ("now", "before"))
            rows.append((f"{name}: gradient of 64 chains", now, "", f"{old} {before}"))
    return rows


def training(svi: dict[str, Any]) -> list[Row]:
    names = {
        "hand_written": "PyTorch by hand",
        "pyro_svi": "Pyro",
        "numpyro_update": "NumPyro's update",
        "numpyro_scan": "NumPyro's scan",
    }
    ms = svi["median"]
    rivals = {name: f"{number(ms[key])} ms" for key, name in names.items() if key in ms}
    return [("small VAE, one thread: CPU time of a training step", f"{number(ms['compiled'])} ms", "", listed(rivals))]


def imputing(imputation: dict[str, Any]) -> list[Row]:
    cpu = imputation["raw"].get("g", {}).get("cpu_seconds")
    if not cpu:
        return []
    name = "20 completed tables, 1,000 x 10: CPU time"
    return [(name, f"{number(cpu['ours: auto'])} s", "", f"miceforest {number(cpu['miceforest'])} s")]


def loaded(path: Path) -> list[str]:
    """What is to be said of sampling on a machine that others used at the same time."""
    mcmc = json.loads(path.read_text()) if path.exists() else {}
    load, cores = mcmc.get("load", [0.0])[0], mcmc.get("cores", 1)
    if load <= 1.5 * cores or not mcmc["raw"].get("f"):
        return []
    return ["", f"The first three lines are of a run beside others' work (a load of {load:.0f} on {cores} cores)."]


def table(results: Path = RESULTS) -> str:
    """The table in Markdown."""
    rows: list[Row] = []
    for name, read in (("mcmc", sampling), ("svi_step", training), ("imputation", imputing)):
        if (path := results / f"{name}.json").exists():
            rows += read(json.loads(path.read_text()))
    note = loaded(results / "mcmc.json")
    lines = ["| | by default | at its best settings | others, in the same run |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows), *note])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="a page with the two marks")
    arguments = parser.parse_args()
    text = table()
    if arguments.write is None:
        print(text)
        return
    page = arguments.write.read_text()
    if START not in page or END not in page:
        parser.error(f"{arguments.write} has no lines {START} and {END}: put them where the table is to stand.")
    before, _, rest = page.partition(START)
    arguments.write.write_text(f"{before}{START}\n{text}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
